import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from qrpo_lib.runs import folders, keys, listing, products, times
from qrpo_lib.runs.records import RECORD
from qrpo_lib.suite import cli


def record(name, seconds, *, key="k", made_for=None, wall=1.0, **others):
    spent = {} if seconds is None else {"processor_seconds": seconds}
    return {"name": name, "key": key, "made_for": made_for, "seconds": wall, "parameters": {}, **spent, **others}


def test_a_notebooks_own_time_is_without_that_of_the_steps_made_for_it():
    """Two notebooks and what they had made: the sum is what all processes took, nothing twice."""
    records = [
        record("notebook-experiments-sweep", 30.0, key="n1", made_for="n1"),
        record("notebook-results-tables", 5.0, key="n2", made_for="n2"),
        record("training", 10.0, made_for="n1"),
        record("training", 12.0, made_for="n1", wall=4.0),
        record("initial_policy", 100.0),  # made alone, by no notebook
        record("of_later", 1.0, made_for="n2"),
    ]
    found = times.phases(records)
    assert [(phase.name, phase.steps, phase.processor_seconds) for phase in found] == [
        ("initial_policy", 1, 100.0),
        ("training", 2, 22.0),
        ("of_later", 1, 1.0),
        (times.NOTEBOOKS, 2, (30.0 - 22.0) + (5.0 - 1.0)),
    ]
    assert found[1].wall_seconds == 5.0
    assert sum(phase.processor_seconds for phase in found) == 30 + 5 + 100


def test_steps_made_by_processes_that_outlive_the_notebook_do_not_make_its_time_negative():
    (_, notebooks) = times.phases([record("notebook-a", 3.0, key="n"), record("training", 50.0, made_for="n")])
    assert notebooks.processor_seconds == 0.0


def test_records_of_before_say_so():
    (old,) = times.phases([record("training", None), record("training", None)])
    assert (old.processor_seconds, old.unknown) == (None, 2)
    (mixed,) = times.phases([record("training", None), record("training", 4.0)])
    assert (mixed.processor_seconds, mixed.unknown, mixed.steps) == (4.0, 1, 2)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(times.render([old]))
    assert "not recorded" in console.export_text()


def test_what_was_made_anew_counts_once():
    old = record("training", 4.0, key="a", parameters={"beta": 1}, started="2026-01-01T00:00:00+00:00")
    new = record("training", 3.0, key="b", parameters={"beta": 1}, started="2026-01-02T00:00:00+00:00")
    other = record("training", 2.0, key="c", parameters={"beta": 2}, started="2026-01-01T00:00:00+00:00")
    assert sorted(one["key"] for one in times.last([new, old, other])) == ["b", "c"]


def test_a_record_has_the_processor_seconds_of_its_step_and_of_its_children(monkeypatch, tmp_path, capsys):
    """Measured against the operating system's count for work of known length; and the command shows it."""
    monkeypatch.setenv("QRPO_RUNS", str(tmp_path))
    monkeypatch.setenv("QRPO_ACCOUNT", str(tmp_path / "accounts" / "abc123.jsonl"))
    busy = "import time\nwhile time.process_time() < 0.4: pass"

    def make(folder):
        subprocess.run([sys.executable, "-c", busy], check=True)

    before = times.processor_seconds()
    folder = folders.complete(keys.Step("training", {}), make)
    spent = times.processor_seconds() - before
    made = json.loads((folder / RECORD).read_text())
    assert 0.4 <= made["processor_seconds"] <= spent
    assert made["made_for"] == "abc123"
    assert made["float32_products"] == products.in_force()
    assert listing.rows()[0].seconds == pytest.approx(made["seconds"])
    assert cli.main(["runs", "--times"]) == 0
    shown = capsys.readouterr().out.split()
    assert {"phase", "training", "all", "100%"} <= set(shown)
