"""A project outside a checkout: the notebooks that came with the package, copied into a folder of one's own."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

from qrpo_lib.runs import paths
from qrpo_lib.runs.errors import InputError

NOTEBOOKS = "notebooks"
_SMOL = "requirements-smol.txt"


def shipped() -> Path:
    """The folder of what comes with the package: inside of it where it is installed, else its checkout.

    Raises InputError where neither has notebooks.
    """
    for folder in (paths.PACKAGE / "shipped", paths.PACKAGE.parent):
        if (folder / NOTEBOOKS).is_dir():
            return folder
    raise InputError(f"There are no notebooks with the package in {paths.PACKAGE}: install it again.")


def create(folder: Path) -> list[Path]:
    """Copy the notebooks into `folder`, so that `qrpo reproduce` runs there; returns what was written.

    What is there already and the same stays. Raises InputError for a file that is there and another, before anything is
    written.
    """
    source = shipped()
    if folder.is_file():
        raise InputError(f"{folder} is a file: name a folder.")
    files = sorted(path for path in (source / NOTEBOOKS).rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    files += [source / _SMOL] if (source / _SMOL).is_file() else []
    wanted = {path: folder / path.relative_to(source) for path in files}
    others = [new for old, new in wanted.items() if new.exists() and not filecmp.cmp(old, new, shallow=False)]
    if others:
        raise InputError(f"{others[0]} is there already and differs from the package's: choose an empty folder.")
    written = []
    for old, new in wanted.items():
        if not new.exists():
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(old, new)
            written.append(new)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    return written
