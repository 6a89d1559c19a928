"""What the notebook `iterative` shows: reward and KL of each plan, their differences, and the figure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from qrpo_lib.experiment import jobs, train
from qrpo_lib.paper import style
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.results import statistics
from qrpo_lib.results.statistics import Interval
from qrpo_lib.steps import reference_sampling, rounds
from qrpo_lib.steps.rounds import Plan

INITIAL = "initial policy"


def run(profile: Profile, plans: Sequence[Plan], seeds: Sequence[int]) -> dict[tuple[Plan, int], list[Path]]:
    """The folders of the rounds of every plan and seed, made where they are missing and where the profile says.

    One that fails does not stop the others; in the end it is raised as InputError.
    """
    wanted = list(itertools.product(plans, seeds))
    train.make_all(profile, [jobs.iterative(profile, plan, seed) for plan, seed in wanted], "rounds")
    return {
        (plan, seed): [rounds.step(profile, plan, seed, number + 1).folder for number in range(plan.rounds)]
        for plan, seed in wanted
    }


def by_prompt(folders: dict[tuple[Plan, int], list[Path]]) -> pd.DataFrame:
    """Means over the completions of each reporting prompt: `plan, round, seed, prompt_id, reward, length, kl`."""
    frames = []
    for (plan, seed), folders_of_rounds in folders.items():
        for number, folder in enumerate(folders_of_rounds, 1):
            frame = rounds.load(folder)
            log_ratio = frame.pop("log_ratio")
            # Unbiased as the mean log-ratio is, since E[pi_initial / pi] = 1; below a nat, where these policies stay,
            # with a fraction of its variance.
            frame["kl"] = np.expm1(-log_ratio) + log_ratio
            means = frame.groupby("prompt_id").mean()
            frames.append(means.reset_index().assign(plan=plan.label, round=number, last=plan.rounds, seed=seed))
    return pd.concat(frames, ignore_index=True)


def initial_rewards(completions: Path) -> Interval:
    """Mean reward of the initial policy on the reporting prompts, from its reference sampling."""
    frame = reference_sampling.load(completions, ["prompt_id", "split", "reward"], role="candidate")
    frame = frame[frame["split"] == rounds.EVALUATED]
    return statistics.mean_interval(frame.groupby("prompt_id")["reward"].mean().to_numpy())


def table(prompts: pd.DataFrame) -> pd.DataFrame:
    """One row for each plan and round: mean reward, KL to the initial policy in nats, length, with intervals."""
    rows = []
    for (plan, number), group in prompts.groupby(["plan", "round"], sort=False):
        intervals = {name: statistics.mean_interval(_matrix(group, name)) for name in ("reward", "kl", "length")}
        rows.append({"plan": plan, "round": number, "seeds": group["seed"].nunique()} | intervals)
    return pd.DataFrame(rows)


def difference(prompts: pd.DataFrame, one: Plan, other: Plan, column: str) -> Interval:
    """Of the last rounds of two plans, one minus other, paired by prompt and seed; both vary in the interval.

    Parameters
    ----------
    prompts: as `by_prompt` gives them.
    one, other: the plans.
    column: "reward", "length" or "kl".
    """
    last = prompts[prompts["round"] == prompts["last"]]
    first, second = (_matrix(last[last["plan"] == plan.label], column) for plan in (one, other))
    return statistics.difference(first, second)


def last_mean(prompts: pd.DataFrame, plan: Plan, column: str) -> float:
    """Mean over prompts and seeds after the last round of a plan."""
    last = prompts[(prompts["round"] == prompts["last"]) & (prompts["plan"] == plan.label)]
    return float(_matrix(last, column).mean())


def _matrix(prompts: pd.DataFrame, column: str) -> np.ndarray:
    """(seeds, prompts) of one plan and round."""
    return prompts.pivot(index="seed", columns="prompt_id", values=column).to_numpy()


def figure(summary: pd.DataFrame, initial: Interval) -> tuple[plt.Figure, pd.DataFrame]:
    """Mean reward against KL to the initial policy, round by round; with the numbers that are drawn."""
    interval = {"reward": initial.mean, "low": initial.low, "high": initial.high}
    numbers = [{"plan": INITIAL, "round": 0, "kl": 0.0} | interval]
    for row in summary.itertuples():
        interval = {"reward": row.reward.mean, "low": row.reward.low, "high": row.reward.high}
        numbers.append({"plan": row.plan, "round": row.round, "kl": row.kl.mean} | interval)
    drawn = pd.DataFrame(numbers)
    with style.style():
        result, axes = plt.subplots(figsize=(7, 4.6))
        start = style.ALGORITHMS["initial"]
        axes.plot(0, initial.mean, start.marker, color=start.color, markersize=8)
        ends, at = [(initial.mean, INITIAL, start.color)], [0.0]
        plans = drawn[drawn["plan"] != INITIAL]
        looks = style.looks(list(plans["plan"]))
        for plan, of_plan in plans.groupby("plan", sort=False):
            look, errors = looks[plan], [of_plan["reward"] - of_plan["low"], of_plan["high"] - of_plan["reward"]]
            axes.errorbar(
                of_plan["kl"], of_plan["reward"], yerr=errors, fmt="none", ecolor=look.color, alpha=0.5, capsize=3
            )
            axes.plot(
                of_plan["kl"], of_plan["reward"], marker=look.marker, color=look.color, linewidth=1.4, markersize=7
            )
            ends.append((of_plan["reward"].iloc[-1], plan.replace(", ", ",\n", 1), look.color))
            at.append(of_plan["kl"].iloc[-1])
        axes.set(xlabel=r"KL($\pi_\theta$ || initial policy) in nats", ylabel="online reward (95 % intervals)")
        style.label_ends(axes, ends, at=at)
    return result, drawn
