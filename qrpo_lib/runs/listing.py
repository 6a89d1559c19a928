"""What each run folder is, from its record alone: `qrpo runs`.

    rows = listing.rows()
    listing.matching(rows, names=["training"], algorithm="qrpo", beta=0.1)

A row says by which algorithm, in which setting and with which values a model was trained, on which task and from which
policy (found through the records of its inputs), its seed, when it was made and how long that took.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qrpo_lib.runs import cleaning, paths, pipeline
from qrpo_lib.runs.records import RECORD, RESTORED

# What has a table of its own; and what is told once, above it, where all rows agree.
_GROUPED_BY = ("task", "policy", "setting")
_TOLD_ONCE = ("num_ref_rewards", "transform", "partition")
_CELL = ("beta", "learning_rate", "num_ref_rewards", "transform", "partition")
_WRAPPED = ("transform", "partition", "detail")
_HEADERS = {"learning_rate": "rate", "num_ref_rewards": "n", "folder": "run folder", "started": "made (UTC)"}
_HEADERS |= {"seconds": "took", "restored": "restored from"}


@dataclass(frozen=True)
class RunRow:
    """One run folder; None where a value does not apply or cannot be known any more.

    num_ref_rewards, transform, partition: QRPO's.
    detail: of a notebook its arm and parameters, of a round of iterative training its plan and number.
    started: ISO 8601, UTC.   seconds: wall time.   Of restored results those of the run that made them.
    restored: the committed record that the folder was restored from.
    """

    folder: str
    name: str
    key: str
    algorithm: str | None = None
    setting: str | None = None
    beta: float | None = None
    learning_rate: float | None = None
    num_ref_rewards: int | None = None
    transform: str | None = None
    partition: str | None = None
    seed: int | None = None
    task: str | None = None
    policy: str | None = None
    detail: str | None = None
    started: str | None = None
    seconds: float | None = None
    restored: str | None = None


COLUMNS = tuple(field.name for field in fields(RunRow))


def rows(records: dict[str, dict[str, Any]] | None = None) -> list[RunRow]:
    """Every run folder whose record can be read, by kind of step, then by what tells those of one kind apart.

    records: `recorded()`, if it is known already.
    """
    records = recorded() if records is None else records
    unsorted = [_row(folder, record, records) for folder, record in records.items()]

    def place(row: RunRow) -> tuple:
        values = [getattr(row, name) for name in (*_GROUPED_BY, "algorithm", *_CELL, "seed", "started", "folder")]
        return pipeline.place(row.name), row.name, [(value is not None, value or 0) for value in values]

    return sorted(unsorted, key=place)


def matching(candidates: Iterable[RunRow], names: Sequence[str] = (), **wanted: Any) -> list[RunRow]:
    """The rows of these steps or folders (a prefix of the name is enough) whose columns have the wanted values.

    None is no wish. Numbers are equal up to rounding, text whatever its case.
    """
    wanted = {name: value for name, value in wanted.items() if value is not None}
    return [
        row
        for row in candidates
        if (not names or any(row.name == name or row.folder.startswith(name) for name in names))
        and all(_equal(getattr(row, name), value) for name, value in wanted.items())
    ]


def as_json(listed: Sequence[RunRow]) -> str:
    """A list of objects, one for each row, with all columns."""
    return json.dumps([asdict(row) for row in listed], indent=2)


def as_csv(listed: Sequence[RunRow]) -> str:
    """A header and a line for each row, all columns; what does not apply is empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in listed)
    return stream.getvalue().rstrip("\n")


def render(listed: Sequence[RunRow]) -> RenderableType:
    """A table for each kind of step, task, policy and setting; what all its rows share is told once, above it."""
    parts: list[RenderableType] = []
    groups: dict[tuple, list[RunRow]] = {}
    for row in listed:
        kind = "notebook" if pipeline.is_notebook(row.name) else row.name
        groups.setdefault((kind, *(getattr(row, name) for name in _GROUPED_BY)), []).append(row)
    for (kind, *_), of_group in groups.items():
        shared = _shared(of_group)
        told = "".join(f", {_HEADERS.get(name, name)} {value}" for name, value in shared.items())
        parts += [Text(f"{kind}: {len(of_group)}{told}", style="bold"), _table(of_group, shared), Text("")]
    return Group(*parts[:-1])


def _table(of_group: Sequence[RunRow], shared: dict[str, str]) -> Table:
    names = [name for name in COLUMNS if name not in (*shared, "name", "key")]
    names = [name for name in names if any(getattr(row, name) is not None for row in of_group)]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for name in names:
        # The folder's name is copied, and a number that is broken in two is another number.
        table.add_column(_HEADERS.get(name, name), no_wrap=name not in _WRAPPED, overflow="fold")
    for row in of_group:
        table.add_row(*(Text(_shown(name, getattr(row, name))) for name in names))
    return table


def _shared(of_group: Sequence[RunRow]) -> dict[str, str]:
    """What the group has in common: what it is grouped by, and what all rows that have a value agree on."""
    shared = {}
    for name in (*_GROUPED_BY, *_TOLD_ONCE):
        values = {value for row in of_group if (value := getattr(row, name)) is not None}
        if len(values) == 1:
            shared[name] = _shown(name, values.pop())
    return shared


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "started":
        try:
            return datetime.fromisoformat(value).strftime("%m-%d %H:%M")
        except ValueError:
            return str(value)
    if name == "seconds":
        return f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _equal(value: Any, wanted: Any) -> bool:
    if value is None:
        return False
    if isinstance(wanted, float):
        return math.isclose(value, wanted, rel_tol=1e-6)
    return str(value).casefold() == str(wanted).casefold()


def recorded() -> dict[str, dict[str, Any]]:
    """The record of every run folder whose record can be read, by the folder's name."""
    folders = (path.parent for path in sorted(paths.runs_folder().glob(f"*/{RECORD}")))
    return {folder.name: record for folder in folders if (record := cleaning.record_of(folder))}


def _row(folder: str, record: dict[str, Any], records: dict[str, dict[str, Any]]) -> RunRow:
    parameters = _dict(record.get("parameters"))
    loss, training = _dict(parameters.get("loss")), _dict(parameters.get("training"))
    is_training = bool(training)
    return RunRow(
        folder=folder,
        name=record["name"],
        key=record["key"],
        # Rounds of iterative training are QRPO's and do not name it.
        algorithm=_text(parameters.get("algorithm")) or ("qrpo" if is_training and "plan" in parameters else None),
        setting=_text(training.get("setting")) if "plan" not in parameters else None,
        beta=_number(loss.get("beta")),
        learning_rate=_number(loss.get("learning_rate")),
        num_ref_rewards=_integer(loss.get("num_ref_rewards")),
        transform=_transform(loss.get("transform")),
        partition=_text(loss.get("partition")),
        seed=_integer(parameters.get("seed", record.get("seed"))),
        task=_inherited(record, records, _task),
        policy=_policy_of(record, records),
        detail=_detail(parameters),
        started=_text(record.get("started")),
        seconds=_number(record.get("seconds")),
        restored=_text(_dict(record.get(RESTORED)).get("from")),
    )


def _policy_of(record: dict[str, Any], records: dict[str, dict[str, Any]]) -> str | None:
    if pipeline.is_notebook(record["name"]):
        return None
    policy = _inherited(record, records, _policy)
    return f"{policy}, fine-tuned" if policy and "sft" in _dict(record.get("inputs")) else policy


def _inherited(record: dict[str, Any], records: dict[str, dict[str, Any]], read) -> str | None:
    """What `read` finds in a record, or in that of the nearest of its inputs."""
    waiting, seen = [record], set()
    while waiting:
        current = waiting.pop(0)
        value = read(_dict(current.get("parameters")))
        if value:
            return value
        if pipeline.is_notebook(current["name"]):  # its arm is told; its inputs may be of several
            return None
        names = {f"{name}-{key}" for name, key in _dict(current.get("inputs")).items()} - seen
        seen |= names
        waiting += [records[name] for name in sorted(names) if name in records]
    return None


def _task(parameters: dict[str, Any]) -> str | None:
    task = _dict(parameters.get("task"))
    name, bonus = _text(task.get("name")), _number(task.get("length_bonus"))
    return f"{name}, length bonus {bonus:g}" if name and bonus else name


def _policy(parameters: dict[str, Any]) -> str | None:
    policy = _dict(parameters.get("policy"))
    return _text(policy.get("model")) or _text(policy.get("source"))


def _detail(parameters: dict[str, Any]) -> str | None:
    if "notebook" in parameters:
        given = {name: value for name, value in _dict(parameters.get("parameters")).items() if name != "figures"}
        return ", ".join(f"{name} {value}" for name, value in given.items()) or None
    if "plan" in parameters:
        plan = ", ".join(f"{name} {value}" for name, value in _dict(parameters["plan"]).items())
        return f"round {parameters.get('round')} of {plan}"
    return None


def _transform(value: Any) -> str | None:
    if isinstance(value, dict):
        numbers = ", ".join(f"{number:g}" for number in map(_number, value.values()) if number is not None)
        return f"{value.get('name')}({numbers})"
    return _text(value)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
