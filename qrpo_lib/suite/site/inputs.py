"""What a report is made of, in short form: by it `qrpo report` sees that nothing has changed and has nothing to do.

    before = inputs.digest("tiny", jobs)
    ...                                            # the pages are written; `Pages.linked` notes what they lead to
    inputs.are_same(noted, before, root)           # the next time: noted is {"digest": before, "linked": pages.linked}

Files count by size and time of change. Of notebooks the keys count, so that settings and data of a profile do too.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from qrpo_lib.runs import paths, pipeline
from qrpo_lib.suite import notebooks

# Folders and files of the project that pages are written from, whether they are linked to or not.
_FOLDERS, _FILES = ("docs", "figures", "notebooks"), ("CONTRIBUTING.md", "README.md")
# What turns texts into pages; another version may do it another way.
_MAKERS = ("mkdocs", "mkdocs-material", "markdown", "pymdown-extensions", "pygments", "latex2mathml", "nbformat")

State = list[int] | str | None  # of a file, of a folder, of what is not there


def digest(profile_name: str, jobs: Iterable[notebooks.Job]) -> str:
    """A hash of all that determines a report but what its pages link to.

    The keys of other profiles' notebooks are not computed, which would take seconds: they follow from the package, the
    project's notebooks and the environment, which count, as do all executed notebooks that there are.

    Parameters
    ----------
    profile_name: as it was given.
    jobs: the profile's.
    """
    root, runs = paths.project_root(), paths.runs_folder()
    executed = sorted(runs.glob(f"{pipeline.NOTEBOOK}*/{notebooks.EXECUTED}"))
    determinants = {
        "profile": [profile_name, str(root), str(runs)],
        "jobs": [[job.id, job.step.key] for job in jobs],
        "executed": {path.parent.name: state(path) for path in executed},
        "project": {name: _tree(root / name) for name in _FOLDERS} | {name: state(root / name) for name in _FILES},
        "package": _tree(paths.PACKAGE),
        "versions": {name: _version(name) for name in _MAKERS} | {"python": sys.version},
        "variables": {name: value for name, value in os.environ.items() if name.startswith("QRPO_")},
    }
    return hashlib.sha256(json.dumps(determinants, sort_keys=True).encode()).hexdigest()


def are_same(noted: Any, now: str, root: Path) -> bool:
    """Whether a report was made of what there is now.

    Parameters
    ----------
    noted: what its folder says of that, in whatever form.
    now: the digest.
    root: the project's folder.
    """
    linked = noted.get("linked") if isinstance(noted, dict) else None
    if not isinstance(linked, dict):
        return False
    return noted == {"digest": now, "linked": {name: state(root / name) for name in linked}}


def state(path: Path) -> State:
    """What tells whether a file has changed, or what a folder holds directly; of a path that is not there None."""
    try:
        found = path.stat()
        if not path.is_dir():
            return [found.st_size, found.st_mtime_ns]
        children = [child for child in path.iterdir() if not child.name.startswith((".", "__pycache__"))]
        return _hash([child.name, state(child) if not child.is_dir() else "folder"] for child in children)
    except OSError:
        return None


def _tree(folder: Path) -> str:
    """A hash of all files below a folder; links to other folders are not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        found.append([place, folders, [[name, state(Path(place, name))] for name in sorted(files)]])
    return _hash(found)


def _hash(values: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps(sorted(values)).encode()).hexdigest()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # the build will say so
        return ""
