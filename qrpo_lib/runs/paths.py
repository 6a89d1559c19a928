"""Where everything lies: the project, its run folders, and what is kept beside them."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from qrpo_lib.runs import code_version
from qrpo_lib.runs.code_version import own_package

PACKAGE = own_package().root


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


code_version.remember_in = _code_versions_folder


def figures_folder(figures: str | Path) -> Path:
    """Where a notebook puts its figures: a relative path is below the project, wherever the notebook runs."""
    return project_root() / figures
