"""The same verdict every time: what a run's chance decides is fixed, and limits hold between two looks as well."""

import os
import subprocess
import sys

import pytest
from sandbox_marks import isolation  # noqa: F401  (a fixture)

from qrpo_lib.rewards.sandbox import checks, clock, process, sandbox
from qrpo_lib.rewards.sandbox.cgroups import Group

CHANCE = """
import random
class Thing: pass
def order(x): return list({str(i) for i in range(50)})
def by_identity(x): return [thing.number for thing in {made(i) for i in range(50)}]
def made(i):
    thing = Thing()
    thing.number = i
    return thing
def dice(x): return [random.random() for _ in range(3)]
"""


@pytest.mark.parametrize("function", ["order", "by_identity", "dice"])
def test_what_chance_decides_is_the_same_in_every_run(function, isolation):  # noqa: F811
    """Each run is a process of its own with another hash seed; the values are read from what the first one gives."""
    code = (
        "import json, sys; from qrpo_lib.rewards.sandbox import process as p\n"
        f"nursery = p.Nursery(p.Limits(5, 256, {isolation!r})); solver = nursery.solver()\n"
        f"assert solver.load({CHANCE!r}).outcome == 'passed'\n"
        f"print(solver.values((('{function}(1)', '', ''),), digest=False).values); solver.close(); nursery.close()\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(found) == 1


def test_twenty_four_threads_fit_into_the_papers_memory(isolation):  # noqa: F811
    source = """
import threading
def f(n):
    barrier, found = threading.Barrier(n), []
    def work():
        barrier.wait(30)
        found.append(len([bytes(1000) for _ in range(1000)]))
    threads = [threading.Thread(target=work) for _ in range(n)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return sum(found)
"""
    result = sandbox.run_tests(source, ["assert f(24) == 24000"] * 2, isolation=isolation, seconds_per_test=10)
    assert result.outcomes == ("passed", "passed"), result.details


def test_deep_recursion_through_c_has_a_stack(isolation):  # noqa: F811
    """8 MB, the usual size, do not suffice for it."""
    source = """
import functools, sys
sys.setrecursionlimit(10 ** 6)
class Deep:
    def __init__(self, n): self.n = n
    def __len__(self): return 0 if self.n == 0 else len(Deep(self.n - 1))
def f(n): return len(Deep(n))
"""
    test = "assert f(20000) == 0"
    result = sandbox.run_tests(source, [test], isolation=isolation, seconds_per_test=10)
    if sys.version_info < (3, 12):  # from there on C's recursion has a limit of its own
        assert result.outcomes == ("passed",), result.details


@pytest.mark.parametrize("thing", ["threads", "files"])
def test_many_short_tests_do_not_add_up(thing, isolation):  # noqa: F811
    """Each is over before anyone looks; each leaves some behind."""
    if thing == "files" and isolation == "limits":
        pytest.skip("without bubblewrap no file can be made at all")
    source = """
import threading, time
made = 0
def threads(n):
    global made
    for _ in range(n): threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    made += n
    return made
def files(n):
    global made
    for i in range(n): open(f'/tmp/attack{made + i}', 'w').close()
    made += n
    return made
"""
    number, most = {"threads": (10, clock.MAX_THREADS), "files": (500, clock.MAX_FILES)}[thing]
    tests = [f"assert {thing}({number}) == {number * (i + 1)}" for i in range(100)]
    result = sandbox.run_tests(source, tests, isolation=isolation, seconds_per_test=5)
    first = next(i for i, outcome in enumerate(result.outcomes) if outcome != "passed")
    assert first <= most // number
    if thing == "threads":
        assert result.details[first] == f"more than {most} threads"
    else:
        assert result.details[first].startswith("OSError: [Errno 28] No space left on device")


def test_a_single_test_gets_no_further_than_the_limits(isolation):  # noqa: F811
    """However fast it is: the kernel counts files, and threads where a control group can be had."""
    source = """
import threading, time
def threads(n):
    made = 0
    try:
        for _ in range(n):
            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
            made += 1
    except RuntimeError: pass
    return made
def files(n):
    made = 0
    try:
        for i in range(n):
            open(f'/tmp/attack{i}', 'w').close()
            made += 1
    except OSError: pass
    return made
"""
    group = Group(8, 64)
    counted = "pids" in group.controllers
    group.close()
    nursery = process.Nursery(process.Limits(60, 1024, isolation))
    try:
        solver = nursery.solver()
        solver._census.excess = lambda: None  # nobody looks
        assert solver.load(source).outcome == "passed"
        (files,) = solver.values((checks.Call("files(20_000)"),), digest=False).values
        assert int(files) == 0 if isolation == "limits" else 4000 < int(files) <= clock.MAX_FILES
        if counted:
            (threads,) = solver.values((checks.Call("threads(500)"),), digest=False).values
            assert 50 < int(threads) <= clock.MAX_THREADS
        solver.close()
    finally:
        nursery.close()


def test_a_slow_core_gets_more_time_and_the_result_says_so(monkeypatch):
    spin = "import time\ndef f(s):\n    end = time.process_time() + s\n    while time.process_time() < end: pass\n"
    tests = ["assert f(0.6) is None"]
    monkeypatch.setattr(clock, "slowness", lambda: 1.0)
    usual = sandbox.run_tests(spin, tests, seconds_per_test=0.2)
    assert (usual.outcomes, usual.slowness) == (("timeout",), 1.0)
    monkeypatch.setattr(clock, "slowness", lambda: 4.0)
    slow = sandbox.run_tests(spin, tests, seconds_per_test=0.2)
    assert (slow.outcomes, slow.slowness) == (("passed",), 4.0)
    assert 0.6 / 4 <= slow.seconds < 0.6  # beside what it computes, this side's delay may look like idling
