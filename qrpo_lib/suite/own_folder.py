"""A folder of generated files that may hold others' files too: only those that were written by this are touched.

    with own_folder.filling(Path("report"), maker="qrpo report") as new:
        (new / "index.html").write_text(...)

A file in it, the marker, lists what was written, with hashes. Nothing is put into a folder that held something before
it had a marker, and no file is replaced or removed that is not on the list. What the files were made from can be noted
in it (`note`); `noted` gives it back as long as each of them is what was written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from qrpo_lib.runs.errors import InputError
from qrpo_lib.runs.files import file_sha256, write_atomically

MARKER = ".qrpo-report.json"
_NEW = ".qrpo-report.partial"
_NOTED = "made_from"


class ForeignFolder(InputError):
    """A folder holds what was not written by this."""


@contextlib.contextmanager
def filling(folder: Path, maker: str) -> Iterator[Path]:
    """Context that yields an empty folder; at its end what was put there takes the place of what was written before.

    Until then, and after an error, `folder` holds what it held.

    Raises
    ------
    ForeignFolder
        `folder` is no folder, or holds something and has no marker of `maker`; or a file that would be written is there
        already and is not on the list. Nothing was changed then.
    """
    before = _listed(folder, maker)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / _NEW
    if not (folder / MARKER).is_file():
        _write_marker(folder, maker, {})
    try:
        _remove_new(new)
        new.mkdir()
        yield new
        _replace(folder, new, maker, before)
    except BaseException:
        _remove_new(new)
        if not before and not _others(folder):
            (folder / MARKER).unlink(missing_ok=True)
            if is_new:
                folder.rmdir()
        raise


def check(folder: Path, maker: str) -> None:
    """Raise ForeignFolder if nothing may be written into the folder."""
    _listed(folder, maker)


def note(folder: Path, maker: str, made_from: Any) -> None:
    """Note of a folder that was filled what its files were made from.

    Parameters
    ----------
    folder: as it was filled.
    maker: as in `filling`, which forgets this before it replaces the first file.
    made_from: a JSON value.
    """
    _write_marker(folder, maker, _listed(folder, maker), made_from)


def noted(folder: Path, maker: str) -> Any:
    """What was noted of the folder; None if nothing was, or if a file is missing or not what was written."""
    files = _listed(folder, maker)
    if not files or os.path.lexists(folder / _NEW) or not all(_is_as_written(folder, *item) for item in files.items()):
        return None
    return json.loads((folder / MARKER).read_text(encoding="utf-8")).get(_NOTED)


def _replace(folder: Path, new: Path, maker: str, before: dict[str, str]) -> None:
    written = {path.relative_to(new).as_posix(): path for path in sorted(new.rglob("*")) if path.is_file()}
    for name in written:
        target = folder / name
        if (name not in before and os.path.lexists(target)) or target.is_dir():
            raise ForeignFolder(f"{target} was not written by `{maker}`: move it away, or choose another folder.")
        _refuse_links(folder, name)
    listed = {name: file_sha256(path) for name, path in written.items()}
    # A kill in between leaves files that are on the list, though perhaps not with their hash.
    _write_marker(folder, maker, before | listed)
    for name, path in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        path.replace(folder / name)
    for name in before.keys() - listed.keys():
        _remove_stale(folder, name, before[name])
    _write_marker(folder, maker, listed)
    _remove_new(new)


def _listed(folder: Path, maker: str) -> dict[str, str]:
    """The files written before, with their hashes."""
    if not os.path.lexists(folder):
        return {}
    if not folder.is_dir():
        raise ForeignFolder(f"{folder} is not a folder; choose another name.")
    marker = folder / MARKER
    if not marker.is_file() or marker.is_symlink():
        if any(folder.iterdir()):
            raise ForeignFolder(
                f"{folder} holds files that `{maker}` did not write: choose an empty or a new folder, or empty it "
                "yourself."
            )
        return {}
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        files = {str(name): str(sha256) for name, sha256 in content["files"].items()}
        if content["made_by"] != maker or not all(map(_is_below, files)):
            raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ForeignFolder(f"{marker} cannot be read: choose another folder, or remove {folder} yourself.") from None
    return files


def _is_below(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _refuse_links(folder: Path, name: str) -> None:
    for path in [folder / name, *(folder / parent for parent in PurePosixPath(name).parents if parent.parts)]:
        if path.is_symlink():
            raise ForeignFolder(f"{path} is a link: what it leads to was not written by the suite. Remove the link.")
        if path != folder / name and path.exists() and not path.is_dir():
            raise ForeignFolder(f"{path} is a file where a folder was written: move it away, or choose another folder.")


def _remove_stale(folder: Path, name: str, sha256: str) -> None:
    if _is_as_written(folder, name, sha256):  # else somebody has put another in its place
        (folder / name).unlink()
        for parent in PurePosixPath(name).parents:
            with contextlib.suppress(OSError):  # holds something else
                if parent.parts:
                    (folder / parent).rmdir()


def _is_as_written(folder: Path, name: str, sha256: str) -> bool:
    try:
        _refuse_links(folder, name)
        return (folder / name).is_file() and file_sha256(folder / name) == sha256
    except (ForeignFolder, OSError):
        return False


def _others(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name not in (MARKER, _NEW)]


def _remove_new(new: Path) -> None:
    if new.is_dir() and not new.is_symlink():
        shutil.rmtree(new)


def _write_marker(folder: Path, maker: str, files: dict[str, str], made_from: Any = None) -> None:
    content = {"made_by": maker, "files": dict(sorted(files.items())), _NOTED: made_from}
    write_atomically(folder / MARKER, (json.dumps(content, indent=1) + "\n").encode())
