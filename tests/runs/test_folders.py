import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest

from qrpo_lib.runs import code_version, files, folders, paths, products, records
from qrpo_lib.runs.keys import Step


def step(**parameters):
    return Step("work", parameters, code=("statistics",))


def write(text):
    return lambda folder: (folder / "out.txt").write_text(text)


def test_a_complete_step_is_not_made_again(runs_folder):
    folder = folders.complete(step(a=1), write("first"))
    assert folders.complete(step(a=1), write("second")) == folder
    assert (folder / "out.txt").read_text() == "first"


def test_key_depends_on_parameters_inputs_and_code():
    base = step(a=1)
    keys = {
        base.key,
        step(a=2).key,
        Step("work", {"a": 1}, inputs=(step(a=3),), code=("statistics",)).key,
        Step("work", {"a": 1}, inputs=(step(a=4),), code=("statistics",)).key,
        Step("work", {"a": 1}, code=("style",)).key,
    }
    assert len(keys) == 5
    assert step(a=1).key == base.key


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


@pytest.mark.parametrize(
    "change",
    [
        lambda record: None,
        lambda record: [],
        lambda record: 3,
        lambda record: record | {"key": "0123456789ab"},
        lambda record: record | {"outputs": ["out.txt"]},
        lambda record: record | {"outputs": {"out.txt": "abc"}},
        lambda record: record | {"outputs": {"out.txt": {"sha256": "abc"}}},
        lambda record: record | {"outputs": {"../out.txt": {"bytes": 1}}},
        lambda record: {name: value for name, value in record.items() if name != "outputs"},
    ],
)
def test_a_record_of_another_type_is_refused_and_left_out_of_lists(runs_folder, change):
    folder = folders.complete(step(a=1), write("whole"))
    assert [path for path, _ in records.read_all()] == [folder]
    path = folder / records.RECORD
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(records.CorruptedRunError, match=f"corrupted.*record.json.*qrpo clean --run {folder.name}"):
        step(a=1).is_complete()
    assert records.read_all() == []


def test_a_large_file_is_compared_too_and_hashed_once(runs_folder, monkeypatch):
    hashed, plain = [], files.file_sha256
    monkeypatch.setattr(files, "LARGE", 4)
    monkeypatch.setattr(files, "file_sha256", lambda path: hashed.append(path.name) or plain(path))
    folder = folders.complete(step(a=1), write("weights"))
    for _ in range(3):
        assert step(a=1).is_complete()
    assert hashed == ["out.txt"]
    (folder / "out.txt").write_text("weighty")  # as many bytes
    with pytest.raises(records.CorruptedRunError, match=r"out\.txt has changed"):
        step(a=1).is_complete()


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


@pytest.mark.parametrize("harm", ["change", "remove", "record"])
def test_a_corrupted_folder_is_refused_in_one_sentence_that_says_what_to_do(runs_folder, harm):
    folder = folders.complete(step(a=1), write("whole"))
    if harm == "change":
        (folder / "out.txt").write_text("wh0le")
    elif harm == "remove":
        (folder / "out.txt").unlink()
    else:
        (folder / records.RECORD).write_text("{")
    with pytest.raises(records.CorruptedRunError, match=f"corrupted.*qrpo clean --run {folder.name}"):
        step(a=1).is_complete()


def test_record_says_what_determined_the_result(runs_folder):
    source = step(a=0)
    folders.complete(source, write("source"))
    made = Step("next", {"b": [1, 2]}, inputs=(source,), code=("statistics",))
    record = json.loads((folders.complete(made, write("x"), seed=5) / records.RECORD).read_text())
    assert record["parameters"] == {"b": [1, 2]}
    assert record["inputs"] == {"work": source.key}
    assert record["seed"] == 5
    assert record["outputs"]["out.txt"]["bytes"] == 1
    expected = {"versions", "git", "host", "processor", "slurm_job", "started", "seconds", "peak_memory_mb"}
    assert expected <= record.keys()


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="x86-64 Linux alone is told apart"
)
def test_record_names_the_vector_instructions_that_kernels_are_chosen_by(runs_folder):
    import torch

    record = json.loads((folders.complete(step(a=1), write("x")) / records.RECORD).read_text())
    capability = torch.backends.cpu.get_cpu_capability()
    assert record["processor"]["vector_instructions"] == (capability if capability in ("AVX2", "AVX512") else "other")
    assert record["processor"]["name"]


def test_record_names_the_gpus_of_a_process_that_has_used_torch(runs_folder, monkeypatch):
    names = ["NVIDIA GH200 120GB", "NVIDIA H100"]
    cuda = types.SimpleNamespace(
        is_available=lambda: True, device_count=lambda: len(names), get_device_name=lambda number: names[number]
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    products.chosen.cache_clear()  # this process may have multiplied already, with the torch that is there
    assert json.loads((folders.complete(step(a=1), write("x")) / records.RECORD).read_text())["gpus"] == names
    monkeypatch.delitem(sys.modules, "torch")
    assert json.loads((folders.complete(step(a=2), write("x")) / records.RECORD).read_text())["gpus"] == []


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


def test_atomic_write_keeps_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def killed(descriptor):
        raise OSError("killed")

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(OSError, match="killed"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


# --- which commit the code is of --------------------------------------------------------------------------------------


def git(folder, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def recorded(package, **environment):
    """What a copy of the package records about git, in a process of its own."""
    code = "import json; from qrpo_lib.runs import records; print(json.dumps(records._git()))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=package.parent,
        env=os.environ | {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"} | environment,
    )
    return json.loads(answer.stdout)


@pytest.fixture
def outer(tmp_path):
    """A repository of something else, with this package unpacked below it."""
    (tmp_path / "notes.txt").write_text("other work")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "notes.txt")
    git(tmp_path, "commit", "--quiet", "-m", "other work")
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(paths.PACKAGE, tmp_path / "unpacked" / "qrpo_lib", ignore=ignored)


def test_the_commit_of_a_repository_around_an_unpacked_archive_is_not_recorded(outer):
    assert recorded(outer) is None
    assert recorded(outer, GIT_DIR=str(outer.parent.parent / ".git")) is None


def test_an_empty_repository_has_no_commit(outer):
    git(outer.parent, "init", "--quiet")
    assert recorded(outer) is None


@pytest.mark.parametrize("top", ["project", "outer"])
def test_the_commit_of_the_repository_that_tracks_the_package_is_recorded(outer, top):
    root = outer.parent if top == "project" else outer.parent.parent
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "code")
    commit = git(root, "rev-parse", "HEAD")
    (outer.parent / "elsewhere.txt").write_text("no code")
    assert recorded(outer) == {"commit": commit, "dirty": False}
    assert recorded(outer, GIT_DIR="/nowhere/.git") == {"commit": commit, "dirty": False}
    with open(outer / "topics.py", "a") as stream:
        stream.write("# changed")
    assert recorded(outer) == {"commit": commit, "dirty": True}


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


@pytest.mark.slow
def test_of_processes_that_train_together_one_prepares_the_data(runs_folder, tmp_path):
    """All of them once wrote the same files, those that came late into a folder that was complete."""
    (tmp_path / "group.py").write_text(_IN_A_GROUP)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    arguments = [tmp_path / "group.py", tmp_path / "notes"]
    run = subprocess.run([*command, *arguments], env=environment, timeout=500, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    made = [Step(name, {}, code=("statistics",)).folder for name in ("data", "merged")]
    assert (tmp_path / "notes").read_text().splitlines() == [folder.name for folder in made]
    for folder in made:
        assert sorted(path.name for path in folder.iterdir()) == [records.RECORD, "rows.txt"]
        records.check(folder)
