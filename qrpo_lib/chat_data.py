"""The paper's chat datasets, Magpie-Air and UltraFeedback: filtered, split, with their own pairs (App. L.3).

The folder holds `prompts.parquet`, with columns `prompt_id, split, prompt, chosen, rejected`, and `counts.json`: how
many rows each split had, how many were left out and why, how many remain.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib import chat_template, hub, progress, reward_kinds, runs
from qrpo_lib.profiles import ChatDataTask, LeetCodeTask
from qrpo_lib.task_base import Demonstration, Prompt, Task

if TYPE_CHECKING:
    import pandas as pd

PROMPTS, COUNTS = "prompts.parquet", "counts.json"
# Of the split of the test set into selection and reporting halves.
HALVES_SEED = 43
_AT_ONCE = 1000


class HubTask(Task):
    """A task whose rows come from a dataset of the hub, prepared in a step of its own."""

    @abstractmethod
    def data(self) -> runs.Step:
        """What determines the prepared dataset."""

    @abstractmethod
    def prepared(self) -> Path:
        """Its folder, made if it is not there. Raises `hub.HubError` if the data cannot be had."""

    def inputs(self) -> tuple[runs.Step, ...]:
        """The prepared dataset."""
        return (self.data(),)

    def prompts(self, seed: int) -> list[Prompt]:
        """Train before test, in the order of the dataset, the same for every seed."""
        frame = load(self.prepared())
        return [Prompt(*row) for row in zip(frame["prompt_id"], frame["split"], frame["prompt"], strict=True)]

    def demonstrations(self, seed: int) -> list[Demonstration]:
        """The dataset's own completions."""
        frame = load(self.prepared())
        columns = [frame[name] for name in ("prompt_id", "chosen", "rejected") if name in frame]
        return [Demonstration(*row) for row in zip(*columns, strict=True)]

    def check_available(self) -> None:
        """Dataset and tokenizer."""
        hub.check(self.settings.dataset, self.settings.revision, "dataset")
        hub.check(self.settings.tokenizer, self.settings.tokenizer_revision, "model")

    def prompt_parameters(self) -> dict[str, Any]:
        """The name alone; the rows are an input."""
        return {"name": self.settings.name}

    def data_parameters(self) -> dict[str, Any]:
        """What of the settings determines the prepared rows: dataset and tokenizer by their content."""
        settings = self.settings
        return {
            "dataset": hub.identity(settings.dataset, settings.revision),
            "splits": [settings.train_split, settings.test_split],
            "tokenizer": hub.identity(settings.tokenizer, settings.tokenizer_revision, tokenizer_only=True),
            "max_tokens": settings.max_tokens,
        }


class ChatData(HubTask):
    """A preference dataset as a task; the reward is what the profile names."""

    def data(self) -> runs.Step:
        """What determines the prepared dataset."""
        return runs.Step("chat_data", self.data_parameters(), code=(_make,))

    def prepared(self) -> Path:
        """Its folder, made if it is not there."""
        return runs.complete(self.data(), lambda folder: _make(self.settings, folder))

    def parameters(self) -> dict[str, Any]:
        """The reward; the rows are an input."""
        return {"name": self.settings.name, "reward": reward_kinds.parameters(self.settings.reward)}

    def reward(self) -> Any:
        """The profile's reward model."""
        return reward_kinds.of(self.settings.reward)

    def reward_code(self) -> tuple[Any, ...]:
        """That of the kind in use."""
        return reward_kinds.code(self.settings.reward)

    def check_available(self) -> None:
        """Dataset, tokenizer and reward model."""
        super().check_available()
        reward_kinds.check_available(self.settings.reward)


def load(folder: Path) -> pd.DataFrame:
    """The prepared rows, in the order of the dataset, train before test."""
    import pandas as pd

    return pd.read_parquet(folder / PROMPTS)


def _make(task: ChatDataTask, folder: Path) -> None:
    import pandas as pd

    counting = tokenizer(task)
    frames, counts = [], {}
    for role, name in (("train", task.train_split), ("test", task.test_split)):
        rows = hub.dataset(task.dataset, task.revision, name)
        with progress.bar(f"filtering {task.dataset}, {name}") as report:
            frame, dropped = _filtered(rows, role, counting, task.max_tokens, report)
        if frame.empty:
            raise hub.HubError(f"Of {len(rows)} rows of {task.dataset}, {name}, none can be used: {dropped}.")
        counts[role] = {"rows": len(rows), **dropped, "remain": len(frame)}
        frames.append(frame)
    train, test = frames
    frame = pd.concat([train.assign(split="train"), test.assign(split=held_out_splits(len(test)))], ignore_index=True)
    frame[["prompt_id", "split", "prompt", "chosen", "rejected"]].to_parquet(folder / PROMPTS)
    runs.write_atomically(folder / COUNTS, (json.dumps(counts, indent=2) + "\n").encode())


def tokenizer(task: ChatDataTask | LeetCodeTask) -> Any:
    """What the task's limit of tokens is counted with."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(hub.model(task.tokenizer, task.tokenizer_revision, tokenizer_only=True))


def held_out_splits(count: int, strata: Sequence | None = None) -> list[str]:
    """Which half each of `count` test rows falls into: "selection" chooses models, "reporting" reports (App. L.3).

    The authors' own call, so that the same rows in the same order fall into the same halves: scikit-learn's split at
    seed 43, whose second half is the selection; with `strata`, one for each row, both halves have as many of each.
    Raises ValueError for fewer than two rows of some stratum.
    """
    from sklearn.model_selection import train_test_split

    _, selection = train_test_split(range(count), test_size=0.5, random_state=HALVES_SEED, stratify=strata)
    chosen = set(selection)
    return ["selection" if i in chosen else "reporting" for i in range(count)]


def _filtered(rows: Any, role: str, tokenizer: Any, max_tokens: int, report: progress.Report):
    """The usable rows of one split as a frame, and how many were left out for each reason."""
    import pandas as pd

    missing = [name for name in ("chosen", "rejected") if name not in rows.column_names]
    if missing:
        raise hub.HubError(f"The dataset has no column {' and '.join(missing)}; it has {', '.join(rows.column_names)}.")
    kept, dropped = [], Counter({"not_one_request_and_answer": 0, "too_long": 0})
    for start in range(0, len(rows), _AT_ONCE):
        report(start, len(rows), "rows")
        some = rows.select_columns(["chosen", "rejected"])[start : start + _AT_ONCE]
        single = [i for i in range(len(some["chosen"])) if _is_single_turn(some["chosen"][i], some["rejected"][i])]
        dropped["not_one_request_and_answer"] += len(some["chosen"]) - len(single)
        of_sides = [lengths(tokenizer, [some[side][i] for i in single]) for side in ("chosen", "rejected")]
        for i, *of_both in zip(single, *of_sides, strict=True):
            if max(of_both) > max_tokens:
                dropped["too_long"] += 1
                continue
            (request, chosen), (_, rejected) = some["chosen"][i], some["rejected"][i]
            texts = {"prompt": request["content"], "chosen": chosen["content"], "rejected": rejected["content"]}
            kept.append({"prompt_id": f"{role}-{start + i:06d}", **texts})
    return pd.DataFrame(kept, columns=["prompt_id", "prompt", "chosen", "rejected"]), dict(dropped)


def _is_single_turn(chosen: list[dict], rejected: list[dict]) -> bool:
    roles = [[message["role"] for message in conversation] for conversation in (chosen, rejected)]
    return roles == [["user", "assistant"]] * 2 and chosen[0]["content"] == rejected[0]["content"]


def lengths(tokenizer: Any, conversations: list[list[dict]]) -> list[int]:
    """Tokens of whole conversations, chat template included."""
    if not conversations:
        return []
    texts = chat_template.applied(tokenizer, conversations, tokenize=False)
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
