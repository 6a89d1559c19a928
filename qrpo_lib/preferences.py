"""Preferences: pairs of chosen and rejected completions, built from sampled and scored completions (App. L.7)."""

from __future__ import annotations

import numpy as np
import pandas as pd


def build_pairs(
    completions: pd.DataFrame, ref_rewards: dict[str, list[float]], *, setting: str, seed: int
) -> list[dict]:
    """One pair a prompt, as rows for `training.fit_policy`.

    Parameters
    ----------
    completions: candidates, in columns `prompt_id`, `prompt_ids`, `token_ids`, `reward`.
    ref_rewards: of each prompt, rewards of reference completions; other completions than the candidates, so that the
        quantile of a candidate is not biased by counting itself.
    setting: "off-policy-best" takes the best and the worst candidate, "off-policy-random" two random ones, ranked.
    seed: of the random choice.

    Returns
    -------
    Rows in the order of the prompts. A prompt whose two completions have the same reward has no preference and is left
    out; the caller can see how many from the length.

    Raises
    ------
    ValueError
        A prompt with fewer than 2 candidates, or an unknown setting.
    """
    if setting not in ("off-policy-best", "off-policy-random"):
        raise ValueError(f"There is no setting {setting!r}: use off-policy-best or off-policy-random.")
    generator = np.random.default_rng(seed)
    rows = []
    for prompt_id, candidates in completions.groupby("prompt_id", sort=True):
        if len(candidates) < 2:
            raise ValueError(f"Prompt {prompt_id} has {len(candidates)} completion: a pair needs 2.")
        if setting == "off-policy-random":
            candidates = candidates.iloc[generator.permutation(len(candidates))[:2]]
        rewards = candidates["reward"].to_numpy()
        chosen, rejected = candidates.iloc[rewards.argmax()], candidates.iloc[rewards.argmin()]
        if chosen["reward"] == rejected["reward"]:
            continue
        rows.append(
            {
                "prompt_id": prompt_id,
                "prompt_ids": list(chosen["prompt_ids"]),
                "chosen_ids": list(chosen["token_ids"]),
                "rejected_ids": list(rejected["token_ids"]),
                "chosen_reward": float(chosen["reward"]),
                "rejected_reward": float(rejected["reward"]),
                "ref_rewards": list(ref_rewards[prompt_id]),
            }
        )
    return rows
