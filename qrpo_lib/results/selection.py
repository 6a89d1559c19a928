"""Which checkpoint of an algorithm is reported: the paper's rule (App. L.10), and a plain one beside it.

Everything starts from `scores`: one row for each cell of the grid, step and split, over its repeats and seeds. Rules
look at the split "selection" alone; what they choose is reported on the split "reporting".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from qrpo_lib.results import length_control

# What identifies a cell of the grid; a run is a cell with a training seed.
CELL = ["algorithm", "setting", "beta", "learning_rate"]
CHECKPOINT = [*CELL, "step"]
# One-sided 98 % of the reward and 80 % of the LC-reward, in standard deviations, as the paper's protocol has them.
REWARD_DEVIATIONS, LC_DEVIATIONS = 2.0, 0.8
MAX_MEAN_LENGTH = 1000.0


def scores(evaluations: pd.DataFrame, keys: list[str] = CHECKPOINT) -> pd.DataFrame:
    """Mean and standard deviation of reward and LC-reward, and mean length, of each checkpoint and split.

    evaluations: recorded completions with columns `keys`, `seed, split, repeat, reward, length` and, where there is a
        length-controlled reward, `lc_reward` (`with_lc_reward`).

    The standard deviation is that of the means of single repeats (of a seed), as in the paper, which has one seed and
    three repeats; 0 where there is only one.
    """
    columns = [name for name in ("reward", "lc_reward", "length") if name in evaluations]
    repeats = evaluations.groupby([*keys, "split", "seed", "repeat"], observed=True)[columns].mean()
    grouped = repeats.groupby([*keys, "split"], observed=True)
    means, deviations = grouped.mean(), grouped.std(ddof=1).fillna(0.0)
    for name in [name for name in columns if name != "length"]:
        means[f"{name}_std"] = deviations[name]
    return means.assign(repeats=grouped.size()).reset_index()


def with_lc_reward(evaluations: pd.DataFrame, references: pd.DataFrame, *, each_repeat: bool = False) -> pd.DataFrame:
    """The evaluations with a column `lc_reward` (App. L.5): one length coefficient for each trained model and split.

    evaluations: columns `CHECKPOINT`, `seed, split, prompt_id, reward, length`, of policies with one reference policy.
    references: its completions: columns `prompt_id, reward, length`, as many for every prompt.
    each_repeat: one coefficient for each repeat of the evaluation, as the authors have it, instead.
    """
    rewards, lengths = (length_control.by_prompt(references, name) for name in ("reward", "length"))
    keys = [*CHECKPOINT, "seed", "split", *(["repeat"] if each_repeat else [])]
    keys = [name for name in keys if name in evaluations]
    parts = []
    for _, rows in evaluations.groupby(keys, observed=True, sort=False):
        controlled = length_control.length_controlled_reward(
            rows["reward"].to_numpy(),
            rows["length"].to_numpy(),
            rewards.loc[rows["prompt_id"]].to_numpy(),
            lengths.loc[rows["prompt_id"]].to_numpy(),
        )
        parts.append(pd.Series(controlled, index=rows.index))
    return evaluations.assign(lc_reward=pd.concat(parts))


def best_of_settings(
    checkpoints: pd.DataFrame,
    max_mean_length: float | None = MAX_MEAN_LENGTH,
    limited: Sequence[str] = ("selection",),
) -> pd.DataFrame:
    """Of each algorithm and setting the checkpoint with the best mean selection reward, among those short enough.

    checkpoints: `scores`. limited: the splits on each of which answers must be short enough; the authors ask it of the
    reporting split too. Returns rows of the selection split, one for each algorithm and setting that has any.
    """
    rows = checkpoints[checkpoints["split"] == "selection"]
    if max_mean_length is not None:
        long = checkpoints[checkpoints["split"].isin(limited) & (checkpoints["length"] > max_mean_length)]
        too_long = pd.MultiIndex.from_frame(long[CHECKPOINT])
        rows = rows[~pd.MultiIndex.from_frame(rows[CHECKPOINT]).isin(too_long)]
    if rows.empty:
        raise ValueError(f"No checkpoint is left to select: all answer with more than {max_mean_length} tokens.")
    return rows.loc[rows.groupby(["algorithm", "setting"], observed=True)["reward"].idxmax()]


def papers_choice(best: pd.DataFrame) -> pd.Series:
    """The paper's choice among the best checkpoints of one algorithm's settings.

    Shortlisted by reward, then by LC-reward, against the best of each, with a margin in standard deviations of the
    difference; of what is left the best reward. Without an LC-reward (code) the second step falls away.
    """
    kept = _within(best, "reward", REWARD_DEVIATIONS)
    if "lc_reward" in kept and kept["lc_reward"].notna().all():
        kept = _within(kept, "lc_reward", LC_DEVIATIONS)
    return kept.loc[kept["reward"].idxmax()]


def select(
    checkpoints: pd.DataFrame, rule: str = "paper", max_mean_length: float | None = MAX_MEAN_LENGTH
) -> pd.DataFrame:
    """The chosen checkpoint of each algorithm: columns `CHECKPOINT` and its selection scores.

    rule: "paper", or "best" for the best mean selection reward of all settings and hyperparameters.
    """
    if rule not in ("paper", "best"):
        raise ValueError(f"There is no selection rule {rule!r}: use paper or best.")
    best = best_of_settings(checkpoints, max_mean_length)
    chosen = []
    for _, rows in best.groupby("algorithm", observed=True, sort=False):
        chosen.append(papers_choice(rows) if rule == "paper" else rows.loc[rows["reward"].idxmax()])
    return pd.DataFrame(chosen).reset_index(drop=True)


def compare_rules(checkpoints: pd.DataFrame, max_mean_length: float | None = MAX_MEAN_LENGTH) -> pd.DataFrame:
    """What the two rules choose for each algorithm, and what each choice is worth on the reporting split.

    Columns `algorithm`, `differ`, and of each rule its choice and `reward, lc_reward`; `reward_cost` and `lc_gain` are
    how much lower the reward, and higher the LC-reward, of the paper's choice is than that of the plain one.
    """
    reporting = checkpoints[checkpoints["split"] == "reporting"].set_index(CHECKPOINT)
    shown = [name for name in ("reward", "lc_reward") if name in checkpoints]
    tables = []
    for rule in ("paper", "best"):
        chosen = select(checkpoints, rule, max_mean_length)
        values = reporting.loc[pd.MultiIndex.from_frame(chosen[CHECKPOINT]), shown].reset_index()
        tables.append(values.set_index("algorithm").add_prefix(f"{rule}_"))
    both = tables[0].join(tables[1])
    cell = [name for name in CHECKPOINT if name != "algorithm"]
    differ = [both[f"paper_{name}"].ne(both[f"best_{name}"]) for name in cell]
    both.insert(0, "differ", np.logical_or.reduce(differ))
    both["reward_cost"] = both["best_reward"] - both["paper_reward"]
    if "lc_reward" in shown:
        both["lc_gain"] = both["paper_lc_reward"] - both["best_lc_reward"]
    return both.reset_index()


def _within(rows: pd.DataFrame, name: str, deviations: float) -> pd.DataFrame:
    """The rows whose value is not further below the best than the margin: best - mean <= k sqrt(std^2 + best_std^2)."""
    best = rows.loc[rows[name].idxmax()]
    margin = deviations * np.sqrt(rows[f"{name}_std"] ** 2 + best[f"{name}_std"] ** 2)
    return rows[best[name] - rows[name] <= margin]
