import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from qrpo_lib.runs import folders, keys, listing, products, times, usage
from qrpo_lib.runs.records import RECORD
from qrpo_lib.suite import cli


def record(name, seconds, *, key="k", wall=1.0, **others):
    spent = {} if seconds is None else {"processor_seconds": seconds}
    measured = "kernel" if name.startswith("notebook-") else "process"
    return {"name": name, "key": key, "seconds": wall, "parameters": {}, "measured": measured, **spent, **others}


def at(second, wall, **others):
    """When a record was made and how long that took."""
    return {"started": f"2026-01-01T00:{second // 60:02}:{second % 60:02}+00:00", "wall": wall, **others}


def test_the_phases_are_in_the_order_of_the_pipeline_with_notebooks_last():
    """A notebook's record has its own work alone (tests/suite/test_execution.py), so the sum has nothing twice."""
    records = [
        record("notebook-experiments-sweep", 8.0, key="n1"),
        record("training", 10.0),
        record("of_later", 1.0),
        record("notebook-results-tables", 4.0, key="n2"),
        record("training", 12.0),
        record("initial_policy", 100.0),
    ]
    found = times.phases(records)
    assert [(phase.name, phase.steps, phase.processor_seconds) for phase in found] == [
        ("initial_policy", 1, 100.0),
        ("training", 2, 22.0),
        ("of_later", 1, 1.0),
        (times.NOTEBOOKS, 2, 12.0),
    ]
    everything = times.total(records)
    assert (everything.steps, everything.processor_seconds) == (6, 135.0)


def test_an_older_notebooks_record_does_not_say_what_its_kernel_took():
    """It has the time of the process that waited for the kernel."""
    old = record("notebook-a", 0.25)
    del old["measured"]
    [phase] = times.phases([old])
    assert (phase.processor_seconds, phase.unknown) == (None, 1)
    [phase] = times.phases([old, record("notebook-b", 3.0)])
    assert (phase.processor_seconds, phase.unknown) == (3.0, 1)


def test_elapsed_time_counts_what_was_made_at_once_once():
    """Two trainings side by side, one after a pause, and the notebook that waited for all of them."""
    records = [
        record("training", 1.0, **at(10, 20.0)),  # 10 to 30
        record("training", 1.0, **at(20, 20.0)),  # 20 to 40
        record("training", 1.0, **at(21, 2.0)),  # within these
        record("training", 1.0, **at(100, 5.5)),  # 100 to 105.5
        record("notebook-a", 1.0, **at(5, 40.0)),  # 5 to 45
    ]
    training, notebooks = times.phases(records)
    assert training.elapsed_seconds == pytest.approx(30 + 5.5)
    assert notebooks.elapsed_seconds == pytest.approx(40)
    assert times.total(records).elapsed_seconds == pytest.approx(40 + 5.5)


@pytest.mark.parametrize("wrong", ["soon", None, [], {"a": 1}, True, -1.0, float("nan"), float("inf")])
def test_what_a_damaged_record_says_is_not_known(wrong):
    damaged = record("training", wrong, wall=wrong, started="2026-01-01T00:00:00+00:00", inputs=wrong, parameters=wrong)
    [counted] = times.last([damaged])
    [phase] = times.phases([counted])
    assert (phase.steps, phase.processor_seconds, phase.elapsed_seconds, phase.unknown) == (1, None, None, 1)
    [phase] = times.phases([record("training", 1.0, started=wrong)])
    assert (phase.processor_seconds, phase.elapsed_seconds) == (1.0, None)


def test_records_of_before_say_so():
    (old,) = times.phases([record("training", None), record("training", None)])
    assert (old.processor_seconds, old.unknown) == (None, 2)
    (mixed,) = times.phases([record("training", None), record("training", 4.0)])
    assert (mixed.processor_seconds, mixed.unknown, mixed.steps) == (4.0, 1, 2)
    [_, line, every] = [cells(line) for line in rendered(old, together=times.total([record("training", None)]))]
    assert (line, every[:3]) == (["training", "2", "not recorded", "not recorded"], ["all", "1", "not recorded"])


def test_what_was_made_anew_counts_once():
    old = record("training", 4.0, key="a", parameters={"beta": 1}, started="2026-01-01T00:00:00+00:00")
    new = record("training", 3.0, key="b", parameters={"beta": 1}, started="2026-01-02T00:00:00+00:00")
    other = record("training", 2.0, key="c", parameters={"beta": 2}, started="2026-01-01T00:00:00+00:00")
    assert sorted(one["key"] for one in times.last([new, old, other])) == ["b", "c"]


def test_the_newest_of_two_that_differ_in_nothing_is_taken_and_differences_are_kept():
    first = record("training", 1.0, key="a", inputs={"sft": "1"}, seed=1, started="2026-01-01")
    assert times.last([first, first | {"key": "b"}])[0]["key"] == "b"  # made in the same second: the later one
    others = ({"seed": 2}, {"inputs": {"sft": "1", "x": "2"}}, {"name": "sft"}, {"inputs": {"sft": "9"}})
    for other in others:  # the last: of an input of which nothing is known but that it is another one
        assert len(times.last([first, first | {"key": "b"} | other])) == 2
    assert len(times.last([first | {"inputs": None}, first | {"key": "b", "inputs": {}}])) == 1
    one, same = ({"b": 1, "a": [2]}, {"a": [2], "b": 1})
    assert len(times.last([first | {"parameters": one}, first | {"key": "b", "parameters": same}])) == 1


def arm(prompts, suffix, day):
    """Records of an arm: prompts, completions of theirs, and a training on these; keys with a suffix."""
    made = {"started": f"2026-01-{day:02}"}
    data = record("chat_data", 1.0, key=f"data-{suffix}", parameters={"longest": prompts}, **made)
    sampling = record("reference_sampling", 1.0, key=f"s-{suffix}", inputs={"chat_data": data["key"]}, **made)
    inputs = {"reference_sampling": sampling["key"]}
    return [data, sampling, record("training", 1.0, key=f"t-{suffix}", inputs=inputs, seed=0, **made)]


def test_arms_that_differ_in_an_input_of_an_input_alone_are_not_the_same_step():
    counted = times.last([*arm(100, "short", 1), *arm(900, "long", 2)])
    assert sorted(one["key"] for one in counted if one["name"] == "training") == ["t-long", "t-short"]
    assert len(counted) == 6


def test_what_was_made_again_since_an_input_was_is_the_same_step():
    """Other code made the prompts anew, so all that rests on them has another key: the newest alone count."""
    old, new = arm(100, "old", 1), arm(100, "new", 2)
    for order in ([*old, *new], [*new, *old]):
        assert {one["key"] for one in times.last(order)} == {"data-new", "s-new", "t-new"}
    # Of what is asked for, inputs are looked up among all.
    assert [one["key"] for one in times.last([old[2], new[2]], among=[*old, *new])] == ["t-new"]
    assert len(times.last([old[2], new[2]])) == 2


def test_records_that_name_each_other_end():
    one = record("a", 1.0, key="1", inputs={"b": "2"})
    assert len(times.last([one, record("b", 1.0, key="2", inputs={"a": "1"})])) == 2


def rendered(*phases, together=None):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(times.render(phases, together or times.Phase("all", 1, None, None)))
    return [line.split("  ") for line in console.export_text().splitlines()]


def cells(line):
    return [cell.strip() for cell in line if cell.strip()]


def test_the_table_has_a_line_for_each_phase_and_one_for_all():
    lines = rendered(
        times.Phase("sft", 4, 9.96, 12.0),
        times.Phase("training", 3, 1230.04, 2000.0, unknown=1),
        times.Phase("old", 2, None, None, unknown=2),
        together=times.Phase("all", 9, 1240.0, 2004.0, unknown=3),
    )
    assert [cells(line) for line in lines] == [
        ["phase", "steps", "processor s", "share", "a step", "elapsed s"],
        ["sft", "4", "10.0", "1%", "2.5", "12"],
        ["training (1 not recorded)", "3", "1,230", "99%", "615", "2,000"],
        ["old", "2", "not recorded", "not recorded"],
        ["all (3 not recorded)", "9", "1,240", "2,004"],
    ]
    assert len({sum(map(len, line)) + 2 * (len(line) - 1) for line in lines}) == 1  # numbers end below each other
    nothing = times.Phase("sft", 1, 0.0, 0.0)
    [_, none, every] = [cells(line) for line in rendered(nothing, together=times.Phase("all", 1, 0.0, 0.0))]
    assert (none, every) == (["sft", "1", "0.0", "0.0", "0.0"], ["all", "1", "0.0", "0.0"])


def test_a_record_has_the_processor_seconds_of_its_step_and_of_its_children(monkeypatch, tmp_path, capsys):
    """Measured against the operating system's count for work of known length; and the command shows it."""
    monkeypatch.setenv("QRPO_RUNS", str(tmp_path))
    monkeypatch.setenv("QRPO_ACCOUNT", str(tmp_path / "accounts" / "abc123.jsonl"))
    busy = "import time\nwhile time.process_time() < 0.4: pass"

    def make(folder):
        subprocess.run([sys.executable, "-c", busy], check=True)

    before = usage.processor_seconds()
    folder = folders.complete(keys.Step("training", {}), make)
    spent = usage.processor_seconds() - before
    made = json.loads((folder / RECORD).read_text())
    assert 0.4 <= made["processor_seconds"] <= spent
    assert made["made_for"] == "abc123"
    assert made["float32_products"] == products.in_force()
    assert listing.rows()[0].seconds == pytest.approx(made["seconds"])
    assert cli.main(["runs", "--times"]) == 0
    shown = capsys.readouterr().out.split()
    assert {"phase", "training", "all", "100%"} <= set(shown)


# --- which of them the command counts ---------------------------------------------------------------------------------


def shown(capsys, *arguments):
    assert cli.main(["runs", *arguments, "--times"]) == 0
    return capsys.readouterr().out


def write(folder, number, name="training", **others):
    key = f"{number:012x}"
    made = record(name, 1.0, key=key, outputs={}, inputs={}, **at(number, 1.0)) | others
    (folder / f"{name}-{key}").mkdir(parents=True)
    (folder / f"{name}-{key}" / RECORD).write_text(json.dumps(made))


def phases_shown(text):
    return {tuple(line.split()[:2]) for line in text.splitlines() if line.split()[1:2] and line.split()[1].isdigit()}


def test_names_and_filters_choose_what_is_counted(runs_folder, capsys):
    for number, algorithm in enumerate(["qrpo", "qrpo", "dpo"]):
        write(runs_folder, number, parameters={"algorithm": algorithm, "seed": number})
    write(runs_folder, 3, "sft")
    assert phases_shown(shown(capsys)) == {("sft", "1"), ("training", "3"), ("all", "4")}
    chosen = shown(capsys, "training", "--algorithm", "qrpo")
    assert phases_shown(chosen) == {("training", "2"), ("all", "2")}
    assert f"2 of 4 run folders in {runs_folder}." in chosen
    assert shown(capsys, "nonsense") == f"0 of 4 run folders in {runs_folder}.\n"


def test_what_was_restored_was_not_computed_here(runs_folder, capsys):
    write(runs_folder, 1, parameters={"seed": 1})
    write(runs_folder, 2, parameters={"seed": 2}, restored={"from": "figures/tiny-full/record/world-2"})
    write(runs_folder, 3, parameters={"seed": 1}, restored={"from": "elsewhere"})  # of the same step as the first
    said = shown(capsys)
    assert phases_shown(said) == {("training", "1"), ("all", "1")}
    assert "2 left out: restored from a record" in said


def test_what_was_made_again_is_told(runs_folder, capsys):
    for number in (1, 2, 3):
        write(runs_folder, number)
    said = shown(capsys)
    assert phases_shown(said) == {("training", "1"), ("all", "1")}
    assert "2 left out: made again since" in said


def test_a_record_with_damaged_times_is_counted_as_not_recorded(runs_folder, capsys):
    write(runs_folder, 1, seconds="soon", processor_seconds="soon", outputs=[])
    (runs_folder / "training-0123456789ab").mkdir()
    (runs_folder / "training-0123456789ab" / RECORD).write_text("{")
    said = shown(capsys)
    assert "not recorded" in said
    assert phases_shown(said) == {("training", "1"), ("all", "1")}
    assert "`qrpo clean --run training-0123456789ab` removes it" in said
