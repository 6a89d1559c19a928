"""What the notebook `relatives` shows: constant errors of the targets, and QRPO's relatives, on an enumerated prompt.

Each method's optimum is computed without its loss. It is compared with what the real trainer reaches where the trainer
takes the loss as it is (`targets`; IPO and RPO as REBEL, DRO with its value set before each step), and with a plain
minimisation of the pure loss (`qrpo_lib.objective.relatives`) over the logits of all completions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import special
from torch import Tensor

from qrpo_lib.exactness import cases, enumerated, targets
from qrpo_lib.exactness.enumerated import Enumeration
from qrpo_lib.objective import relatives, transforms
from qrpo_lib.paper import style
from qrpo_lib.runs import progress
from qrpo_lib.theory import constant_error, tabular

_FINE = 20_000  # references, of which quantiles are exact to 1/n
_SMALLEST_KL = 1e-12  # nats: what is nearer is drawn there
# What the figure shows of each method: mark, name and colour.
_MARKS = {
    "start": ("o", "reference policy", "dimgray"),
    "by_loss": ("s", "its loss, minimised", "#332288"),
    "by_trainer": ("^", "this suite's trainer", "darkorange"),
}

VALUE_BETA = 4.0  # of A*-PO, over the beta of its regression


def quantile_optimum(problem: Enumeration, beta: float) -> np.ndarray:
    """log pi* of f = t with the exact quantiles and their own Z, (m,)."""
    rewards = tabular.quantile_rewards(transforms.get("identity"), problem.log_ref, problem.rewards)
    return tabular.optimal_policy(problem.log_ref, rewards, beta)


# --- dose and response ----------------------------------------------------------------------------------------------


def dose_table(problem: Enumeration, betas, doses, *, learning_rate: float, steps: int) -> pd.DataFrame:
    """The trainer on QRPO's exact targets plus c: a row for each beta, data and dose c/beta.

    Parameters
    ----------
    problem: the prompt with its completions.
    betas: strengths of the KL regularisation, in units of the quantile.
    doses: the c/beta, in nats.
    learning_rate: of the first step.
    steps: how many are taken.

    Returns
    -------
    Columns `beta, data, dose`; KL in nats `to_best`, from the trained policy to the best normalised one, `to_optimum`
    and `best_to_optimum` from each of the two to pi*.
    """
    every = list(itertools.product(betas, cases.DATA, doses))
    rows = []
    with progress.bar("targets with a constant error") as report:
        for number, (beta, data, dose) in enumerate(every):
            report(number, len(every), f"beta {beta:g}, {data}, c/beta {dose:g}")
            optimum, log_data = quantile_optimum(problem, beta), cases.distribution(problem, data)
            best = constant_error.best_policy(optimum, log_data, dose).log_policy
            asked = beta * (optimum - problem.log_ref + dose)
            fit = targets.fit_targets(problem, asked, beta, log_data, learning_rate=learning_rate, steps=steps)
            kls = [tabular.kl(*pair) for pair in ((fit.log_policy, best), (fit.log_policy, optimum), (best, optimum))]
            rows.append((beta, data, dose, *kls))
    return pd.DataFrame(rows, columns=["beta", "data", "dose", "to_best", "to_optimum", "best_to_optimum"])


def response_table(problem: Enumeration, betas, doses) -> pd.DataFrame:
    """The closed form alone, over a finer grid of doses: `beta, data, dose, kl` to pi* in nats."""
    rows = []
    for beta, data, dose in itertools.product(betas, cases.DATA, doses):
        optimum, log_data = quantile_optimum(problem, beta), cases.distribution(problem, data)
        best = constant_error.best_policy(optimum, log_data, dose).log_policy
        rows.append((beta, data, dose, tabular.kl(best, optimum)))
    return pd.DataFrame(rows, columns=["beta", "data", "dose", "kl"])


def dose_figure(response: pd.DataFrame, trained: pd.DataFrame) -> plt.Figure:
    """KL to pi* against c/beta: the best policy (lines) and what the trainer ends at (dots), off-policy and offline."""
    with style.style():
        figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
        panels, betas = dict(zip(cases.DATA[::-1], axes, strict=True)), sorted(response["beta"].unique())
        ends: dict[str, list[tuple[float, str, str]]] = {data: [] for data in panels}
        for data, axis in panels.items():
            for beta, color in zip(betas, style.ordered_colors(len(betas)), strict=True):
                line = response[(response["beta"] == beta) & (response["data"] == data)]
                dots = trained[(trained["beta"] == beta) & (trained["data"] == data)]
                axis.plot(line["dose"], line["kl"], color=color)
                axis.plot(dots["dose"], dots["to_optimum"], "o", color=color)
                ends[data].append((line.sort_values("dose")["kl"].iloc[-1], rf"$\beta$ = {beta:g}", color))
            axis.set(xlabel=r"error of all targets, $c/\beta$ in nats", title=f"{data} data (dots: trained)")
        axes[0].set_ylabel(r"KL($\pi$ || $\pi^*$) in nats")
        for data, axis in panels.items():  # the panels share their limits, which are final now
            style.label_ends(axis, ends[data])
    return figure


# --- the relatives --------------------------------------------------------------------------------------------------


def table(
    problem: Enumeration, *, beta: float, best_of: int, learning_rate: float, steps: int, pair_steps: int
) -> pd.DataFrame:
    """Each method's optimum, and how close its loss and the trainer come to it: a row for each method.

    Parameters
    ----------
    problem: the prompt with its completions.
    beta: strength of the KL regularisation, in units of the reward.
    best_of: N of best-of-N.
    learning_rate: of the trainer's first step.
    steps: how many the trainer takes.
    pair_steps: that for methods on pairs, which come to their optimum more slowly than those on single completions.

    Returns
    -------
    Columns `method`; KL in nats `start` from the reference to the optimum, `by_loss` and `by_trainer` after minimising
    the pure loss and after training (NaN where the trainer does not take it); `optimum, policy` (m,) log-probabilities,
    the policy by the loss.
    """
    settings = {"learning_rate": learning_rate, "steps": steps}
    optima, by_loss, by_trainer = _optima(problem, beta, best_of), _losses(problem, beta, best_of), {}
    with progress.bar("training QRPO's relatives") as report:
        trained = _trained(problem, beta, best_of, settings, settings | {"steps": pair_steps})
        for number, (name, train) in enumerate(trained.items()):
            report(number, len(trained), name)
            by_trainer[name] = tabular.kl(train(), optima[name])
    rows = []
    for name, optimum in optima.items():
        policy = minimise(by_loss[name], problem.log_ref)
        row = {"method": name, "start": tabular.kl(problem.log_ref, optimum), "by_loss": tabular.kl(policy, optimum)}
        rows.append(row | {"by_trainer": by_trainer.get(name, np.nan), "optimum": optimum, "policy": policy})
    return pd.DataFrame(rows)


def _optima(problem: Enumeration, beta: float, best_of: int) -> dict[str, np.ndarray]:
    """log-probabilities (m,) of each method's optimum on the reference's data."""
    log_ref, rewards = problem.log_ref, problem.rewards
    reward_optimum = tabular.optimal_policy(log_ref, rewards, beta)
    log_z = tabular.log_partition(log_ref, rewards, beta)
    value = VALUE_BETA * beta * tabular.log_partition(log_ref, rewards, VALUE_BETA * beta)
    quantiles = tabular.quantiles(log_ref, rewards)
    best_of_n = tabular.optimal_policy(log_ref, (best_of - 1) * np.log(quantiles), 1.0)
    return {
        "raw reward, exact Z": reward_optimum,
        "A*-PO": constant_error.best_policy(reward_optimum, log_ref, log_z - value / beta).log_policy,
        "DRO": reward_optimum,
        "IPO": tabular.optimal_policy(log_ref, _pair_scores(problem, beta), 1.0),
        "RPO, squared": reward_optimum,
        "RPO, backward KL": reward_optimum,
        "best of N": best_of_n,
    }


def _pair_scores(problem: Enumeration, beta: float) -> np.ndarray:
    """IPO's log-ratios (m,) but for a constant: least squares of g_i - g_j = 1/(2 beta), i preferred, on the pairs."""
    i, j, weights = preferred_pairs(problem)
    design = np.zeros((len(i), len(problem.rewards)))
    design[np.arange(len(i)), i], design[np.arange(len(i)), j] = 1, -1
    root = np.sqrt(weights)
    return np.linalg.lstsq(root[:, None] * design, root / (2 * beta), rcond=None)[0]


def preferred_pairs(problem: Enumeration) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of preferred and other completions of the enumerated pairs on the reference's data, and their weights."""
    index = {tuple(completion): k for k, completion in enumerate(problem.completions)}
    rows = enumerated.rows(problem, "rebel", problem.log_ref)
    ends = np.array([[index[tuple(row[f"{side}_ids"])] for side in ("chosen", "rejected")] for row in rows])
    swap = problem.rewards[ends[:, 0]] < problem.rewards[ends[:, 1]]
    ends[swap] = ends[swap, ::-1]
    return ends[:, 0], ends[:, 1], np.array([row["weight"] for row in rows])


def _losses(problem: Enumeration, beta: float, best_of: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Each method's pure loss as a function of all log-probabilities (m,), in expectation over the reference's data."""
    ref, rewards = torch.tensor(problem.log_ref), torch.tensor(problem.rewards)
    data, m = ref.exp(), len(rewards)
    fine = torch.tensor(enumerated.reference_rewards(problem.rewards, problem.log_ref, _FINE)).expand(m, -1)
    log_z = tabular.log_partition(problem.log_ref, problem.rewards, beta)
    value = VALUE_BETA * beta * tabular.log_partition(problem.log_ref, problem.rewards, VALUE_BETA * beta)
    i, j, weights = (torch.tensor(x) for x in preferred_pairs(problem))
    every_i, every_j = torch.triu_indices(m, m, 1)

    def dro(logps: Tensor) -> Tensor:  # minimised over V within: least squares
        values = (data @ (rewards - beta * (logps - ref))).expand(m)
        return data @ relatives.dro(logps, ref, rewards, values, beta=beta)

    def rpo(logps: Tensor, distance: str) -> Tensor:
        pair = logps[every_i], logps[every_j], ref[every_i], ref[every_j], rewards[every_i], rewards[every_j]
        return (data[every_i] * data[every_j]) @ relatives.rpo(*pair, beta=beta, distance=distance)

    def best(logps: Tensor) -> Tensor:
        loss = relatives.best_of_n(logps, ref, rewards, fine, best_of=best_of)
        return data @ loss

    return {
        "raw reward, exact Z": lambda p: data @ relatives.regression(p, ref, rewards - beta * log_z, beta=beta),
        "A*-PO": lambda p: data @ relatives.regression(p, ref, rewards - value, beta=beta),
        "DRO": dro,
        "IPO": lambda p: weights @ relatives.ipo(p[i], p[j], ref[i], ref[j], beta=beta) / m**2,
        "RPO, squared": lambda p: rpo(p, "squared"),
        "RPO, backward KL": lambda p: rpo(p, "backward-kl"),
        "best of N": best,
    }


def _trained(
    problem: Enumeration, beta: float, best_of: int, settings: dict, of_pairs: dict
) -> dict[str, Callable[[], np.ndarray]]:
    """The trainer on each method that it takes without a change; each gives log-probabilities (m,)."""
    log_ref = problem.log_ref
    log_z = tabular.log_partition(log_ref, problem.rewards, beta)
    value = VALUE_BETA * beta * tabular.log_partition(log_ref, problem.rewards, VALUE_BETA * beta)
    quantiles = tabular.quantiles(log_ref, problem.rewards)

    def on(asked: np.ndarray, strength: float = beta) -> np.ndarray:
        return targets.fit_targets(problem, asked, strength, log_ref, **settings).log_policy

    def ipo() -> np.ndarray:
        i, j, _ = preferred_pairs(problem)
        rows = enumerated.pair_rows(problem, i, j, log_ref, preferences=False)
        labelled = [row | {"chosen_reward": 1.0, "rejected_reward": 0.0} for row in rows]
        return enumerated.fit(problem, "rebel", {"beta": 2 * beta}, labelled, **of_pairs).log_policy

    def rpo() -> np.ndarray:
        rows = enumerated.rows(problem, "rebel", log_ref)
        return enumerated.fit(problem, "rebel", {"beta": beta}, rows, **of_pairs).log_policy

    def best() -> np.ndarray:  # without a quantile's estimate, by its own Z: the target of its log-ratio at beta = 1
        asked = (best_of - 1) * np.log(quantiles)
        return on(asked - special.logsumexp(log_ref + asked), 1.0)

    return {
        "raw reward, exact Z": lambda: on(problem.rewards - beta * log_z),
        "A*-PO": lambda: on(problem.rewards - value),
        "DRO": lambda: targets.fit_dro(problem, beta, **settings)[0].log_policy,
        "IPO": ipo,
        "RPO, squared": rpo,
        "best of N": best,
    }


def minimise(loss: Callable[[Tensor], Tensor], log_start: np.ndarray) -> np.ndarray:
    """The log-probabilities (m,) that a loss of them ends at, by L-BFGS on the logits from `log_start`."""
    logits = torch.tensor(log_start, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=400, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(torch.log_softmax(logits, 0))
        value.backward()
        return value

    optimiser.step(closure)
    return torch.log_softmax(logits.detach(), 0).numpy()


# --- equalities between methods -----------------------------------------------------------------------------------


def ipo_table(problem: Enumeration, betas) -> pd.DataFrame:
    """IPO on all pairs of reference completions, preferred by the reward, beside QRPO with f = t.

    Columns `completions`, how many there are, `beta`, and `kl` in nats from the one optimum to the other. IPO's optimum
    is pi_ref exp(P(y preferred to a reference completion)/tau)/Z; equal rewards count half, in the quantile whole.
    `kl_of_halves`: where QRPO's quantile counts them half too.
    """
    rows = []
    for beta in betas:
        probabilities, rewards = np.exp(problem.log_ref), problem.rewards
        wins = (rewards[:, None] > rewards) @ probabilities + (rewards[:, None] == rewards) @ probabilities / 2
        ipo = tabular.optimal_policy(problem.log_ref, wins, beta)
        equal = (rewards[:, None] == rewards) @ probabilities
        halves = tabular.quantiles(problem.log_ref, rewards) - equal / 2
        other = tabular.optimal_policy(problem.log_ref, halves, beta)
        rows.append((len(rewards), beta, tabular.kl(ipo, quantile_optimum(problem, beta)), tabular.kl(ipo, other)))
    return pd.DataFrame(rows, columns=["completions", "beta", "kl", "kl_of_halves"])


def kto_table(problem: Enumeration, betas, *, pass_rate: float, steps: int) -> pd.DataFrame:
    """KTO's pure loss on the reference's data, passing where the reward is high, by Adam: a row for each beta.

    Parameters
    ----------
    problem: the prompt with its completions.
    betas: the steepness of KTO, and the strength of the KL regularisation of QRPO beside it.
    pass_rate: the share of the reference's completions that pass, those with the highest rewards.
    steps: of Adam, all completions in each.

    Returns
    -------
    Columns `beta`; `kl` in nats from the reference given a pass to the policy; `qrpo_kl` the same from that to QRPO's
    optimum for pass or fail (App. E) at that beta.
    """
    log_ref = torch.tensor(problem.log_ref)
    quantiles = tabular.quantiles(problem.log_ref, problem.rewards)
    passed = quantiles > 1 - pass_rate
    conditioned = np.where(passed, problem.log_ref, -np.inf)
    conditioned = conditioned - special.logsumexp(conditioned)
    rows = []
    for beta in betas:
        logits = log_ref.clone().requires_grad_()
        optimiser = torch.optim.Adam([logits], lr=0.1)
        for _ in range(steps):
            logps = torch.log_softmax(logits, 0)
            kl = logps.detach().exp() @ (logps.detach() - log_ref)
            loss = log_ref.exp() @ relatives.kto(logps, log_ref, torch.tensor(passed), kl, beta=beta)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        policy = torch.log_softmax(logits.detach(), 0).numpy()
        rewards = tabular.quantile_rewards(transforms.get("identity"), problem.log_ref, passed.astype(float))
        qrpo = tabular.optimal_policy(problem.log_ref, rewards, beta)
        rows.append((beta, _kl_of_some(conditioned, policy), _kl_of_some(conditioned, qrpo)))
    return pd.DataFrame(rows, columns=["beta", "kl", "qrpo_kl"])


def _kl_of_some(log_policy: np.ndarray, log_other: np.ndarray) -> float:
    """KL(policy || other) in nats where the policy leaves completions out."""
    held = np.isfinite(log_policy)
    return float(np.exp(log_policy[held]) @ (log_policy[held] - log_other[held]))


def figure(rows: pd.DataFrame) -> plt.Figure:
    """KL to each method's own optimum before and after, and policies against optima for every completion."""
    with style.style():
        drawn, (left, right) = plt.subplots(1, 2, figsize=(12, 4), width_ratios=[3, 2])
        places = np.arange(len(rows))[::-1]
        for column, (marker, label, color) in _MARKS.items():
            values = rows[column].clip(lower=_SMALLEST_KL)
            left.plot(values, places, marker, color=color, markersize=7)
            seen = values.notna()
            above = {"xytext": (-4, 8), "textcoords": "offset points", "ha": "left", "fontsize": "small"}
            left.annotate(label, (values[seen].iloc[0], places[seen][0]), color=style.legible(color), **above)
        left.axvline(1e-3, color="black", linewidth=0.8, linestyle=":")
        left.annotate("limit", (1e-3, -0.8), (4, 0), textcoords="offset points", fontsize="small")
        left.set(xscale="log", xlabel=rf"KL to its own optimum, nats (at most {_SMALLEST_KL:g}: at the left edge)")
        left.set(yticks=places, yticklabels=rows["method"], ylim=(-0.9, len(rows) - 0.1), xlim=(None, 200))
        for row in rows.itertuples():
            right.plot(row.optimum, row.policy, ".", color=style.ALGORITHMS["qrpo"].color, alpha=0.6)
        ends = [min(map(np.min, rows["optimum"])), max(map(np.max, rows["optimum"]))]
        right.plot(ends, ends, color="black", linewidth=0.8)
        right.set(xlabel="log-probability at its own optimum", ylabel="after minimising the loss")
        right.set(title="every method, every completion")
    return drawn
