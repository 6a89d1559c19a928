import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from qrpo_lib.runs import files, folders, keys, records, shards

STEP_CODE = """
import json, os, sys, time
from pathlib import Path
from qrpo_lib.runs import folders, keys, records, shards

step = keys.Step("work", {}, code=("statistics",))
names = [f"s{i}" for i in range(12)]
log = Path(os.environ["LOG"])

def make(i):
    with open(log, "a") as stream:
        stream.write(f"{i} {os.getpid()}\\n")
    while len({line.split()[1] for line in log.read_text().splitlines()}) < 2:  # until another one is at work too
        time.sleep(0.01)
    time.sleep(0.15)
    return f"content {i}".encode()

def merge(folder):
    (folder / "all").write_bytes(b"|".join(shards.read(step, name) for name in names))

print(folders.complete(step, merge, shared=lambda: shards.make_all(step, names, make)))
"""
EXPECTED = "|".join(f"content {i}" for i in range(12))


def worker(log):
    return subprocess.Popen([sys.executable, "-c", STEP_CODE], env=os.environ | {"LOG": str(log)})


def made(log):
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def test_processes_share_the_work_and_make_nothing_twice(runs_folder, tmp_path):
    log = tmp_path / "log"
    workers = [worker(log) for _ in range(3)]
    assert [process.wait() for process in workers] == [0, 0, 0]
    assert sorted(int(i) for i, _ in made(log)) == list(range(12))
    assert len({pid for _, pid in made(log)}) > 1
    step = keys.Step("work", {}, code=("statistics",))
    assert (step.folder / "all").read_text() == EXPECTED
    assert not step.shards.exists()
    assert [path.name for path in (runs_folder / ".locks").iterdir()] == [f"{step.folder_name}.lock"]
    assert set(json.loads((step.folder / records.RECORD).read_text())["outputs"]) == {"all"}


def test_a_process_that_comes_late_leaves_no_locks(runs_folder):
    step = keys.Step("work", {}, code=("statistics",))

    def merge(folder):
        (folder / "all").write_text("whole")

    def late():  # another process completes the step while this one waits for a shard
        folders.complete(step, merge)
        with folders.lock(f"{step.folder_name}.s00"):
            pass

    folders.complete(step, merge, shared=late)
    assert [path.name for path in (runs_folder / ".locks").iterdir()] == [f"{step.folder_name}.lock"]


def test_a_killed_process_loses_at_most_what_it_was_making(runs_folder, tmp_path):
    log = tmp_path / "log"
    first, second = worker(log), worker(log)
    while len({pid for _, pid in made(log)}) < 2:
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.wait() == 0
    assert (keys.Step("work", {}, code=("statistics",)).folder / "all").read_text() == EXPECTED
    numbers = [i for i, _ in made(log)]
    assert len(numbers) - len(set(numbers)) <= 1
    assert set(numbers) == {str(i) for i in range(12)}


def test_what_another_process_is_making_is_waited_for(runs_folder):
    step = keys.Step("work", {}, code=("statistics",))
    taken = []
    with folders.lock(f"{step.folder_name}.a"):
        thread = multiprocessing.get_context("fork").Process(
            target=shards.make_all, args=(step, ["a", "b"], lambda i: b"theirs")
        )
        thread.start()
        while not (step.shards / "b").exists():
            time.sleep(0.01)
        assert not (step.shards / "a").exists()
        files.write_sealed(step.shards / "a", b"ours")
    thread.join()
    shards.make_all(step, ["a", "b"], taken.append)
    assert shards.read(step, "a") == b"ours"
    assert taken == []


def test_a_failure_leaves_what_is_done(runs_folder):
    step = keys.Step("work", {}, code=("statistics",))

    def fails(i):
        if i == 1:
            raise OSError("disk full")
        return b"x"

    with pytest.raises(OSError, match="disk full"):
        shards.make_all(step, ["a", "b", "c"], fails)
    assert sorted(path.name for path in step.shards.iterdir()) == ["a"]
    again = []
    shards.make_all(step, ["a", "b", "c"], lambda i: again.append(i) or b"y")
    assert again == [1, 2]
    shards.make_all(step, ["a", "b", "c"], fails)


def test_a_damaged_file_is_made_again(runs_folder):
    step = keys.Step("work", {}, code=("statistics",))
    shards.make_all(step, ["a", "b"], lambda i: b"content")
    path = step.shards / "b"
    path.write_bytes(path.read_bytes().replace(b"t", b"u", 1))
    with pytest.raises(files.UnreadableFileError, match=f"{path} cannot be used: it was damaged"):
        shards.read(step, "b")
    again = []
    shards.make_all(step, ["a", "b"], lambda i: again.append(i) or b"content")
    assert again == [1]
    assert shards.read(step, "b") == b"content"


def test_progress_ends_at_all(runs_folder):
    told = []
    step = keys.Step("work", {}, code=("statistics",))
    shards.make_all(step, ["a", "b"], lambda i: b"x", lambda *state: told.append(state))
    assert told[0] == (0, 2, "shards")
    assert told[-1] == (2, 2, "shards")


def test_how_many_files_there_are_is_told_from_the_first_to_the_last(runs_folder):
    step, told = keys.Step("told", {}), []
    shards.make_all(step, ["a", "b"], lambda i: b"x")
    shards.make_all(step, ["a", "b", "c"], lambda i: b"x", lambda done, total, text: told.append((done, total, text)))
    assert told[0] == (2, 3, "shards")  # what was there before counts
    assert told[-1] == (3, 3, "shards")
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
