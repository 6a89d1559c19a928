import json
import os
import signal
import subprocess
import sys
import time

import pytest
import two_processes

from qrpo_lib.runs import code_version, files, folders, records
from qrpo_lib.runs.keys import Step


def step(**parameters):
    return Step("work", parameters, code=("statistics",))


def write(text):
    return lambda folder: (folder / "out.txt").write_text(text)


def test_a_complete_step_is_not_made_again(runs_folder):
    folder = folders.complete(step(a=1), write("first"))
    assert folders.complete(step(a=1), write("second")) == folder
    assert (folder / "out.txt").read_text() == "first"


def test_a_failed_step_leaves_no_complete_folder_and_starts_afresh(runs_folder):
    def fails(folder):
        (folder / "half.txt").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folders.complete(step(a=1), fails)
    assert not step(a=1).is_complete()
    folder = folders.complete(step(a=1), write("whole"))
    assert not (folder / "half.txt").exists()


def test_a_resumable_step_finds_what_was_left(runs_folder):
    def first(folder):
        files.write_atomically(folder / "shard", b"1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folders.complete(step(a=1), first, resumable=True)
    folder = folders.complete(
        step(a=1), lambda folder: (folder / "all").write_bytes((folder / "shard").read_bytes() + b"2"), resumable=True
    )
    assert (folder / "all").read_bytes() == b"12"


def test_made_again_the_old_result_stays_until_the_new_one_is_whole(runs_folder):
    folder = folders.complete(step(a=1), write("old"))

    def fails(partial):
        assert (folder / "out.txt").read_text() == "old"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folders.complete(step(a=1), fails, again=True)
    assert step(a=1).is_complete()
    assert folders.complete(step(a=1), write("new"), again=True) == folder
    assert (folder / "out.txt").read_text() == "new"
    assert list((runs_folder / ".partial").iterdir()) == []


@pytest.mark.parametrize(("edit", "refused"), [("def f():\n    return 2\n", True), ("# why\n", False)])
def test_code_that_was_edited_while_it_worked_completes_nothing(runs_folder, tmp_path, monkeypatch, edit, refused):
    package = tmp_path / "package"
    package.mkdir()
    (package / "some.py").write_text("def f():\n    return 1\n")
    for module in (folders, code_version):
        monkeypatch.setattr(module, "own_package", lambda: code_version.Package(package))
    code_version.code_version.cache_clear()
    monkeypatch.setattr(folders, "_STARTED", time.time() - 3600)
    made = Step("made", {"edit": edit}, code=("some",))

    def edits(folder):
        with open(package / "some.py", "a") as stream:
            stream.write(edit)

    if refused:
        with pytest.raises(folders.CodeChangedError, match=r"edited while .* was made.*run the same command again"):
            folders.complete(made, edits)
    else:
        folders.complete(made, edits)
    assert made.folder.exists() == (not refused)


_SLOW_STEP = """
import sys, time
from qrpo_lib.runs import files, folders, paths, records
from qrpo_lib.runs.keys import Step
def make(folder):
    (folder / "half.txt").write_text("half")
    print("working", flush=True)
    time.sleep(float(sys.argv[1]))
    (folder / "half.txt").rename(folder / "whole.txt")
folders.complete(Step("slow", {}, code=("statistics",)), make)
"""


def start_slow_step(seconds):
    return subprocess.Popen([sys.executable, "-c", _SLOW_STEP, str(seconds)], stdout=subprocess.PIPE, text=True)


def test_killed_at_work_the_next_attempt_completes(runs_folder):
    slow = Step("slow", {}, code=("statistics",))
    process = start_slow_step(1000)
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not slow.is_complete()
    assert start_slow_step(0).wait() == 0
    assert sorted(path.name for path in slow.folder.iterdir()) == [records.RECORD, "whole.txt"]


def test_two_processes_do_not_make_the_same_step_twice(runs_folder):
    first = start_slow_step(1)
    assert first.stdout.readline() == "working\n"
    second = start_slow_step(1)
    assert first.wait() == 0
    assert second.wait() == 0
    assert second.stdout.read() == ""  # it waited and found the result


def parts(*names):
    def make(folder):
        for name in names:
            (folder / "checkpoints" / name).mkdir(parents=True)
            (folder / "checkpoints" / name / "weights").write_text(name)

    return make


def test_parts_that_were_removed_on_purpose_are_not_missed_and_all_else_is(runs_folder):
    folder = folders.complete(step(a=1), parts("2", "20", "4"))
    record = (folder / records.RECORD).read_bytes()
    folders.remove_parts(folder, ["checkpoints/2"])
    folders.remove_parts(folder, ["checkpoints/4"])
    folders.remove_parts(folder, ["checkpoints/4"])
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["20"]
    assert json.loads((folder / records.REMOVED).read_text()) == ["checkpoints/2", "checkpoints/4"]
    assert step(a=1).is_complete()
    assert (folder / records.RECORD).read_bytes() == record
    (folder / "checkpoints" / "20" / "weights").unlink()  # not because its name begins as the other's
    with pytest.raises(records.CorruptedRunError, match="checkpoints/20/weights is missing"):
        step(a=1).is_complete()
    (folder / records.REMOVED).write_text("[")
    with pytest.raises(records.CorruptedRunError, match=f"no readable {records.REMOVED}"):
        step(a=1).is_complete()


def test_a_part_that_a_killed_removal_left_is_removed_by_the_next_one(runs_folder, monkeypatch):
    folder = folders.complete(step(a=1), parts("2", "4"))
    with monkeypatch.context() as patch:
        patch.setattr(folders, "_set_aside", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            folders.remove_parts(folder, ["checkpoints/2"])
    assert (folder / "checkpoints" / "2" / "weights").exists()
    assert step(a=1).is_complete()
    folders.remove_parts(folder, ["checkpoints/2"])
    assert not (folder / "checkpoints" / "2").exists()
    assert step(a=1).is_complete()


_IN_A_GROUP = """
import os, sys, time
from qrpo_lib.runs import files, folders
from qrpo_lib.runs.keys import Step

def make(folder):
    with open(sys.argv[1], "a") as notes:
        notes.write(folder.name + "\\n")
    folders.complete(Step("first", {}, code=("statistics",)), lambda folder: None)  # as the main one asks for it alone
    time.sleep(0.5 + int(os.environ["RANK"]))  # the others would write what is complete by then
    files.write_atomically(folder / "rows.txt", b"rows")

folders.complete(Step("data", {}, code=("statistics",), alone=True), make)
folders.complete(Step("merged", {}, code=("statistics",)), make, shared=lambda: None)
"""


_LATE_EXCHANGE = """
import atexit, os, sys, time

class Last:  # what still lives when the interpreter is taken down
    def __del__(self):
        spin(1.0)

def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

sys.setswitchinterval(100)  # no other thread has its turn
sys.kept = Last()
atexit.register(spin, 3.0)
import torch
from qrpo_lib.runs import folders
folders.group()
tensor = torch.zeros(1)
if os.environ["RANK"] == "0":
    time.sleep(1.0)
    torch.distributed.broadcast(tensor, 0)
else:  # the thread that waits for it is the only one that keeps the tensor
    torch.distributed.broadcast(tensor, 0, async_op=True)
    del tensor
"""


@pytest.mark.slow
def test_a_process_that_ends_before_its_last_exchange_is_not_aborted(tmp_path):
    """As happened on a busy machine: SIGABRT, once all was written."""
    (tmp_path / "group.py").write_text(_LATE_EXCHANGE)
    two_processes.run(tmp_path / "group.py")


def test_after_an_error_nobody_is_waited_for(monkeypatch):
    """The others may be in an exchange with this process that never ends."""
    import torch

    left = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append("left"))
    monkeypatch.delattr(sys, "last_type", raising=False)
    folders.leave_group()
    assert left == ["left"]
    monkeypatch.setattr(
        sys, "last_type", ValueError, raising=False
    )  # as the interpreter does with one that nobody caught
    folders.leave_group()
    assert left == ["left"]


@pytest.mark.slow
def test_of_processes_that_train_together_one_prepares_the_data(runs_folder, tmp_path):
    """All of them once wrote the same files, those that came late into a folder that was complete."""
    (tmp_path / "group.py").write_text(_IN_A_GROUP)
    two_processes.run(tmp_path / "group.py", tmp_path / "notes")
    made = [Step(name, {}, code=("statistics",)).folder for name in ("data", "merged")]
    assert (tmp_path / "notes").read_text().splitlines() == [folder.name for folder in made]
    for folder in made:
        assert sorted(path.name for path in folder.iterdir()) == [records.RECORD, "rows.txt"]
        records.check(folder)


def made_by(step, make, shared=None):
    """The step with makers of a test: those of a step are functions of the package, whose code counts."""
    object.__setattr__(step, "make", make)
    object.__setattr__(step, "shared", shared)
    return step


def test_a_step_is_made_with_all_that_it_rests_on(runs_folder):
    made = []

    def making(name):
        def make(folder):
            made.append(name)
            (folder / "out.txt").write_text(name)

        return make

    source = made_by(Step("source", {}, seed=3), making("source"))
    middle = made_by(Step("middle", {}, inputs=(source,)), making("middle"), shared=lambda: made.append("shared"))
    top = made_by(Step("top", {}, inputs=(middle, source)), making("top"))
    assert folders.make(top) == top.folder
    assert made == ["source", "shared", "middle", "top"]
    assert json.loads((source.folder / records.RECORD).read_text())["seed"] == 3
    folders.make(top)
    folders.discard(middle.folder)
    assert not middle.folder.exists()
    folders.make(top)  # what is there is not asked for what it rested on
    assert made == ["source", "shared", "middle", "top"]
    folders.make(middle)
    assert made[4:] == ["shared", "middle"]
    assert list((runs_folder / ".partial").iterdir()) == []


def test_a_resumable_step_is_made_in_what_was_left_and_its_shards_go_with_it(runs_folder):
    resumed = made_by(Step("work", {}, resumable=True), lambda folder: (folder / "left").rename(folder / "whole"))
    resumed.partial.mkdir(parents=True)
    (resumed.partial / "left").write_text("1")
    resumed.shards.mkdir(parents=True)
    (resumed.shards / "shard-1").write_text("1")
    with folders.lock(f"{resumed.folder_name}.shard-1"), folders.lock("other-0123456789ab.shard-1"):
        pass
    assert (folders.make(resumed) / "whole").read_text() == "1"
    assert not resumed.shards.exists()
    assert sorted(path.name for path in (runs_folder / ".locks").iterdir()) == [
        "other-0123456789ab.shard-1.lock",
        f"{resumed.folder_name}.lock",
    ]


def test_who_writes_results_of_a_group(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert folders.is_main_process()
    for rank, main in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert folders.is_main_process() == main


def test_what_an_interrupted_removal_left_is_in_nobodys_way(runs_folder):
    folder = folders.complete(step(a=1), write("first"))
    aside = runs_folder / ".partial" / f".discarded-{folder.name}-{os.getpid()}"
    (aside / "rest").mkdir(parents=True)
    folders.discard(folder)
    assert not folder.exists()
    assert not aside.exists()


def test_the_code_of_further_source_counts_too_while_it_works(runs_folder, tmp_path, monkeypatch):
    """A notebook's cells reach code of the package that an edit changes under them."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "some.py").write_text("def f():\n    return 1\n")
    for module in (folders, code_version):
        monkeypatch.setattr(module, "own_package", lambda: code_version.Package(package))
    code_version.code_version.cache_clear()
    monkeypatch.setattr(folders, "_STARTED", time.time() - 3600)
    made = Step("made", {}, source="from package.some import f\nf()")
    with pytest.raises(folders.CodeChangedError, match="edited while"):
        folders.complete(made, lambda folder: (package / "some.py").write_text("def f():\n    return 2\n"))
