"""Reading a notebook's file without the notebook libraries, whose import takes longer than a command should."""

from __future__ import annotations

import json
from pathlib import Path

from qrpo_lib.errors import InputError

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.code_version`)


class NotebookFileError(InputError):
    """A file is no notebook of format 4."""


def cells(path: Path) -> list[tuple[str, str]]:
    """(type, source) of every cell of a notebook of format 4. Raises NotebookFileError, or OSError without the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = [(cell["cell_type"], "".join(cell["source"])) for cell in content["cells"]]
    except (ValueError, LookupError, TypeError):
        raise NotebookFileError(f"{path} is not a notebook of format 4: restore it, or save it anew.") from None
    return found
