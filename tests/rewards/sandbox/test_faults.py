"""What happens to verdicts, processes and folders when processes are ended, and when someone has had enough."""

import _thread
import gc
import os
import select
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from sandbox_marks import PROBLEMS, descendants, isolation, survivors  # noqa: F401  (a fixture)

from qrpo_lib.rewards.sandbox import clock, sandbox
from qrpo_lib.rewards.sandbox import process as sandbox_process

PYTHON = os.path.realpath(sys.executable)
SLEEPER = "import time\ndef f(x):\n    time.sleep(0.2)\n    return x\n"
MEMORY_MB = 700 + os.getpid() % 256  # tells this run's processes from all others


@pytest.fixture
def solvers(monkeypatch):
    """The solvers that are made from now on, as (nursery's process, solver's process)."""
    made, solver = [], sandbox_process.Nursery.solver

    def noted(self, setup=""):
        found = solver(self, setup)
        made.append((self._pid, found.pid))
        return found

    monkeypatch.setattr(sandbox_process.Nursery, "solver", noted)
    return made


def later(action, ready):
    """Do something in another thread as soon as `ready()`."""

    def run():
        while not ready():
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("which", ["nursery", "solver"])
def test_a_worker_that_is_killed_costs_nothing(isolation, solvers, which, monkeypatch):  # noqa: F811
    """In the middle of a test; state that the solution keeps is as if nothing had been."""
    counter = "n = 0\ndef f(x):\n    global n\n    n += 1\n    return n\n"
    tests = [f"assert f(0) == {n}" for n in range(1, 6)]
    values, is_over = sandbox_process.Solver.values, sandbox_process.Clock.is_over

    def stopped(self, calls, **options):
        if len(solvers) == 1 and calls == (("(f(0))", "", ""),) and not asked.append(calls) and len(asked) == 3:
            os.kill(self.pid, signal.SIGSTOP)  # so that it has not answered when it is looked at
        return values(self, calls, **options)

    def killed(self):
        if len(asked) == 3 and len(solvers) == 1:
            os.kill(solvers[0][which == "solver"], signal.SIGKILL)
        return is_over(self)

    asked = []
    monkeypatch.setattr(sandbox_process.Solver, "values", stopped)
    monkeypatch.setattr(sandbox_process.Clock, "is_over", killed)
    result = sandbox.run_tests(counter, tests, isolation=isolation, memory_mb=MEMORY_MB)
    assert result.outcomes == ("passed",) * 5
    assert len(solvers) == 2


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stopped_with_children(pid):
    """Stop a process; the children that it has, and can have no more of."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return children(pid)


@pytest.fixture
def at_first_start(monkeypatch):
    """Sets what is done to the first worker's process before it is told anything; gives a list of all that start."""
    start, started = sandbox_process.sandbox_isolation.start, []

    def set_action(action):
        def noted(kind, control):
            started.append(start(kind, control))
            if len(started) == 1:
                action(started[0].pid)
            return started[-1]

        monkeypatch.setattr(sandbox_process.sandbox_isolation, "start", noted)
        return started

    return set_action


def test_a_worker_that_is_killed_while_it_starts_costs_nothing(isolation, at_first_start):  # noqa: F811
    """With all that it has started: what bubblewrap has started lives on without it, and would answer."""

    def kill(pid):
        for process in (*stopped_with_children(pid), pid):
            os.kill(process, signal.SIGKILL)

    started = at_first_start(kill)
    assert sandbox.run_tests(SLEEPER, ["assert f(1) == 1"], isolation=isolation).outcomes == ("passed",)
    assert len(started) == 2


@pytest.mark.parametrize("moment", ["forked", "begun"])
def test_bubblewrap_that_is_killed_alone_costs_and_leaves_nothing(moment, at_first_start):
    """Its child has just been forked, and may wait for it for ever, or runs the worker, which may well answer."""
    if PROBLEMS["bubblewrap"]:
        pytest.skip(PROBLEMS["bubblewrap"])
    left = []

    def has_come(pid):
        return any(moment == "forked" or os.readlink(f"/proc/{child}/exe") == PYTHON for child in children(pid))

    def kill(pid):
        while not has_come(pid):
            assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        left.extend(os.pidfd_open(child) for child in stopped_with_children(pid))
        os.kill(pid, signal.SIGKILL)

    at_first_start(kill)
    try:
        assert sandbox.run_tests(SLEEPER, ["assert f(1) == 1"], isolation="bubblewrap").outcomes == ("passed",)
        assert len(left) == 1
        assert all(select.select([process], [], [], 60)[0] for process in left)  # it ends
    finally:
        for process in left:
            os.close(process)


def test_a_worker_that_is_always_killed_costs_its_test(isolation, monkeypatch):  # noqa: F811
    values = sandbox_process.Solver.values

    def killed(self, calls, **options):
        if "f(2)" in calls[0].source:
            os.kill(self.pid, signal.SIGKILL)
        return values(self, calls, **options)

    monkeypatch.setattr(sandbox_process.Solver, "values", killed)
    result = sandbox.run_tests("def f(x): return x", [f"assert f({x}) == {x}" for x in (1, 2, 3)], isolation=isolation)
    assert result.outcomes == ("passed", "crashed", "passed")
    assert "twice" in result.details[1]


def test_a_crash_of_its_own_is_not_tried_again(isolation, solvers):  # noqa: F811
    source = "import os, ctypes\ndef f(x): ctypes.string_at(0) if x else os._exit(9)"
    assert sandbox.run_tests(source, ["assert f(0) == 1", "assert f(1) == 1"], isolation=isolation).outcomes == (
        "crashed",
        "crashed",
    )
    assert len(solvers) == 2


@pytest.fixture
def heard():
    """Interrupts are heard, also where a shell has started the tests in the background, deaf to them.

    Python forgets one that arrives while it calls what is to be told of a collection of garbage, as hypothesis is.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()
    yield
    gc.enable()
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_everything_at_once(isolation, solvers, heard):  # noqa: F811
    """Ctrl-C while solutions idle that would idle for hours, and while a long value is compared."""
    stuck = "import time\ndef f(x):\n    time.sleep(x)\n    return list(range(10 ** 5))\n"
    jobs = [(stuck, ["assert f(3600) == 1"] * 50)] * 6
    interrupted = []

    def interrupt():
        time.sleep(0.2)
        interrupted.append(time.monotonic())
        _thread.interrupt_main()

    thread = later(interrupt, lambda: len(solvers) >= 2)
    with pytest.raises(KeyboardInterrupt):
        sandbox.run_many(jobs, isolation=isolation, processes=2, seconds_per_test=3600, memory_mb=MEMORY_MB)
    took = time.monotonic() - interrupted[0]
    thread.join()
    assert survivors(os.getpid()) == set()
    assert took < 60  # a second on a machine that has one to spare; without the interrupt it would be hours


def test_an_error_of_the_callers_ends_everything_too(isolation):  # noqa: F811
    def report(done, total, _):
        raise ZeroDivisionError

    stuck = "import time\ndef f(x):\n    time.sleep(x)\n"
    jobs = [("def f(x): return x", ["assert f(1) == 1"]), (stuck, ["assert f(3600) == 1"])]
    with pytest.raises(ZeroDivisionError):
        sandbox.run_many(jobs, report=report, isolation=isolation, processes=2, seconds_per_test=3600)
    assert survivors(os.getpid()) == set()


def test_all_tests_together_have_a_budget(isolation, monkeypatch):  # noqa: F811
    monkeypatch.setattr(clock, "slowness", lambda: 1.0)  # a slow core would get more
    spin = "import time\ndef f(s):\n    end = time.process_time() + s\n    while time.process_time() < end: pass\n"
    tests = ["assert f(0.2) is None"] * 50
    result = sandbox.run_tests(spin, tests, seconds_in_all=1.0, isolation=isolation)
    passed = result.outcomes.count("passed")
    assert result.outcomes == ("passed",) * passed + ("timeout",) * (50 - passed)
    assert 1 <= passed <= 6
    assert result.budget == 1.0
    assert 0.5 < result.seconds < 3
    assert "1 seconds for all tests together" in result.details[-1]
    with pytest.raises(ValueError, match="seconds_in_all"):
        sandbox.run_tests(spin, tests, seconds_in_all=0)


def test_the_budget_allows_every_test_its_limit():
    result = sandbox.run_tests("def f(x): return x", ["assert f(1) == 1"] * 7, seconds_per_test=2)
    assert result.budget >= 7 * 2
    assert 0 < result.seconds < result.budget


def test_idling_is_charged_to_the_budget(isolation, solvers):  # noqa: F811
    """Each test by itself might idle for ten of its limits, and each that does costs its solver."""
    tests = ["assert f(3600) == 1"] * 100
    result = sandbox.run_tests(SLEEPER.replace("0.2", "x"), tests, seconds_in_all=1.0, isolation=isolation)
    assert set(result.outcomes) == {"timeout"}
    assert len(solvers) <= 2


def test_one_failure_of_the_probe_is_not_the_end(monkeypatch):
    """Nor does it lower the isolation; a program that is there and does not start is an error that says so."""
    if PROBLEMS["bubblewrap"]:
        pytest.skip(PROBLEMS["bubblewrap"])
    works, failures = sandbox.works, []

    def flaky(kind):
        if len(failures) < number:
            failures.append(kind)
            raise RuntimeError("The sandbox did not start: Resource temporarily unavailable.")
        return works(kind)

    monkeypatch.setattr(sandbox, "works", flaky)
    monkeypatch.setattr(sandbox, "_PROBE_PAUSE", 0.0)
    monkeypatch.delenv("QRPO_SANDBOX", raising=False)
    sandbox.available_isolation.cache_clear()
    try:
        number = 1
        assert sandbox.available_isolation() == "bubblewrap"
        sandbox.available_isolation.cache_clear()
        failures.clear()
        number = 100
        with pytest.raises(
            RuntimeError, match=r"bubblewrap is installed, but .*unavailable.*QRPO_SANDBOX=limits"
        ) as said:
            sandbox.available_isolation()
        assert str(said.value).count(". ") == 0  # one sentence
        number = 0
        assert sandbox.available_isolation() == "bubblewrap"  # the failure was not kept
        sandbox.available_isolation.cache_clear()
        monkeypatch.setenv("QRPO_SANDBOX", "limits")
        with pytest.warns(sandbox.WeakIsolationWarning, match="QRPO_SANDBOX says so"):
            assert sandbox.available_isolation() == "limits"
    finally:
        sandbox.available_isolation.cache_clear()


def test_the_judges_own_delay_is_not_charged(isolation, monkeypatch):  # noqa: F811
    """This side comes to look only after longer than a test may take; the answer has been there all along."""
    converse = sandbox_process.Solver._converse

    def late(self, message, reply, is_over):
        def delayed():
            return is_over()

        os.write(self._write, message[:0])
        if message:
            real, held = os.read, []

            def slow(descriptor, size):
                if not held and descriptor == self._read:
                    held.append(time.sleep(2.5))
                return real(descriptor, size)

            with monkeypatch.context() as patch:
                patch.setattr(sandbox_process.os, "read", slow)
                return converse(self, message, reply, delayed)
        return converse(self, message, reply, delayed)

    monkeypatch.setattr(sandbox_process.Solver, "_converse", late)
    result = sandbox.run_tests("def f(x): return x", ["assert f(1) == 1"], seconds_per_test=0.1, isolation=isolation)
    assert result.outcomes == ("passed",)


def test_nothing_is_left_after_many_solutions(isolation):  # noqa: F811
    gc.collect()
    before = len(os.listdir("/proc/self/fd")), set(os.listdir(tempfile.gettempdir())), descendants(os.getpid())
    crash = "import os\ndef f(x): os._exit(0) if x % 2 else None"
    sandbox.run_many([(crash, [f"assert f({x}) is None" for x in range(6)])] * 6, isolation=isolation, processes=3)
    assert len(os.listdir("/proc/self/fd")) <= before[0]
    assert {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("sandbox")} <= before[1]
    assert survivors(os.getpid()) == set()
    assert set(descendants(os.getpid())) <= set(before[2])  # other tests may keep some
