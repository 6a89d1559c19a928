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
from rich.console import Console

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
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=900
    )
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


def recorded(name, key, parameters=None, **others):
    return {"name": name, "key": key, "parameters": parameters or {}, "inputs": {}, "seed": None} | others


def written(runs_folder, *made):
    """Run folders that hold these records and nothing else."""
    for record in made:
        folder = runs_folder / f"{record['name']}-{record['key']}"
        folder.mkdir(parents=True)
        (folder / records.RECORD).write_text(json.dumps(record))
    return {row.name: row for row in listing.rows()}


TASK = {"task": {"name": "topics", "length_bonus": 0.5}}
CHAIN = [
    recorded("initial_policy", "a" * 12, {"policy": {"source": "tiny"}}, seed=4),
    recorded("sft", "b" * 12, TASK, inputs={"initial_policy": "a" * 12}),
    recorded("reference_sampling", "c" * 12, inputs={"sft": "b" * 12}),
    recorded(
        "training",
        "d" * 12,
        {
            "algorithm": "qrpo",
            "training": {"setting": "offline"},
            "loss": {
                "beta": 0.1,
                "learning_rate": 1e-4,
                "num_ref_rewards": 3,
                "transform": {"name": "scaled-normal", "mu": 0, "sigma": 0.5},
                "partition": "exact",
            },
            "seed": 2,
        },
        inputs={"reference_sampling": "c" * 12, "initial_policy": "a" * 12, "gone": "f" * 12},
        started="2026-03-04T05:06:07+00:00",
        seconds=90,
    ),
    recorded(
        "iterative",
        "e" * 12,
        {"plan": {"rounds": 2, "quantiles": "fixed"}, "round": 1, "training": {"setting": "x"}},
        inputs={"training": "d" * 12},
    ),
    recorded(
        "notebook-results-tables",
        "0" * 12,
        {"notebook": "results/tables", "parameters": {"arm": "chat", "figures": "figures/tiny", "seed": 1}},
        inputs={"training": "d" * 12},
    ),
    recorded("evaluation", "9" * 12, inputs={"notebook-results-tables": "0" * 12}),
]


def test_a_row_says_what_its_record_and_those_it_rests_on_say(runs_folder):
    rows = written(runs_folder, *CHAIN)
    trained = rows["training"]
    assert trained == listing.RunRow(
        folder="training-dddddddddddd",
        name="training",
        key="d" * 12,
        algorithm="qrpo",
        setting="offline",
        beta=0.1,
        learning_rate=1e-4,
        num_ref_rewards=3,
        transform="scaled-normal(0, 0.5)",
        partition="exact",
        seed=2,
        task="topics, length bonus 0.5",
        policy="tiny",  # that it starts from itself: the reference it samples from is of a step before
        started="2026-03-04T05:06:07+00:00",
        seconds=90.0,
    )
    assert rows["sft"].policy == "tiny"
    assert rows["reference_sampling"].policy == "tiny, fine-tuned"
    assert rows["initial_policy"].seed == 4
    assert (rows["initial_policy"].task, rows["initial_policy"].algorithm) == (None, None)


def test_a_round_is_qrpos_and_says_its_plan_and_a_notebook_its_parameters(runs_folder):
    rows = written(runs_folder, *CHAIN)
    round_1, notebook = rows["iterative"], rows["notebook-results-tables"]
    assert (round_1.algorithm, round_1.setting) == ("qrpo", None)
    assert round_1.detail == "round 1 of rounds 2, quantiles fixed"
    assert (round_1.task, round_1.policy) == ("topics, length bonus 0.5", "tiny")
    assert notebook.detail == "arm chat, seed 1"
    assert (notebook.policy, notebook.task) == (None, None)
    # What came of a notebook, whose inputs may be of several tasks, is of none that is known.
    assert (rows["evaluation"].policy, rows["evaluation"].task) == (None, None)


def test_wishes_are_met_by_value_whatever_the_spelling(runs_folder):
    written(runs_folder, *CHAIN)
    rows = listing.rows()

    def names(*arguments, **wanted):
        return [row.name for row in listing.matching(rows, *arguments, **wanted)]

    assert names(algorithm="QRPO", beta=0.1 + 1e-9) == ["training"]
    assert names(beta=0.1001) == names(algorithm="dpo") == names(["train"], beta=0.2) == []
    assert names(["training-dd"]) == names(["training"], seed=None) == ["training"]
    assert names(["sft", "training"]) == ["sft", "training"]
    assert names(seed=4) == ["initial_policy"]
    assert len(names()) == len(CHAIN)


def shown(found):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(listing.render(found))
    return console.export_text().rstrip().splitlines()


def test_tables_tell_once_what_their_rows_share(runs_folder):
    others = [
        CHAIN[3] | {"key": "1" * 12, "seconds": 599.6},
        CHAIN[3] | {"key": "2" * 12, "seconds": 600, "started": "x"},
    ]
    others[0] = others[0] | {"parameters": CHAIN[3]["parameters"] | {"seed": 7}}
    written(runs_folder, *CHAIN, *others)
    lines = shown(listing.matching(listing.rows(), ["training", "notebook-results-tables"]))
    told = ", task topics, length bonus 0.5, policy tiny, setting offline, n 3, transform scaled-normal(0, 0.5)"
    assert lines[0] == f"training: 3{told}, partition exact"
    assert lines[1].split() == ["run", "folder", "algorithm", "beta", "rate", "seed", "made", "(UTC)", "took"]
    assert [line.split() for line in lines[2:5]] == [
        ["training-dddddddddddd", "qrpo", "0.1", "0.0001", "2", "03-04", "05:06", "90", "s"],
        ["training-222222222222", "qrpo", "0.1", "0.0001", "2", "x", "10", "min"],
        ["training-111111111111", "qrpo", "0.1", "0.0001", "7", "03-04", "05:06", "600", "s"],
    ]
    assert lines[5:7] == ["", "notebook: 1"]
    assert lines[7].split() == ["run", "folder", "detail"]


def test_forms_for_programs_have_every_column(runs_folder):
    written(runs_folder, CHAIN[0])
    (row,) = listing.rows()
    assert json.loads(listing.as_json([row])) == [{name: getattr(row, name) for name in listing.COLUMNS}]
    header, line = listing.as_csv([row]).splitlines()
    assert header.split(",") == list(listing.COLUMNS)
    values = ["initial_policy-aaaaaaaaaaaa", "initial_policy", "a" * 12, *[""] * 7, "4", "", "tiny", *[""] * 4]
    assert line.split(",") == values
