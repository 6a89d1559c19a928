"""Where tasks are made: in this process or in local ones, which outlive who started them; what failed is told."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import toys
from in_memory import InMemory, following

from qrpo_lib.cluster import dispatch
from qrpo_lib.profiles.settings import Dispatch
from qrpo_lib.runs import paths

HERE = Path(__file__).parent


@pytest.fixture
def importable(monkeypatch):
    """Jobs can import this checkout and the toys."""
    monkeypatch.setenv("PYTHONPATH", f"{paths.PACKAGE.parent}:{HERE / 'slurm'}")


def test_in_this_process(diamond):
    dispatch.make([diamond[2]], Dispatch(where="here"))
    assert diamond[2].step.is_complete()


def test_local_processes_make_all_and_hide_secrets(runs_folder, importable, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    settings = Dispatch(where="processes", simultaneous=2, poll_seconds=0.2)
    first = toys.task("first", "tell", variable="HF_TOKEN")
    last = toys.task("last", needs=(first, toys.task("other")))
    dispatch.make([last], settings)
    assert last.step.is_complete()
    assert (first.step.folder / "result.txt").read_text() == "None"
    for path in runs_folder.rglob("*"):
        assert not path.is_file() or b"x" * 30 not in path.read_bytes(), path


def test_local_processes_outlive_who_started_them_and_are_found_again(runs_folder, importable):
    task = toys.task("slow", held=True)
    script = (
        "import toys; from qrpo_lib.cluster import dispatch\n"
        "from qrpo_lib.profiles import settings as profiles\n"
        "dispatch.make([toys.task('slow', held=True)], profiles.Dispatch(where='processes', poll_seconds=0.2))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    while not toys.notes(runs_folder.parent, "slow"):
        time.sleep(0.1)
        assert process.poll() is None
    process.kill()
    process.wait()
    toys.release(runs_folder.parent)
    dispatch.make([task], Dispatch(where="processes", poll_seconds=0.2))
    assert task.step.is_complete()
    assert len(toys.notes(runs_folder.parent, "slow")) == 1


def test_what_failed_is_in_the_error_by_its_folder(runs_folder):
    bad, other = toys.task("bad"), toys.task("other")
    executor = InMemory()
    dispatcher = following(executor, bad, other)
    dispatcher.advance()
    ids = [job for job in executor.alive]
    executor.end(ids[0], "error", "ValueError: beta is negative")
    executor.makes(ids[1], other)
    dispatcher.advance()
    with pytest.raises(dispatch.DispatchError) as caught:
        dispatch.raise_failures(dispatcher.progress)
    assert list(caught.value.progress.failures) == [bad.name]
    assert caught.value.progress.failures[bad.name].startswith("ValueError: beta is negative")
