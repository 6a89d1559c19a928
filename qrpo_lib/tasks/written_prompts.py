"""The suite's own hand-written chat prompts, which the `smol` profile trains on; the reward is MiniLM's relevance."""

from __future__ import annotations

import json

from qrpo_lib.rewards.models import RelevanceReward
from qrpo_lib.runs.code_version import package_file
from qrpo_lib.tasks.base import Prompt, Task


class WrittenPrompts(Task):
    """The prompts of `smol_prompts.jsonl`, each in its split."""

    def prompts(self, seed: int) -> list[Prompt]:
        """The same for every seed."""
        rows = map(json.loads, package_file("smol_prompts.jsonl").read_text(encoding="utf-8").splitlines())
        return [Prompt(row["id"], row["split"], row["prompt"]) for row in rows]

    def reward(self) -> RelevanceReward:
        """Relevance of the completion to its prompt."""
        return RelevanceReward()
