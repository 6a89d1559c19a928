"""Tasks: the prompts of a profile in their splits, the reward of their completions, prompt and answer as token ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from qrpo_lib import chat_data, expressions, hub, leetcode_data, problems, runs, topics
from qrpo_lib.profiles import (
    ChatDataTask,
    ExpressionsTask,
    LeetCodeTask,
    ProblemsTask,
    Profile,
    Task,
    TopicsTask,
    WrittenTask,
)

Split = Literal["train", "selection", "reporting"]
SPLITS: tuple[Split, ...] = ("train", "selection", "reporting")
_WRITTEN_PROMPTS = Path(__file__).parent / "data" / "smol_prompts.jsonl"


class UnusableAnswer(ValueError):
    """A written answer cannot be a completion of this tokenizer's."""


@dataclass(frozen=True)
class Prompt:
    """A single-turn request."""

    id: str
    split: Split
    text: str


@dataclass(frozen=True)
class Demonstration:
    """What a task's dataset has for a prompt: a good completion, and a worse one where the data are pairs."""

    prompt_id: str
    chosen: str
    rejected: str | None = None


def data_sha256(task: Task) -> str | None:
    """Hash of the file that holds a task's prompts; None for one that is generated or has `inputs`."""
    if isinstance(task, WrittenTask | ProblemsTask):
        return runs.file_sha256(_WRITTEN_PROMPTS if isinstance(task, WrittenTask) else problems.OWN)
    return None


def inputs(task: Task) -> tuple[runs.Step, ...]:
    """The steps that a task's prompts come from: none for those that the suite carries or generates."""
    data = _data(task)
    return (data.step(task),) if data else ()


def _data(task: Task) -> ModuleType | None:
    """The module that prepares a task's data, if they are the hub's."""
    return {ChatDataTask: chat_data, LeetCodeTask: leetcode_data}.get(type(task))


def check_available(profile: Profile) -> None:
    """Raise `hub.HubError` if something of the hub is neither here nor named with its commit. Asks no server."""
    if _data(profile.task):
        hub.check(profile.task.dataset, profile.task.revision, "dataset")
        hub.check(profile.task.tokenizer, profile.task.tokenizer_revision, "model")
        if isinstance(profile.task, ChatDataTask) and profile.task.reward.kind != "relevance":
            hub.check(profile.task.reward.model, profile.task.reward.revision, "model")
    if profile.policy.source == "hub":
        hub.check(profile.policy.model, profile.policy.revision, "model")


def prompts(task: Task, seed: int) -> list[Prompt]:
    """All prompts of a task. Models are trained on "train", chosen on "selection" and reported on "reporting"."""
    if isinstance(task, TopicsTask | ExpressionsTask):
        sizes = (task.train_prompts, task.selection_prompts, task.reporting_prompts)
        splits = [split for split, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
        texts = (topics if isinstance(task, TopicsTask) else expressions).requests(len(splits), seed)
        return [Prompt(f"t{i:05d}", split, text) for i, (split, text) in enumerate(zip(splits, texts, strict=True))]
    if _data(task):
        frame = chat_data.load(_data(task).run(task))
        return [Prompt(*row) for row in zip(frame["prompt_id"], frame["split"], frame["prompt"], strict=True)]
    if isinstance(task, ProblemsTask):
        return [Prompt(problem.id, problem.split, problem.prompt) for problem in problems.own()]
    rows = [json.loads(line) for line in _WRITTEN_PROMPTS.read_text(encoding="utf-8").splitlines()]
    return [Prompt(row["id"], row["split"], row["prompt"]) for row in rows]


def demonstrations(task: Task, seed: int) -> list[Demonstration]:
    """The dataset's own completions of a task, for the offline settings and for fine-tuning on the chosen ones.

    Raises ValueError for a task that has none.
    """
    if isinstance(task, TopicsTask):
        every = prompts(task, seed)
        written = topics.written_pairs([prompt.text for prompt in every], seed)
        return [Demonstration(prompt.id, *pair) for prompt, pair in zip(every, written, strict=True)]
    if _data(task):
        frame = chat_data.load(_data(task).run(task))
        columns = [frame[name] for name in ("prompt_id", "chosen", "rejected") if name in frame]
        return [Demonstration(*row) for row in zip(*columns, strict=True)]
    if isinstance(task, ExpressionsTask):
        return [Demonstration(prompt.id, expressions.solution(prompt.text)) for prompt in prompts(task, seed)]
    if isinstance(task, ProblemsTask):
        return [Demonstration(problem.id, problems.answer(problem)) for problem in problems.own()]
    raise ValueError(f"The task {task.name} has no completions of its own: choose a setting that needs none.")


def reward(task: Task) -> Any:
    """The reward of a task: an object with `score(prompts, completions)` (see `qrpo_lib.rewards`)."""
    if isinstance(task, TopicsTask):
        return topics.TopicReward(task.length_bonus)
    if isinstance(task, LeetCodeTask):
        return leetcode_data.LeetCodeReward(task)
    if isinstance(task, ExpressionsTask):
        return _expressions_reward(task.extraction)
    if isinstance(task, ProblemsTask):
        return _problems_reward(task.extraction)
    from qrpo_lib import rewards

    return rewards.from_settings(task.reward) if isinstance(task, ChatDataTask) else rewards.RelevanceReward()


def forms_differ(task: Task, prompts: Sequence[str], completions: Sequence[str]) -> int | None:
    """In how many completions the authors' rule and the lenient one find different code; None for a task without."""
    found = reward(task).forms_differ(prompts, completions) if hasattr(task, "extraction") else None
    return None if found is None else int(found.sum())


# One for each process: it remembers the answers that it has run.
@cache
def _expressions_reward(extraction: str) -> Any:
    from qrpo_lib import rewards

    return rewards.TestsReward(expressions.tests, extraction=extraction)


@cache
def _problems_reward(extraction: str) -> Any:
    return problems.reward(problems.own(), extraction)


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """A request as the token ids that a completion continues: the chat template up to the assistant's turn."""
    message = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=False)


def completion_ids(tokenizer: Any, prompt: str, completion: str) -> list[int]:
    """A written answer as the token ids that follow `prompt_ids`, with one end-of-sequence token, the last.

    The ids are those of the chat template with the answer in its place. Where a token would span the border between
    prompt and answer, the answer is tokenised by itself: a sampled completion cannot reach into its prompt.

    Raises UnusableAnswer for one in which the end-of-sequence token is written out.
    """
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    start = prompt_ids(tokenizer, prompt)
    whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    ids = whole[len(start) :]
    if whole[: len(start)] != start:
        before = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        if not text.startswith(before):
            raise ValueError("The chat template writes a request in another way once it is answered.")
        ids = tokenizer(text[len(before) :], add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    if ids.count(end) > 1 or (end in ids and tokenizer.decode(ids[ids.index(end) + 1 :]).strip()):
        raise UnusableAnswer("The answer contains the end-of-sequence token: it would end there.")
    return [*(ids[: ids.index(end)] if end in ids else ids), end]
