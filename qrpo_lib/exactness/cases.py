"""What the notebook `exactness` shows: the real trainer against closed forms, case by case, on an enumerated prompt."""

from __future__ import annotations

import dataclasses
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from qrpo_lib.exactness import enumerated
from qrpo_lib.exactness.enumerated import Enumeration, Fit
from qrpo_lib.objective import transforms
from qrpo_lib.paper import style
from qrpo_lib.runs import progress
from qrpo_lib.theory import tabular

DATA = ("offline", "off-policy")
# Each beta puts the optimum 0.1 to 0.2 nats from the reference. Farther ones take more steps: log at 0.5, 0.85 away,
# is at 0.003 (off-policy) and 0.008 (offline) after 160.
QRPO_LOSSES: dict[str, dict[str, Any]] = {
    "identity": {"beta": 0.5},
    "log": {"beta": 1.5},
    "square": {"beta": 0.5},
    "sqrt": {"beta": 0.5},
    "normal": {"beta": 1.5},
    "scaled-normal": {"beta": 0.5, "transform": {"name": "scaled-normal", "mu": 0.5, "sigma": 0.3}},
}
PAIR_LOSSES: dict[str, dict[str, Any]] = {"dpo": {"beta": 2.0}, "rebel": {"beta": 2.0}}
SIMPO = {"beta": 5.0, "gamma_ratio": 0.0}


def table(problem: Enumeration, *, learning_rate: float, qrpo_steps: int, pair_steps: int) -> pd.DataFrame:
    """The trainer on every case, algorithm, transformation and data: how close it comes to each optimum.

    Parameters
    ----------
    problem: the prompt with its completions.
    learning_rate: of the first step.
    qrpo_steps, pair_steps: how many steps QRPO and the losses on pairs take.

    Returns
    -------
    A row for each case: `algorithm, transform, data, beta`; `start` and `end`, KL in nats from the policy to pi* before
    and after training; `steps` and `curve` hold the checkpoints and the KL there, `fit` and `target` log-probabilities
    (m,).
    """
    cases = [("qrpo", name, {"transform": name} | loss) for name, loss in QRPO_LOSSES.items()]
    cases += [(algorithm, "", loss) for algorithm, loss in PAIR_LOSSES.items()]
    rows = []
    with progress.bar("fitting enumerated policies") as report:
        for number, (algorithm, name, loss) in enumerate(cases):
            for data in DATA:
                report(2 * number + DATA.index(data), 2 * len(cases), f"{algorithm} {name} {data}".replace("  ", " "))
                steps = qrpo_steps if algorithm == "qrpo" else pair_steps
                training_rows = enumerated.rows(problem, algorithm, distribution(problem, data))
                fit = enumerated.fit(problem, algorithm, loss, training_rows, learning_rate=learning_rate, steps=steps)
                target = enumerated.optimum(problem, algorithm, loss)
                rows.append(
                    {"algorithm": algorithm, "transform": name, "data": data, "beta": loss["beta"]}
                    | _distances(problem, fit, target)
                )
    return pd.DataFrame(rows)


def distribution(problem: Enumeration, data: str) -> np.ndarray:
    """Log-probabilities (m,) that the completions of the data have: the reference's, or another policy's."""
    return problem.log_ref if data == "off-policy" else enumerated.other_policy(problem, seed=1)


def simpo_table(problem: Enumeration, *, learning_rate: float, steps: int) -> pd.DataFrame:
    """SimPO on the preferences that bring DPO to pi*: KL of the trained policy to its own optimum, and to pi*.

    One row for each gamma / beta: 0, where the optimum has a closed form, and the paper's 0.5.
    """
    optima = {
        "kl_to_simpo_optimum": enumerated.optimum(problem, "simpo", SIMPO),
        "kl_to_dpo_optimum": enumerated.optimum(problem, "dpo", {"beta": SIMPO["beta"]}),
    }
    # at gamma = 0 the optimum is the same for any data; SimPO's lies on completions that the reference seldom writes
    training_rows = enumerated.rows(problem, "simpo", distribution(problem, "offline"))
    rows = []
    for ratio in (0.0, 0.5):
        loss = SIMPO | {"gamma_ratio": ratio}
        fit = enumerated.fit(problem, "simpo", loss, training_rows, learning_rate=learning_rate, steps=steps)
        rows.append(
            {"gamma_ratio": ratio, "start": tabular.kl(problem.log_ref, optima["kl_to_simpo_optimum"])}
            | {name: tabular.kl(fit.log_policy, optimum) for name, optimum in optima.items()}
            | {"mean_length": float(np.exp(fit.log_policy) @ problem.lengths), "fit": fit.log_policy}
        )
    return pd.DataFrame(rows)


def chain_table(problem: Enumeration, *, learning_rate: float, steps: int) -> pd.DataFrame:
    """REBEL on a chain of neighbours instead of random pairs: both identify pi*, at different speed.

    `end` is the KL in nats; that of the random pairs is in `table`.
    """
    target = enumerated.optimum(problem, "rebel", PAIR_LOSSES["rebel"])
    random, chain = (enumerated.rows(problem, "rebel", problem.log_ref, chain=chain) for chain in (False, True))
    fit = enumerated.fit(problem, "rebel", PAIR_LOSSES["rebel"], chain, learning_rate=learning_rate, steps=steps)
    gaps = [enumerated.spectral_gap(problem, pairs) for pairs in (random, chain)]
    ends = [float("nan"), tabular.kl(fit.log_policy, target)]
    return pd.DataFrame({"pairs": ["random", "chain"], "spectral_gap": gaps, "end": ends})


def rounds_table(problem: Enumeration, *, beta: float, count: int, learning_rate: float, steps: int) -> pd.DataFrame:
    """Rounds of QRPO at count x beta by the real trainer, each referring to the last policy (App. A).

    Parameters
    ----------
    problem: the prompt with its completions.
    beta: strength of the KL regularisation of one stage, in units of the quantile.
    count: how many rounds.
    learning_rate: of the first step of each round.
    steps: how many each round takes.

    Returns
    -------
    A row with rewards kept ("fixed") and one with quantiles taken anew ("renewed"): `reward`; KL in nats of the last
    policy `kl_to_one_stage`, the optimum of one stage at beta, `kl_to_rounds`, the closed form of `count` rounds, and
    `kl_to_initial`, the first reference policy.
    """
    f, rows = transforms.get("identity"), []
    for reward in ("fixed", "renewed"):
        now = problem
        for number in range(1, count + 1):
            loss = {"beta": count * beta, "transform": transforms.of_round(f, number) if reward == "fixed" else f}
            of_round = now if reward == "renewed" else dataclasses.replace(now, ref_rewards=problem.ref_rewards)
            data = enumerated.rows(of_round, "qrpo", of_round.log_ref)
            fit = enumerated.fit(of_round, "qrpo", loss, data, learning_rate=learning_rate, steps=steps)
            now = enumerated.with_reference(problem, fit.model)
        closed_form = tabular.rounds(f, problem.log_ref, problem.rewards, beta, count, reward == "renewed")
        one_stage = tabular.rounds(f, problem.log_ref, problem.rewards, beta, 1, False)
        kls = {"kl_to_one_stage": one_stage, "kl_to_rounds": closed_form, "kl_to_initial": problem.log_ref}
        rows.append({"reward": reward} | {name: tabular.kl(fit.log_policy, other) for name, other in kls.items()})
    return pd.DataFrame(rows)


def curves_figure(cases: pd.DataFrame) -> tuple[plt.Figure, pd.DataFrame]:
    """KL against steps for every case, and the trained policies against pi*; with the numbers that are drawn."""
    with style.style():
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.4))
        for case in cases.itertuples():
            identity = style.ALGORITHMS[case.algorithm]
            line_style = {
                "color": identity.color,
                "linestyle": "-" if case.data == "off-policy" else "--",
                "alpha": 0.8,
            }
            axes[0].plot(case.steps, case.curve, **line_style)
            axes[1].plot(case.target, case.fit, identity.marker, color=identity.color, markersize=3, alpha=0.3)
        axes[0].axhline(1e-3, color="black", linewidth=0.8, linestyle=":")
        axes[0].set(yscale="log", xlabel="step", ylabel=r"KL($\pi_\theta$ || $\pi^*$) in nats")
        handles = [plt.Line2D([], [], color=style.ALGORITHMS[a].color) for a in ("qrpo", "dpo", "rebel")]
        handles += [plt.Line2D([], [], color="gray", linestyle=line) for line in ("-", "--")]
        axes[0].legend(handles, ["QRPO, six f", "DPO", "REBEL", "off-policy data", "offline data"], fontsize="small")
        ends = [min(map(np.min, cases["target"])), max(map(np.max, cases["target"]))]
        axes[1].plot(ends, ends, color="black", linewidth=0.8)
        axes[1].set(xlabel=r"$\log \pi^*(y)$", ylabel=r"$\log \pi_\theta(y)$", title="every completion, every case")
    return figure, numbers(cases)


def numbers(cases: pd.DataFrame) -> pd.DataFrame:
    """The KL curves in long form."""
    curves = cases[["algorithm", "transform", "data", "beta", "steps", "curve"]].explode(["steps", "curve"])
    return curves.rename(columns={"steps": "step", "curve": "kl"})


def _distances(problem: Enumeration, fit: Fit, target: np.ndarray) -> dict[str, Any]:
    curve = [tabular.kl(log_policy, target) for log_policy in fit.checkpoints]
    return {
        "start": tabular.kl(problem.log_ref, target),
        "end": curve[-1],
        "steps": fit.steps,
        "curve": curve,
        "fit": fit.log_policy,
        "target": target,
    }
