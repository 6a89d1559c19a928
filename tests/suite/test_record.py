"""`qrpo record` and `qrpo restore`, and what the other commands say of restored results."""

import json
import shutil

import made_runs
import pytest

from qrpo_lib.experiment import grid, record
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import keys, listing, paths
from qrpo_lib.suite import cli, reproduce
from qrpo_lib.suite import record as commands

PROFILE = """
extends = "tiny"
name = "made"
worlds = [0, 1]

[arms.chat.task]
train_prompts = 8
selection_prompts = 15
reporting_prompts = 20

[experiment]
arms = ["chat"]
algorithms = ["dpo", "qrpo"]
seeds = [0]
grid_seeds = 1

[experiment.betas]
dpo = [0.1]
qrpo = [0.3]

[arms.chat.experiment]
settings = ["off-policy-random"]
scaling = []
transformations = { setting = "off-policy-random", transforms = ["identity", "log"], betas = [0.3] }
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a profile of two worlds, the first of which is complete."""
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    monkeypatch.setenv("QRPO_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.toml").write_text(PROFILE)
    made = profiles.load("made.toml", "chat-world-0")
    made_runs.make(made, made_runs.everything(made), lambda run: 0.3)
    return made


def run(*arguments):
    return cli.main([*arguments, "--profile", "made.toml"])


def test_a_world_goes_into_the_record_and_comes_back(project, capsys):
    assert run("record", "--world", "0") == 0
    assert "figures/made/record/world-0: " in capsys.readouterr().out
    before = grid.grid(project)[0].step(project)
    shutil.rmtree(paths.runs_folder())
    assert run("restore") == 0
    said = capsys.readouterr().out
    assert "results put back, 0 were there" in said
    assert "--recorded" in said
    assert before.is_complete()
    assert run("restore", "--world", "0") == 0
    assert ": 0 results put back" in capsys.readouterr().out

    rows = {row.folder: row for row in listing.rows()}
    assert rows[before.folder_name].restored == "figures/made/record/world-0"
    assert rows[before.folder_name].algorithm == "dpo"
    assert cli.main(["clean", "--all", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.count("restored from figures/made/record/world-0") == len(rows)


def test_after_a_mend_of_the_code_results_come_back_only_when_asked_for(project, capsys, monkeypatch):
    assert run("record", "--world", "0") == 0
    shutil.rmtree(paths.runs_folder())
    monkeypatch.setattr(keys, "code_version", lambda *arguments: "mended")
    capsys.readouterr()
    assert run("restore") == 0
    said = capsys.readouterr().out
    assert ": 0 results put back" in said
    assert "`qrpo restore --any-code`" in " ".join(said.split())
    assert run("restore", "--any-code") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "made by other code than today's: their folders say so" in said
    assert "not used" not in said
    assert run("record", "--world", "0") == 2


def test_a_world_that_is_not_complete_is_not_written(project, capsys):
    assert run("record", "--world", "1") == 2
    assert "made, world-1:" in capsys.readouterr().out
    assert run("record") == 1  # the other one was
    said = capsys.readouterr().out
    assert "not written" in said
    assert "figures/made/record/world-0: " in said
    assert not (paths.project_root() / "figures" / "made" / "record" / "world-1").exists()


def test_recorded_trains_nothing(project, capsys, monkeypatch):
    """What is not there is named before any work, for instance after a change of the code."""
    (paths.project_root() / "notebooks").symlink_to(paths.PACKAGE.parent / "notebooks")
    monkeypatch.setattr(reproduce, "make_steps", lambda *arguments: pytest.fail("something was to be made"))
    assert run("reproduce", "--recorded", "--world", "1") == 2
    said = capsys.readouterr().out.replace("\n", " ")
    assert "world-1:" in said
    assert "of its results are missing, such as" in said
    assert run("reproduce", "--recorded") == 2
    shutil.rmtree(next(paths.runs_folder().glob("evaluation-*")))
    assert run("reproduce", "--recorded", "--world", "0") == 2
    assert "world-0: 1 of its results are missing" in capsys.readouterr().out.replace("\n", " ")


def test_too_large_a_record_is_told(project, capsys, monkeypatch):
    monkeypatch.setattr(record, "LIMIT_BYTES", 1000)
    assert run("record", "--world", "0") == 1
    assert "too much" in capsys.readouterr().out


def test_what_cannot_be_restored_is_said_in_a_sentence(project, capsys):
    assert run("restore") == 2
    assert "There is no record of made" in capsys.readouterr().out
    assert run("restore", "--world", "7") == 2
    assert "no world 7" in capsys.readouterr().out
    assert run("record", "--world", "0") == 0
    about = paths.project_root() / "figures" / "made" / "record" / "world-0" / record.ABOUT
    about.write_text(json.dumps(json.loads(about.read_text()) | {"sha256": {"steps.parquet": "0"}}))
    assert run("restore") == 2
    assert "steps.parquet cannot be used: it is not what was written" in capsys.readouterr().out


def test_the_notebooks_that_a_record_suffices_for_are_there():
    for path in commands.NOTEBOOKS:
        assert (paths.PACKAGE.parent / "notebooks" / f"{path}.ipynb").is_file()
