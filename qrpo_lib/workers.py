"""Work in parallel processes that stay: each imports the library once and then makes one result after the other.

outcome = workers.run([Task("a", function, (1,)), ...], processes=2, threads=1, log_folder=folder)

A task that fails, or whose process dies, is tried once more, after all others; then its first error is listed. Nothing
that fails stops the rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TextIO

from qrpo_lib import failures, runs

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.code_version`)

_ATTEMPTS = 2
_SECONDS_BETWEEN_REPORTS = 1.0


@dataclass(frozen=True)
class Task:
    """`function(*arguments)` of an importable module; what it returns is not kept. `name` is for people."""

    name: str
    function: Callable[..., Any]
    arguments: tuple = ()


@dataclass
class Outcome:
    """Where the work stands: names of tasks, errors of those that failed, seconds of each that was done.

    `retried` has the first error of each task that was tried again, `failed` what is to be said of those that failed
    twice: the first error, and the second if it is another one.
    """

    total: int
    running: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    retried: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Tasks that are neither done nor failed."""
        return self.total - len(self.seconds) - len(self.failed)

    def seconds_left(self, processes: int) -> float | None:
        """An estimate of the time that the rest takes, None before anything is done."""
        if not self.seconds:
            return None
        return self.left * sum(self.seconds.values()) / len(self.seconds) / min(processes, max(self.left, 1))


class _Worker:
    """A process that makes one task at a time."""

    def __init__(self, number: int, threads: int, log_folder: Path):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, os.getpid(), log_folder / f"worker-{number}.log"), daemon=True
        )
        # OpenMP reads its settings when the process starts.
        with _environment(OMP_NUM_THREADS=str(threads), OMP_WAIT_POLICY="PASSIVE"):
            self.process.start()
        theirs.close()
        self.task: Task | None = None
        self.started = 0.0

    def give(self, task: Task) -> None:
        self.task, self.started = task, time.monotonic()
        with contextlib.suppress(OSError):  # it is dead: there will be no answer either
            self.connection.send((task.function, task.arguments))

    def answer(self) -> str | None:
        """The error of the task it had, None if it is done. A process that died is an error."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join(timeout=10)
            return failures.exit_text(self.process.exitcode) + failures.full_disk(runs.runs_folder())

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def run(
    tasks: Sequence[Task],
    *,
    processes: int,
    threads: int = 1,
    log_folder: Path,
    on_change: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Make all tasks with so many processes of so many threads each. What the processes print goes to the log folder.

    `on_change(outcome)` is called whenever something was done or failed, and every second. An interrupt stops all.
    """
    log_folder.mkdir(parents=True, exist_ok=True)
    outcome = Outcome(len(tasks))
    waiting, attempts = deque(tasks), dict.fromkeys((task.name for task in tasks), 0)
    if len(attempts) != len(tasks):
        raise ValueError("every task needs a name of its own.")
    workers = [_Worker(number, threads, log_folder) for number in range(min(processes, len(tasks)))]
    try:
        while waiting or any(worker.task for worker in workers):
            for worker in workers:
                if worker.task is None and waiting:
                    task = waiting.popleft()
                    attempts[task.name] += 1
                    worker.give(task)
            outcome.running = [worker.task.name for worker in workers if worker.task]
            if on_change:
                on_change(outcome)
            ready = wait([worker.connection for worker in workers if worker.task], timeout=_SECONDS_BETWEEN_REPORTS)
            for number, worker in enumerate(workers):
                if worker.connection not in ready:
                    continue
                task, error = worker.task, worker.answer()
                worker.task = None
                if error is None:
                    outcome.seconds[task.name] = time.monotonic() - worker.started
                elif attempts[task.name] < _ATTEMPTS:
                    outcome.retried[task.name] = error
                    waiting.append(task)
                else:
                    first = outcome.retried[task.name]
                    outcome.failed[task.name] = first if first == error else f"{first} (the second time: {error})"
                if not worker.process.is_alive():
                    workers[number] = _Worker(number, threads, log_folder)
        outcome.running = []
        if on_change:
            on_change(outcome)
    finally:
        for worker in workers:
            worker.stop()
    return outcome


def _serve(connection: Connection, parent: int, log: Path) -> None:
    """What a worker's process does."""
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG: a killed parent leaves no work behind that a second one would compete with.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.environ.pop("QRPO_STATUS", None)  # the parent tells how far the work is
    with _log_or_nothing(log) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            function, arguments = connection.recv()
            try:
                function(*arguments)
            except Exception as error:
                connection.send(failures.sentence(error, runs.runs_folder()))
            else:
                connection.send(None)


def _log_or_nothing(path: Path) -> TextIO:
    try:
        return open(path, "a", buffering=1)
    except OSError:  # a full disk: the work itself will say so
        return open(os.devnull, "a")


@contextlib.contextmanager
def _environment(**values: str):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
