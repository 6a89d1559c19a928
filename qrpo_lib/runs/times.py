"""Where the time of the last reproduction went, from the records of its run folders: `qrpo runs --times`.

    times.phases()          # one `Phase` for each kind of step, in the order of the pipeline
    times.render(...)       # the table

Processor time is what tells where work is: wall time of steps that share a machine counts the same second twice.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib.runs import pipeline

if TYPE_CHECKING:
    from rich.table import Table


NOTEBOOKS = "notebooks"


@dataclass(frozen=True)
class Phase:
    """All steps of one kind, or all notebooks: how many, their processor seconds, and their wall seconds in sum.

    processor_seconds: of notebooks, without what the steps took that were made in them. None where no record says it.
    unknown: how many of the records do not say it: they are of before it was recorded.
    """

    name: str
    steps: int
    processor_seconds: float | None
    wall_seconds: float
    unknown: int = 0


def processor_seconds() -> float:
    """Seconds that this process and its children that ended have computed, the kernel's work for them included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def made_for() -> str | None:
    """The key of the notebook for which this process makes what it makes, under `qrpo reproduce`."""
    noted = os.environ.get("QRPO_ACCOUNT")  # `qrpo_lib.runs.account`: one file for each notebook, called by its key
    return Path(noted).stem if noted else None


def phases(records: Iterable[Mapping[str, Any]]) -> list[Phase]:
    """The phases of what is there, in the order of the pipeline, notebooks last.

    A notebook's own time is what its process and their children took less the steps that were made for it then.
    """
    records = list(records)
    within: dict[str, float] = {}
    for record in records:
        if not _is_notebook(record) and record.get("made_for"):
            within[record["made_for"]] = within.get(record["made_for"], 0.0) + (_seconds(record) or 0.0)
    by_phase: dict[str, list[tuple[float | None, float]]] = {}
    for record in records:
        seconds = _seconds(record)
        if _is_notebook(record) and seconds is not None:
            seconds = max(0.0, seconds - within.get(record["key"], 0.0))
        name = NOTEBOOKS if _is_notebook(record) else record["name"]
        by_phase.setdefault(name, []).append((seconds, float(record.get("seconds") or 0.0)))
    names = sorted(by_phase, key=lambda name: (name == NOTEBOOKS, pipeline.place(name), name))
    return [_phase(name, by_phase[name]) for name in names]


def last(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The newest record of each step: what was made again replaces what was there before."""
    newest: dict[str, Mapping[str, Any]] = {}
    for record in records:
        what = str((record["name"], record.get("parameters"), sorted(record.get("inputs") or {}), record.get("seed")))
        if what not in newest or str(record.get("started")) >= str(newest[what].get("started")):
            newest[what] = record
    return list(newest.values())


def render(every: Iterable[Phase]) -> Table:
    """A line for each phase and one for all; processor time in seconds, its share, that of one step, wall time."""
    from rich.table import Table

    every = list(every)
    total = sum(phase.processor_seconds or 0.0 for phase in every)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("phase", no_wrap=True)
    for header in ("steps", "processor s", "share", "a step", "wall s"):
        table.add_column(header, justify="right", no_wrap=True)
    for phase in every:
        seconds = phase.processor_seconds
        known = phase.steps - phase.unknown
        shown = ["not recorded", "", ""]
        if seconds is not None:
            shown = [_shown(seconds), f"{seconds / total:.0%}" if total else "", _shown(seconds / known)]
        note = f" ({phase.unknown} not recorded)" if seconds is not None and phase.unknown else ""
        table.add_row(phase.name + note, str(phase.steps), *shown, _shown(phase.wall_seconds))
    steps, wall = sum(phase.steps for phase in every), sum(phase.wall_seconds for phase in every)
    table.add_row("all", str(steps), _shown(total), "", "", _shown(wall), style="bold")
    return table


def _phase(name: str, of_phase: list[tuple[float | None, float]]) -> Phase:
    known = [seconds for seconds, _ in of_phase if seconds is not None]
    wall = sum(wall for _, wall in of_phase)
    return Phase(name, len(of_phase), sum(known) if known else None, wall, len(of_phase) - len(known))


def _is_notebook(record: Mapping[str, Any]) -> bool:
    return pipeline.is_notebook(record["name"])


def _seconds(record: Mapping[str, Any]) -> float | None:
    value = record.get("processor_seconds")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _shown(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}"
