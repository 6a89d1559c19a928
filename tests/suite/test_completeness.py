"""When a notebook counts as complete, and what is said when it is not: with small notebooks made up here."""

import json
import shutil
import sys

import nbformat
import pytest

from qrpo_lib.runs import folders, keys, paths, records
from qrpo_lib.suite import cli, execution, kernel_server, notebooks, reproduce


@pytest.fixture
def project(tmp_path, runs_folder, monkeypatch, forked_kernels):
    """A function that makes a project's only notebook of these cells and returns its job; figures go to `figures`."""
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()

    def make(*cells, **settings):
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        made = nbformat.v4.new_notebook(metadata=metadata)
        parameters = nbformat.v4.new_code_cell('figures: str = ""', metadata={"tags": ["parameters"]})
        made.cells = [parameters, *map(nbformat.v4.new_code_cell, cells)]
        nbformat.write(made, tmp_path / "notebooks" / "made.ipynb")
        return notebooks.Job("made", "made", **settings)

    return make


def failure(job):
    with pytest.raises(execution.NotebookError) as caught:
        execution.execute(job)
    assert not notebooks.is_complete(job)
    return str(caught.value)


TWO_FAILED = """
from qrpo_lib.runs import account
account.failed("dpo, seed 0", "training-aaaaaaaaaaaa", "KeyError: 'first'")
account.failed("qrpo, seed 0", "training-bbbbbbbbbbbb", "ValueError: other")
"""


def test_a_training_that_failed_makes_its_notebook_incomplete(project):
    told = failure(project(TWO_FAILED))
    assert told == "dpo, seed 0 failed twice: KeyError: 'first'. 1 more failed."


def test_what_came_of_a_failure_does_not_hide_it(project):
    job = project(TWO_FAILED, 'raise ValueError("None of these runs is complete: train them first.")')
    assert failure(job).startswith("dpo, seed 0 failed twice: KeyError: 'first'.")


def test_a_failure_stays_in_the_account_of_its_command(project, tmp_path):
    from qrpo_lib.runs import account

    (tmp_path / "command").mkdir()
    with account.kept_in(tmp_path / "command" / "first.jsonl"):
        failure(project(TWO_FAILED))
    with account.kept_in(tmp_path / "command" / "second.jsonl"):
        assert set(account.failed_before()) == {"training-aaaaaaaaaaaa", "training-bbbbbbbbbbbb"}


def test_what_failed_twice_is_not_tried_again_by_the_next_notebook_of_a_command(tmp_path, monkeypatch):
    from qrpo_lib.runs import account

    with account.kept_in(tmp_path / "first.jsonl"):
        account.failed("dpo, seed 0", "training-aaaaaaaaaaaa", "KeyError: 'first'")
    with account.kept_in(tmp_path / "second.jsonl"):
        assert account.failed_before() == {"training-aaaaaaaaaaaa": "KeyError: 'first'"}
    assert account.read(tmp_path / "second.jsonl") == account.Account()
    assert account.failed_before() == {}  # of no command


@pytest.mark.parametrize(
    "cell",
    [
        "import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'weights')",
        "try:\n    raise OSError(28, 'No space left on device')\nfinally:\n    next(iter(()))",
    ],
)
def test_a_full_disk_in_a_notebook_is_named(project, cell):
    assert failure(project(cell)).startswith("The disk is full: make room")


def test_an_error_without_a_message_is_told_with_its_class(project):
    assert "failed: StopIteration (without a message)" in failure(project("next(iter(()))"))


def test_a_killed_kernel_is_named(project):
    assert failure(project("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")).startswith("its kernel died")


def test_a_notebook_that_was_edited_while_it_ran_is_not_complete(project, tmp_path):
    path = tmp_path / "notebooks" / "made.ipynb"
    edit = f"from pathlib import Path\np = Path({str(path)!r})\np.write_text(p.read_text().replace('first', 'second'))"
    job = project(edit, "'first'")
    before = job.step
    with pytest.raises(execution.NotebookError, match=r"edited while it ran.*run the same command again"):
        execution.execute(job)
    assert not before.folder.exists()
    assert not notebooks.is_complete(job)


@pytest.mark.parametrize("where", ["JUPYTER_PATH", "HOME"])
def test_another_environments_kernel_is_not_used(project, tmp_path, monkeypatch, where):
    kernels = tmp_path / "data" / "kernels" if where == "JUPYTER_PATH" else tmp_path / ".local/share/jupyter/kernels"
    (kernels / "python3").mkdir(parents=True)
    dead = {"argv": [str(tmp_path / "no-such-python"), "{connection_file}"], "display_name": "x", "language": "python"}
    (kernels / "python3" / "kernel.json").write_text(json.dumps(dead))
    monkeypatch.setenv(where, str(kernels.parent if where == "JUPYTER_PATH" else tmp_path))
    monkeypatch.delenv(kernel_server.WANTED)  # a forked kernel needs none of them
    job = project(f"import sys\nassert sys.executable == {sys.executable!r}, sys.executable")
    assert (execution.execute(job) / notebooks.EXECUTED).exists()


def toy(number):
    return keys.Step("toy", {"number": number})


def write(folder):
    (folder / "out").write_text("x")


MAKES_AND_READS = """
from pathlib import Path
from qrpo_lib.runs import account, folders, keys, paths, records
declared, found = (keys.Step("toy", {"number": number}) for number in (0, 1))
for step in (declared, found):
    folders.complete(step, lambda folder: (folder / "out").write_text("x"))
account.rests_on([found.folder_name])
"""


@pytest.mark.parametrize("lost", [0, 1], ids=["declared", "found while it ran"])
def test_what_was_removed_is_made_again_though_the_notebook_is_complete(project, lost):
    job = project(MAKES_AND_READS, inputs=(toy(0),))
    assert not notebooks.is_complete(job)
    folder = execution.execute(job)
    assert notebooks.is_complete(job)
    shutil.rmtree(toy(lost).folder)
    assert not notebooks.is_complete(job)
    assert execution.execute(job) == folder
    assert notebooks.is_complete(job)
    assert (toy(lost).folder / "out").read_text() == "x"


def test_a_notebook_that_shows_what_there_is_is_incomplete_once_there_is_more(project):
    job = project("1", inputs=(toy(0), toy(1)))
    folders.complete(toy(0), write)
    execution.execute(job)
    assert notebooks.is_complete(job)
    folders.complete(toy(1), write)
    assert not notebooks.is_complete(job)
    execution.execute(job)
    assert notebooks.is_complete(job)


@pytest.mark.parametrize("harmed", [0, 1], ids=["declared", "found while it ran"])
def test_a_corrupted_input_is_refused_before_work(project, harmed):
    job = project(MAKES_AND_READS, inputs=(toy(0),))
    execution.execute(job)
    (toy(harmed).folder / "out").write_text("y")
    for look in (notebooks.is_complete, lambda job: notebooks.check([job])):
        with pytest.raises(records.CorruptedRunError, match=toy(harmed).folder_name):
            look(job)


def test_a_job_whose_maker_failed_runs_if_all_it_reads_is_there(project):
    job = project("1", inputs=(toy(0), toy(1)))
    folders.complete(toy(0), write)
    assert not reproduce.Notebook("x", print, job=job).could_start()
    folders.complete(toy(1), write)
    assert reproduce.Notebook("x", print, job=job).could_start()
    (toy(1).folder / "out").write_text("y")
    assert not reproduce.Notebook("x", print, job=job).could_start()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"tiny/x.png": {', "no whole JSON"),
        ("[]", "a list where a table"),
        ("null", "null"),
        ('{"tiny/x.png": "me"}', "its entry for 'tiny/x.png'"),
        ('{"../../x": {"made_by": "a", "inputs": "b", "sha256": "c"}}', "outside its folder"),
    ],
)
def test_a_damaged_manifest_is_refused_and_status_sees_it(runs_folder, tmp_path, monkeypatch, capsys, content, why):
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    (tmp_path / "notebooks").symlink_to(paths.PACKAGE.parent / "notebooks")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / notebooks.MANIFEST).write_text(content)
    monkeypatch.setattr(notebooks, "jobs", lambda profile: [notebooks.Job("theory/noise", "theory/noise")])
    assert cli.main(["reproduce", "--only", "noise"]) == 2
    refused = " ".join(capsys.readouterr().out.split())
    assert cli.main(["status"]) == 1
    seen = " ".join(capsys.readouterr().out.split())
    for text in (refused, seen):
        assert str(tmp_path / "figures" / notebooks.MANIFEST) in text
        assert why in text
        assert "remove it" in text
    assert not runs_folder.exists() or not list(runs_folder.glob("*-*"))


def test_status_sees_a_corrupted_folder_that_reproduce_would_refuse(project, capsys, monkeypatch):
    job = project(MAKES_AND_READS, inputs=(toy(0),))
    execution.execute(job)
    monkeypatch.setattr(notebooks, "jobs", lambda profile: [job])
    assert cli.main(["status"]) == 0
    assert "complete" in capsys.readouterr().out
    (toy(0).folder / "out").unlink()
    assert cli.main(["status"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "corrupted made" in told
    assert toy(0).folder_name in told
    assert cli.main(["reproduce"]) == 2
    assert toy(0).folder_name in capsys.readouterr().out
