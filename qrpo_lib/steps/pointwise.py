"""Single completions with rewards, no pairs: what QRPO alone can be fitted to (`task.name = "pointwise"`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qrpo_lib.models import chat_template
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.steps.pairs import Pairs
from qrpo_lib.tasks import registry as tasks

if TYPE_CHECKING:
    import pandas as pd

_REASONS = ("unusable_answers", "unscored", "too_few_reference_rewards", "prompt_too_long", "cut")


def rows(profile: Profile, completions: pd.DataFrame, ref_rewards: Mapping[str, Sequence[float]], tokenizer) -> Pairs:
    """The rows of one split for `trainer.fit_policy`, and how many were left out for which reason.

    Parameters
    ----------
    profile: whose task and limits count.
    completions: `prompt_id, prompt, text, reward`; a reward that the data came with replaces the computed one.
    ref_rewards: of each prompt, rewards of reference completions; those that are not finite do not count.
    tokenizer: of the policy.
    """
    report: Counter[str] = Counter(dict.fromkeys(_REASONS, 0))
    given, limit = tasks.of(profile.task).given_rewards(), profile.training.max_tokens
    found: list[dict[str, Any]] = []
    for one in completions.sort_values("prompt_id").to_dict("records"):
        report["prompts"] += 1
        references = [float(value) for value in ref_rewards.get(one["prompt_id"], ()) if np.isfinite(value)]
        reward = given.get(one["prompt_id"], float(one["reward"]))
        prompt_ids = chat_template.prompt_ids(tokenizer, one["prompt"])
        room = None if limit is None else limit - len(prompt_ids)
        reason = None
        if not np.isfinite(reward):
            reason = "unscored"
        elif len(references) < profile.reference_sampling.num_references:
            reason = "too_few_reference_rewards"
        elif room is not None and room < 1:
            reason = "prompt_too_long"
        try:
            ids = chat_template.completion_ids(tokenizer, one["prompt"], one["text"])
        except chat_template.UnusableAnswer:
            reason = reason or "unusable_answers"
        if reason:
            report[reason] += 1
            continue
        report["cut"] += room is not None and len(ids) > room
        found.append(
            {
                "prompt_id": one["prompt_id"],
                "prompt_ids": prompt_ids,
                "completion_ids": ids[:room],
                "reward": float(reward),
                "ref_rewards": references,
            }
        )
    return Pairs(found, dict(report) | {"completions": len(found)})
