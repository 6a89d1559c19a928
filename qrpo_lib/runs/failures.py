"""Errors in one line for people: the first error with its class, and whether a disk is full."""

from __future__ import annotations

import errno
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qrpo_lib.runs import paths
from qrpo_lib.runs.errors import InputError

# Of a disk, of a quota.
_FULL_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXT = re.compile(r"No space left on device|Disk quota exceeded|ENOSPC")
# With less than this nothing of the suite can be written, and libraries say so in words of their own.
_LEAST_BYTES, _LEAST_FILES = 2**20, 8
_REMEDY = "make room and run the same command again."


def disks() -> tuple[Path, ...]:
    """Where the suite writes files."""
    return paths.runs_folder(), paths.project_root() / "figures", Path(tempfile.gettempdir())


def sentence(error: BaseException, *places: Path) -> str:
    """An error in one line.

    Of errors that came one from handling another the first is told first. `places` are where files were being
    written: if the disk of one is full, that is the cause, whatever the error says.
    """
    chain = [*_causes(error)][::-1]
    told = _told(chain[0]) if len(chain) == 1 else f"{_told(chain[0])} (and then {_told(chain[-1])})"
    if isinstance(error, InputError):
        told = _told(error)
    if any(_says_full(cause) for cause in chain):
        return f"The disk is full ({told}): {_REMEDY}"
    return told + full_disk(*places)


def full_disk(*places: Path) -> str:
    """A clause to add to an error if the disk of one of these folders is full; else empty."""
    for folder in places:
        there = next(path for path in (folder, *folder.parents) if path.exists())  # at the latest the root
        disk = os.statvfs(there)
        files_left = disk.f_favail if disk.f_files else _LEAST_FILES  # some file systems do not count files
        if disk.f_bavail * disk.f_frsize < _LEAST_BYTES or files_left < _LEAST_FILES:
            return f" The disk that holds {there} is full: {_REMEDY}"
    return ""


def says_full(text: str) -> bool:
    """Whether a text, such as a traceback, says that the disk is full."""
    return _FULL_TEXT.search(text) is not None


def exit_text(code: int | None) -> str:
    """How a process ended that said nothing, from its exit code (negative: a signal)."""
    if code is not None and code < 0:
        try:
            return f"its process was killed ({signal.Signals(-code).name})"
        except ValueError:
            return f"its process was killed (signal {-code})"
    return f"its process ended with exit code {code}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those it came from, the first one last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, InputError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else f"{type(error).__name__} (without a message)"


def _says_full(error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno in _FULL_NUMBERS) or says_full(str(error))
