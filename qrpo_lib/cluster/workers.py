"""An executor whose jobs are calls in processes of this command that stay: each imports the library once.

    Scheduler(tasks, Workers(cores=2)).run(...)
    Workers.kept(cores, threads)          # the same processes for every sweep of a notebook

A process that has had nothing to do for a minute ends; all of them die with the command.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Collection
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from qrpo_lib.cluster.task import After, Executor, JobOutcome, ScheduledTask, SubmittedJob
from qrpo_lib.runs import environment, failures, secrets, usage

_IDLE = 75  # the exit code of a process that has ended for want of work
_SECONDS_BETWEEN_REPORTS = 1.0


class Workers(Executor):
    """Processes that stay, for as many tasks at once as keep so many cores busy, or for one that keeps more.

    threads: of each process's libraries. idle_seconds: after which a process without work ends.
    """

    def __init__(self, cores: int, threads: int = 1, idle_seconds: float = 60):
        self.cores = cores
        self._threads, self._idle_seconds = threads, idle_seconds
        self._idle: list[_Worker] = []
        self._busy: dict[str, _Worker] = {}  # by the ids of their jobs
        self._jobs: dict[str, SubmittedJob] = {}
        self._outcomes: dict[str, JobOutcome] = {}
        self._numbers = itertools.count(1)

    @classmethod
    def kept(cls, cores: int, threads: int) -> Workers:
        """Those that this process has started before with so many threads, if any."""
        workers = _KEPT.setdefault(threads, cls(cores, threads))
        workers.cores = cores
        return workers

    def has_room(self, busy: Collection[ScheduledTask], task: ScheduledTask) -> bool:
        """Whether the task may run beside those."""
        return not busy or sum(running.cores for running in busy) + task.cores <= self.cores

    def submit(self, tasks: Collection[ScheduledTask], after: After) -> dict[str, list[str]]:
        """Give each task to a process of its own."""
        for task in tasks:
            worker, id = self._free_worker(), str(next(self._numbers))
            worker.give(task)
            self._busy[id], self._jobs[task.name] = worker, SubmittedJob(id, worker.log, "running")
        return {task.name: [self._jobs[task.name].id] for task in tasks}

    def look(self, names: Collection[str]) -> dict[str, list[SubmittedJob]]:
        """Hear what the processes have to say."""
        for id, worker in list(self._busy.items()):
            if not worker.connection.poll():
                continue
            outcome = worker.outcome()
            if outcome is None:  # it had just ended for want of work
                self._busy[id] = again = _Worker(self._threads, self._idle_seconds)
                again.give(worker.task)
                continue
            del self._busy[id]
            self._outcomes[id] = outcome
            if outcome[0] != "lost":
                self._idle.append(worker)
        for job in self._jobs.values():
            job.state = "running" if job.id in self._busy else "ended"
        return {name: [self._jobs[name]] for name in names if name in self._jobs}

    def outcome(self, job: SubmittedJob) -> JobOutcome:
        """How a job ended."""
        return self._outcomes[job.id]

    def wait(self) -> None:
        """Until a process has news, or a second has passed."""
        wait([worker.connection for worker in self._busy.values()], timeout=_SECONDS_BETWEEN_REPORTS)

    def interrupt(self) -> None:
        """Stop all processes and what they do."""
        for worker in (*self._idle, *self._busy.values()):
            worker.stop()
        self._idle, self._busy, self._jobs = [], {}, {}

    def _free_worker(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.is_alive():
                return worker
        return _Worker(self._threads, self._idle_seconds)


_KEPT: dict[int, Workers] = {}


class _Worker:
    """A process that makes one task at a time."""

    def __init__(self, threads: int, idle_seconds: float):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, os.getpid(), idle_seconds), daemon=True)
        # OpenMP reads its settings when the process starts. PASSIVE: threads that wait leave their core to other work.
        threading = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        with secrets.hidden(), environment.given(threading):
            self.process.start()
        theirs.close()
        self.task: Any = None
        self.log = Path()

    def give(self, task: ScheduledTask) -> None:
        self.task, self.log = task, task.told.with_suffix(".log")
        with contextlib.suppress(OSError):
            task.told.unlink(missing_ok=True)
        variables = {"QRPO_STATUS": str(task.told), **task.environment}
        with contextlib.suppress(OSError):  # it is dead: there will be no answer either
            self.connection.send((task.make, task.arguments, variables, self.log))

    def outcome(self) -> JobOutcome | None:
        """How the task that it had has ended; None if it had not begun."""
        try:
            error, seconds_of_steps = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(timeout=10)
            code = self.process.exitcode
            if code == _IDLE:
                return None
            said = failures.exit_text(code) + self._last_line() + failures.full_disk(*failures.disks())
            return "lost", secrets.mask(said)
        usage.add_to_steps(seconds_of_steps)
        return ("success", "") if error is None else ("error", secrets.mask(error))

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()

    def _last_line(self) -> str:
        if (self.process.exitcode or 0) < 0:  # what killed it did not ask it
            return ""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            if lines:
                return f" (the last line of {self.log}: {lines[-1].strip()})."
        return ""


def _serve(connection: Connection, parent: int, idle_seconds: float) -> None:
    """What a worker's process does."""
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG: a killed parent leaves no work behind that a second one would compete with.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with contextlib.suppress(EOFError, BrokenPipeError):
        while connection.poll(idle_seconds):
            make, arguments, variables, log = connection.recv()
            _log_to(log)
            with environment.given(variables):
                before = usage.of_steps()
                error = _error_of(make, arguments)
                connection.send((error, usage.of_steps() - before))
        os._exit(_IDLE)


def _error_of(make: Any, arguments: tuple) -> str | None:
    try:
        make(*arguments)
    except Exception as error:
        return failures.sentence(error, *failures.disks())
    return None


def _log_to(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND, 0o644)
    except OSError:  # a full disk: the work itself will say so
        stream = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush(), sys.stderr.flush()
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.close(stream)
