"""The user's data as a task: any file, folder or dataset of the hub in TRL's forms, or a mixture of several.

Prompts are kept as they are: system messages and earlier turns stay, a text without roles is continued without a chat
template. One prompt a row, whose id says where it came from: SOURCE-SPLIT-ROW.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qrpo_lib.models import hub
from qrpo_lib.profiles.files import FILE_ENDINGS, is_file_of_rows
from qrpo_lib.profiles.own_data import Source
from qrpo_lib.rewards import kinds
from qrpo_lib.runs import files
from qrpo_lib.runs.errors import InputError, about
from qrpo_lib.tasks.base import Demonstration, Prompt, Split, Task

_REFERENCES = "reference_rewards"
_COMPUTED = ("prompt_ids", "ref_logps", "ref_chosen_logps", "ref_rejected_logps")  # by the profile's policy
_SAVED = "state.json"  # of `Dataset.save_to_disk`, which has one split
_NOT_ROWS = (".gz", ".zip", ".zst", ".bz2", ".xz", ".ndjson", ".txt", ".tsv", ".xlsx", ".arrow")  # endings of files
_NOT_COLUMNS = ("prompt", "chosen", "rejected", "completion", "reward", "chosen_reward", "rejected_reward")


@dataclass(frozen=True)
class Row:
    """One row of the data, usable and in its split.

    prompt: encoded (`conversations.encoded`).
    rewards: that the row comes with, of each of its completions, None where it has none.
    references: its reference rewards, where they are given.
    """

    id: str
    split: Split
    prompt: str
    chosen: str
    rejected: str | None
    rewards: tuple[float | None, ...] = ()
    references: tuple[float, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)


class OwnData(Task):
    """Pairs, or single completions, of the user's."""

    @cached_property
    def rows(self) -> list[Row]:
        """All usable rows: train before held out, each in the order of its source. Raises InputError."""
        found = [self._of_source(number, source) for number, source in enumerate(self.settings.all_sources)]
        held_out = [row for _, some in found for row in some]
        reserved = {row.prompt for row in held_out}
        trains = [[row for row in some if row.prompt not in reserved] for some, _ in found]
        rows = [*_mixed(trains, [source.weight for source in self.settings.all_sources]), *held_out]
        for split in ("train", "selection", "reporting"):
            if not any(row.split == split for row in rows):
                raise InputError(
                    f"The data {self.settings.shown} leave no rows for the split {split}: give more rows with "
                    f"different prompts, or a {'smaller' if split == 'train' else 'larger'} held_out."
                )
        return rows

    def prompts(self, seed: int) -> list[Prompt]:
        """One a row, the same for every seed."""
        return [Prompt(row.id, row.split, row.prompt) for row in self.rows]

    def demonstrations(self, seed: int) -> list[Demonstration]:
        """The rows' own completions; single ones have no rejected one."""
        return [Demonstration(row.id, row.chosen, row.rejected) for row in self.rows]

    def given_rewards(self) -> dict[str, float]:
        """Rewards that single completions come with, by prompt id: they are not computed again."""
        return {row.id: row.rewards[0] for row in self.rows if row.rejected is None and row.rewards[0] is not None}

    def given_pair_rewards(self) -> dict[tuple[str, str], float]:
        """Rewards that pairs come with, by prompt id and side ("chosen", "rejected")."""
        sides = ("chosen", "rejected")
        found = {(row.id, side): value for row in self.rows for side, value in zip(sides, row.rewards, strict=False)}
        return {place: value for place, value in found.items() if value is not None}

    @cached_property
    def has_references(self) -> bool:
        """Whether training takes the rows' own `reference_rewards`. Reads no more than the first row of each file."""
        said, sources = self.settings.references, self.settings.all_sources
        if said is not None:
            return said == "given"
        return all(is_file_of_rows(one.dataset) and _has_references(_first_row(one)) for one in sources)

    def given_references(self, *, beside_scores: bool) -> dict[str, list[float]]:
        """Of each prompt id the reference rewards that its row comes with, where `has_references`.

        Rounded to float32, as scores are, where they stand beside those (`beside_scores`, or rows without rewards):
        rounding one alone would take equal rewards apart.
        """
        found = {}
        for row in self.rows:
            rounded = beside_scores or None in row.rewards
            found[row.id] = np.array(row.references, dtype=np.float32 if rounded else np.float64).tolist()
        return found

    def reward(self) -> Any:
        """The profile's reward; a function in Python gets the columns of the prompt's row.

        Raises InputError for rows of one prompt with different values of a column that the function names, and for one
        that no row has.
        """
        found = kinds.of(self.settings.reward)
        if self.settings.reward.kind == "python":
            found.check_columns({name for row in self.rows for name in row.columns})
            first: dict[str, Row] = {}
            for row in self.rows:
                _check_alike(first.setdefault(row.prompt, row), row, found.named())
            return found.with_columns(lambda prompt: first[prompt].columns if prompt in first else {})
        return _OfReadable(found) if self.settings.reward.kind == "relevance" else found

    def reward_code(self) -> tuple[Any, ...]:
        """That of the kind in use."""
        return (self.reward, *kinds.code(self.settings.reward))

    def prompt_parameters(self) -> dict[str, Any]:
        """The data by their content, and how they are split."""
        sources = [
            {
                "data": _identity(one),
                "splits": [one.train_split, one.test_split],
                "weight": one.weight,
            }
            | ({"test": files.file_sha256(_test_file(one))} if one.test_dataset else {})
            for one in self.settings.all_sources
        ]
        return {"name": self.settings.name, "sources": sources, "held_out": self.settings.held_out}

    def parameters(self) -> dict[str, Any]:
        """Data and reward by their content."""
        return self.prompt_parameters() | {"reward": kinds.parameters(self.settings.reward)}

    def check_available(self) -> None:
        """Raise `hub.HubError`, or InputError for a file that is not there."""
        for one in self.settings.all_sources:
            if is_file_of_rows(one.dataset):
                _check_file(one)
            elif not one.dataset.strip() or Path(one.dataset).suffix.lower() in _NOT_ROWS:
                raise InputError(
                    f"The profile's dataset {one.dataset!r} is no file of rows by its ending: files end in "
                    f"{', '.join(FILE_ENDINGS)}, and are not compressed."
                )
            else:
                hub.check(one.dataset, one.revision, "dataset")
        kinds.check_available(self.settings.reward)

    def _of_source(self, number: int, source: Source) -> tuple[list[Row], list[Row]]:
        """Train rows and held-out rows."""
        train = self._usable(_loaded(source, source.train_split), source, f"{number}-train")
        if source.test_dataset is not None:
            from qrpo_lib.training import preference_rows

            path = str(_test_file(source))
            test = self._usable(preference_rows.load(path, path), source, f"{number}-test")
        elif source.test_split is None:
            held_out = _first_by_hash({row.prompt for row in train}, self.settings.held_out)
            test = [row for row in train if row.prompt in held_out]
            train = [row for row in train if row.prompt not in held_out]
        else:
            test = self._usable(_loaded(source, source.test_split), source, f"{number}-test")
        reporting = _first_by_hash({row.prompt for row in test}, 0.5, salt="reporting")
        held_out_rows = [
            Row(row.id, "reporting" if row.prompt in reporting else "selection", *_rest(row)) for row in test
        ]
        return train, held_out_rows

    def _usable(self, data: Sequence[Mapping], source: Source, name: str) -> list[Row]:
        from qrpo_lib.training import conversations, preference_rows, samples

        wanted = samples.PAIR if self.settings.completions == "pairs" else samples.POINTWISE
        if not len(data):
            raise InputError(f"There are no rows in {source.dataset}.")
        rows, reason = [], ""
        for number, given in enumerate(data):
            said = f"{source.dataset}, row {number}"
            try:
                if preference_rows.sides(given, said) != wanted:
                    form = "pairs (prompt, chosen, rejected)" if wanted == samples.PAIR else "prompt and completion"
                    other = "pointwise" if wanted == samples.PAIR else "dataset"
                    raise InputError(f"{said}: the task {self.settings.name} takes {form}; there is a task {other}.")
                with about(said):
                    prompt, texts = _texts(given, preference_rows.TEXTS[wanted])
            except conversations.UnusableAnswer as error:
                reason = reason or f"{said}: {error}"
                continue
            _check_said(given, said)
            rewards = tuple(_number(given, column, said) for column in preference_rows.REWARDS[wanted])
            references = self._references_of(given, said)
            columns = {key: value for key, value in given.items() if key not in _NOT_COLUMNS}
            rejected = texts[1] if len(texts) > 1 else None
            encoded = conversations.encoded(prompt)
            row = Row(f"{name}-{number:06d}", "train", encoded, texts[0], rejected, rewards, references, columns)
            rows.append(row)
        if not rows:
            raise InputError(f"None of the rows of {source.dataset} can be used. {reason}")
        if reason:
            left_out = len(data) - len(rows)
            warnings.warn(
                f"{left_out} rows of {source.dataset} cannot be used and are left out ({reason})", stacklevel=2
            )
        return rows

    def _references_of(self, given: Mapping, said: str) -> tuple[float, ...]:
        from qrpo_lib.training import preference_rows

        if self.settings.references is None and self.has_references != _has_references(given):
            raise InputError(
                f"{said}: it has no {_REFERENCES}, as other rows have: give them to all rows, or set task.references = "
                '"sampled".'
                if self.has_references
                else f"{said}: it has {_REFERENCES}, which count unasked only where the first row of each file has "
                'them: set task.references = "given" or "sampled".'
            )
        if not self.has_references:
            return ()
        with about(said):
            found = preference_rows.reference_rewards_of(given)
            if found is None:
                raise InputError(f"it has no {_REFERENCES}, which task.references says are given.")
            return tuple(_finite(value, f"one of {_REFERENCES}") for value in found)


class _OfReadable:
    """A reward of texts, given what a person reads of a prompt."""

    def __init__(self, reward: Any):
        self._reward = reward

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Float32 rewards (n,)."""
        from qrpo_lib.training import conversations

        return self._reward.score([conversations.readable(prompt) for prompt in prompts], completions)


def _check_said(given: Mapping, said: str) -> None:
    """Raises InputError for what `QRPOTrainer` heeds in a row and a profile would not."""
    names = [name for name in ("tools", "chat_template_kwargs", *_COMPUTED) if given.get(name)]
    names += ["weight"] if given.get("weight") not in (None, 1) else []
    if names:
        raise InputError(f"{said}: {', '.join(names)} of a row is for QRPOTrainer, not for a profile: leave it out.")


def _check_alike(first: Row, row: Row, names: Sequence[str]) -> None:
    """Raises InputError unless the reward says the same of a completion, whichever of two rows of a prompt it is of."""
    for name in names:
        if row is not first and first.columns.get(name) != row.columns.get(name):
            raise InputError(
                f"The rows {first.id} and {row.id} have the same prompt and another {name}, which the reward is told: "
                "a profile scores the completions of a prompt alike. Make the prompts differ, or use QRPOTrainer."
            )


def _rest(row: Row) -> tuple:
    return row.prompt, row.chosen, row.rejected, row.rewards, row.references, row.columns


def _has_references(row: Mapping) -> bool:
    return row.get(_REFERENCES) is not None or row.get("ref_rewards") is not None


def _texts(given: Mapping, columns: Sequence[str]) -> tuple[Any, list[str]]:
    """The prompt of a row and what its completions say. Raises InputError, UnusableAnswer."""
    from qrpo_lib.training import conversations, preference_rows

    completions = [preference_rows.completion_of(given, column) for column in columns]
    prompt = preference_rows.prompt_of(given)
    if not prompt:
        raise InputError("the prompt is empty: the first completion token needs a context.")
    if not isinstance(prompt, str):  # a turn that calls tools says nothing
        prompt = [{**message, "content": message.get("content") or ""} for message in prompt]
    return prompt, [conversations.text_of(one) for one in completions]


def _number(given: Mapping, column: str, said: str) -> float | None:
    from qrpo_lib.training import preference_rows

    if given.get(column) is None:
        return None
    with about(said):
        return _finite(preference_rows.as_number(given[column], column), column)


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise InputError(f"{name} is not finite: a missing score is not a low one; leave it or the row out.")
    return value


def _mixed(of_sources: list[list[Row]], weights: list[float]) -> list[Row]:
    """As many rows as there are in the proportions of the weights, none twice; which ones, their hashes say.

    Raises InputError for a source of which no row is taken.
    """
    if len(of_sources) == 1:
        return of_sources[0]
    most = min(len(rows) / weight for rows, weight in zip(of_sources, weights, strict=True))
    mixed: list[Row] = []
    for number, (rows, weight) in enumerate(zip(of_sources, weights, strict=True)):
        count = min(len(rows), int(most * weight + 1e-9))
        if not count:
            raise InputError(
                f"Of source {number} of the mixture, which has {len(rows)} train rows, weight = {weight:g} takes none: "
                "give it a larger weight, or leave it out."
            )
        chosen = set(sorted(range(len(rows)), key=lambda i: _hash(rows[i].id + rows[i].prompt))[:count])
        mixed += [row for i, row in enumerate(rows) if i in chosen]
    return mixed


def _first_by_hash(prompts: set[str], share: float, salt: str = "") -> set[str]:
    """A share of the prompts that depends on the prompts alone, not on their order."""
    ordered = sorted(prompts, key=lambda prompt: _hash(salt + prompt))
    return set(ordered[: max(1, round(share * len(ordered)))])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _check_file(source: Source) -> None:
    if not Path(source.dataset).is_file():
        raise InputError(f"There is no file {source.dataset}, which the profile names as its data.")
    if source.test_split is not None:
        raise InputError(
            f"{source.dataset} is one file, so it has no split {source.test_split!r}: leave test_split out, or name "
            "another file, test_dataset."
        )
    if source.train_split != "train" or source.revision is not None:
        said = f"train_split {source.train_split!r}" if source.train_split != "train" else "revision"
        raise InputError(f"{source.dataset} is one file, so it has no {said}: leave that out.")
    if source.test_dataset is not None:
        _test_file(source)


def _test_file(source: Source) -> Path:
    """The file of held-out rows. Raises InputError unless it and the train rows are files."""
    path = Path(source.test_dataset)
    if not is_file_of_rows(source.dataset) or not path.is_file():
        raise InputError(
            f"There is no file {path}, which the profile names as its test_dataset."
            if is_file_of_rows(source.dataset)
            else f"test_dataset is for rows in files: {source.dataset} has splits, name one as test_split."
        )
    return path


def _first_row(source: Source) -> Mapping:
    """The first row of a file."""
    path = Path(source.dataset)
    _check_file(source)
    if path.suffix == ".jsonl":
        with open(path, encoding="utf-8-sig") as lines:
            try:
                row = json.loads(next((line for line in lines if line.strip()), "{}"))
            except ValueError:
                return {}  # which `preference_rows.load` says better
            return row if isinstance(row, dict) else {}
    from qrpo_lib.training import preference_rows

    return next(iter(preference_rows.load(str(path), str(path))), {})


def _loaded(source: Source, split: str) -> Sequence[Mapping]:
    from qrpo_lib.training import preference_rows

    if not is_file_of_rows(source.dataset):
        folder = hub.local_copy(source.dataset)
        if folder is None or not (folder / _SAVED).is_file():
            return preference_rows.load(hub.dataset(source.dataset, source.revision, split), source.dataset)
        if split != "train":
            raise InputError(f"{source.dataset} holds one dataset without splits: it has no split {split!r}.")
        return preference_rows.load(folder, source.dataset)
    _check_file(source)
    return preference_rows.load(source.dataset, source.dataset)


def _identity(source: Source) -> dict[str, str | None]:
    if not is_file_of_rows(source.dataset):
        return hub.identity(source.dataset, source.revision)
    _check_file(source)
    return {"content": files.file_sha256(Path(source.dataset))}
