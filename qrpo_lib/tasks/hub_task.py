"""Tasks whose rows come from a dataset of the hub: filtered, split and kept in a step of its own (App. L.3).

The folder holds `prompts.parquet`, with columns `prompt_id, split, prompt` and what the task keeps beside, and
`counts.json`: how many rows each split had, how many were left out and why, how many remain.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib.models import chat_template, hub
from qrpo_lib.runs import files, folders, keys, progress
from qrpo_lib.tasks.base import Demonstration, Prompt, Task

if TYPE_CHECKING:
    import pandas as pd

PROMPTS, COUNTS = "prompts.parquet", "counts.json"
# Of the split of the test set into selection and reporting halves.
HALVES_SEED = 43


@dataclass(frozen=True)
class Preparation:
    """How the rows of a task are made from those of its dataset.

    usable: `usable(rows, role, settings, tokenizer, report)` gives the usable ones of one split of the dataset as dicts
        (`prompt_id`, `prompt` and the columns below), and how many were left out for each reason. `rows` has the
        columns `read`; `role` is "train" or "test".
    kept: the columns that are kept beside `prompt_id`, `split` and `prompt`.
    strata: the column of which both halves of the test set have as many of each value.
    """

    usable: Callable[..., tuple[list[dict[str, Any]], dict[str, int]]]
    read: tuple[str, ...]
    kept: tuple[str, ...]
    strata: str | None = None


class HubTask(Task):
    """A task whose rows come from a dataset of the hub."""

    @abstractmethod
    def data(self) -> keys.Step:
        """What determines the prepared dataset."""

    def prepared(self) -> Path:
        """Its folder, made if it is not there. Raises `hub.HubError` if the data cannot be had."""
        return folders.make(self.data())

    def inputs(self) -> tuple[keys.Step, ...]:
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


def load(folder: Path) -> pd.DataFrame:
    """The prepared rows, in the order of the dataset, train before test."""
    import pandas as pd

    return pd.read_parquet(folder / PROMPTS)


def prepare(settings: Any, preparation: Preparation, folder: Path) -> None:
    """Filter, split and keep the rows of a task's dataset. Raises `hub.HubError` for one that cannot be used."""
    import pandas as pd

    counting = tokenizer(settings)
    frames, counts = [], {}
    for role, name in (("train", settings.train_split), ("test", settings.test_split)):
        rows = hub.dataset(settings.dataset, settings.revision, name)
        missing = [column for column in preparation.read if column not in rows.column_names]
        if missing:
            raise hub.HubError(
                f"{settings.dataset} has no column {' and '.join(missing)}; it has {', '.join(rows.column_names)}: "
                "check its revision."
            )
        with progress.bar(f"filtering {settings.dataset}, {name}") as report:
            selected = rows.select_columns(list(preparation.read))
            kept, dropped = preparation.usable(selected, role, settings, counting, report)
        if not kept:
            raise hub.HubError(f"Of {len(rows)} rows of {settings.dataset}, {name}, none can be used: {dropped}.")
        counts[role] = {"rows": len(rows), **dropped, "remain": len(kept)}
        frames.append(pd.DataFrame(kept))
    train, test = frames
    strata = list(test[preparation.strata]) if preparation.strata else None
    splits = ["train"] * len(train) + held_out_splits(len(test), strata)
    frame = pd.concat([train, test], ignore_index=True).assign(split=splits)
    frame[["prompt_id", "split", "prompt", *preparation.kept]].to_parquet(folder / PROMPTS)
    files.write_atomically(folder / COUNTS, (json.dumps(counts, indent=2) + "\n").encode())


def tokenizer(settings: Any) -> Any:
    """The tokenizer by which the task's limit of tokens is counted."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        hub.model(settings.tokenizer, settings.tokenizer_revision, tokenizer_only=True)
    )


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


def lengths(tokenizer: Any, conversations: list[list[dict]]) -> list[int]:
    """Tokens of whole conversations, chat template included."""
    if not conversations:
        return []
    texts = chat_template.applied(tokenizer, conversations, tokenize=False)
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
