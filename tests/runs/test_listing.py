"""`qrpo runs`: from a table's cell to the run folder and back, by records alone."""

import csv
import io
import json
import os
import re
import subprocess
import sys

import made_runs
import pytest

from qrpo_lib.experiment import grid
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import folders, keys, listing, records
from qrpo_lib.suite import cli


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A profile, the runs of its experiment, and the runs folder that holds them."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "made.toml").write_text(made_runs.PROFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QRPO_RUNS", str(folder / "runs"))
        profile = profiles.load(folder / "made.toml", "chat")
        wanted = grid.possible(profile)[::7]
        made_runs.make(profile, wanted, lambda run: 0.1)
        folders.complete(keys.Step("notebook-results-tables", {"parameters": {"arm": "chat"}}), lambda folder: None)
        yield profile, wanted


def test_every_trained_model_is_found_from_its_cell_and_back(made):
    profile, wanted = made
    rows = listing.rows()
    for run in wanted:
        values = {name: getattr(run, name) for name in ("algorithm", "setting", "beta", "learning_rate", "seed")}
        if run.algorithm == "qrpo":
            values |= {"num_ref_rewards": run.num_ref_rewards, "partition": run.partition}
            values |= {"transform": grid.transform_label(run.transform)}
        found = listing.matching(rows, ["training"], **values)
        assert [row.folder for row in found] == [run.training(profile).folder_name]
        assert {name: getattr(found[0], name) for name in values} == values
        assert found[0].task == profile.task.name
        (evaluated,) = listing.matching(rows, ["evaluation"], **values)
        assert evaluated.folder == run.step(profile).folder_name
        assert found[0].policy == ("tiny, fine-tuned" if run.setting.startswith("sft-") else "tiny")
    trained = listing.matching(rows, ["training"])
    assert {row.folder for row in trained} == {run.training(profile).folder_name for run in wanted}


def test_the_record_itself_says_what_was_trained(made):
    profile, wanted = made
    for run in wanted:
        record = json.loads((run.training(profile).folder / records.RECORD).read_text())
        parameters = record["parameters"]
        assert (parameters["algorithm"], parameters["training"]["setting"]) == (run.algorithm, run.setting)
        assert (parameters["loss"]["beta"], parameters["loss"]["learning_rate"]) == (run.beta, run.learning_rate)
        assert parameters["seed"] == run.seed
        assert record["started"]
        assert record["seconds"] >= 0


def output(capsys, *arguments):
    assert cli.main(["runs", *arguments]) == 0
    return capsys.readouterr().out


def test_filters_of_the_command_and_forms_for_programs(made, capsys):
    profile, wanted = made
    of_qrpo = {run.training(profile).folder_name for run in wanted if run.algorithm == "qrpo" and run.beta == 0.3}
    assert of_qrpo
    arguments = ["training", "--algorithm", "QRPO", "--beta", "0.3"]
    listed = json.loads(output(capsys, *arguments, "--json"))
    assert {row["folder"] for row in listed} == of_qrpo
    table = list(csv.DictReader(io.StringIO(output(capsys, *arguments, "--csv"))))
    assert [row["folder"] for row in table] == [row["folder"] for row in listed]
    assert {row["beta"] for row in table} == {"0.3"}
    assert set(table[0]) == set(listed[0]) == set(listing.COLUMNS)
    name = sorted(of_qrpo)[0]
    (row,) = json.loads(output(capsys, name, "--json"))
    assert (row["folder"], row["algorithm"]) == (name, "qrpo")
    assert [one["folder"] for one in json.loads(output(capsys, name[: len("training-") + 6], "--json"))] == [name]
    assert json.loads(output(capsys, "--seed", "17", "--json")) == []
    assert output(capsys, "--seed", "17").startswith("0 of ")


def test_on_a_terminal_of_80_columns_no_name_and_no_number_is_cut(made):
    found = listing.rows()
    program = "import sys; from qrpo_lib.suite import cli; sys.exit(cli.main(['runs']))"
    environment = os.environ | {"COLUMNS": "80", "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm"}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", ended.stdout).splitlines()
    assert max(map(len, lines[:-1])) <= 80
    words = {word for line in lines for word in line.split()}
    for row in found:
        assert row.folder in words
        assert {f"{row.beta:g}", f"{row.learning_rate:g}"} <= words if row.beta else True
    assert not any("…" in word for word in words)


def test_damaged_and_foreign_folders_are_told_or_left_out(runs_folder, capsys):
    for name, content in {
        "training-0123456789ab": "{",
        "training-0123456789ac": '{"name": "training", "key": "0123456789ac"}',
        "training-0123456789ad": '{"name": "training", "key": "0123456789ad", "parameters": [1], "seed": "x"}',
        "training-0123456789ae": '{"name": "training", "key": "0123456789ad"}',
        "thesis": "{}",
    }.items():
        (runs_folder / name).mkdir(parents=True)
        (runs_folder / name / records.RECORD).write_text(content)
    text = output(capsys)
    assert "training-0123456789ac" in text
    assert "training-0123456789ad" in text
    assert "training-0123456789ae" not in text
    assert "thesis" not in text
    assert "`qrpo clean --run training-0123456789ab` removes it" in text
    assert "2 of 2 run folders" in text


@pytest.mark.parametrize("wrong", [None, "x", [], {"name": []}, True, 1.5])
def test_values_of_another_type_are_left_out(runs_folder, capsys, wrong):
    values = ("algorithm", "loss", "training", "task", "policy", "seed", "plan", "notebook", "parameters")
    nested = {"loss": ("beta", "learning_rate", "num_ref_rewards", "transform"), "task": ("name", "length_bonus")}
    cases = [{name: wrong} for name in values]
    cases += [{table: {name: wrong}} for table, names in nested.items() for name in names]
    for number, parameters in enumerate([*cases, {"seed": 0, "loss": {"beta": 1}, "algorithm": "dpo"}]):
        folder = runs_folder / f"training-{number:012x}"
        folder.mkdir(parents=True)
        record = {"name": "training", "key": f"{number:012x}", "parameters": parameters, "inputs": wrong, "seed": wrong}
        (folder / records.RECORD).write_text(json.dumps(record | {"started": wrong, "seconds": wrong}))
    assert output(capsys).count("training-") == len(cases) + 1
    assert len(json.loads(output(capsys, "--json"))) == len(cases) + 1


def test_without_a_runs_folder_there_is_nothing(runs_folder, capsys):
    assert output(capsys) == f"0 of 0 run folders in {runs_folder}.\n"
    assert output(capsys, "--json") == "[]\n"
    assert output(capsys, "--csv") == ",".join(listing.COLUMNS) + "\n"
    assert not runs_folder.exists()
