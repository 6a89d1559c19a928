"""Run folders: each step's result in a folder named by the hash of everything that determines it.

    step = Step("reference_sampling", parameters={...}, inputs=(initial_policy,), code=(_sample, task.prompts))
    folder = folders.complete(step, make)      # returns at once if the folder is there, else calls make(folder)

A step that says how it is made (`Step.make`) is made with all that it rests on by `folders.make(step)`. A folder is
written beside (`runs/.partial/`) and moved into place when it is complete, so what has a final name is whole. The hash
(`qrpo_lib.runs.keys`) covers the step's parameters, the keys of its input steps and its code, not the versions of
libraries: those are in `record.json` (`qrpo_lib.runs.records`), with the processor and the times.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from qrpo_lib.runs import files, paths, records
from qrpo_lib.runs.code_version import Package, code_version, entry_names, own_package
from qrpo_lib.runs.errors import InputError
from qrpo_lib.runs.keys import Step, with_inputs
from qrpo_lib.runs.usage import Usage

if TYPE_CHECKING:
    from accelerate import PartialState


_STARTED = time.time()
_GROUP_WAITS = timedelta(hours=6)
_others_wait = False


class CodeChangedError(InputError):
    """The code was edited while a result was made with it, so that the result's key may be wrong."""


def make(step: Step) -> Path:
    """The folder of a step's result, made if it is not there yet, and all that it rests on with it."""
    if step.is_complete() and _processes() == 1:
        return step.folder
    if _processes() == 1:
        discard_restored([step])
    for source in step.inputs:
        make(source)
    return complete(step, step.make, seed=step.seed, resumable=step.resumable, shared=step.shared)


def complete(
    step: Step,
    make: Callable[[Path], None],
    *,
    seed: int | None = None,
    resumable: bool = False,
    shared: Callable[[], None] | None = None,
    again: bool = False,
    by_kernel: Callable[[], Usage] | None = None,
) -> Path:
    """The folder of the step's result, made by `make(folder)` if it is not there yet.

    Two processes that ask for the same step at once do not make it twice: the second one waits.

    Parameters
    ----------
    make: writes the result into the folder that it is given.
    seed: for the record.
    resumable: whether that folder holds what an interrupted attempt left, of which `make` must trust only what was
        moved there whole (`files.write_atomically`); otherwise it is empty.
    shared: work that such processes share, called before `make`: it leaves its pieces in `step.shards`, which is
        removed in the end.
    again: make the result even if it is there; the new one takes the place of the old one when it is whole.
    by_kernel: of a notebook, asked when it is executed: what its kernel took for its own work.
    """
    if not again and step.is_complete() and _processes() == 1:
        return step.folder
    clock = records.Stopwatch()
    if shared and not step.is_complete():
        shared()
    if _processes() > 1:
        return _complete_in_group(step, make, seed, resumable, clock, alone=step.alone or shared is not None)
    with lock(step.folder_name):
        if again or not step.is_complete():
            _prepare(step, resumable)
            _make(step, make, seed, clock, by_kernel)
    _remove_shards(step)
    return step.folder


def is_main_process() -> bool:
    """Whether this process is the one of its group (training on several GPUs) that writes results."""
    return int(os.environ.get("RANK", "0")) == 0


def _complete_in_group(
    step: Step, make: Callable, seed: int | None, resumable: bool, clock: records.Stopwatch, *, alone: bool
) -> Path:
    """`complete` in processes that train together: the main one holds the lock and decides.

    All call `make`; with `alone` the main one does, and the others, which would write the same files, wait.
    """
    if not is_main_process():
        if _agreed(None) == "make":
            if not alone:
                make(step.partial)
            _agreed(None)
        return step.folder
    with lock(step.folder_name):
        if step.is_complete():
            _agreed("complete")
        else:
            _prepare(step, resumable)
            _agreed("make")
            with _by_itself() if alone else contextlib.nullcontext():
                _make(step, make, seed, clock)
            _agreed("made")
    return step.folder


def _agreed(said: str | None) -> str:
    """What the main process of the group says."""
    from accelerate.utils import broadcast_object_list

    group()
    return broadcast_object_list([said])[0]


def group() -> PartialState:
    """The processes that train together and this one's place among them.

    They wait for each other as long as one of them may write a checkpoint or score completions: hours.
    """
    import torch
    from accelerate import PartialState

    _leave_in_the_end()
    return PartialState(cpu=not torch.cuda.is_available(), timeout=_GROUP_WAITS)


@lru_cache(maxsize=1)
def _leave_in_the_end() -> None:
    atexit.register(leave_group)


def leave_group() -> None:
    """End what connects this process with those that it trained with, while the interpreter is whole.

    A thread of gloo's may still hold the tensor of the last exchange. Were it to let go of it while the interpreter is
    taken down, the process would be aborted (SIGABRT), with its work done. Not after an error: the others may be in an
    exchange that never ends, and would be waited for.
    """
    import torch.distributed

    if not hasattr(sys, "last_type") and torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # a trainer that nobody uses any more would keep the threads
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _by_itself() -> Iterator[None]:
    """A context in which this process asks for steps as if there were no others: they wait, and agree to nothing."""
    global _others_wait
    _others_wait = True
    try:
        yield
    finally:
        _others_wait = False


def _processes() -> int:
    return 1 if _others_wait else int(os.environ.get("WORLD_SIZE", "1"))


def _prepare(step: Step, resumable: bool) -> None:
    if not resumable:
        shutil.rmtree(step.partial, ignore_errors=True)
    step.partial.mkdir(parents=True, exist_ok=True)


def _make(
    step: Step,
    make: Callable,
    seed: int | None,
    clock: records.Stopwatch,
    by_kernel: Callable[[], Usage] | None = None,
) -> None:
    make(step.partial)
    if _code_was_edited(step):
        raise CodeChangedError(
            f"The code was edited while {step.folder_name} was made, so nobody can tell which code made it: "
            "run the same command again."
        )
    records.write(step, seed, clock, by_kernel() if by_kernel else None)
    _sync(step.partial)
    old = _set_aside(step.folder) if step.folder.exists() else None
    step.partial.rename(step.folder)
    if old:
        shutil.rmtree(old)
    _remove_shards(step)


def _remove_shards(step: Step) -> None:
    """Remove a complete step's shards and their locks.

    Every process does so as it leaves: one that still looked for shards when another completed the step has made
    locks anew.
    """
    shutil.rmtree(step.shards, ignore_errors=True)
    for path in (paths.runs_folder() / ".locks").glob(f"{step.folder_name}.*.lock"):
        path.unlink(missing_ok=True)


def lock(name: str) -> FileLock:
    """A lock that one process holds at a time; the system frees it when that process dies, however it dies."""
    path = paths.runs_folder() / ".locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def discard(folder: Path) -> None:
    """Remove a folder so that it is there whole or not at all, whenever the process is killed."""
    shutil.rmtree(_set_aside(folder))


def restore(step: Step, make: Callable[[Path], None], original: dict[str, Any], origin: dict[str, Any]) -> bool:
    """Put back a step's results from a committed record, unless its folder is there; whether it was put back.

    Parameters
    ----------
    step: whose folder it is.
    make: writes the results into the folder that it is given.
    original: the record of the run that made them.
    origin: where they are from now (`records.restored_from`).
    """
    with lock(step.folder_name):
        if step.folder.exists():
            return False
        # Not the folder of interrupted attempts: one that can be gone on with stays.
        folder = paths.runs_folder() / ".partial" / f".restored-{step.folder_name}-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        records.write_restored(folder, original, origin)
        _sync(folder)
        folder.rename(step.folder)
    return True


def discard_restored(steps: Iterable[Step]) -> None:
    """Remove restored, incomplete inputs of those of these steps that are still to be made: these need all of them."""
    sources = (source for step in steps if not step.folder.exists() for source in step.inputs)
    for source in with_inputs(*sources):
        if records.restored_from(source.folder):
            with lock(source.folder_name):
                if records.restored_from(source.folder):
                    discard(source.folder)


def remove_parts(folder: Path, parts: Collection[str]) -> None:
    """Remove sub-folders of a complete folder that nothing reads any more; `removed.json` in it says which.

    First that is written: killed in between, a sub-folder lies there whole, and the next call removes it.
    """
    with lock(folder.name):
        known = records.removed_parts(folder)
        if set(parts) - set(known):
            listed = json.dumps(sorted({*known, *parts}), indent=2) + "\n"
            files.write_atomically(folder / records.REMOVED, listed.encode())
        for part in parts:
            if (folder / part).exists():
                shutil.rmtree(_set_aside(folder / part))


def _set_aside(folder: Path) -> Path:
    """Give a folder a name under which nobody looks for it; returns its new path."""
    aside = paths.runs_folder() / ".partial" / f".discarded-{folder.name}-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(aside)
    return aside


def _code_was_edited(step: Step) -> bool:
    """Whether the step's code on disk is another one than when this process computed the step's key."""
    root = own_package().root
    if all(path.stat().st_mtime < _STARTED for path in root.rglob("*") if path.is_file()):
        return False
    return Package(root).version(entry_names(step.code), step.source) != code_version(step.code, step.source)


def _sync(folder: Path) -> None:
    # A rename may reach the disk before the content does; after this it cannot.
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
