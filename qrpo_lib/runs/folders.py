"""Run folders: each step's result in a folder named by the hash of everything that determines it.

    step = folders.Step("reference_sampling", parameters={...}, inputs=(initial_policy,), code=(_sample, task.prompts))
    folder = folders.complete(step, make)      # returns at once if the folder is there, else calls make(folder)

A folder is written beside (`runs/.partial/`) and moved into place when it is complete, so what has a final name is
whole. The hash covers the step's parameters, the keys of its input steps and its code (`qrpo_lib.runs.code_version`),
not the versions of libraries: those are in `record.json`, with the processor and the times.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from qrpo_lib.runs import code_version as code_versions
from qrpo_lib.runs import files, secrets
from qrpo_lib.runs.code_version import Package, code_version, entry_names, own_package
from qrpo_lib.runs.errors import InputError
from qrpo_lib.runs.files import file_sha256, write_atomically

if TYPE_CHECKING:
    from accelerate import PartialState

__all__ = ["file_sha256", "write_atomically"]  # also found here

PACKAGE = own_package().root
RECORD = "record.json"
IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)
_RECORDED_VERSIONS = ("torch", "transformers", "trl", "accelerate", "datasets", "numpy", "scipy", "matplotlib", "vllm")
_VECTOR_INSTRUCTIONS = {"avx512vl": "AVX512", "avx2": "AVX2"}  # flag of the kernel: torch's name
_STARTED = time.time()
_GROUP_WAITS = timedelta(hours=6)
_PROCESSOR_FIELDS = ("cpu family", "model", "CPU implementer", "CPU part")  # two of x86-64, two of ARM
_GIT_PLACES = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY"}


class CorruptedRunError(InputError):
    """A complete run folder no longer holds what its record says."""


class CodeChangedError(InputError):
    """The code was edited while a result was made with it, so that the result's key may be wrong."""


def project_root() -> Path:
    """The folder that holds notebooks, figures and runs: `$QRPO_ROOT`, else the checkout of this package, else here."""
    if os.environ.get("QRPO_ROOT"):
        return _resolved(os.environ["QRPO_ROOT"], os.getcwd())
    return _checkout() or Path.cwd()


def runs_folder() -> Path:
    """Where run folders live: `$QRPO_RUNS`, else `runs` in the project."""
    return _resolved(os.environ.get("QRPO_RUNS") or str(project_root() / "runs"), os.getcwd())


# Both are asked for thousands of times by one command.
@cache
def _resolved(path: str, working_directory: str) -> Path:
    return Path(working_directory, path).resolve()


@cache
def _checkout() -> Path | None:
    return PACKAGE.parent if (PACKAGE.parent / "notebooks").is_dir() else None


def cache_folder(name: str) -> Path:
    """Where results are kept by content beside the run folders, such as reference log-probabilities."""
    return runs_folder() / ".cache" / name


def checksums_folder() -> Path:
    """Where the hashes of large files are remembered."""
    return runs_folder() / ".checksums"


def _code_versions_folder() -> Path | None:
    return cache_folder("code-versions") if runs_folder().is_dir() else None


code_versions.remember_in = _code_versions_folder


def figures_folder(figures: str | Path) -> Path:
    """Where a notebook puts its figures: a relative path is below the project, wherever the notebook runs."""
    return project_root() / figures


@dataclass(frozen=True)
class Step:
    """What determines one result.

    name: what the folder is called, before its key.
    parameters: JSON values.
    inputs: the steps whose results this one reads.
    code: functions, classes and bound methods that do the work; all code of the package that they reach counts.
    source: further Python source that does the work, such as a notebook's cells.
    """

    name: str
    parameters: dict[str, Any]
    inputs: tuple[Step, ...] = ()
    code: tuple[Any, ...] = ()
    source: str | None = None
    key: str = field(init=False)

    def __post_init__(self):
        determinants = {
            "name": self.name,
            "parameters": self.parameters,
            "inputs": [step.key for step in self.inputs],
            "code": code_version(self.code, self.source),
        }
        object.__setattr__(self, "key", _sha256(json.dumps(determinants, sort_keys=True).encode())[:12])

    @property
    def folder_name(self) -> str:
        return f"{self.name}-{self.key}"

    @property
    def folder(self) -> Path:
        """Where the complete result is, once it exists."""
        return runs_folder() / self.folder_name

    @property
    def partial(self) -> Path:
        """Where the result is being made."""
        return runs_folder() / ".partial" / self.folder_name

    @property
    def shards(self) -> Path:
        """Where the pieces are that processes make together before it (see `qrpo_lib.runs.shards`)."""
        return runs_folder() / ".shards" / self.folder_name

    def is_complete(self) -> bool:
        """Whether the result exists.

        Raises
        ------
        CorruptedRunError
            The folder is there but does not hold what its record says.
        """
        if not self.folder.exists():
            return False
        check(self.folder)
        return True


def complete(
    step: Step,
    make: Callable[[Path], None],
    *,
    seed: int | None = None,
    resumable: bool = False,
    shared: Callable[[], None] | None = None,
    again: bool = False,
) -> Path:
    """The folder of the step's result, made by `make(folder)` if it is not there yet.

    Two processes that ask for the same step at once do not make it twice: the second one waits. With `resumable`,
    `make` finds what an interrupted attempt left in the folder and must trust only what was moved there whole
    (`write_atomically`); otherwise it starts with an empty folder. Work that such processes share is `shared()`,
    called before `make`: it leaves its pieces in `step.shards`, which is removed in the end. With `again` the result
    is made even if it is there, and takes the place of the old one when it is whole.
    """
    if not again and step.is_complete() and _processes() == 1:
        return step.folder
    started, clock = datetime.now(UTC), time.monotonic()
    if shared and not step.is_complete():
        shared()
    if _processes() > 1:
        return _complete_in_group(step, make, seed, resumable, started, clock)
    with lock(step.folder_name):
        if again or not step.is_complete():
            _prepare(step, resumable)
            _make(step, make, seed, started, clock)
    _remove_shards(step)
    return step.folder


def is_main_process() -> bool:
    """Whether this process is the one of its group (training on several GPUs) that writes results."""
    return int(os.environ.get("RANK", "0")) == 0


def _complete_in_group(step: Step, make: Callable, seed: int | None, resumable: bool, started, clock: float) -> Path:
    """`complete` in processes that train together: all call `make`, the main one holds the lock and decides."""
    if not is_main_process():
        if _agreed(None) == "make":
            make(step.partial)
            _agreed(None)
        return step.folder
    with lock(step.folder_name):
        if step.is_complete():
            _agreed("complete")
        else:
            _prepare(step, resumable)
            _agreed("make")
            _make(step, make, seed, started, clock)
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

    return PartialState(cpu=not torch.cuda.is_available(), timeout=_GROUP_WAITS)


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _prepare(step: Step, resumable: bool) -> None:
    if not resumable:
        shutil.rmtree(step.partial, ignore_errors=True)
    step.partial.mkdir(parents=True, exist_ok=True)


def _make(step: Step, make: Callable, seed: int | None, started: datetime, clock: float) -> None:
    make(step.partial)
    if _code_was_edited(step):
        raise CodeChangedError(
            f"The code was edited while {step.folder_name} was made, so nobody can tell which code made it: "
            "run the same command again."
        )
    _write_record(step, seed, started, time.monotonic() - clock)
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
    for path in (runs_folder() / ".locks").glob(f"{step.folder_name}.*.lock"):
        path.unlink(missing_ok=True)


def lock(name: str) -> FileLock:
    """A lock that one process holds at a time; the system frees it when that process dies, however it dies."""
    path = runs_folder() / ".locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def check(folder: Path) -> dict[str, Any]:
    """The record of a complete folder, after comparing every output with it (CorruptedRunError if one differs)."""
    try:
        record = files.read_json(folder / RECORD, "")
    except files.UnreadableFileError:
        raise _corrupted(folder, f"no readable {RECORD}") from None
    wrong = _not_a_record(record, folder.name)
    if wrong:
        raise _corrupted(folder, f"{RECORD} {wrong}")
    for name, expected in record["outputs"].items():
        path = folder / name
        if not path.is_file():
            raise _corrupted(folder, f"{name} is missing")
        if path.stat().st_size != expected["bytes"]:
            raise _corrupted(folder, f"{name} has changed")
        # Records of before large files were hashed have their size alone.
        if "sha256" in expected and _sha256_of(path) != expected["sha256"]:
            raise _corrupted(folder, f"{name} has changed")
    return record


def _corrupted(folder: Path, why: str) -> CorruptedRunError:
    return CorruptedRunError(
        f"The run folder {folder} is corrupted: {why}. Remove that folder (`qrpo clean --run {folder.name}`) "
        "and run the same command again to remake it."
    )


def _not_a_record(record: dict[str, Any], folder_name: str) -> str:
    """What is wrong with a record that could be read; empty if it is one."""
    if f"{record.get('name')}-{record.get('key')}" != folder_name:
        return "is of another step"
    outputs = record.get("outputs")
    if not isinstance(outputs, dict):
        return "has no table of outputs"
    for name, expected in outputs.items():
        whole = isinstance(expected, dict) and isinstance(expected.get("bytes"), int)
        if not whole or not isinstance(expected.get("sha256", ""), str):
            return f"does not say what {name} holds"
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return f"names a file outside its folder: {name}"
    return ""


def records() -> list[tuple[Path, dict[str, Any]]]:
    """Every run folder with its record, oldest first; outputs are not compared. An unreadable record is left out."""
    found = []
    for path in runs_folder().glob(f"*/{RECORD}"):
        try:
            record = files.read_json(path, "")
        except files.UnreadableFileError:
            continue
        if not _not_a_record(record, path.parent.name):
            found.append((path.parent, record))
    return sorted(found, key=lambda item: str(item[1].get("started", "")))


def with_inputs(*steps: Step) -> Iterator[Step]:
    """The steps and all that they rest on, each once."""
    waiting, seen = list(steps), set()
    while waiting:
        step = waiting.pop()
        if step.key not in seen:
            seen.add(step.key)
            waiting += step.inputs
            yield step


def discard(folder: Path) -> None:
    """Remove a folder so that it is there whole or not at all, whenever the process is killed."""
    shutil.rmtree(_set_aside(folder))


def _set_aside(folder: Path) -> Path:
    """Give a folder a name under which nobody looks for it; returns its new path."""
    aside = runs_folder() / ".partial" / f".discarded-{folder.name}-{os.getpid()}"
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


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256_of(path)}


def _sha256_of(path: Path) -> str:
    return files.remembered_sha256(path, checksums_folder())


def _write_record(step: Step, seed: int | None, started: datetime, seconds: float) -> None:
    made = sorted(path for path in step.partial.rglob("*") if path.is_file() and path.name != RECORD)
    record = {
        "name": step.name,
        "key": step.key,
        "parameters": step.parameters,
        "inputs": {source.name: source.key for source in step.inputs},
        "code": {"entries": entry_names(step.code), "version": code_version(step.code, step.source)},
        "seed": seed,
        "outputs": {path.relative_to(step.partial).as_posix(): _fingerprint(path) for path in made},
        "versions": _versions(),
        "git": _git(),
        "host": socket.gethostname(),
        "processor": _processor(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        # The most that this process has used since it started, in MiB (ru_maxrss is in KiB on Linux).
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    text = secrets.mask(json.dumps(record, indent=2)) + "\n"
    write_atomically(step.partial / RECORD, text.encode())


def _processor() -> dict[str, str]:
    """What tells kinds of CPU apart (Linux; elsewhere the name alone).

    Libraries choose kernels and block sizes by it, which round differently: the digits of a trained policy hold on one
    kind.
    """
    information = Path("/proc/cpuinfo")
    if not information.is_file():
        return {"name": platform.processor()}
    fields = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", information.read_text(), re.MULTILINE))
    flags = set(fields.get("flags", "").split())
    return {
        "name": fields.get("model name", platform.machine()),
        "family_and_model": ".".join(fields[name] for name in _PROCESSOR_FIELDS if name in fields),
        "vector_instructions": next((name for flag, name in _VECTOR_INSTRUCTIONS.items() if flag in flags), "other"),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in _RECORDED_VERSIONS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache
def _git() -> dict[str, Any] | None:
    """The commit of this code, and whether the package differs from it.

    None where git does not track the package: an unpacked archive, or an installed package, inside another project's
    repository is no part of that project's commit.
    """
    # Where a hook of another repository runs this, git's variables name that one.
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_PLACES}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, env=environment)
        return answer.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", "__init__.py")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None


def _sync(folder: Path) -> None:
    # A rename may reach the disk before the content does; after this it cannot.
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
