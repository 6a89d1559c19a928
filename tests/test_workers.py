import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qrpo_lib import workers
from qrpo_lib.workers import Task


def write(folder, name):
    with open(Path(folder) / name, "a") as stream:
        stream.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}\n")


def look(folder):
    (Path(folder) / "status").write_text(os.environ.get("QRPO_STATUS", "none"))


def fail(folder):
    write(folder, "failed")
    raise ValueError("beta is out of range")


def fail_once(folder):
    first = not (Path(folder) / "once").exists()
    write(folder, "once")
    if first:
        raise RuntimeError("not yet")


def die(folder):
    write(folder, "died")
    os.kill(os.getpid(), signal.SIGKILL)


def run(folder, tasks, **settings):
    return workers.run(tasks, **{"processes": 2, "threads": 1, "log_folder": folder / "logs"} | settings)


def test_processes_stay_and_have_bounded_threads(tmp_path):
    names = [f"task{i}" for i in range(8)]
    seen = []
    tasks = [Task(name, write, (str(tmp_path), name)) for name in names]
    outcome = run(tmp_path, tasks, on_change=lambda o: seen.append((len(o.seconds), o.left)))
    assert set(outcome.seconds) == set(names)
    lines = [(tmp_path / name).read_text().split() for name in names]
    assert 1 <= len({pid for pid, _ in lines}) <= 2
    assert str(os.getpid()) not in {pid for pid, _ in lines}
    assert {threads for _, threads in lines} == {"1"}
    assert seen[-1] == (8, 0)
    assert all(done + left == 8 for done, left in seen)


def test_what_fails_is_tried_once_more_listed_and_stops_nothing(tmp_path):
    folder = str(tmp_path)
    tasks = [Task("bad", fail, (folder,)), Task("late", fail_once, (folder,)), Task("dead", die, (folder,))]
    tasks += [Task(f"good{i}", write, (folder, f"good{i}")) for i in range(4)]
    outcome = run(tmp_path, tasks)
    assert outcome.failed == {
        "bad": "ValueError: beta is out of range",
        "dead": "its process was killed (SIGKILL)",
    }
    assert set(outcome.seconds) == {"late", "good0", "good1", "good2", "good3"}
    assert outcome.retried["late"] == "RuntimeError: not yet"
    for name in ("failed", "died", "once"):
        assert len((tmp_path / name).read_text().splitlines()) == 2, name


def fail_differently(folder):
    write(folder, "differently")
    if len((Path(folder) / "differently").read_text().splitlines()) == 1:
        raise KeyError("loss")
    raise StopIteration


def full(folder):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights")


def test_the_first_error_is_told_and_the_second_if_it_is_another(tmp_path):
    outcome = run(tmp_path, [Task("a", fail_differently, (str(tmp_path),)), Task("b", full, (str(tmp_path),))])
    assert outcome.failed["a"] == "KeyError: 'loss' (the second time: StopIteration (without a message))"
    assert outcome.failed["b"].startswith("The disk is full")


def test_a_worker_that_is_killed_between_two_tasks_is_replaced(tmp_path, monkeypatch):
    names, plain = [f"task{i}" for i in range(4)], workers._Worker.give

    def give(worker, task):
        if task.name == "task1" and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            worker.process.kill()
            worker.process.join()
        plain(worker, task)

    monkeypatch.setattr(workers._Worker, "give", give)
    outcome = run(tmp_path, [Task(name, write, (str(tmp_path), name)) for name in names], processes=1)
    assert outcome.retried == {"task1": "its process was killed (SIGKILL)"}
    assert set(outcome.seconds) == set(names)


def test_work_goes_on_where_no_log_can_be_written(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "worker-0.log").mkdir()  # opening it fails, as on a full disk
    outcome = run(tmp_path, [Task("a", write, (str(tmp_path), "a"))])
    assert set(outcome.seconds) == {"a"}


def test_the_status_of_the_whole_is_the_parents_to_tell(tmp_path, monkeypatch):
    monkeypatch.setenv("QRPO_STATUS", str(tmp_path / "of the parent"))
    run(tmp_path, [Task("look", look, (str(tmp_path),))])
    assert (tmp_path / "status").read_text() == "none"


def test_time_left_is_the_mean_of_what_was_done():
    outcome = workers.Outcome(total=10, seconds={"a": 2.0, "b": 4.0}, failed={"c": "error"})
    assert outcome.left == 7
    assert outcome.seconds_left(processes=2) == pytest.approx(7 * 3.0 / 2)
    assert outcome.seconds_left(processes=100) == pytest.approx(3.0)
    assert workers.Outcome(total=3).seconds_left(2) is None


def test_names_must_differ(tmp_path):
    with pytest.raises(ValueError, match="name of its own"):
        run(tmp_path, [Task("a", write), Task("a", write)])


def test_a_killed_parent_leaves_no_worker(tmp_path):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; import test_workers as t\n"
        "if __name__ == '__main__':\n"
        "    t.run(Path(sys.argv[1]), [t.Task('a', t.wait_long, (sys.argv[1],))])\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, script, tmp_path, Path(__file__).parent])
    pid_file = tmp_path / "long"
    while not (pid_file.exists() and pid_file.read_text().endswith("\n")):
        assert process.poll() is None
        time.sleep(0.05)
    worker = int(pid_file.read_text().split()[0])
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(600):
        status = Path(f"/proc/{worker}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.05)
    raise AssertionError("the worker lives on")


def wait_long(folder):
    write(folder, "long")
    time.sleep(600)
