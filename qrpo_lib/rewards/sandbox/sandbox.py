"""Untrusted Python against test cases, one verdict a test: `run_tests`, and `run_many` for batches.

    sandbox.run_tests(solution, ["assert add(1, 2) == 3"]).pass_rate

A solution runs in a process of its own that sees the inputs of one test after the other and never an expected value;
it returns plain data, and this side, outside its reach, decides (`checks`). Isolation is bubblewrap's where it
works: no network, no other processes, a read-only file system with the interpreter and nothing else, a private /tmp.
Elsewhere limits and a filter of system calls remain, and a warning says what they do not cover.

Time is the processor time of the test on a core of ordinary speed, read from outside, against the limit; waiting for a
busy processor is free (`clock`).
"""

from __future__ import annotations

import os
import platform
import queue
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from qrpo_lib.rewards.sandbox import checks as sandbox_checks
from qrpo_lib.rewards.sandbox import isolation as sandbox_isolation
from qrpo_lib.rewards.sandbox import judge as sandbox_judge
from qrpo_lib.rewards.sandbox.clock import ALLOWANCE, IDLE_LIMITS
from qrpo_lib.rewards.sandbox.isolation import Isolation
from qrpo_lib.rewards.sandbox.process import Answer, Limits, LostError, Nursery, Solver, StartError
from qrpo_lib.rewards.sandbox.worker import ANSWER_CHARACTERS
from qrpo_lib.runs import cores

__all__ = [
    "ANSWER_CHARACTERS",
    "MAX_TESTS",
    "MEMORY_MB",
    "SECONDS_PER_TEST",
    "Isolation",
    "Outcome",
    "Program",
    "Result",
    "WeakIsolationWarning",
    "available_isolation",
    "run_many",
    "run_tests",
    "works",
]

Outcome = Literal["passed", "failed", "error", "timeout", "memory", "crashed"]
"""failed: another value; error: an exception; crashed: the process ended, or broke the protocol or a limit."""

# What the paper's sandbox allows (reference_results.json).
SECONDS_PER_TEST, MEMORY_MB, MAX_TESTS = 1.0, 1024, 100
# How often a start is tried before it counts as impossible, and how long to wait in between.
_PROBES, _PROBE_PAUSE = 3, 0.5


class WeakIsolationWarning(UserWarning):
    """Solutions run with less isolation than bubblewrap gives."""


@dataclass(frozen=True)
class Program:
    """A solution that needs something to run before it: `setup`, whose names it sees and cannot change for others."""

    code: str
    setup: str = ""

    def __str__(self) -> str:
        return f"{self.setup}\n{self.code}"


@dataclass(frozen=True)
class Result:
    """The verdicts on one solution, one a test in the order of the tests."""

    outcomes: tuple[Outcome, ...]
    details: tuple[str, ...]
    """What was the matter, for people; empty for a test that passed. Written by the solution in part: do not trust."""
    seconds: float = field(default=0.0, compare=False)
    """What all its tests took, in seconds of a core of ordinary speed."""
    budget: float = field(default=float("inf"), compare=False)
    """What all its tests may take; those that come later fail as out of time."""
    slowness: float = field(default=1.0, compare=False)
    """By how much the limits were extended where they were nearly used up, because the core was that much slower."""

    @property
    def pass_rate(self) -> float:
        """Share of the tests that passed: the paper's reward."""
        return self.outcomes.count("passed") / len(self.outcomes)


def run_tests(
    solution: str | Program,
    tests: Sequence[str],
    *,
    seconds_per_test: float = SECONDS_PER_TEST,
    memory_mb: int = MEMORY_MB,
    max_tests: int = MAX_TESTS,
    seconds_in_all: float | None = None,
    isolation: Isolation | None = None,
) -> Result:
    """Judge a solution (Python source, initialisation included) by the first `max_tests` of `tests`.

    A test is one `assert` statement that compares values of calls into the solution with literals, such as
    `assert Solution().f(n = 3) == [1, 2]` or `assert is_same_list(Solution().f(list_node([1])), list_node([2]))`.
    Values are equal as Python's are (1 == 1.0 == True, [1] != (1,), nan != nan), where they are plain data or count as
    such there (a Fraction, a dict's keys, a SortedList); an object of the solution's own class equals nothing, and a
    subclass of a builtin counts by its builtin content. Answers have at most ANSWER_CHARACTERS characters as JSON.
    State that the solution keeps lasts from test to test, until a test crashes or runs out of time or memory: that
    costs this test alone. A process that is ended from outside costs nothing: the solution is judged once more.

    Parameters
    ----------
    solution: Python source, or a `Program`.
    tests: one `assert` statement each.
    seconds_per_test: what a test may compute.
    memory_mb: what the solution's process may hold.
    max_tests: how many of the tests count.
    seconds_in_all: of all tests together (default: what they may compute one by one, and as long as one may idle).
    isolation: what the process is kept from; by default all that this machine can.

    Raises
    ------
    ValueError
        A test cannot be judged so, or a limit makes no sense.
    """
    options = (seconds_per_test, memory_mb, max_tests, seconds_in_all, isolation)
    (result,) = _run([(solution, tests)], _limits(*options), max_tests, seconds_in_all, 1, None)
    return result


def run_many(
    jobs: Sequence[tuple[str | Program, Sequence[str]]],
    *,
    seconds_per_test: float = SECONDS_PER_TEST,
    memory_mb: int = MEMORY_MB,
    max_tests: int = MAX_TESTS,
    seconds_in_all: float | None = None,
    processes: int | None = None,
    report: Callable[[int, int, str], None] | None = None,
    isolation: Isolation | None = None,
) -> list[Result]:
    """`run_tests` on every (solution, tests), `processes` at a time (default: the cores this process may use).

    Results are in the order of the jobs. An interrupt (Ctrl-C) ends all solutions within a second.

    Parameters
    ----------
    jobs: (solution, tests) each.
    seconds_per_test, memory_mb, max_tests, seconds_in_all, isolation: as of `run_tests`, for each of the jobs.
    processes: how many at a time (default: the cores this process may use).
    report: `report(done, total, detail)` is called after each job (`progress.bar` fits).
    """
    limits = _limits(seconds_per_test, memory_mb, max_tests, seconds_in_all, isolation)
    return _run(jobs, limits, max_tests, seconds_in_all, processes or cores.available(), report)


def _limits(
    seconds: float, memory_mb: int, max_tests: int, in_all: float | None, isolation: Isolation | None
) -> Limits:
    if not seconds > 0:
        raise ValueError(f"seconds_per_test is {seconds}: give a positive number of seconds.")
    if in_all is not None and not in_all > 0:
        raise ValueError(f"seconds_in_all is {in_all}: give a positive number of seconds.")
    if memory_mb < 64:
        raise ValueError(f"memory_mb is {memory_mb}: the interpreter alone needs some of it; give at least 64.")
    if max_tests < 1:
        raise ValueError(f"max_tests is {max_tests}: give at least 1.")
    return Limits(seconds, memory_mb, isolation or available_isolation())


def _run(
    jobs: Sequence[tuple[str | Program, Sequence[str]]],
    limits: Limits,
    max_tests: int,
    in_all: float | None,
    processes: int,
    report: Callable[[int, int, str], None] | None,
) -> list[Result]:
    """The results of all jobs, by so many threads, each with a nursery of its own."""
    for number, (_, tests) in enumerate(jobs):
        if not tests:
            raise ValueError(f"Job {number} has no tests: a pass rate needs at least one.")
        for test in tests[:max_tests]:
            sandbox_checks.split(test)  # what cannot be judged is refused before any work
    results: list[Result | None] = [None] * len(jobs)
    waiting, done, stop = queue.SimpleQueue(), queue.SimpleQueue(), threading.Event()
    for number in range(len(jobs)):
        waiting.put(number)

    def work() -> None:
        try:
            with _Workplace(limits, stop) as place:
                while not stop.is_set():
                    number = waiting.get_nowait()
                    solution, tests = jobs[number]
                    program = solution if isinstance(solution, Program) else Program(solution)
                    checks = [sandbox_checks.split(test) for test in tests[:max_tests]]
                    budget = in_all or (len(checks) + IDLE_LIMITS) * limits.seconds * ALLOWANCE
                    results[number] = place.judge(program, checks, budget)
                    done.put(None)
        except queue.Empty:
            pass
        except BaseException as error:
            done.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(processes, len(jobs)))]
    with sandbox_isolation.unreadable():
        try:
            for thread in threads:
                thread.start()
            for number in range(len(jobs)):
                error = _next(done)
                if error:
                    raise error
                if report:
                    report(number + 1, len(jobs), "")
        finally:
            stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
    return results


def _next(done: queue.SimpleQueue) -> BaseException | None:
    """What a thread has to say next. Waits in short pieces, so that an interrupt is heard at once."""
    while True:
        try:
            return done.get(timeout=0.1)
        except queue.Empty:
            continue


class _Workplace:
    """Where one thread judges solutions, one after the other."""

    def __init__(self, limits: Limits, stop: threading.Event):
        self._limits, self._stop, self._nursery = limits, stop, None

    def __enter__(self) -> _Workplace:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._nursery:
            self._nursery.close()
            self._nursery = None

    def judge(self, program: Program, checks: list[sandbox_checks.Check], budget: float) -> Result:
        """The solution's verdicts. If one of its processes is lost, all its tests run once more."""
        try:
            return self._judge(program, checks, budget, again=False)
        except (LostError, StartError):
            self._close()
            return self._judge(program, checks, budget, again=True)

    def _judge(self, program: Program, checks: list[sandbox_checks.Check], budget: float, *, again: bool) -> Result:
        """One process serves all tests; one that ends is replaced for the next test.

        again: the solution's last chance: a process that is lost costs its test.
        """
        verdicts: list[tuple[Outcome, str]] = []
        solver, broken, spent, slowness = None, None, 0.0, 1.0

        def account(answer: Answer) -> Answer:
            nonlocal spent, slowness
            if answer.clock:
                spent += answer.clock.spent
                slowness = max(slowness, answer.clock.slowness)
            return answer

        try:
            for check in checks:
                if broken is None and spent >= budget:
                    broken = ("timeout", f"the {budget:g} seconds for all tests together are over")
                try:
                    if solver is None and broken is None:
                        solver = self._solver(program.setup)
                        loaded = account(solver.load(program.code, program.setup, remaining=budget - spent))
                        broken = None if loaded.outcome == "passed" else (loaded.outcome, loaded.detail)
                    if broken:  # a solution that does not load fails every test
                        verdicts.append(broken)
                        continue
                    digest = check.expected is not None
                    answer = account(solver.values(check.calls, digest=digest, remaining=budget - spent))
                except LostError as error:
                    if not again:
                        raise
                    self._close()
                    answer = Answer("crashed", f"{error}, twice")
                verdict, seconds = self._verdict(check, answer)
                verdicts.append(verdict)
                spent += seconds
                if answer.outcome in ("timeout", "memory", "crashed") and solver:
                    solver.close()
                    solver = None
        finally:
            if solver:
                solver.close()
        return Result(*(tuple(column) for column in zip(*verdicts, strict=True)), spent, budget, slowness)

    def _verdict(self, check: sandbox_checks.Check, answer: Answer) -> tuple[tuple[Outcome, str], float]:
        """The verdict on a test, and the seconds that it took to compare where that was not done at once."""
        if answer.outcome != "passed":
            return (answer.outcome, answer.detail), 0.0
        holds, seconds = check.holds(answer.values), 0.0
        if holds is None:
            try:
                holds, seconds = sandbox_judge.holds(check, answer.values, self._stop)
            except sandbox_judge.LostJudgeError as error:
                return ("crashed", str(error)), 0.0
        if not holds and answer.raised:
            return answer.raised, seconds
        return (("passed", "") if holds else ("failed", "another value was expected")), seconds

    def _solver(self, setup: str) -> Solver:
        if self._nursery and not self._nursery.is_clean():
            self._close()
        if not self._nursery:
            self._nursery = Nursery(self._limits, self._stop)
        return self._nursery.solver(setup)


@lru_cache(maxsize=1)
def available_isolation() -> Isolation:
    """The best isolation that works here; warns if it is not bubblewrap's. `QRPO_SANDBOX=limits` chooses the other.

    Raises RuntimeError where bubblewrap is installed and, tried several times, does not start; and where not even the
    system calls can be filtered, for then a solution could end this process.
    """
    if platform.system() != "Linux":
        raise RuntimeError("The sandbox needs Linux: run solutions in a container or on a cluster node.")
    chosen = os.environ.get("QRPO_SANDBOX", "bubblewrap")
    if chosen not in ("bubblewrap", "limits"):
        raise RuntimeError(f"QRPO_SANDBOX is '{chosen}': set it to 'limits', or not at all.")
    reason = "bubblewrap is not installed" if chosen == "bubblewrap" else "QRPO_SANDBOX says so"
    if chosen == "bubblewrap" and shutil.which("bwrap"):
        problem = _probe("bubblewrap")
        if problem is None:
            return "bubblewrap"
        raise RuntimeError(
            f"bubblewrap is installed, but {problem}: make it work (it needs user namespaces), or set"
            " QRPO_SANDBOX=limits to run solutions with less isolation."
        )
    if problem := _probe("limits"):
        raise RuntimeError(f"The sandbox can neither use bubblewrap nor filter system calls ({problem}): {_INSTALL}.")
    warnings.warn(
        f"Solutions run with limits and a filter of system calls only: {reason}. They cannot change files, use the"
        " network or sockets, start processes or signal any, nor read this process's memory or that of other solutions,"
        " but they can read what this user can read: files (devices and named pipes among them, where what is read is"
        f" gone), and this user's processes beside the judge's own. {_INSTALL} for untrusted models.",
        WeakIsolationWarning,
        stacklevel=3,
    )
    return "limits"


_INSTALL = "Install bubblewrap (apt-get install bubblewrap)"


def _probe(isolation: Isolation) -> str | None:
    """Why an isolation does not work, None if it does. One failure may be chance: it is tried again."""
    problem = None
    for attempt in range(_PROBES):
        if attempt:
            time.sleep(_PROBE_PAUSE)
        try:
            if works(isolation):
                return None
            problem = "a solution does not run in it with its system calls filtered"
        except RuntimeError as error:
            problem = str(error).rstrip(".")
            problem = problem[:1].lower() + problem[1:]
    return problem


def works(isolation: Isolation) -> bool:
    """Whether a solution runs under this isolation, with its system calls filtered. RuntimeError if none starts."""
    nursery = Nursery(Limits(10.0, 256, isolation))
    try:
        solver = nursery.solver()
        try:
            return solver.filtered and solver.load("import sortedcontainers, heapq, typing").outcome == "passed"
        finally:
            solver.close()
    except LostError as error:
        raise StartError(f"The sandbox did not start with the isolation '{isolation}': {error}.") from None
    finally:
        nursery.close()
