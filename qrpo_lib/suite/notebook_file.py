"""Reading a notebook's file without the notebook libraries, whose import takes longer than a command should."""

from __future__ import annotations

import json
from pathlib import Path

from qrpo_lib.runs.errors import InputError


class NotebookFileError(InputError):
    """A file is no notebook of format 4."""


def cells(path: Path) -> list[tuple[str, str]]:
    """(type, source) of every cell of a notebook of format 4. Raises NotebookFileError, or OSError without the file."""
    return [(kind, source) for kind, source, _ in _cells(path)]


def tagged(path: Path, tag: str) -> str | None:
    """Source of the first code cell with that tag, None without one. Raises as `cells`."""
    return next((source for kind, source, tags in _cells(path) if kind == "code" and tag in tags), None)


def _cells(path: Path) -> list[tuple[str, str, list[str]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [
            (cell["cell_type"], "".join(cell["source"]), cell.get("metadata", {}).get("tags", []))
            for cell in content["cells"]
        ]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise NotebookFileError(f"{path} is not a notebook of format 4: restore it, or save it anew.") from None
