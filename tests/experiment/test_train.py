import json
import time
from pathlib import Path

import pytest

from qrpo_lib.cluster.task import Progress, ScheduledTask
from qrpo_lib.experiment import train
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs.errors import InputError


@pytest.fixture
def now(runs_folder):
    """The state of six trainings, two of which run and have told what is in their status files."""
    tasks = {name: ScheduledTask(name, print) for name in ("done", "bad", "first", "second", "young", "waiting")}
    progress = Progress(tasks)
    progress.status |= {"done": "complete", "bad": "failed", "first": "running", "second": "running", "young": "queued"}
    for name, done, total, detail in (("first", 35, 140, "loss 0.31"), ("second", 140, 140, "loss 0.2")):
        tasks[name].told.parent.mkdir(parents=True, exist_ok=True)
        told = {"text": f"training qrpo, {name}", "done": done, "total": total, "detail": detail}
        tasks[name].told.write_text(json.dumps(told))
    return progress


def test_steps_of_the_trainings_that_run_move_the_bar(now):
    done, total, detail = train._told(now)
    assert (done, total) == (pytest.approx(2 + 0.25 + 0.99), 6)  # the last step is not yet the end
    of_each = ["training qrpo, first 35/140 loss 0.31", "training qrpo, second 140/140 loss 0.2", "starting"]
    assert detail == f"1 failed, {'; '.join(of_each)}"
    now.seconds["done"] = 90.0
    assert "1 failed, about 3 min left, training qrpo, first" in train._told(now)[2]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"text": ""}', '{"text": "", "done": 0, "total": 0, "detail": ""}']
)
def test_what_cannot_be_read_counts_for_nothing(now, content):
    now.tasks["first"].told.write_text(content)
    assert now.tasks["first"].state() == ("", 0.0)
    assert train._told(now)[0] == pytest.approx(2.99)


def test_of_many_the_first_few_are_listed(runs_folder):
    progress = Progress({str(i): ScheduledTask(str(i), print) for i in range(9)})
    progress.status |= dict.fromkeys(progress.status, "running")
    assert train._told(progress)[2] == "starting; starting; starting; starting; 5 more"


def meet(folder, own, other):
    """Succeeds only while the other one runs too."""
    (Path(folder) / own).touch()
    end = time.monotonic() + 300
    while not (Path(folder) / other).exists():
        if time.monotonic() > end:
            raise RuntimeError(f"{other} never came")
        time.sleep(0.05)


def refuse(folder):
    raise ValueError(f"nothing can be made in {Path(folder).name}")


@pytest.fixture
def here(runs_folder, monkeypatch):
    monkeypatch.setenv("QRPO_CORES", "2")
    monkeypatch.setattr(train.jobs, "make_data", lambda profile: None)
    return profiles.load("tiny", "chat")


def test_all_are_made_side_by_side_on_this_machine(here, tmp_path):
    folder = str(tmp_path)
    tasks = [ScheduledTask("first", meet, (folder, "a", "b")), ScheduledTask("second", meet, (folder, "b", "a"))]
    train.make_all(here, tasks, "two that meet")
    assert {path.name for path in tmp_path.iterdir()} >= {"a", "b"}
    train.make_all(here, [], "nothing")


def test_one_that_cannot_be_made_is_named_and_stops_no_other(here, tmp_path):
    (tmp_path / "b").touch()
    tasks = [ScheduledTask("bad", refuse, (str(tmp_path),)), ScheduledTask("good", meet, (str(tmp_path), "a", "b"))]
    with pytest.raises(InputError, match=r"1 of 2 could not be made, such as bad.*nothing can be made in"):
        train.make_all(here, tasks, "one bad")
    assert (tmp_path / "a").exists()
