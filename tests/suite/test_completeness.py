"""When a notebook counts as complete, and what is said when it is not: with small notebooks made up here."""

import shutil

import pytest

from qrpo_lib.runs import folders, keys, records
from qrpo_lib.suite import cli, execution, notebooks


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
def test_what_was_removed_is_made_again_though_the_notebook_is_complete(one_notebook, lost):
    job = one_notebook(MAKES_AND_READS, inputs=(toy(0),))
    assert not notebooks.is_complete(job)
    folder = execution.execute(job)
    assert notebooks.is_complete(job)
    shutil.rmtree(toy(lost).folder)
    assert not notebooks.is_complete(job)
    assert execution.execute(job) == folder
    assert notebooks.is_complete(job)
    assert (toy(lost).folder / "out").read_text() == "x"


def test_a_notebook_that_shows_what_there_is_is_incomplete_once_there_is_more(one_notebook):
    job = one_notebook("1", inputs=(toy(0), toy(1)))
    folders.complete(toy(0), write)
    execution.execute(job)
    assert notebooks.is_complete(job)
    folders.complete(toy(1), write)
    assert not notebooks.is_complete(job)
    execution.execute(job)
    assert notebooks.is_complete(job)


@pytest.mark.parametrize("harmed", [0, 1], ids=["declared", "found while it ran"])
def test_a_corrupted_input_is_refused_before_work(one_notebook, harmed):
    job = one_notebook(MAKES_AND_READS, inputs=(toy(0),))
    execution.execute(job)
    (toy(harmed).folder / "out").write_text("y")
    for look in (notebooks.is_complete, lambda job: notebooks.check([job])):
        with pytest.raises(records.CorruptedRunError, match=toy(harmed).folder_name):
            look(job)


def test_status_sees_a_corrupted_folder_that_reproduce_would_refuse(one_notebook, capsys, monkeypatch):
    job = one_notebook(MAKES_AND_READS, inputs=(toy(0),))
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
