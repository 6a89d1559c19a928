"""What a notebook shows of a figure: the picture and, one click away, the numbers under it.

In JupyterLab a person looks on; an executed copy (papermill, nbconvert) is read later and elsewhere. What needs a
kernel or a file of this machine is shown in the first case alone (`is_live`).
"""

from __future__ import annotations

import html
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    import matplotlib.pyplot as plt
    import pandas as pd

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

# Rows of a table that is opened below its figure; the file has all.
_MOST_ROWS = 100


def kernel():
    """The kernel that this process is, or None where it is none: a script, a test, a terminal."""
    IPython = sys.modules.get("IPython")
    shell = IPython.get_ipython() if IPython else None
    return getattr(shell, "kernel", None)


def is_live() -> bool:
    """Whether a person runs the cell: a frontend that can ask people takes input; papermill and nbconvert do not."""
    running = kernel()
    if running is None:
        return False
    return bool((running.get_parent("shell") or {}).get("content", {}).get("allow_stdin"))


def show_whole_tables() -> None:
    """In a notebook, let data frames show all columns, and texts as long as they are: the page wraps them."""
    if kernel() is not None:
        import pandas as pd

        pd.set_option("display.max_colwidth", None, "display.max_columns", None)


def show_with_data(figure: plt.Figure, data: pd.DataFrame, path: Path) -> None:
    """In a notebook, show a figure and below it what it plots, folded; elsewhere nothing happens.

    path: the file that has all of the data.
    """
    if kernel() is None:
        return
    import matplotlib.pyplot as plt
    from IPython.display import HTML, display

    display(figure)
    plt.close(figure)  # the cell's end would show it again
    display(HTML(folded(data, path, linked=is_live())))


def folded(data: pd.DataFrame, path: Path, *, linked: bool) -> str:
    """A line that opens to the first rows of a table, in HTML without scripts.

    linked: whether the line leads to the file too, from the folder of the running notebook.
    """
    rows = f"{len(data)} row{'' if len(data) == 1 else 's'}"
    more = f"; the first {_MOST_ROWS} here" if len(data) > _MOST_ROWS else ""
    name = html.escape(path.name)
    if linked:
        name = f'<a href="{quote(os.path.relpath(path).replace(os.sep, "/"))}">{name}</a>'
    table = data.head(_MOST_ROWS).to_html(index=False, border=0, float_format="{:.5g}".format)
    box = f'<div tabindex="0" style="max-height: 24em; overflow: auto">{table}</div>'
    return f"<details><summary>The numbers under this figure: {name} ({rows}{more})</summary>{box}</details>"
