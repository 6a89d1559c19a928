"""Steps: what determines one result, and its key, the hash of all that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qrpo_lib.runs import paths, records
from qrpo_lib.runs.code_version import code_version


@dataclass(frozen=True)
class Step:
    """What determines one result.

    name: what the folder is called, before its key.
    parameters: JSON values.
    inputs: the steps whose results this one reads.
    code: functions, classes and bound methods that do the work beside `make` and `shared`; all code of the package that
        they reach counts.
    source: further Python source that does the work, such as a notebook's cells.
    make, seed, resumable, shared: how `folders.make` makes it, once its inputs are complete (as `folders.complete`
        takes them): functions or partials of functions, whose code counts too.
    alone: whether of processes that train together the main one makes it by itself, while the others wait, as it does
        with what `shared` has prepared; otherwise all of them call `make`, in which they train.
    """

    name: str
    parameters: dict[str, Any]
    inputs: tuple[Step, ...] = ()
    code: tuple[Any, ...] = ()
    source: str | None = None
    make: Callable[[Path], None] | None = field(default=None, compare=False, repr=False)
    seed: int | None = None
    resumable: bool = False
    shared: Callable[[], None] | None = field(default=None, compare=False, repr=False)
    alone: bool = False
    key: str = field(init=False)
    settings_key: str = field(init=False)  # the same but for code: equal where a result was made by other code alone

    def __post_init__(self):
        work = [getattr(part, "func", part) for part in (self.make, self.shared) if part]
        object.__setattr__(self, "code", (*work, *self.code))
        settings = {"name": self.name, "parameters": self.parameters}
        code = {"code": code_version(self.code, self.source)}
        object.__setattr__(self, "key", _hash(settings | {"inputs": [step.key for step in self.inputs]} | code))
        inputs = [step.settings_key for step in self.inputs]
        object.__setattr__(self, "settings_key", _hash(settings | {"inputs": inputs}))

    @property
    def folder_name(self) -> str:
        """The name of its run folder, NAME-KEY."""
        return f"{self.name}-{self.key}"

    @property
    def folder(self) -> Path:
        """Where the complete result is, once it exists."""
        return paths.runs_folder() / self.folder_name

    @property
    def partial(self) -> Path:
        """Where the result is being made."""
        return paths.runs_folder() / ".partial" / self.folder_name

    @property
    def shards(self) -> Path:
        """Where the pieces are that processes make together before it (see `qrpo_lib.runs.shards`)."""
        return paths.runs_folder() / ".shards" / self.folder_name

    def is_complete(self) -> bool:
        """Whether the result exists.

        Raises
        ------
        CorruptedRunError
            The folder is there but does not hold what its record says.
        """
        if not self.folder.exists():
            return False
        records.check(self.folder)
        return True


def _hash(determinants: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(determinants, sort_keys=True).encode()).hexdigest()[:12]


def with_inputs(*steps: Step) -> Iterator[Step]:
    """The steps and all their inputs, and theirs in turn, each once."""
    waiting, seen = list(steps), set()
    while waiting:
        step = waiting.pop()
        if step.key not in seen:
            seen.add(step.key)
            waiting += step.inputs
            yield step


def there(*steps: Step) -> set[str]:
    """Names of the run folders of these steps, and of all that they rest on, as far as they are there."""
    return {step.folder_name for step in with_inputs(*steps) if step.folder.exists()}
