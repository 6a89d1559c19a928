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


def test_the_newest_of_two_that_differ_in_nothing_is_taken_and_differences_are_kept():
    first = record("training", 1.0, key="a", inputs={"sft": "1"}, seed=1, started="2026-01-01")
    assert times.last([first, first | {"key": "b"}])[0]["key"] == "b"  # made in the same second: the later one
    assert len(times.last([first, first | {"seed": 2}])) == 2
    assert len(times.last([first, first | {"inputs": {"sft": "1", "x": "2"}}])) == 2
    assert len(times.last([first, first | {"name": "sft"}])) == 2
    # What was made anew because its input was: one step, though the input's key is another.
    assert len(times.last([first, first | {"inputs": {"sft": "9"}}])) == 1
    assert len(times.last([first | {"inputs": None}, first | {"inputs": {}}])) == 1


def test_a_record_that_says_nothing_takes_no_time_from_its_notebook():
    records = [record("notebook-a", 5.0, key="n"), record("training", None, made_for="n", wall=None)]
    training, notebook = times.phases([*records, record("notebook-b", 2.0, key="m")])
    assert (notebook.name, notebook.steps, notebook.processor_seconds) == (times.NOTEBOOKS, 2, 7.0)
    assert (training.processor_seconds, training.wall_seconds, training.unknown) == (None, 0.0, 1)


def rendered(*phases):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(times.render(phases))
    return [line.split("  ") for line in console.export_text().splitlines()]


def cells(line):
    return [cell.strip() for cell in line if cell.strip()]


def test_the_table_has_a_line_for_each_phase_and_one_for_all():
    lines = rendered(
        times.Phase("sft", 4, 9.96, 12.0),
        times.Phase("training", 3, 1230.04, 2000.0, unknown=1),
        times.Phase("old", 2, None, 10.0, unknown=2),
    )
    assert [cells(line) for line in lines] == [
        ["phase", "steps", "processor s", "share", "a step", "wall s"],
        ["sft", "4", "10.0", "1%", "2.5", "12"],
        ["training (1 not recorded)", "3", "1,230", "99%", "615", "2,000"],
        ["old", "2", "not recorded", "10"],
        ["all", "9", "1,240", "2,022"],
    ]
    assert len({sum(map(len, line)) + 2 * (len(line) - 1) for line in lines}) == 1  # numbers end below each other
    [_, none, every] = [cells(line) for line in rendered(times.Phase("sft", 1, 0.0, 0.0))]
    assert (none, every) == (["sft", "1", "0.0", "0.0", "0.0"], ["all", "1", "0.0", "0.0"])


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
