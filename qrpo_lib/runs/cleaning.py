"""Removing run folders, and nothing else, wherever `$QRPO_RUNS` points.

    cleaning.named("training-1a6d2dcc6067")       # what this name stands for, or an error that says why nothing
    cleaning.unneeded(names)                      # what is none of these
    cleaning.remove(one)                          # of what these found

A run folder is a folder, not a link to one, whose name is NAME-KEY and whose `record.json` says the same name and key.
Beside run folders the suite made, in folders of its own: interrupted attempts, their shards, and caches.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from qrpo_lib.runs import folders, pipeline, records
from qrpo_lib.runs.errors import InputError
from qrpo_lib.runs.paths import runs_folder

_NAME = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)-(?P<key>[0-9a-f]{12})")
_RUN_FOLDER = "run folder"
_ATTEMPTS = {".partial": "interrupted attempt", ".shards": "shards of an interrupted attempt"}
# Where what is being removed is moved first: a kill in between leaves no half of a run folder under its name.
_REMOVED = ".removed"
# What the suite remembers beside the run folders, by its folder there, and how its files are called.
_CACHES = {
    ".cache/reference_log_probs": re.compile(r"\.?[0-9a-f]{32,64}(\.[A-Za-z0-9_.-]*)?"),
    ".cache/code-versions": re.compile(r"[0-9a-f]{16}/[0-9a-f]{32}(\.[0-9]+)?"),
    ".checksums": re.compile(r"[0-9]+\.json"),
}


class CleaningError(InputError):
    """What was named is not something that may be removed."""


@dataclass(frozen=True)
class Found:
    """Something that the suite made. `kind` is for people; `size` in bytes; `files` are all it consists of, or None."""

    path: Path
    kind: str
    size: int
    files: tuple[Path, ...] | None = None


def record_of(path: Path) -> dict[str, Any] | None:
    """The record of a run folder; None for anything else than a real folder called NAME-KEY whose record says so."""
    record = _record(path) if _is_real_folder(path) and _NAME.fullmatch(path.name) else None
    return record if record and _name(record) == path.name else None


def is_run_folder(path: Path) -> bool:
    """Whether `record_of` has a record."""
    return record_of(path) is not None


def named(name: str) -> list[Found]:
    """The run folder of this name, and what interrupted attempts to make it have left.

    A folder whose record cannot be read counts if its name is one of a step of the suite's and it has a `record.json`,
    or the suite's lock of that name shows that it was made here.

    Raises
    ------
    CleaningError
        The name is none of a run folder, there is none, or it is not the suite's.
    """
    folder = runs_folder()
    if not _NAME.fullmatch(name):
        raise CleaningError(f"{name!r} is not the name of a run folder (NAME-KEY, no path); `qrpo runs` lists them.")
    attempts = [Found(path, kind, _size(path)) for path, kind in _attempts(folder) if path.name == name]
    path = folder / name
    if not os.path.lexists(path):
        if not attempts:
            raise CleaningError(f"There is no run folder {name!r} in {folder}; `qrpo runs` lists them.")
        return attempts
    if not _is_real_folder(path):
        raise CleaningError(f"{path} is a link or a file, not a run folder; remove it yourself if it is not needed.")
    record = _record(path)
    if record and _name(record) != name:
        raise CleaningError(
            f"{path} was not made under this name: its {records.RECORD} is that of {_name(record)}. Nothing was "
            "removed; move or remove the folder yourself."
        )
    if not record and not _is_damaged_run_folder(path):
        raise CleaningError(
            f"{path} has no readable {records.RECORD}: it cannot be told whether the suite made it. Nothing was "
            "removed; move or remove the folder yourself."
        )
    kind = _RUN_FOLDER if record else "damaged run folder"
    return [Found(path, kind, _size(path)), *attempts]


def unneeded(needed: set[str]) -> list[Found]:
    """Run folders and interrupted attempts whose names are not among these."""
    return [item for item in _everything() if item.path.name not in needed]


def everything() -> list[Found]:
    """All run folders, interrupted attempts and caches."""
    return [*_everything(), *_caches(runs_folder())]


def damaged() -> list[str]:
    """Names of folders that look like run folders but whose record cannot be read; only `named` takes them."""
    return [
        path.name
        for path in _entries(runs_folder())
        if _is_real_folder(path) and _record(path) is None and _is_damaged_run_folder(path)
    ]


def remove(item: Found) -> bool:
    """Remove it, and return True; False, with nothing removed, if a running command is at work on it."""
    if item.files is not None:
        for path in item.files:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # holds something that is not the suite's
            item.path.rmdir()
        return True
    if item.path.parent.name == _REMOVED:
        shutil.rmtree(item.path, ignore_errors=True)  # another `clean` may be at it too
        return True
    with contextlib.ExitStack() as stack:
        try:
            for lock in _locks(item.path.name):
                stack.enter_context(lock.acquire(timeout=0))
        except Timeout:
            return False
        # Once more: minutes may have passed before the answer.
        if is_run_folder(item.path) if item.kind == _RUN_FOLDER else _is_real_folder(item.path):
            remove_own(item.path)
    return True


def remove_own(path: Path) -> None:
    """Remove a folder that is known to be the suite's; for other processes it disappears in one instant.

    Raises OSError for a link; none is followed.
    """
    if path.is_symlink():
        raise OSError(f"{path} is a link, not a run folder: remove the link yourself.")
    removed = runs_folder() / _REMOVED
    removed.mkdir(parents=True, exist_ok=True)
    target = removed / f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}"
    path.rename(target)
    shutil.rmtree(target)
    with contextlib.suppress(OSError):
        removed.rmdir()


def _everything() -> list[Found]:
    folder = runs_folder()
    items = [Found(path, _RUN_FOLDER, _size(path)) for path in _entries(folder) if is_run_folder(path)]
    items += [Found(path, kind, _size(path)) for path, kind in _attempts(folder)]
    left = [path for path in _entries(folder / _REMOVED) if _NAME.fullmatch(path.name.split(".")[0])]
    return [*items, *(Found(path, "rest of a removed folder", _size(path)) for path in left if _is_real_folder(path))]


def _attempts(folder: Path) -> Iterator[tuple[Path, str]]:
    for parent, kind in _ATTEMPTS.items():
        for path in _entries(folder / parent):
            if _is_real_folder(path) and _NAME.fullmatch(path.name):
                yield path, kind


def _caches(folder: Path) -> list[Found]:
    caches = []
    for name, called in _CACHES.items():
        cache = folder / name
        if any(path.is_symlink() for path in (cache, *cache.parents) if folder in path.parents):
            continue
        paths = [path for path in sorted(cache.rglob("*")) if called.fullmatch(path.relative_to(cache).as_posix())]
        files = tuple(path for path in paths if path.is_file() and not path.is_symlink())
        if files:
            caches.append(Found(cache, "cache", sum(path.stat().st_size for path in files), files))
    return caches


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder of the suite's, in order; nothing if there is none, or a link in its place."""
    if not _is_real_folder(folder):
        return []
    return sorted(folder.iterdir())


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _record(folder: Path) -> dict[str, Any] | None:
    """What the record in a folder says, if it has a name and a key; None if it cannot be read."""
    record = folder / records.RECORD
    if record.is_symlink():
        return None
    try:
        says = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(says, dict) and all(isinstance(says.get(part), str) for part in ("name", "key"))
    return says if whole else None


def _name(record: dict[str, Any]) -> str:
    return f"{record['name']}-{record['key']}"


def _is_damaged_run_folder(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    if not match or not (match["name"] in pipeline.STEPS or pipeline.is_notebook(match["name"])):
        return False
    lock = runs_folder() / ".locks" / f"{path.name}.lock"
    return any(file.is_file() and not file.is_symlink() for file in (path / records.RECORD, lock))


def _locks(name: str) -> list:
    """The lock of a step, and those of its shards that there are."""
    shards = (runs_folder() / ".locks").glob(f"{name}.*.lock")
    return [folders.lock(name), *(folders.lock(path.name.removesuffix(".lock")) for path in shards)]


def _size(path: Path) -> int:
    """Bytes of all files below, links not followed."""
    count = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):  # a running command has moved it
                count += os.lstat(os.path.join(folder, name)).st_size
    return count
