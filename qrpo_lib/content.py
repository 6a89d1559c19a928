"""Hashes of files and folders by content. A large file is read once, and again only when it has changed.

What is remembered of large files lies in the run folders' cache, by path, size and time of change; without it, or where
it cannot be written, files are read again.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from qrpo_lib import runs

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.code_version`)

# Smaller files are read as fast as the memory about them.
_REMEMBERED_FROM = 2**20


def folder_sha256(folder: Path, patterns: Sequence[str] = ("*",)) -> str:
    """Hash of the names and contents of a folder's files that match one of the patterns.

    Hidden files and folders (downloaders keep notes there) and `SHA256SUMS` do not count. Links are followed: a hub's
    cache is made of them.
    """
    lines = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts) or path.name == "SHA256SUMS"
        if not hidden and path.is_file() and any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns):
            lines.append(f"{file_sha256(path)}  {relative.as_posix()}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; of a large one remembered by its size and time of change."""
    status = path.stat()
    if status.st_size < _REMEMBERED_FROM:
        return runs.file_sha256(path)
    # The time of change of the inode cannot be set back by those who copy or unpack files.
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    memory = runs.cache_folder("file-hashes") / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["state"] == state and len(known["sha256"]) == 64:
            return known["sha256"]
    found = runs.file_sha256(path)
    with contextlib.suppress(OSError):
        runs.write_atomically(memory, json.dumps({"state": state, "sha256": found}).encode())
    return found
