"""The live table of dispatched jobs, on a terminal or in a notebook."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qrpo_lib.cluster import executors
from qrpo_lib.cluster.task import Progress, Task
from qrpo_lib.runs import secrets, terminal

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

# Larger grids show their counts, and single rows only for what runs or failed.
_MOST_ROWS = 24
_STYLES = {"complete": "green", "running": "cyan", "queued": "dim", "waiting": "dim", "failed": "red", "blocked": "red"}


@contextlib.contextmanager
def live(console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """Context that yields a function which shows where the dispatch stands now."""
    console = console or terminal.make_console()
    if console.is_terminal or console.is_jupyter:
        with Live(console=console, auto_refresh=False) as shown:
            yield lambda progress: shown.update(render(progress), refresh=True)
        return
    last = ""

    def say(progress: Progress) -> None:
        nonlocal last
        now = summary(progress)
        if now != last:  # a line for each change, where nothing can be drawn over
            console.print(now, soft_wrap=True, highlight=False)
        last = now

    yield say


def summary(progress: Progress) -> str:
    """Counts of every status, in one line."""
    counts = [f"{progress.count(status)} {status}" for status in _STYLES if progress.count(status)]
    return ", ".join(counts) + (f" ({progress.note})" if progress.note else "")


def render(progress: Progress) -> Group:
    """The table, with the counts below it."""
    table = Table("step", "job", "status", "what it does", box=None, pad_edge=False)
    names = list(progress.tasks)
    if len(names) > _MOST_ROWS:
        names = [name for name in names if progress.status[name] in ("failed", "running")][:_MOST_ROWS]
    for name in names:
        status = progress.status[name]
        jobs = progress.jobs.get(name, [])
        shown = f"{jobs[0]} +{len(jobs) - 1}" if jobs[1:] else "".join(jobs)
        doing = _doing(progress.tasks[name]) if status == "running" else ""
        first = progress.details.get(name, "").split("\n")[0]
        table.add_row(name, shown, Text(status, _STYLES[status]), Text(secrets.mask(first) or doing))
    return Group(table, Text(summary(progress)))


def _doing(task: Task) -> str:
    try:
        now = json.loads(executors.status_path(task.step).read_text(encoding="utf-8"))
        return f"{now['text']} {now['done']}/{now['total']} {now['detail']}".rstrip()
    except (OSError, ValueError, TypeError, LookupError):  # it is being written, or something else lies there
        return ""
