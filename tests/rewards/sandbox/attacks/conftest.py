"""What the attacks on the sandbox share: a host to harm, an attack to judge, a solution to judge after it."""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from qrpo_lib.rewards.sandbox import sandbox

SECONDS = 0.2
# The processes of this test run can be told from all others by this argument of theirs.
MEMORY_MB = 256 + os.getpid() % 256


def problem(isolation):
    """Why an isolation cannot be tested here, None if it can."""
    try:
        return None if sandbox.works(isolation) else f"a solution does not run in the isolation '{isolation}'"
    except RuntimeError as error:
        return str(error)


PROBLEMS = {isolation: problem(isolation) for isolation in ("bubblewrap", "limits")}


@pytest.fixture(params=["bubblewrap", pytest.param("limits", marks=pytest.mark.slow)])
def isolation(request):
    if PROBLEMS[request.param]:
        pytest.skip(PROBLEMS[request.param])
    return request.param


@pytest.fixture
def bubblewrap():
    if PROBLEMS["bubblewrap"]:
        pytest.skip(f"limits alone do not cover this. {PROBLEMS['bubblewrap']}")
    return "bubblewrap"


def survivors():
    """Command lines of processes that this run's sandboxes have left behind."""
    mark = f'"memory_mb": {MEMORY_MB},'.encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_bytes().rpartition(b")")[2].split()[0]
            if mark in (folder / "cmdline").read_bytes() and state != b"Z":
                found.append(folder.name)
        except OSError:
            continue
    return found


def environment():
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@pytest.fixture(autouse=True)
def host(tmp_path, monkeypatch):
    """A file and a process that must be as they were afterwards; nothing that the sandbox made may remain."""
    canary, folder = tmp_path / "canary", tmp_path / "tmp"
    canary.write_text("untouched")
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
    worker = Path(sandbox.__file__).with_name("worker.py")
    monkeypatch.setenv("HF_TOKEN", "secret-of-the-host")
    before = [environment(), worker.read_text(), os.listdir(folder)]
    yield canary, process
    assert [environment(), worker.read_text(), os.listdir(folder)] == before
    assert canary.read_text() == "untouched"
    assert [name for name in os.listdir("/tmp") if name.startswith("attack")] == []
    assert process.poll() is None, "the attack ended a process of the host"
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while survivors() and time.monotonic() < until:
        time.sleep(0.05)
    assert survivors() == []


RIGHT = "def f(x):\n    return 3 * x\n"


def _judged(source, tests, isolation, *, seconds=SECONDS, max_tests=100):
    """Outcomes of an attack, after the solution that runs after it has been judged as if nothing had been."""
    attack, after = sandbox.run_many(
        [(source, tests), (RIGHT, ["assert f(2) == 6", "assert f(2) == 7", "assert f(5) == 15"])],
        seconds_per_test=seconds,
        memory_mb=MEMORY_MB,
        max_tests=max_tests,
        processes=1,
        isolation=isolation,
    )
    assert after.outcomes == ("passed", "failed", "passed")
    return list(attack.outcomes)


@pytest.fixture
def secret():
    return secrets.token_hex(8)


@pytest.fixture
def attack(isolation):
    """The outcomes of f(1), f(2), f(3), where 11, 12 and 13 are right."""

    def run(source, **options):
        return _judged(source, [f"assert f({x}) == {x + 10}" for x in (1, 2, 3)], isolation, **options)

    return run


@pytest.fixture
def forgery(isolation, secret):
    """Outcomes of a solution that cannot know the right answers: three tests whose expected values are secrets."""

    def run(source, **options):
        return _judged(source, [f"assert f({x}) == 'right-{secret}-{x}'" for x in (1, 2, 3)], isolation, **options)

    return run


@pytest.fixture
def judged():
    return _judged
