"""Training on pairs or labels: reward-aware RPO by the plain loop, IPO and KTO by TRL's trainers.

The pairs are QRPO's. KTO's labels are what a user could have said of each completion: on code whether all tests pass,
else whether the reward is at least the median of the prompt's reference rewards.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from qrpo_lib.profiles.relatives import Method
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import keys, progress
from qrpo_lib.steps import fitting, regression_training
from qrpo_lib.steps.regression_training import Setup


def step(profile: Profile, method: Method, seed: int) -> keys.Step:
    """What determines the policy: the pairs, the method's values, how it is trained."""
    parameters = {
        "method": method.parameters,
        "seed": seed,
        "training": regression_training.shared_settings(profile),
    }
    if method.name == "kto":
        parameters["desirable"] = "all tests pass" if _is_solution(profile) else "at least the median"
    return keys.Step(
        "relative_training",
        parameters,
        inputs=fitting.inputs(profile),
        make=partial(_make_rpo if method.name == "rpo" else _make_by_trl, profile, method, seed),
        seed=seed,
    )


def labelled(rows: list[dict], *, solutions: bool, count: int) -> list[dict[str, Any]]:
    """The pairs with `chosen_label` and `rejected_label`: whether each completion is desirable.

    Parameters
    ----------
    rows: pairs with rewards and reference rewards.
    solutions: whether the reward is a share of tests passed, of which all must pass.
    count: of the reference rewards, the first so many of each row count.
    """
    import numpy as np

    labelled_rows = []
    for row in rows:
        least = 1.0 if solutions else float(np.median(row["ref_rewards"][:count]))
        labels = {f"{side}_label": row[f"{side}_reward"] >= least for side in ("chosen", "rejected")}
        labelled_rows.append(row | labels)
    return labelled_rows


def _make_rpo(profile: Profile, method: Method, seed: int, folder: Path) -> None:
    import torch

    from qrpo_lib.objective import relatives
    from qrpo_lib.training import plain_loop

    setup = Setup(profile, method, seed)
    of_steps = plain_loop.batches(setup.pairs(), setup.settings)

    def loss_of_step(number: int):
        logps, ref_logps = setup.log_probs(of_steps[number])
        rewards = [torch.tensor([row[f"{side}_reward"] for row in of_steps[number]]) for side in ("chosen", "rejected")]
        losses = relatives.rpo(
            *logps.unbind(1), *ref_logps.unbind(1), *rewards, beta=method.beta, distance="backward-kl"
        )
        return losses.mean(), {"log_ratio": (logps - ref_logps).mean().item()}

    setup.train(loss_of_step, len(of_steps), folder)


def _make_by_trl(profile: Profile, method: Method, seed: int, folder: Path) -> None:
    from qrpo_lib.training import trl_relatives

    setup = Setup(profile, method, seed)
    rows = setup.pairs()
    if method.name == "kto":
        rows = labelled(rows, solutions=_is_solution(profile), count=method.num_ref_rewards)
    with progress.bar(f"training {method.name}, seed {seed}"):
        history = trl_relatives.fit(method.name, setup.model, setup.tokenizer, rows, method.beta, setup.settings)
    setup.save(history, folder)


def _is_solution(profile: Profile) -> bool:
    return profile.task.completions == "solution"
