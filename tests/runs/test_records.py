"""Records: what they say of a result and of the machine, and what is wrong with a folder that does not hold it."""

import json
import os
import platform
import shutil
import subprocess
import sys
import types

import pytest

from qrpo_lib.runs import files, folders, paths, products, records
from qrpo_lib.runs.keys import Step


def step(**parameters):
    return Step("work", parameters, code=("statistics",))


def write(text):
    return lambda folder: (folder / "out.txt").write_text(text)


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


def test_memory_is_recorded_in_mebibytes(runs_folder, monkeypatch):
    usage = types.SimpleNamespace(ru_maxrss=3 * 2**20, ru_utime=0.0, ru_stime=0.0)  # in KiB, as Linux has it
    monkeypatch.setattr(records.usage.resource, "getrusage", lambda who: usage)
    folder = folders.complete(step(a=1), write("x"))
    assert json.loads((folder / records.RECORD).read_text())["peak_memory_mb"] == 3 * 2**10


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
