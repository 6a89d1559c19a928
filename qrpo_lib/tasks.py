"""Tasks: the prompts of a profile in their splits, the reward of their completions, and the prompt as token ids."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qrpo_lib import topics
from qrpo_lib.profiles import TopicsTask, WrittenTask

Split = Literal["train", "selection", "reporting"]
SPLITS: tuple[Split, ...] = ("train", "selection", "reporting")
_WRITTEN_PROMPTS = Path(__file__).parent / "data" / "smol_prompts.jsonl"


@dataclass(frozen=True)
class Prompt:
    """A single-turn request."""

    id: str
    split: Split
    text: str


def prompts(task: TopicsTask | WrittenTask, seed: int) -> list[Prompt]:
    """All prompts of a task. Models are trained on "train", chosen on "selection" and reported on "reporting"."""
    if isinstance(task, TopicsTask):
        sizes = (task.train_prompts, task.selection_prompts, task.reporting_prompts)
        splits = [split for split, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
        texts = topics.requests(len(splits), seed)
        return [Prompt(f"t{i:05d}", split, text) for i, (split, text) in enumerate(zip(splits, texts, strict=True))]
    rows = [json.loads(line) for line in _WRITTEN_PROMPTS.read_text(encoding="utf-8").splitlines()]
    return [Prompt(row["id"], row["split"], row["prompt"]) for row in rows]


def reward(task: TopicsTask | WrittenTask) -> Any:
    """The reward of a task: an object with `score(prompts, completions)` (see `qrpo_lib.rewards`)."""
    if isinstance(task, TopicsTask):
        return topics.TopicReward()
    from qrpo_lib import rewards

    return rewards.RelevanceReward()


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """A request as the token ids that a completion continues: the chat template up to the assistant's turn."""
    message = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=False)
