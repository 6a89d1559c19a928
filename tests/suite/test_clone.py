"""A clone in a folder whose path has a space and an accent: the first commands of a new user, as they type them."""

import os
import shutil
import subprocess
import sys
from urllib.parse import quote

import pytest

from qrpo_lib.runs import paths

ROOT = paths.PACKAGE.parent
NOTEBOOK = "theory/reference_sets"
needs_git = pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="needs a git checkout")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What a clone of this checkout would hold: its tracked and new files as they are now."""
    folder = tmp_path_factory.mktemp("Réplique à moi") / "q r p o é"
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def qrpo(clone):
    """Runs `qrpo` with arguments in the clone; returns its output."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("QRPO_")}
    environment = outside | {"PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        command = [sys.executable, "-m", "qrpo_lib.suite.entry", *arguments]
        ended = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr[-3000:]
        return ended.stdout

    return run


@needs_git
@pytest.mark.slow
def test_a_notebook_of_theory_runs_there_and_publishes_there(qrpo, clone):
    before = {path: path.read_bytes() for path in (clone / "figures").rglob("*") if path.is_file()}
    picture = clone / "figures" / "theory" / "reference-sets.png"
    picture.unlink(missing_ok=True)
    qrpo("reproduce", "--only", NOTEBOOK)
    assert picture.read_bytes().startswith(b"\x89PNG")
    executed = list((clone / "runs").glob("notebook-theory-reference_sets-*/executed.ipynb"))
    assert len(executed) == 1
    others = {path: content for path, content in before.items() if "reference" not in path.name}
    assert all(path.read_bytes() == content for path, content in others.items() if path.name != "manifest.json")
    lines = [line for line in qrpo("status").splitlines() if NOTEBOOK in line]
    assert len(lines) == 1
    assert "complete" in lines[0]


@needs_git
@pytest.mark.slow
def test_what_would_run_is_told_there(qrpo, clone):
    told = "".join(qrpo("plan").split())  # lines are broken at spaces
    assert "chat,training:" in told
    assert f"resultsin{''.join(str(clone / 'runs').split())},where" in told


@needs_git
@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_names_no_folder_by_a_path_that_a_space_would_part(clone):
    for target in ("first", "reproduce", "lab", "test", "lint"):
        told = subprocess.run(["make", "-n", target], cwd=clone, capture_output=True, text=True, check=True).stdout
        assert str(clone) not in told
        assert quote(str(clone)) not in told
