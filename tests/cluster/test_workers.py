import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qrpo_lib.cluster import workers
from qrpo_lib.cluster.scheduler import Scheduler
from qrpo_lib.cluster.task import ScheduledTask
from qrpo_lib.cluster.workers import Workers
from qrpo_lib.runs import progress


def write(folder, name):
    with open(Path(folder) / name, "a") as stream:
        stream.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}\n")


def look(folder, variable):
    (Path(folder) / variable).write_text(str(os.environ.get(variable)))
    print("seen", flush=True)


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


def leave(folder):
    print("what it said last", flush=True)
    os._exit(3)


def fail_differently(folder):
    write(folder, "differently")
    if len((Path(folder) / "differently").read_text().splitlines()) == 1:
        raise KeyError("loss")
    raise StopIteration


def full(folder):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights")


def tell(folder):
    with progress.bar("training") as report:
        time.sleep(0.3)  # news within a moment of the last is left out
        report(1, 4, "loss 2.5")
        while not (Path(folder) / "seen").exists():
            time.sleep(0.05)


def wait_long(folder):
    write(folder, "long")
    time.sleep(600)


@pytest.fixture
def made(runs_folder):
    """The workers of a test; stopped in its end."""
    made = Workers(cores=2)
    yield made
    made.interrupt()


def run(executor, tasks, seen=None):
    return Scheduler(tasks, executor).run(
        lambda progress: seen.append(len(progress.seconds)) if seen is not None else 0
    )


def tasks_of(folder, *names):
    return [ScheduledTask(name, write, (str(folder), name)) for name in names]


def processes(folder, names):
    return {(folder / name).read_text().split()[0] for name in names}


def test_processes_stay_from_one_task_and_one_scheduler_to_the_next(made, tmp_path):
    names, seen = [f"task{i}" for i in range(8)], []
    progress = run(made, tasks_of(tmp_path, *names), seen)
    assert set(progress.seconds) == set(names)
    used = processes(tmp_path, names)
    assert 1 <= len(used) <= 2
    assert str(os.getpid()) not in used
    assert {(tmp_path / name).read_text().split()[1] for name in names} == {"1"}  # threads
    assert seen == sorted(seen)
    assert seen[-1] == 8
    run(made, tasks_of(tmp_path, "later"))
    assert processes(tmp_path, ["later"]) <= used


def test_the_sweeps_of_a_notebook_share_their_processes(tmp_path, runs_folder, monkeypatch):
    monkeypatch.setattr(workers, "_KEPT", {})
    first = Workers.kept(cores=1, threads=1)
    run(first, tasks_of(tmp_path, "first"))
    again = Workers.kept(cores=2, threads=1)
    run(again, tasks_of(tmp_path, "second"))
    assert processes(tmp_path, ["first"]) == processes(tmp_path, ["second"])
    assert again.cores == 2
    assert Workers.kept(cores=1, threads=2) is not first
    first.interrupt()


def test_what_fails_is_tried_once_more_listed_and_stops_nothing(made, tmp_path):
    folder = str(tmp_path)
    tasks = [
        ScheduledTask("bad", fail, (folder,)),
        ScheduledTask("late", fail_once, (folder,)),
        ScheduledTask("dead", die, (folder,)),
    ]
    tasks += [ScheduledTask("different", fail_differently, (folder,)), ScheduledTask("full", full, (folder,))]
    progress = run(made, tasks + tasks_of(tmp_path, *(f"good{i}" for i in range(4))))
    assert progress.failures.pop("full").startswith("The disk is full")
    assert progress.failures == {
        "bad": "ValueError: beta is out of range",
        "dead": "its process was killed (SIGKILL)",
        "different": "KeyError: 'loss' (the last time: StopIteration (without a message))",
    }
    assert set(progress.seconds) == {"late", "good0", "good1", "good2", "good3"}
    assert progress.retried["late"] == "RuntimeError: not yet"
    for name in ("failed", "died", "once"):
        assert len((tmp_path / name).read_text().splitlines()) == 2, name


def test_a_process_that_left_is_told_with_the_last_line_of_its_log(made, runs_folder):
    told = run(made, [ScheduledTask("leaving", leave, ("",))]).failures["leaving"]
    log = runs_folder / ".status" / "leaving.log"
    assert told == f"its process ended with exit code 3 (the last line of {log}: what it said last)."


def test_a_worker_that_is_killed_between_two_tasks_is_replaced(tmp_path, monkeypatch, runs_folder):
    names, plain = [f"task{i}" for i in range(4)], workers._Worker.give

    def give(worker, task):
        if task.name == "task1" and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            worker.process.kill()
            worker.process.join()
        plain(worker, task)

    monkeypatch.setattr(workers._Worker, "give", give)
    executor = Workers(cores=1)
    progress = run(executor, tasks_of(tmp_path, *names))
    executor.interrupt()
    assert progress.retried == {"task1": "its process was killed (SIGKILL)"}
    assert set(progress.seconds) == set(names)


def test_a_process_without_work_ends_and_another_one_takes_the_next_task(tmp_path, runs_folder):
    executor = Workers(cores=1, idle_seconds=0.1)
    run(executor, tasks_of(tmp_path, "first"))
    (idle,) = executor._idle
    idle.process.join(600)
    assert idle.process.exitcode == workers._IDLE
    # Even if it ends in the moment in which it is given a task, that counts for nothing.
    executor._free_worker = lambda plain=executor._free_worker: idle if idle.task.name == "first" else plain()
    progress = run(executor, tasks_of(tmp_path, "second"))
    executor.interrupt()
    assert progress.retried == {}
    assert processes(tmp_path, ["first"]) != processes(tmp_path, ["second"])


def test_work_goes_on_where_no_log_can_be_written(made, tmp_path, runs_folder):
    (runs_folder / ".status" / "a.log").mkdir(parents=True)  # opening it fails, as on a full disk
    assert set(run(made, tasks_of(tmp_path, "a")).seconds) == {"a"}


def test_each_task_has_its_own_environment_status_and_log_and_no_secrets(made, tmp_path, monkeypatch, runs_folder):
    monkeypatch.setenv("QRPO_STATUS", str(tmp_path / "of the parent"))
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    made.cores = 1
    folder = str(tmp_path)
    tasks = [
        ScheduledTask("own", look, (folder, "VARIABLE"), environment={"VARIABLE": "of this task"}),
        ScheduledTask("what it tells", look, (folder, "QRPO_STATUS")),
        ScheduledTask("secret", look, (folder, "HF_TOKEN")),
    ]
    run(made, tasks)
    assert (tmp_path / "VARIABLE").read_text() == "of this task"
    assert (tmp_path / "QRPO_STATUS").read_text() == str(runs_folder / ".status" / "what-it-tells.json")
    assert (tmp_path / "HF_TOKEN").read_text() == "None"
    (tmp_path / "VARIABLE").unlink()
    run(made, [ScheduledTask("another", look, (folder, "VARIABLE"))])
    assert (tmp_path / "VARIABLE").read_text() == "None"
    assert (runs_folder / ".status" / "what-it-tells.log").read_text() == "seen\n"


def test_a_killed_parent_leaves_no_worker(tmp_path):
    code = (
        "import os, sys, time; sys.path.insert(0, sys.argv[2]); os.environ['QRPO_RUNS'] = sys.argv[1]\n"
        "from pathlib import Path; import test_workers as t\n"
        "if __name__ == '__main__':\n"
        "    t.run(t.Workers(1), [t.ScheduledTask('a', t.wait_long, (sys.argv[1],))])\n"
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
    for _ in range(6000):
        status = Path(f"/proc/{worker}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.05)
    raise AssertionError("the worker lives on")


def test_what_a_process_tells_is_seen_while_it_works(made, tmp_path, runs_folder):
    states = []

    def look(progress):
        states.append(progress.tasks["telling"].state())
        if states[-1][1]:
            (tmp_path / "seen").touch()

    Scheduler([ScheduledTask("telling", tell, (str(tmp_path),))], made).run(look)
    assert states[0] in (("", 0.0), ("training 0/1", 0.0), ("training 1/4 loss 2.5", 0.25))
    assert states[-1] == ("training 1/4 loss 2.5", 0.25)
