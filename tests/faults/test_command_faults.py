"""The fault campaign, command by command: one after the other, each fault strikes the command that the last one broke.

A training has been removed, and `qrpo reproduce` is to make it again, though its notebooks are complete. Each time it
fails it says so in a sentence; nothing is published before all is whole; in the end the bytes are those of before.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import miniature  # noqa: E402
from points import Fault  # noqa: E402

from qrpo_lib.runs import paths, records  # noqa: E402

pytestmark = pytest.mark.slow
NOTEBOOK = "notebooks/experiments/sweep.ipynb"


class Project:
    """A project's folder, with the commands that are run in it."""

    def __init__(self, root, profile):
        self.root, self.runs, self.profile = root, root / "runs", profile
        self.faults = 0

    def start(self, point=None, action="kill", **settings):
        """Start the command, with a fault or without."""
        environment = os.environ | {"QRPO_ROOT": str(self.root), "QRPO_RUNS": str(self.runs), "OMP_NUM_THREADS": "1"}
        if point:
            self.faults += 1
            counted = self.root / f"fault-{self.faults}"
            counted.mkdir()
            fault = Fault(point, action, str(counted), **settings)
            environment["QRPO_FAULT"] = fault.dumps()
            environment["PYTHONPATH"] = os.pathsep.join([str(HERE / "hook"), os.environ.get("PYTHONPATH", "")])
        arguments = ["reproduce", "--profile", str(self.profile), "--only", "sweep", "tables"]
        return subprocess.Popen(
            [sys.executable, "-m", "qrpo_lib.suite.cli", *arguments], env=environment, stdout=subprocess.PIPE, text=True
        )

    def reproduce(self, *fault, **settings):
        """The command's exit code and what it said."""
        process = self.start(*fault, **settings)
        said = " ".join(process.communicate()[0].split())
        assert "Traceback" not in said
        return process.returncode, said

    def published(self):
        figures = self.root / "figures"
        return {p.relative_to(figures): p.read_bytes() for p in figures.rglob("*") if p.is_file()}

    def training(self, algorithm):
        """The folder of the first training with an algorithm."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QRPO_RUNS", str(self.runs))
            found = [(path, record) for path, record in records.read_all() if record["name"] == "training"]
        return next(path for path, record in found if record["parameters"]["algorithm"] == algorithm)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A project in which the command has been run without a fault."""
    root = tmp_path_factory.mktemp("complete")
    shutil.copytree(paths.PACKAGE.parent / "notebooks", root / "notebooks")
    profile = miniature.write_profile(tmp_path_factory.mktemp("profile"))  # its path is in the notebooks' keys
    project = Project(root, profile)
    status, said = project.reproduce()
    assert (status, "2 executed" in said) == (0, True), said
    return project


@pytest.fixture
def project(complete, tmp_path):
    """A copy of it whose DPO training has been removed."""
    shutil.copytree(complete.root, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("fault-*"))
    made = Project(tmp_path, complete.profile)
    shutil.rmtree(made.training("dpo"))
    return made


def contents(folder):
    return {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != records.RECORD
    }


def test_after_each_fault_the_same_command_ends_with_the_same_bytes_or_fails_in_a_sentence(complete, project):
    lost = project.runs / complete.training("dpo").name
    notebook = project.root / NOTEBOOK
    source = notebook.read_bytes()
    faults = [
        # where, what, how the command ends, what it says
        (("training: during", "kill"), {"times": 2}, 1, "dpo, off-policy-best", "failed twice: its process was killed"),
        (("kernel: during", "kill kernel"), {}, 1, "experiments/sweep[chat]: its kernel died", "1 failed"),
        (("training: made", "kill job"), {}, 1, "experiments/sweep[chat]: its process was killed (SIGKILL)", ""),
        (("training: piece", "kill command"), {}, -signal.SIGKILL, "", ""),
        (("notebook-experiments-sweep: before", "full"), {}, 1, "The disk is full", "make room"),
        (("kernel: during", f"edit {notebook}"), {}, 1, "the notebook was edited while it ran", "run the same command"),
    ]
    for fault, settings, status, *told in faults:
        ended, said = project.reproduce(*fault, **settings)
        assert ended == status, (fault, said)
        assert all(text in said for text in told), (fault, said)
        assert project.published() == complete.published(), fault
        notebook.write_bytes(source)
    shutil.rmtree(lost)  # the last of these commands has made it
    first, second = project.start(), project.start()
    said = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert contents(lost) == contents(complete.runs / lost.name)
    assert project.published() == complete.published()
    status, said = project.reproduce()
    assert (status, "0 executed, 2 skipped" in said) == (0, True), said
