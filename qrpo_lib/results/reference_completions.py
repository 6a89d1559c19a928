"""Looking at reference completions: their rewards and lengths, and whether their quantile rewards are uniform."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from qrpo_lib.objective.quantile import quantile_reward
from qrpo_lib.paper import style
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.steps import reference_sampling
from qrpo_lib.tasks import registry as tasks

_COLUMNS = ["prompt_id", "split", "sample_index", "role", "finish_reason", "reward"]
_READ_ROWS = 65_536  # at a time


@dataclass(frozen=True)
class Uniformity:
    """Chi-square test of the estimated quantile's n + 1 equally likely values; `ties` is the share of equal rewards."""

    statistic: float
    p_value: float
    prompts: int
    n: int
    ties: float


def load(folder: Path, profile: Profile) -> pd.DataFrame:
    """What is looked at of the reference completions in a step's folder, with their `length` in tokens.

    Their tokens, and where no code is judged their texts, are not kept: at the paper's scale those are tens of
    gigabytes.
    """
    import pyarrow as pa
    from pyarrow import compute, parquet

    columns = [*_COLUMNS, *(["prompt", "text"] if _judges_code(profile) else [])]
    file, parts = parquet.ParquetFile(folder / reference_sampling.COMPLETIONS), []
    for batch in file.iter_batches(_READ_ROWS, columns=[*columns, "token_ids"]):
        lengths = compute.list_value_length(batch["token_ids"])
        parts.append(pa.Table.from_batches([batch]).select(columns).append_column("length", lengths))
    return pa.concat_tables(parts).replace_schema_metadata(None).to_pandas()


def summary(completions: pd.DataFrame) -> pd.DataFrame:
    """Rewards, lengths and truncation of the sampled completions, by split."""
    completions = completions[completions["length"] > 0]  # without rows that give a reward alone
    frame = completions.assign(truncated=completions["finish_reason"] == "length")
    within = frame.groupby(["split", "prompt_id"])["reward"].std().groupby("split").mean()
    means = frame.groupby("split")[["reward", "length", "truncated"]].mean()
    return means.assign(reward_std_within_prompt=within).round(4)


def extraction_differences(completions: pd.DataFrame, profile: Profile) -> pd.DataFrame | None:
    """By split, of how many completions the two rules (`qrpo_lib.rewards.code_extraction`) find other code.

    None for a task whose reward judges no code.
    """
    if not _judges_code(profile):
        return None
    reward = tasks.of(profile.task).reward()
    differ = reward.forms_differ(completions["prompt"].tolist(), completions["text"].tolist())
    counted = completions.assign(differ=differ).groupby("split")["differ"]
    return counted.agg(completions="size", differ="sum").reset_index()


def _judges_code(profile: Profile) -> bool:
    return hasattr(profile.task, "extraction")


def uniformity(completions: pd.DataFrame) -> tuple[pd.DataFrame, Uniformity]:
    """The estimated quantile reward of each prompt's first candidate: how often each value occurs, and the test.

    It is compared with the other references: where they are shared with the pairs, it is one of them itself.
    """
    is_reference, is_first = completions["role"] == "reference", completions["sample_index"] == 0
    references = completions[is_reference & ~is_first].groupby("prompt_id")["reward"].apply(list)
    firsts = completions[is_first & ~is_reference].set_index("prompt_id")["reward"]
    n = len(references.iloc[0])
    rewards, references = firsts.to_numpy(), np.array(references.loc[firsts.index].tolist())
    quantiles = quantile_reward(rewards, references)
    counts = np.bincount(np.rint(quantiles * n).astype(int), minlength=n + 1)
    test = stats.chisquare(counts)
    frame = pd.DataFrame({"quantile": np.arange(n + 1) / n, "share": counts / counts.sum(), "expected": 1 / (n + 1)})
    ties = float((rewards[:, None] == references).mean())
    return frame, Uniformity(float(test.statistic), float(test.pvalue), len(firsts), n, ties)


def draw_quantiles(quantiles: pd.DataFrame) -> plt.Figure:
    """How often each value of the estimated quantile reward occurs, and how often it should."""
    with style.style():
        figure, axis = plt.subplots(figsize=(7, 4))
        width = 0.8 / (len(quantiles) - 1)
        axis.bar(quantiles["quantile"], quantiles["share"], width=width, color=style.ALGORITHMS["qrpo"].color)
        expected = quantiles["expected"].iloc[0]
        axis.axhline(expected, color="black", linestyle="--")
        axis.set(xlabel="estimated quantile reward of a reference completion", ylabel="share of prompts")
        style.label_ends(axis, [(expected, "uniform:\n1/(n + 1)", "black")])
    return figure
