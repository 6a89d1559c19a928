"""The live table of jobs, on a terminal or in a notebook."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qrpo_lib.cluster.task import Progress
from qrpo_lib.runs import secrets, terminal

# Larger grids show their counts, and single rows only for what runs or failed.
_MOST_ROWS = 24
_STYLES = {"complete": "green", "running": "cyan", "queued": "dim", "waiting": "dim", "failed": "red", "blocked": "red"}


@contextlib.contextmanager
def live() -> Iterator[Callable[[Progress], None]]:
    """Context that yields a function which shows where the dispatch stands now."""
    console = terminal.make_console()
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
    """Counts of every status, and of what jobs wait for, in one line."""
    counts = [f"{count} {status}" for status in _STYLES if (count := len(progress.names(status)))]
    waiting = Counter(reason for name, reason in progress.reasons.items() if progress.status[name] == "queued")
    reasons = ", ".join(f"{reason}: {count}" for reason, count in waiting.items())
    notes = "; ".join(note for note in (reasons, progress.note) if note)
    return ", ".join(counts) + (f" ({notes})" if notes else "")


def render(progress: Progress) -> Group:
    """The table, with the counts below it."""
    table = Table("step", "job", "status", "what it does, or waits for", box=None, pad_edge=False)
    names = list(progress.tasks)
    if len(names) > _MOST_ROWS:
        names = [name for name in names if progress.status[name] in ("failed", "running") or _is_held(progress, name)]
    for name in names[:_MOST_ROWS]:
        status = progress.status[name]
        jobs = progress.jobs.get(name, [])
        shown = f"{jobs[0]} +{len(jobs) - 1}" if jobs[1:] else "".join(jobs)
        doing = progress.tasks[name].doing() if status == "running" else progress.reasons.get(name, "")
        if _is_held(progress, name):
            doing += f": `scontrol release {jobs[0]}` when its cause is mended"
        first = progress.failures.get(name, "").split("\n")[0]
        table.add_row(name, shown, Text(status, _STYLES[status]), Text(secrets.mask(first) or doing))
    return Group(table, Text(summary(progress)))


def _is_held(progress: Progress, name: str) -> bool:
    """Whether a job waits for a person, as SLURM has it after launches that failed."""
    return progress.status[name] == "queued" and "held" in progress.reasons.get(name, "").lower()
