"""What the notebooks `beyond_...` show and are judged by: rewards, KL and lengths of QRPO beside its relatives.

    made = beyond.cells(profile, "estimated_z")              # trains what is missing
    made["QRPO, exact Z", 0.1, 3].reward                     # (seeds, reporting prompts)

Every model is reported at its last checkpoint; where a beta must be chosen, the selection prompts choose.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from qrpo_lib.experiment import relatives
from qrpo_lib.experiment.relatives import Model
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.results import statistics
from qrpo_lib.results.statistics import Interval
from qrpo_lib.steps import reference_sampling

Key = tuple[str, float, int | None]  # a method's label, beta, number of references
Cells = dict[Key, "Cell"]


@dataclass(frozen=True)
class Cell:
    """The models of one method at one beta and number of references, one for each seed.

    reward, kl, length: (seeds, reporting prompts), means over a prompt's answers; KL to the reference policy in nats.
    length_correlation: (seeds, prompts), rank correlation of length and log-ratio among a prompt's answers, 0 where
        all are alike.
    selection: mean reward on the selection prompts.
    """

    label: str
    beta: float
    num_ref_rewards: int | None
    seeds: tuple[int, ...]
    reward: np.ndarray
    kl: np.ndarray
    length: np.ndarray
    length_correlation: np.ndarray
    selection: float

    @property
    def name(self) -> str:
        """For people."""
        of_references = f", n = {self.num_ref_rewards}" if self.num_ref_rewards else ""
        return f"{self.label}, beta {self.beta:g}{of_references}"


def cells(profile: Profile, name: str) -> Cells:
    """The cells of a study, by label, beta and number of references; models that are missing are made."""
    models = relatives.models(profile, name)
    relatives.make(profile, models, f"study {name}")
    by_key: dict[Key, list[Model]] = {}
    for model in models:
        by_key.setdefault((model.label, model.method.beta, model.method.num_ref_rewards), []).append(model)
    return {key: _cell(key, [_measured(profile, each) for each in of_key], of_key) for key, of_key in by_key.items()}


def before(profile: Profile, name: str) -> np.ndarray:
    """Mean reward of each reporting prompt under the policy before training: (1, prompts)."""
    return by_prompt(relatives.answers_before(profile, name), "reward")[None]


def by_prompt(answers: pd.DataFrame, column: str) -> np.ndarray:
    """Means of a column over the answers to each prompt, prompts in order of their ids: (prompts,)."""
    return answers.groupby("prompt_id", sort=True)[column].mean().to_numpy()


def of_label(study: Cells, label: str) -> list[Cell]:
    """The cells of one method, by references and beta."""
    matching = [cell for cell in study.values() if cell.label == label]
    if not matching:
        raise KeyError(f"the study has no method {label!r}; there are {', '.join({c.label for c in study.values()})}")
    return sorted(matching, key=lambda cell: (cell.num_ref_rewards or 0, cell.beta))


def best(study: Cells, label: str) -> Cell:
    """A method's cell with the highest reward on the selection prompts."""
    return max(of_label(study, label), key=lambda cell: cell.selection)


def chosen(study: Cells, label: str) -> str:
    """The name of a method's best cell, and whether its beta is at an end of those tried: another might be better."""
    cell, betas = best(study, label), sorted({other.beta for other in of_label(study, label)})
    ends = {betas[0]: "the smallest tried", betas[-1]: "the largest tried"} if len(betas) > 1 else {}
    return f"{cell.name} ({ends[cell.beta]})" if cell.beta in ends else cell.name


def gain(study: Cells, label: str, start: np.ndarray) -> float:
    """What a method's best cell gains over the policy before training: the scale of the smallest effects."""
    return float(best(study, label).reward.mean() - start.mean())


def matched(study: Cells, first: str, second: str) -> list[tuple[Cell, Cell]]:
    """Cells of two methods at equal numbers of references and at betas of equal rank, for units that differ.

    Where they have no number of references in common, such as none and some, the fewest of each.
    """
    of_first, of_second = (_by_references(study, label) for label in (first, second))
    numbers = [(n, n) for n in of_first if n in of_second] or [(min(of_first), min(of_second))]
    return [pair for n, other in numbers for pair in zip(of_first[n], of_second[other], strict=True)]


def at_most_and_fewest(study: Cells, label: str) -> list[tuple[Cell, Cell]]:
    """A method's cells with the most references, each beside that with the fewest at the same beta."""
    by_number = _by_references(study, label)
    return list(zip(by_number[max(by_number)], by_number[min(by_number)], strict=True))


def mean_difference(pairs: Iterable[tuple[Cell, Cell]], column: str = "reward") -> Interval:
    """First less second of each pair, mean over the pairs, with its interval over prompts and seeds."""
    gaps = [getattr(left, column) - getattr(right, column) for left, right in pairs]
    return statistics.mean_interval(np.mean(gaps, axis=0))


def over_start(cell: Cell, start: np.ndarray) -> Interval:
    """Reward of a cell less that of the policy before training, of which there is one."""
    return statistics.mean_interval(cell.reward - start)


def largest_common_kl(study: Cells, labels: Sequence[str]) -> float:
    """The largest KL to the reference, in nats, that each of the methods reaches at one of its betas."""
    return min(max(float(cell.kl.mean()) for cell in of_label(study, label)) for label in labels)


def at_kl(study: Cells, label: str, kl: float, start: np.ndarray) -> np.ndarray:
    """Rewards of a method at a KL to the reference policy: (seeds, prompts).

    Interpolated between the two cells around it, or from the policy before training, whose KL is 0; linearly in the
    root of the KL, as the largest reward of small steps is: a chord over the KL itself would put every method too low
    but the one that has a cell right there. A cell's KL is its mean over seeds and prompts.

    Parameters
    ----------
    study: the cells of a study.
    label: of the method.
    kl: in nats.
    start: (1, prompts) rewards of the policy before training.

    Raises
    ------
    ValueError
        The method does not reach that KL.
    KeyError
        The study has no such method.
    """
    path = sorted(((float(cell.kl.mean()), cell.reward) for cell in of_label(study, label)), key=lambda point: point[0])
    path = [(0.0, np.broadcast_to(start, path[0][1].shape)), *path]
    for (low, below), (high, above) in itertools.pairwise(path):
        if kl <= high:
            share = (kl**0.5 - low**0.5) / (high**0.5 - low**0.5) if high > low else 1.0
            return (1 - share) * below + share * above
    raise ValueError(f"{label} reaches a KL of {path[-1][0]:.3f}, not {kl:.3f}.")


def table(study: Cells, start: np.ndarray) -> pd.DataFrame:
    """A row for each cell: reward, its gain over that before training, KL, each with its interval; length, seeds.

    start: `before`.
    """
    rows = []
    for cell in study.values():
        reward, kl = statistics.mean_interval(cell.reward), statistics.mean_interval(cell.kl)
        gained = over_start(cell, start)
        row: dict[str, Any] = {"method": cell.label, "beta": cell.beta, "references": cell.num_ref_rewards or 0}
        row |= {"reward": reward.mean, "low": reward.low, "high": reward.high}
        row |= {"gain": gained.mean, "gain_low": gained.low, "gain_high": gained.high}
        row |= {"kl": kl.mean, "kl_low": kl.low, "kl_high": kl.high, "length": float(cell.length.mean())}
        rho = float(cell.length_correlation.mean())
        rows.append(row | {"rho": rho, "selection": cell.selection, "seeds": len(cell.seeds)})
    return pd.DataFrame(rows)


# --- best of N --------------------------------------------------------------------------------------------------------


def reference_rewards(profile: Profile, name: str) -> dict[str, np.ndarray]:
    """Of each reporting prompt the rewards of all its completions by the reference policy."""
    settings = profile.with_training(setting=relatives.study(profile, name).setting)
    columns = ["prompt_id", "split", "reward"]
    frame = reference_sampling.load(reference_sampling.step(settings).folder, columns)
    frame = frame[frame["split"] == "reporting"]
    return {prompt: rows["reward"].to_numpy() for prompt, rows in frame.groupby("prompt_id")}


def win_rates(answers: pd.DataFrame, references: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of each prompt the share of the reference's completions that its answers beat, ties counted half: (prompts,)."""
    rates = []
    for prompt, rows in answers.groupby("prompt_id", sort=True):
        others, rewards = references[prompt], rows["reward"].to_numpy()[:, None]
        rates.append(((rewards > others) + 0.5 * (rewards == others)).mean())
    return np.array(rates)


def win_rate_cells(profile: Profile, name: str) -> dict[int, np.ndarray]:
    """Win rates of the study's models over the reference policy, by their N: (seeds, prompts)."""
    references, by_best_of = reference_rewards(profile, name), {}
    for model in relatives.models(profile, name):
        rates = win_rates(relatives.answers(profile, model), references)
        by_best_of.setdefault(model.method.best_of, []).append(rates)
    return {best_of: np.array(rates) for best_of, rates in by_best_of.items()}


def known_win_rate(best_of: int) -> float:
    """That of best-of-N over one completion, N/(N + 1), for rewards without ties."""
    return best_of / (best_of + 1)


def known_kl(best_of: int) -> float:
    """KL of best-of-N to the reference policy in nats, log N - (N - 1)/N, for rewards without ties."""
    return float(np.log(best_of) - (best_of - 1) / best_of)


def sampled_best_of(references: Mapping[str, np.ndarray], best_of: int) -> np.ndarray:
    """Expected best reward of N of each prompt's completions, drawn without putting back: (prompts,)."""
    means = []
    for _, rewards in sorted(references.items()):
        ordered, m = np.sort(rewards), len(rewards)
        # P(the k-th smallest is the best of N) = C(k - 1, N - 1) / C(m, N)
        ranks = np.arange(1, m + 1)
        log_weights = _log_choose(ranks - 1, best_of - 1) - _log_choose(np.array(m), best_of)
        means.append(float(np.exp(log_weights) @ ordered))
    return np.array(means)


def _log_choose(n: np.ndarray, k: int) -> np.ndarray:
    from scipy import special

    with np.errstate(invalid="ignore"):
        values = special.gammaln(n + 1.0) - special.gammaln(k + 1.0) - special.gammaln(n - k + 1.0)
    return np.where(n < k, -np.inf, values)


# --- reading ----------------------------------------------------------------------------------------------------------


def _measured(profile: Profile, model: Model) -> dict[str, Any]:
    answers = relatives.answers(profile, model)
    log_ratio = answers["policy_logp"] - answers["ref_logp"]
    # Unbiased as the mean log-ratio is, since E[pi_ref / pi] = 1. Below a nat it has a fraction of its variance; beyond
    # it a single answer that the reference finds likelier can outweigh all others (docs/choosing.md tells of two).
    answers = answers.assign(log_ratio=log_ratio, kl=np.expm1(-log_ratio) + log_ratio)
    measured: dict[str, Any] = {name: by_prompt(answers, name) for name in ("reward", "kl", "length")}
    scored = answers.dropna(subset="log_ratio").groupby("prompt_id", sort=True)
    measured["length_correlation"] = np.array([_rank_correlation(rows) for _, rows in scored])
    selection = relatives.answers(profile, model, "selection")
    return measured | {"selection": float(selection["reward"].mean())}


def _rank_correlation(rows: pd.DataFrame) -> float:
    if rows["length"].nunique() < 2 or rows["log_ratio"].nunique() < 2:
        return 0.0
    return float(stats.spearmanr(rows["length"], rows["log_ratio"]).statistic)


def _cell(key: Key, measured: list[dict[str, Any]], models: Sequence[Model]) -> Cell:
    columns = ("reward", "kl", "length", "length_correlation")
    stacked = {name: np.stack([of_model[name] for of_model in measured]) for name in columns}
    selection = float(np.mean([of_model["selection"] for of_model in measured]))
    return Cell(*key, seeds=tuple(model.seed for model in models), **stacked, selection=selection)


def _by_references(study: Cells, label: str) -> dict[int, list[Cell]]:
    """A method's cells by their number of references, 0 for none, each list by beta."""
    cells_of_label = of_label(study, label)
    numbers = sorted({cell.num_ref_rewards or 0 for cell in cells_of_label})
    return {n: [cell for cell in cells_of_label if (cell.num_ref_rewards or 0) == n] for n in numbers}
