"""The record of a run folder: how its result came about, and what its files hold."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib.runs import files, paths, secrets, usage
from qrpo_lib.runs.code_version import code_version, entry_names
from qrpo_lib.runs.errors import InputError

if TYPE_CHECKING:
    from qrpo_lib.runs.keys import Step

RECORD = "record.json"
REMOVED = "removed.json"  # sub-folders of a complete folder that were removed since (`folders.remove_parts`)
RESTORED = "restored"  # field of a record whose folder was restored from a committed one, not made here
_RECORDED_VERSIONS = ("torch", "transformers", "trl", "accelerate", "datasets", "numpy", "scipy", "matplotlib", "vllm")
_VECTOR_INSTRUCTIONS = {"avx512vl": "AVX512", "avx2": "AVX2"}  # flag of the kernel: torch's name
_PROCESSOR_FIELDS = ("cpu family", "model", "CPU implementer", "CPU part")  # two of x86-64, two of ARM
_GIT_PLACES = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY"}


class CorruptedRunError(InputError):
    """A complete run folder no longer holds what its record says."""


def check(folder: Path) -> dict[str, Any]:
    """The record of a complete folder, after comparing every output with it (CorruptedRunError if one differs).

    Outputs in sub-folders that were removed on purpose are not missed.
    """
    try:
        record = files.read_json(folder / RECORD, "")
    except files.UnreadableFileError:
        raise _corrupted(folder, f"no readable {RECORD}") from None
    wrong = _not_a_record(record, folder.name)
    if wrong:
        raise _corrupted(folder, f"{RECORD} {wrong}")
    removed = tuple(f"{part}/" for part in removed_parts(folder))
    for name, expected in record["outputs"].items():
        path = folder / name
        if name.startswith(removed):
            continue
        if not path.is_file():
            raise _corrupted(folder, f"{name} is missing")
        if path.stat().st_size != expected["bytes"]:
            raise _corrupted(folder, f"{name} has changed")
        # Records of before large files were hashed have their size alone.
        if "sha256" in expected and _sha256_of(path) != expected["sha256"]:
            raise _corrupted(folder, f"{name} has changed")
    return record


def removed_parts(folder: Path) -> list[str]:
    """Sub-folders of a complete folder that were removed on purpose. Raises CorruptedRunError for a damaged list."""
    try:
        return files.read_json(folder / REMOVED, "", list) if (folder / REMOVED).exists() else []
    except files.UnreadableFileError:
        raise _corrupted(folder, f"no readable {REMOVED}") from None


def restored_from(folder: Path) -> str:
    """Which committed record a complete folder was restored from (`folders.restore`); empty if it was made here.

    Such a folder holds results to be read, and not all that a step needs that is made from it: no policies, no texts.
    """
    try:
        origin = files.read_json(folder / RECORD, "").get(RESTORED)
    except files.UnreadableFileError:
        return ""
    return str(origin.get("from")) if isinstance(origin, dict) else ""


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


def read_all() -> list[tuple[Path, dict[str, Any]]]:
    """Every run folder with its record, oldest first; outputs are not compared. An unreadable record is left out."""
    records = []
    for path in paths.runs_folder().glob(f"*/{RECORD}"):
        try:
            record = files.read_json(path, "")
        except files.UnreadableFileError:
            continue
        if not _not_a_record(record, path.parent.name):
            records.append((path.parent, record))
    return sorted(records, key=lambda item: str(item[1].get("started", "")))


@dataclass(frozen=True)
class Stopwatch:
    """When a step began to be made: the date, and seconds of wall time, of processor time and of that in steps."""

    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    wall: float = field(default_factory=time.monotonic)
    processor: float = field(default_factory=usage.processor_seconds)
    of_steps: float = field(default_factory=usage.of_steps)

    def used(self) -> usage.Usage:
        """What this process, with its children that ended, took for the step; other steps made in between not."""
        now = usage.of_this_process()
        taken = usage.processor_seconds() - self.processor - (usage.of_steps() - self.of_steps)
        return replace(now, processor_seconds=round(taken, 3))


def write(step: Step, seed: int | None, clock: Stopwatch, by_kernel: usage.Usage | None = None) -> None:
    """Write the record of a step whose result is being made: settings, code, versions, machine, hashes of its files.

    Parameters
    ----------
    step: whose partial folder holds the result.
    seed: that it was made with, if any.
    clock: started when the step began to be made, in this process.
    by_kernel: of a notebook what its own work took; of other steps this process's work for them is measured.
    """
    used = by_kernel or clock.used()
    if not by_kernel:
        usage.add_to_steps(used.processor_seconds)
    record = {
        "name": step.name,
        "key": step.key,
        "parameters": step.parameters,
        "inputs": {source.name: source.key for source in step.inputs},
        "code": {"entries": entry_names(step.code), "version": code_version(step.code, step.source)},
        "seed": seed,
        "outputs": _outputs(step.partial),
        "versions": _versions(),
        "git": _git(),
        "host": socket.gethostname(),
        "processor": _processor(),
        "gpus": _gpus(),
        "float32_products": used.float32_products,
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "started": clock.started.isoformat(timespec="milliseconds"),
        "seconds": round(time.monotonic() - clock.wall, 3),
        "processor_seconds": used.processor_seconds,
        "made_for": usage.made_for(),
        "peak_memory_mb": used.peak_memory_mb,
        # Of which process processor time, memory and products are. Records of notebooks that do not say "kernel" have
        # them of the process that waited for the kernel.
        "measured": "kernel" if by_kernel else "process",
    }
    text = secrets.mask(json.dumps(record, indent=2)) + "\n"
    files.write_atomically(step.partial / RECORD, text.encode())


def write_restored(folder: Path, original: dict[str, Any], origin: dict[str, Any]) -> None:
    """Write the record of a folder that is being restored: the original's, of its own files, with where they are from.

    So versions, processor, commit and times stay those of the run that made the results.
    """
    text = json.dumps(original | {"outputs": _outputs(folder), RESTORED: origin}, indent=2) + "\n"
    files.write_atomically(folder / RECORD, text.encode())


@cache
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


def _gpus() -> list[str]:
    """Names of the GPUs that this process sees, if it has used the library that knows them."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


@cache
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
        command = ["git", "-C", str(paths.PACKAGE), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, env=environment)
        return answer.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", "__init__.py")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None


def _outputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Of each file of a folder, but for the record: its size and its hash."""
    outputs = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256_of(path)}
        for path in outputs
    }


def _sha256_of(path: Path) -> str:
    return files.remembered_sha256(path, paths.checksums_folder())
