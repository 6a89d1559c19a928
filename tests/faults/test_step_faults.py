"""The fault campaign, step by step: a fault at a named point of each kind of step, then the same call again.

Whatever happens, the same call ends with the same bytes, or refuses in one sentence. Faults of whole commands are in
`test_command_faults.py`; `points.py` names the points.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import miniature  # noqa: E402
import points  # noqa: E402
from points import Fault  # noqa: E402

from qrpo_lib.runs import folders, records  # noqa: E402
from qrpo_lib.runs.paths import runs_folder  # noqa: E402

pytestmark = pytest.mark.slow
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """`make(kind, folder, fault)` makes a step in a process of its own; returns how that ended and what it said."""
    profile = miniature.write_profile(tmp_path_factory.mktemp("profile"))
    environment = os.environ | {"MINIATURE": str(profile), "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    os.environ["MINIATURE"] = str(profile)  # for the steps' names in this process
    command = [sys.executable, str(HERE / "zygote.py")]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def made(kind, folder, fault=None):
            told = {"kind": kind, "runs": str(folder), "fault": fault and fault.dumps()}
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            return answer["status"], answer["said"]

        yield made
        process.stdin.close()
    del os.environ["MINIATURE"]


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory):
    """A runs folder with every step of every kind, made without a fault."""
    folder = tmp_path_factory.mktemp("whole")
    for kind in miniature.KINDS:
        assert make(kind, folder) == (0, ""), kind
    return folder


@pytest.fixture
def scene(make, whole, tmp_path, monkeypatch):
    """`scene(kind)`: a step of that kind, in a runs folder where all is there but this step."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("QRPO_RUNS", str(folder))

    class Scene:
        def __init__(self, kind):
            self.kind, self.step = kind, miniature.work(kind)[0]
            folder.mkdir()
            for path in whole.glob("*-*"):
                if path.name != self.step.folder_name:
                    (folder / path.name).symlink_to(path)

        def attempt(self, point=None, action="kill", after=0):
            fault = point and Fault(f"{self.step.name}: {point}", action, str(tmp_path), after=after)
            return make(self.kind, folder, fault)

        def assert_same(self):
            """The same bytes as without a fault; nothing is left of the attempts."""
            records.check(self.step.folder)
            assert contents(self.step.folder) == contents(whole / self.step.folder_name)
            assert not self.step.partial.exists()
            assert not self.step.shards.exists()

    return Scene


def contents(folder):
    return {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != records.RECORD
    }


def flip_a_bit(path, position=-100):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


# The middle of a step's work.
MIDDLE = dict.fromkeys(miniature.KINDS, "during") | {"dataset_pairs": "piece", "reference_sampling": "piece"}
MIDDLE |= {"reference_evaluation": "piece", "evaluation": "piece"}
MOMENTS = [(kind, moment) for kind in miniature.KINDS for moment in ("before", "made")] + list(MIDDLE.items())
MOMENTS += [("training", "piece"), ("training", "recorded"), ("training", "complete")]


@pytest.mark.parametrize(("kind", "moment"), MOMENTS)
def test_killed_at_a_point_of_a_step_the_same_call_ends_with_the_same_bytes(scene, kind, moment):
    at_work = scene(kind)
    assert at_work.attempt(moment)[0] == KILLED
    assert at_work.step.folder.exists() == (moment == "complete")
    assert at_work.attempt() == (0, "")
    at_work.assert_same()


@pytest.mark.parametrize("moment", ["before", "during", "piece", "made"])
def test_a_disk_that_is_full_at_a_point_of_a_step_is_named(scene, moment):
    at_work = scene("training")
    status, said = at_work.attempt(moment, "full")
    assert status == 1
    assert said.startswith("The disk is full")
    assert not at_work.step.folder.exists()
    assert at_work.attempt() == (0, "")
    at_work.assert_same()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB, mounted in a folder; a function gives it another size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder))
    if not mounted:
        pytest.skip("mounting a file system of a test's own needs root")
    yield folder, lambda size: mount("-o", f"remount,size={size}", str(folder))
    subprocess.run(["umount", str(folder)], check=True)


def mount(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


@pytest.mark.parametrize("room", [0, 100_000, 1_000_000], ids="{} bytes left".format)
def test_a_disk_that_is_really_full_is_named_and_with_room_the_same_call_completes(make, whole, small_disk, room):
    folder, resize = small_disk
    step = miniature.work("initial_policy")[0]
    free = os.statvfs(folder)
    (folder / "ballast").write_bytes(b"x" * (free.f_bavail * free.f_frsize - room))
    status, said = make("initial_policy", folder / "runs")
    assert status == 1
    assert "is full" in said, said
    assert "make room" in said
    assert resize("64m")
    assert make("initial_policy", folder / "runs") == (0, "")
    assert contents(folder / "runs" / step.folder_name) == contents(whole / step.folder_name)


@pytest.mark.parametrize(
    ("kind", "moment", "after", "damaged"),
    [
        ("training", "piece", 1, ".partial/training-*/.trainer/checkpoint-*/model.safetensors"),
        ("training", "piece", 1, ".partial/training-*/.trainer/checkpoint-*/optimizer.pt"),
        ("training", "piece", 1, ".partial/training-*/checkpoints/*/model.safetensors"),
        ("training", "made", 0, ".partial/training-*/policy/model.safetensors"),
        ("reference_sampling", "made", 0, ".shards/reference_sampling-*/completions-*.parquet"),
        ("reference_sampling", "made", 0, ".shards/reference_sampling-*/rewards-*"),
        ("evaluation", "made", 0, ".shards/evaluation-*/answers-*.parquet"),
        ("evaluation", "made", 0, ".shards/evaluation-*/rewards-*"),
        ("iterative", "during", 0, ".partial/iterative-*/.trainer/completions.parquet"),
    ],
    ids=lambda value: str(value).rpartition("/")[2],
)
def test_one_bit_in_what_a_killed_attempt_left_changes_nothing(scene, kind, moment, after, damaged):
    at_work = scene(kind)
    assert at_work.attempt(moment, after=after)[0] == KILLED
    paths = sorted(runs_folder().glob(damaged))
    assert paths
    for path in paths:
        flip_a_bit(path, len(path.read_bytes()) // 2)
    assert at_work.attempt() == (0, "")
    at_work.assert_same()


@pytest.mark.parametrize("name", ["policy/model.safetensors", "history.csv", records.RECORD, "pairs.json"])
@pytest.mark.parametrize("damage", ["a bit", "cut off", "empty", "missing"])
def test_a_damaged_output_is_refused_with_a_remedy_that_works(scene, whole, name, damage):
    at_work = scene("training")
    copied = at_work.step.folder
    subprocess.run(["cp", "-r", str(whole / copied.name), str(copied)], check=True)
    path = copied / name
    if damage == "a bit":
        flip_a_bit(path, 3)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2] if damage == "cut off" else b"")
    status, said = at_work.attempt()
    assert status == 1
    assert f"The run folder {copied} is corrupted" in said
    assert f"qrpo clean --run {copied.name}" in said
    if (name, damage) == ("history.csv", "a bit"):  # one of them, to the end
        folders.discard(copied)
        assert at_work.attempt() == (0, "")
        at_work.assert_same()


@pytest.mark.parametrize("computing", [0.0, 0.1], ids=["at its start", "at work"])
def test_a_sandbox_that_is_killed_changes_no_reward(computing):
    """A right solution that lost its process is judged again, or the call fails in one sentence."""
    from qrpo_lib.rewards.sandbox import sandbox
    from qrpo_lib.rewards.tests import TestsReward

    sandbox.available_isolation()  # looked for before, so that it is a solution's process that is killed
    code = "import time\nwhile time.process_time() < 0.4:\n    pass\n\n\ndef add(a, b):\n    return a + b + {0} - {0}\n"
    right = [f"```python\n{code.format(number)}```" for number in range(3)]
    reward = TestsReward(lambda prompt: ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"])
    with points.killing_a_descendant(computing) as killed:
        try:
            scores = reward.score(["add two numbers"] * len(right), right)
        except RuntimeError:  # it did not start
            scores = reward.score(["add two numbers"] * len(right), right)
    assert killed
    assert list(scores) == [1.0] * len(right)
