"""The length-controlled reward: what a reward would be at the length of the reference completions (App. L.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def length_controlled_reward(
    rewards: np.ndarray, lengths: np.ndarray, ref_rewards: np.ndarray, ref_lengths: np.ndarray
) -> np.ndarray:
    """The reward without its linear dependence on length, of one model on one evaluation split (App. L.5): (n,).

    Both are standardised by the prompt's reference completions, one slope a is fitted over all completions, and
    a (s_r/s_l) (l - mu_l) is taken off. A prompt whose reference completions have all the same reward or the same
    length has no scale to compare on: it is left out of the fit, and its rewards are returned as they are.

    Parameters
    ----------
    rewards, lengths: (n,) of the model's completions, in any unit and in tokens.
    ref_rewards, ref_lengths: (n, m), those of m >= 2 reference completions of the same prompts.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN and infinite values.
    """
    rewards, lengths = np.asarray(rewards, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    ref_rewards, ref_lengths = np.asarray(ref_rewards, dtype=np.float64), np.asarray(ref_lengths, dtype=np.float64)
    if rewards.ndim != 1 or lengths.shape != rewards.shape:
        raise ValueError(f"rewards and lengths must be (n,) both, not {rewards.shape} and {lengths.shape}.")
    if ref_rewards.shape != ref_lengths.shape or ref_rewards.shape[:1] != rewards.shape or ref_rewards.ndim != 2:
        raise ValueError(f"reference rewards and lengths must be ({len(rewards)}, m) both, not {ref_rewards.shape}.")
    given = {"rewards": rewards, "lengths": lengths, "ref_rewards": ref_rewards, "ref_lengths": ref_lengths}
    for name, values in given.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} hold NaN or infinite values: a missing score is not a low one; drop those rows.")
    if ref_rewards.shape[1] < 2:
        raise ValueError("a length-controlled reward needs at least 2 reference completions a prompt.")
    reward_scale, length_scale = ref_rewards.std(axis=1, ddof=1), ref_lengths.std(axis=1, ddof=1)
    usable = reward_scale * length_scale > 0
    if not usable.any():
        return rewards.copy()
    x = standardised(lengths, ref_lengths)[usable]
    y = standardised(rewards, ref_rewards)[usable]
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread if spread > 0 else 0.0
    controlled = rewards.copy()
    controlled[usable] -= slope * reward_scale[usable] * x
    return controlled


def standardised(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n,) by mean and standard deviation (ddof = 1) of the prompt's reference values (n, m); NaN where that is 0."""
    values, reference = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    scale = reference.std(axis=1, ddof=1)
    return (values - reference.mean(axis=1)) / np.where(scale > 0, scale, np.nan)


def by_prompt(references: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of reference completions as prompts x completions. Raises ValueError if prompts have unequal numbers."""
    import pandas as pd

    grouped = references.groupby("prompt_id", sort=True)[column].apply(list)
    counts = grouped.map(len)
    if counts.nunique() > 1:
        raise ValueError(
            f"Every prompt needs as many reference completions, not {counts.min()} here and {counts.max()} there."
        )
    return pd.DataFrame(grouped.tolist(), index=grouped.index)
