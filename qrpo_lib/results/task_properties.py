"""What the data of a chat task must be like for the paper's phenomena to be possible on it: limits, and measurements.

    table = task_properties.of_data(profile)            # one row for each property, `holds` among its columns
    table = task_properties.of_training(profile, runs)  # the effect of beta on QRPO alone, on the selection prompts

The limits stand here before any algorithm is compared with another on such a task; docs/miniature.md says why each of
them, what each phenomenon needs, and what had been seen when they were set. No limit is on what an algorithm gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from qrpo_lib.experiment import read, train
from qrpo_lib.experiment.grid import Run
from qrpo_lib.objective import transforms
from qrpo_lib.objective.quantile import quantile_reward
from qrpo_lib.paper import style
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.results import length_control
from qrpo_lib.runs import paths
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import dataset_pairs, evaluation, fitting, reference_policy, reference_sampling, shared_references

BEST_OF = 50


@dataclass(frozen=True)
class Bounds:
    """Between which values, inclusive, a property must lie, and what it is, in words."""

    words: str
    low: float = -np.inf
    high: float = np.inf

    def __str__(self) -> str:
        if np.isfinite(self.low) and np.isfinite(self.high):
            return f"{self.low:g} to {self.high:g}"
        return f"at least {self.low:g}" if np.isfinite(self.low) else f"at most {self.high:g}"


OF_DATA = {
    "skewness": Bounds("skewness of the rewards within a prompt, mean over prompts", low=0.5),
    "reward_length_rho": Bounds("rank correlation of reward and length within a prompt, mean", low=-0.1, high=0.1),
    "length_variation": Bounds("standard deviation of the lengths over their mean", low=0.4),
    "largest_length_share": Bounds("share of the most frequent length", high=0.2),
    "cut": Bounds("share of reference completions that were cut off", high=0.02),
    "best_of_50": Bounds(f"best of {BEST_OF} less mean, in standard deviations within the prompt", low=2.5),
    "chosen_quantile": Bounds("mean quantile reward of the offline chosen completions", low=0.85, high=0.95),
    "rejected_quantile": Bounds("mean quantile reward of the offline rejected completions", low=0.38, high=0.50),
    "lengths_in_a_pair": Bounds("Kolmogorov-Smirnov distance of chosen and rejected lengths", high=0.2),
    "lengths_to_reference": Bounds("Kolmogorov-Smirnov distance of offline and reference lengths", high=0.2),
    "chosen_less_likely": Bounds("log-probability a token, reference's own less offline chosen", low=0.05),
    "rejected_less_likely": Bounds("log-probability a token, reference's own less offline rejected", low=0.05),
    "steps": Bounds("training steps", low=60),
}
OF_TRAINING = {
    "kl_ratio": Bounds("KL at the largest beta over the closed form's", low=0.8, high=1.2),
    "kl_span": Bounds("KL at the smallest beta of the grid over that at the largest", low=5.0),
}


def of_data(profile: Profile) -> pd.DataFrame:
    """The properties of `OF_DATA` of a profile's arm. Makes its policy, reference completions and pairs if need be.

    Columns `property, what, measured, limit, holds`. Of the held-out prompts: for the lengths and rewards the reference
    completions of selection and reporting prompts, for the pairs those of the selection prompts and as many train
    prompts as there are selection prompts ten times over.
    """
    completions = shared_references.once(reference_sampling.load(reference_sampling.run(profile)))
    completions = completions.assign(length=completions["token_ids"].map(len))
    held_out = completions[completions["split"].isin(evaluation.HELD_OUT)]
    measured = of_completions(held_out) | of_pairs(profile, completions)
    measured["steps"] = _steps(profile, completions)
    return _judged(measured, OF_DATA)


def of_completions(completions: pd.DataFrame) -> dict[str, float]:
    """Properties of reference completions: columns `prompt_id, reward, length, finish_reason`, as many a prompt."""
    rewards, lengths = (length_control.by_prompt(completions, name).to_numpy() for name in ("reward", "length"))
    varied = (rewards.std(axis=1) > 0) & (lengths.std(axis=1) > 0)
    rho = [stats.spearmanr(*pair).statistic for pair in zip(rewards[varied], lengths[varied], strict=True)]
    some = rewards[:, :BEST_OF]
    best = (some.max(axis=1) - rewards.mean(axis=1)) / rewards.std(axis=1, ddof=1)
    counts = np.bincount(lengths.ravel().astype(int))
    return {
        "skewness": float(np.mean(stats.skew(rewards, axis=1, bias=False))),
        "reward_length_rho": float(np.mean(rho)),
        "length_variation": float(lengths.std() / lengths.mean()),
        "largest_length_share": float(counts.max() / counts.sum()),
        "cut": float((completions["finish_reason"] == "length").mean()),
        "best_of_50": float(np.mean(best)),
    }


def of_pairs(profile: Profile, completions: pd.DataFrame) -> dict[str, float]:
    """Properties of the offline pairs beside the reference completions of the same prompts.

    Raises InputError for completions without log-probabilities.
    """
    from transformers import AutoTokenizer

    if completions["logp"].isna().all():  # restored from a record
        folder = reference_sampling.step(profile).folder_name
        raise InputError(
            f"{folder} was restored from a record, without log-probabilities of completions: remove it "
            f"(`qrpo clean --run {folder}`) and run the same command again to make it anew."
        )
    policy = reference_policy.run(profile)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    pairs = dataset_pairs.load(dataset_pairs.run(profile))
    selection = pairs.loc[pairs["split"] == "selection", "prompt_id"].unique()
    train = pairs.loc[pairs["split"] == "train", "prompt_id"].unique()[: 10 * len(selection)]
    pairs = dataset_pairs.with_token_ids(pairs[pairs["prompt_id"].isin([*selection, *train])], tokenizer)
    pairs = pairs.assign(length=pairs["token_ids"].map(len))
    own = completions[completions["prompt_id"].isin(pairs["prompt_id"])]
    references = length_control.by_prompt(own, "reward")
    sides = {side: of_side for side, of_side in pairs.groupby("side")}
    properties = {}
    for side, of_side in sides.items():
        quantiles = quantile_reward(of_side["reward"].to_numpy(), references.loc[of_side["prompt_id"]].to_numpy())
        properties[f"{side}_quantile"] = float(quantiles.mean())
        properties[f"{side}_less_likely"] = _a_token(own) - _a_token(_with_logp(of_side, policy, tokenizer, profile))
    properties["lengths_in_a_pair"] = _distance(sides["chosen"], sides["rejected"])
    properties["lengths_to_reference"] = max(_distance(of_side, own) for of_side in sides.values())
    return properties


def of_training(profile: Profile, runs: Sequence[Run]) -> pd.DataFrame:
    """The properties of `OF_TRAINING`, of complete QRPO runs that differ in beta and seed alone."""
    kls = kl_by_beta(profile, runs)
    largest, smallest = kls.loc[kls["beta"].idxmax()], kls.loc[kls["beta"].idxmin()]
    measured = {
        "kl_ratio": largest["kl"] / largest["closed_form"],
        "kl_span": smallest["kl"] / largest["kl"],
    }
    return _judged(measured, OF_TRAINING)


def kl_by_beta(profile: Profile, runs: Sequence[Run]) -> pd.DataFrame:
    """Of QRPO's runs, by beta: KL of the last checkpoint to the reference policy on the selection prompts, in nats.

    Columns `beta, kl, median_kl, closed_form, length, rho`: `kl` the mean of the unbiased estimate
    pi_ref/pi - 1 + log(pi/pi_ref); `median_kl` the median over prompts, since the mean has a heavy tail; `rho` the rank
    correlation of reward and length within a prompt; `closed_form` of the optimum for a uniform quantile.
    """
    there = [run for run in dict.fromkeys(runs) if run.step(profile).folder.is_dir()]
    if not there:
        read.evaluations(profile, runs)  # says why
    last = {run: {fitting.last_step(run.training(profile).folder)} for run in there}
    train.report(profile, last, "selection", log_ratios=True)
    rows = read.answers(profile, last, "selection", log_ratios=True)
    log_ratio = evaluation.log_ratio(rows)
    rows = rows.assign(kl=np.expm1(-log_ratio) + log_ratio)
    table = []
    for beta, of_beta in rows.groupby("beta"):
        by_prompt = of_beta.groupby("prompt_id")["kl"].mean()
        row = {"beta": beta, "kl": by_prompt.mean(), "median_kl": by_prompt.median(), "closed_form": optimal_kl(beta)}
        table.append(row | {"length": of_beta["length"].mean(), "rho": _rho_less_prompt(of_beta)})
    return pd.DataFrame(table)


def draw_kl(table: pd.DataFrame) -> plt.Figure:
    """Of `kl_by_beta`, the KL that training reaches beside the one that the optimum has."""
    look = style.ALGORITHMS["qrpo"]
    with style.style():
        figure, axis = plt.subplots(figsize=(6.5, 3.6))
        axis.plot(table["beta"], table["kl"], marker=look.marker, color=look.color)
        axis.plot(
            table["beta"], table["median_kl"], "--", marker=look.marker, color=look.color, markerfacecolor="white"
        )
        axis.plot(table["beta"], table["closed_form"], ":", color="black")
        axis.set(xscale="log", yscale="log", xlabel=r"$\beta$", ylabel="KL to the reference policy (nats)")
        axis.set_xticks(table["beta"], [f"{beta:g}" for beta in table["beta"]])
        axis.set_xticks([], minor=True)
        ends = table.loc[table["beta"].idxmax()]
        names = {"kl": "trained, mean", "median_kl": "trained, median", "closed_form": "closed form"}
        colors = {"kl": look.color, "median_kl": look.color, "closed_form": "black"}
        style.label_ends(axis, [(ends[name], words, colors[name]) for name, words in names.items()])
    return figure


def optimal_kl(beta: float) -> float:
    """KL(pi* || pi_ref) in nats of QRPO's optimum where the quantile reward is uniform: E*[R_q] / beta - log Z."""
    scaled = 1 / beta
    mean = 1 / -np.expm1(-scaled) - beta  # of the density proportional to exp(t / beta) on [0, 1]
    return float(mean * scaled - transforms.get("identity").log_partition(beta))


def _rho_less_prompt(rows: pd.DataFrame) -> float:
    """Rank correlation of reward and length, each less its prompt's mean: a few answers a prompt are enough."""
    centred = rows[["reward", "length"]] - rows.groupby("prompt_id")[["reward", "length"]].transform("mean")
    return float(stats.spearmanr(centred["reward"], centred["length"]).statistic)


def _steps(profile: Profile, completions: pd.DataFrame) -> float:
    prompts = completions.loc[completions["split"] == "train", "prompt_id"].nunique()
    training = profile.training
    return float(-(-prompts * training.pairs_per_prompt // training.batch_size) * training.epochs)


def _with_logp(rows: pd.DataFrame, policy, tokenizer, profile: Profile) -> pd.DataFrame:
    from qrpo_lib.training import reference_logps

    of_rows = [
        {"prompt_ids": list(prompt), "completion_ids": list(ids)}
        for prompt, ids in zip(rows["prompt_ids"], rows["token_ids"], strict=True)
    ]
    computing = {"micro_batch_size": profile.training.micro_batch_size, "precision": profile.training.precision}
    cache = paths.cache_folder("reference_log_probs")
    return rows.assign(
        logp=reference_logps.log_probs(policy, tokenizer, of_rows, **computing, cache=cache)["ref_logps"]
    )


def _a_token(rows: pd.DataFrame) -> float:
    return float(rows["logp"].sum() / rows["length"].sum())


def _distance(first: pd.DataFrame, second: pd.DataFrame) -> float:
    return float(stats.ks_2samp(first["length"], second["length"]).statistic)


def _judged(measured: dict[str, float], limits: dict[str, Bounds]) -> pd.DataFrame:
    rows = []
    for name, limit in limits.items():
        value = measured[name]
        row = {"property": name, "what": limit.words, "measured": value, "limit": str(limit)}
        rows.append(row | {"holds": bool(limit.low <= value <= limit.high)})
    return pd.DataFrame(rows)
