"""Hashes of the content of folders from elsewhere, such as local copies of models and datasets."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Sequence
from pathlib import Path

from qrpo_lib.runs import files, paths


def folder_sha256(folder: Path, patterns: Sequence[str] = ("*",)) -> str:
    """Hash of the names and contents of a folder's files that match one of the patterns.

    Hidden files and folders (downloaders keep notes there) and `SHA256SUMS` do not count. Links are followed: a hub's
    cache is made of them. A large file is read once, and again when it has changed.
    """
    memory, lines = paths.checksums_folder(), []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts) or path.name == "SHA256SUMS"
        if not hidden and path.is_file() and any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns):
            lines.append(f"{files.remembered_sha256(path, memory)}  {relative.as_posix()}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
