"""The real trainer on any targets, constant or moving: `fit_targets`, `fit_dro`.

QRPO's own loss takes them without a change, by Appendix B: where f is the inverse distribution function of the
references' rewards, f(R_q) is the reward itself. So each row's reward is its target, its references are an even grid
over the range of the targets, f maps that grid's quantiles back to it, and log Z_f is 0. What is left is half a step of
the grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qrpo_lib.exactness import enumerated
from qrpo_lib.exactness.enumerated import Enumeration, Fit
from qrpo_lib.objective.transforms import Transformation

_GRID = 1000


def target_loss(low: float, high: float, beta: float) -> dict[str, Any]:
    """Settings of QRPO's loss with which a row's target is its reward, between low and high."""
    f = Transformation(
        "target", np.positive, "positive", np.zeros_like, limit=high, slope=high - low, mean=low, scale=high - low
    )
    return {"beta": beta, "transform": f}


def target_rows(problem: Enumeration, targets: np.ndarray, low: float, high: float, log_data: np.ndarray) -> list[dict]:
    """Training rows, one a completion: its target (m,) as the reward, weighted by its probability in the data.

    Parameters
    ----------
    problem: the prompt with its completions.
    targets: (m,), in units of the reward.
    low, high: the range of the grid, which holds all targets.
    log_data: (m,) log-probabilities that the completions of the data have.
    """
    grid = low + (np.arange(_GRID) + 0.5) / _GRID * (high - low)
    return [
        {
            "prompt_ids": problem.prompt,
            "completion_ids": completion,
            "reward": target,
            "ref_rewards": grid,
            "weight": weight,
        }
        for completion, target, weight in zip(
            problem.completions, targets, len(log_data) * np.exp(log_data), strict=True
        )
    ]


def fit_targets(
    problem: Enumeration, targets: np.ndarray, beta: float, log_data: np.ndarray, *, learning_rate: float, steps: int
) -> Fit:
    """`trainer.fit_policy` from the reference on (target - beta log-ratio)^2, all completions in every step.

    Parameters
    ----------
    problem: the prompt with its completions.
    targets: (m,), in units of the reward, and beta: the strength.
    log_data: (m,) log-probabilities that the completions of the data have.
    learning_rate: of the first step.
    steps: how many are taken.
    """
    low, high = float(targets.min()) - 1e-3, float(targets.max()) + 1e-3
    rows = target_rows(problem, targets, low, high, log_data)
    loss = target_loss(low, high, beta)
    return enumerated.fit(problem, "qrpo", loss, rows, learning_rate=learning_rate, steps=steps)


def fit_dro(problem: Enumeration, beta: float, *, learning_rate: float, steps: int) -> tuple[Fit, float]:
    """DRO by the trainer, every completion as likely in the data; V is set to its least squares before each step.

    That is the mean over the data of R - beta log-ratio, by the current policy; the gradient in the policy is then the
    one of the loss minimised over V.

    Parameters
    ----------
    problem: the prompt with its completions.
    beta: strength of the KL regularisation, in units of the reward.
    learning_rate: of the first step.
    steps: how many are taken.

    Returns
    -------
    The fit and the last V, in units of the reward.
    """
    low, high = float(problem.rewards.min() - problem.rewards.max()) - 1, float(np.ptp(problem.rewards)) + 1
    uniform = np.full(len(problem.rewards), -np.log(len(problem.rewards)))
    values: list[float] = []

    def moving(step: int, model, rows: list[Mapping]) -> list[dict]:
        log_policy = enumerated.log_policy(model, problem.prompt, problem.completions)
        values.append(float(np.mean(problem.rewards - beta * (log_policy - problem.log_ref))))
        return target_rows(problem, problem.rewards - values[-1], low, high, uniform)

    rows = target_rows(problem, problem.rewards, low, high, uniform)
    loss = target_loss(low, high, beta)
    fit = enumerated.fit(problem, "qrpo", loss, rows, learning_rate=learning_rate, steps=steps, online=moving)
    return fit, values[-1]
