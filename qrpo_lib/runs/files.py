"""Files that are read back: written whole or not at all, and recognised when they are damaged.

`read_json` refuses what is no longer what was written in one sentence. A sealed file ends with the SHA-256 of what
comes before: pieces of unfinished work and caches are sealed, so that a damaged one is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from qrpo_lib.runs.errors import InputError

_SEAL = b"\nsha256:"
_SEAL_LENGTH = len(_SEAL) + 64
_SUMS = "sums.sealed"
_KINDS = {dict: "a table", list: "a list", str: "a text", int: "a number", float: "a number", bool: "a truth value"}
# The hash of a larger file is remembered, as long as size and times of change stay: there are gigabytes to look at.
LARGE = 2**16


class UnreadableFileError(InputError):
    """A file is not what was written; the message names it and says what to do."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:  # a full disk: what was written is in nobody's way
        temporary.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_sealed(path: Path, content: bytes) -> None:
    """Write content with its checksum behind it, whole or not at all."""
    write_atomically(path, content + _SEAL + hashlib.sha256(content).hexdigest().encode())


def read_sealed(path: Path) -> bytes | None:
    """The content of a sealed file, None if it is not there or not what was written."""
    try:
        sealed = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    content, seal = sealed[:-_SEAL_LENGTH], sealed[-_SEAL_LENGTH:]
    return content if seal == _SEAL + hashlib.sha256(content).hexdigest().encode() else None


def seal_folder(folder: Path) -> None:
    """Write the checksums of a folder's files into it, as its last file."""
    members = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _SUMS)
    sums = {path.relative_to(folder).as_posix(): file_sha256(path) for path in members}
    write_sealed(folder / _SUMS, json.dumps(sums).encode())


def unseal_folder(folder: Path) -> None:
    """Remove a folder's checksums, once something else records them."""
    (folder / _SUMS).unlink()


def is_sealed(folder: Path) -> bool:
    """Whether a folder was sealed and all its files are still what was written."""
    sums = read_sealed(folder / _SUMS)
    if sums is None:
        return False
    try:
        return all(file_sha256(folder / name) == sha256 for name, sha256 in json.loads(sums).items())
    except OSError:  # a file is missing, or the folder is being removed
        return False


def read_json(path: Path, remedy: str, kind: type = dict) -> Any:
    """The JSON value in a file.

    Raises
    ------
    UnreadableFileError
        The file cannot be read, is not UTF-8, is no JSON (it was cut off, say), or its value is not of this kind;
        `remedy` ends the sentence: what to do.
    """
    return parsed_json(path, _bytes(path, remedy), remedy, kind)


def parsed_json(path: Path, content: bytes, remedy: str, kind: type = dict) -> Any:
    """The JSON value in a file's content, which was read before (`read_json` reads it too).

    Parameters
    ----------
    path: of the file, for errors.
    content: its bytes.
    remedy: the end of an error's sentence: what to do.
    kind: the type that the value must have.

    Raises
    ------
    UnreadableFileError
        The content is not UTF-8, is no JSON, or its value is not of this kind.
    """
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise unreadable(path, "it is not UTF-8 text", remedy) from None
    except (ValueError, RecursionError):
        raise unreadable(path, "it is empty" if not content else "it is no whole JSON", remedy) from None
    if not isinstance(value, kind):
        held = "nothing (null)" if value is None else _KINDS[type(value)]
        raise unreadable(path, f"it holds {held} where {_KINDS[kind]} is expected", remedy)
    return value


def unreadable(path: Path, why: str, remedy: str) -> UnreadableFileError:
    """The error for a file that is not what was written."""
    return UnreadableFileError(f"{path} cannot be used: {why}. {remedy}")


def _bytes(path: Path, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error.strerror or type(error).__name__, remedy) from None


def remembered_sha256(path: Path, memory: Path) -> str:
    """SHA-256 of a file; of one larger than `LARGE` it is computed once, and again when size or time have changed.

    `memory` is a folder that holds a small sealed file for each large one; a damaged one is made again.
    """
    state = path.stat()
    if state.st_size <= LARGE:
        return file_sha256(path)
    # By its inode, not its name: a result is renamed when it is complete.
    now = {"bytes": state.st_size, "changed": [state.st_mtime_ns, state.st_ctime_ns], "inode": state.st_ino}
    noted = memory / f"{state.st_ino}.json"
    known = read_sealed(noted)
    if known is not None:
        before = json.loads(known)
        if {name: before.get(name) for name in now} == now:
            return before["sha256"]
    sha256 = file_sha256(path)
    with contextlib.suppress(OSError):  # on a full or read-only disk it is computed again next time
        write_sealed(noted, json.dumps(now | {"sha256": sha256}).encode())
    return sha256
