"""Where the time of the last reproduction went, from the records of its run folders: `qrpo runs --times`.

    counted = times.last(computed)            # the newest record of each step
    times.phases(counted)                     # one `Phase` for each kind of step, in the order of the pipeline
    times.render(times.phases(counted), times.total(counted))

Processor time is what tells where work is. Elapsed time is by the clock: what is made at once counts a second once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qrpo_lib.runs import pipeline

if TYPE_CHECKING:
    from rich.table import Table


NOTEBOOKS = "notebooks"


@dataclass(frozen=True)
class Phase:
    """All steps of one kind, or all notebooks: how many, their processor seconds, and the seconds by the clock.

    processor_seconds: of notebooks those of their own work, without the steps that were made for them. None where no
        record says it.
    elapsed_seconds: during which at least one of them was being made; a notebook also while it waits for steps. None
        where no record says it.
    unknown: how many of the records do not say how much processor time was taken.
    """

    name: str
    steps: int
    processor_seconds: float | None
    elapsed_seconds: float | None
    unknown: int = 0


def phases(records: Iterable[Mapping[str, Any]]) -> list[Phase]:
    """The phases of what is there, in the order of the pipeline, notebooks last."""
    by_phase: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_phase.setdefault(NOTEBOOKS if _is_notebook(record) else record["name"], []).append(record)
    names = sorted(by_phase, key=lambda name: (name == NOTEBOOKS, pipeline.place(name), name))
    return [_phase(name, by_phase[name]) for name in names]


def total(records: Iterable[Mapping[str, Any]]) -> Phase:
    """All of them as one phase."""
    return _phase("all", list(records))


def last(records: Iterable[Mapping[str, Any]], among: Iterable[Mapping[str, Any]] = ()) -> list[Mapping[str, Any]]:
    """The newest record of each step: what was made again replaces what was there before.

    Two records are of the same step if name, parameters and seed are the same and their inputs are the same steps,
    whatever code made them and those.

    Parameters
    ----------
    records: from which the newest are taken.
    among: further records, in which inputs are looked up. One that is nowhere is told by its key.
    """
    records = list(records)
    by_folder = {(record["name"], record["key"]): record for record in (*among, *records)}
    identities: dict[tuple[str, str], str] = {}
    newest: dict[str, Mapping[str, Any]] = {}
    for record in records:
        what = _identity(record, by_folder, identities)
        if what not in newest or str(record.get("started")) >= str(newest[what].get("started")):
            newest[what] = record
    return list(newest.values())


def render(every: Sequence[Phase], all_together: Phase) -> Table:
    """A line for each phase and one for all; processor time in seconds, its share, that of one step, elapsed time."""
    from rich.table import Table

    in_all = all_together.processor_seconds
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("phase", no_wrap=True)
    for header in ("steps", "processor s", "share", "a step", "elapsed s"):
        table.add_column(header, justify="right", no_wrap=True)
    for phase in (*every, all_together):
        seconds, share, one = phase.processor_seconds, "", ""
        if seconds is not None and phase is not all_together:
            share = f"{seconds / in_all:.0%}" if in_all else ""
            one = _shown(seconds / (phase.steps - phase.unknown))
        note = f" ({phase.unknown} not recorded)" if seconds is not None and phase.unknown else ""
        shown = str(phase.steps), _shown(seconds), share, one, _shown(phase.elapsed_seconds)
        table.add_row(phase.name + note, *shown, style="bold" if phase is all_together else None)
    return table


def _identity(
    record: Mapping[str, Any],
    by_folder: Mapping[tuple[str, str], Mapping[str, Any]],
    identities: dict[tuple[str, str], str],
) -> str:
    """What tells a step from others, but for code; `identities` holds those that are known, by name and key."""
    folder = (record["name"], record["key"])
    if folder not in identities:
        identities[folder] = str(folder)  # should damaged records go round in a circle
        inputs = record.get("inputs")
        sources = sorted(inputs.items()) if isinstance(inputs, dict) else []
        told = [
            _identity(by_folder[source], by_folder, identities) if source in by_folder else str(source)
            for source in ((name, str(key)) for name, key in sources)
        ]
        what = json.dumps([record["name"], record.get("parameters"), told, record.get("seed")], sort_keys=True)
        identities[folder] = hashlib.sha256(what.encode()).hexdigest()
    return identities[folder]


def _phase(name: str, records: Sequence[Mapping[str, Any]]) -> Phase:
    known = [seconds for record in records if (seconds := _processor_seconds(record)) is not None]
    spans = [span for record in records if (span := _span(record)) is not None]
    return Phase(name, len(records), sum(known) if known else None, _covered(spans), len(records) - len(known))


def _is_notebook(record: Mapping[str, Any]) -> bool:
    return pipeline.is_notebook(record["name"])


def _processor_seconds(record: Mapping[str, Any]) -> float | None:
    # Before kernels told what they took, a notebook's record had the time of the process that waited for its kernel.
    if _is_notebook(record) and record.get("measured") != "kernel":
        return None
    return _number(record.get("processor_seconds"))


def _span(record: Mapping[str, Any]) -> tuple[float, float] | None:
    """From when to when it was made, in seconds since 1970."""
    seconds = _number(record.get("seconds"))
    try:
        start = datetime.fromisoformat(record["started"]).timestamp()
    except (LookupError, TypeError, ValueError, OverflowError):
        return None
    return None if seconds is None else (start, start + seconds)


def _covered(spans: Iterable[tuple[float, float]]) -> float | None:
    """The length of what the spans cover together; None if there are none."""
    covered, end = None, -math.inf
    for start, stop in sorted(spans):
        covered = (covered or 0.0) + max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and value >= 0 else None


def _shown(seconds: float | None) -> str:
    if seconds is None:
        return "not recorded"
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}"
