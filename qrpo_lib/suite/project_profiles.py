"""The profiles of a project, so that `qrpo clean` keeps what any of them needs.

    project_profiles.needed_folders(["tiny"])

These are the suite's own; every profile in a .toml file of the project, of its sub-folders (`profiles/`, say) and of
the folder that the command runs in; and every file by which a notebook that is in the runs folder was executed.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import paths, pipeline, records
from qrpo_lib.runs.errors import InputError
from qrpo_lib.suite import notebooks

# A .toml file with one of these at its top level is meant as a profile; `pyproject.toml` and the like have none.
_MARKS = {"extends", "arms"}
_MARKED_LINE = re.compile(r"^\s*(extends\s*=|\[arms\b)", re.MULTILINE)


class UnreadableProfile(InputError):
    """A profile of the project cannot be loaded, so that it cannot be told what it needs."""


def needed_folders(further: Iterable[str] = ()) -> set[str]:
    """Names of the run folders that a profile of the project, or one of `further`, makes or reads.

    Raises
    ------
    UnreadableProfile
        A file that is meant as a profile cannot be loaded.
    """
    needed: set[str] = set()
    for profile in dict.fromkeys([*profiles.names(), *further]):
        needed |= _needed_by(profile)
    bases, failed = set(), {}
    for path in files():
        try:
            bases.add(_base(path))
            needed |= _needed_by(str(path))
        except (ValueError, OSError) as error:
            failed[path] = error
    for path, error in failed.items():
        if path not in bases:  # what is there to be extended alone may lack something
            raise UnreadableProfile(
                f"The profile {path} cannot be loaded, so that it cannot be told what it needs: {error} Mend it or "
                "move it away, or name what to remove with --run."
            )
    return needed


def files() -> list[Path]:
    """The .toml files that are meant as profiles, beside the suite's own."""
    root = paths.project_root()
    candidates = [*_below(root), *sorted(Path.cwd().glob("*.toml")), *_of_executed_notebooks()]
    own = profiles.FOLDER.resolve()
    every = dict.fromkeys(path.resolve() for path in candidates)
    return [path for path in every if path.is_file() and path.parent != own and _is_profile(path)]


def _needed_by(profile: str) -> set[str]:
    return notebooks.needed_folders(notebooks.jobs(profile))


def _below(root: Path) -> Iterator[Path]:
    """Files of the project; not those of hidden folders, of environments and of the runs folder."""
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not (here / name / "pyvenv.cfg").exists()
            and (here / name).resolve() != paths.runs_folder()
        )
        yield from (here / name for name in sorted(names) if name.endswith(".toml"))


def _of_executed_notebooks() -> Iterator[Path]:
    """Profiles' files by the parameters in the records of executed notebooks."""
    for record in sorted(paths.runs_folder().glob(f"{pipeline.NOTEBOOK}*/{records.RECORD}")):
        try:
            profile = json.loads(record.read_text(encoding="utf-8"))["parameters"]["parameters"]["profile"]
        except (OSError, ValueError, LookupError, TypeError):
            continue
        if isinstance(profile, str) and profile.endswith(".toml"):
            yield Path(profile)


def _is_profile(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return False
    try:
        return bool(_MARKS & set(tomllib.loads(text)))
    except tomllib.TOMLDecodeError:
        return bool(_MARKED_LINE.search(text))


def _base(path: Path) -> Path | None:
    extended = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("extends")
    return (path.parent / extended).resolve() if isinstance(extended, str) else None
