"""What the attacks on the sandbox share: a host to harm, an attack to judge, a solution to judge after it."""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from sandbox_marks import PROBLEMS, survivors

from qrpo_lib.rewards.sandbox import sandbox

SECONDS = 0.2
MEMORY_MB = 300


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


def environment():
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@pytest.fixture(autouse=True)
def host(tmp_path, monkeypatch):
    """A file and a process that must be as they were afterwards; nothing that the sandbox made may remain."""
    canary, folder = tmp_path / "canary", tmp_path / "tmp"
    canary.write_text("untouched")
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(1e6)"])
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
    until = time.monotonic() + 600
    while survivors(os.getpid()) and time.monotonic() < until:
        time.sleep(0.05)
    assert survivors(os.getpid()) == set()


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
