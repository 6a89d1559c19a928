"""Dispatch: the same steps in this process, in local processes or on SLURM, as the profile's `[dispatch]` says.

    task = dispatcher.Task(step, make, arguments, needs=(...), kind="training")
    dispatcher.run([task, ...], profile.dispatch)     # returns when every folder is complete; shows a table meanwhile

It can be stopped at any time, and run again by anyone: jobs are found by the names of the run folders they make.
Whether a step is complete is decided by its run folder alone; the scheduler only tells whether work is under way.

    runs/.dispatch/NAME/batch.json      the jobs of one submission, and what each makes; beside it submitit's files
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from qrpo_lib.cluster import executors
from qrpo_lib.cluster.executors import After
from qrpo_lib.cluster.task import OPEN, Progress, Task
from qrpo_lib.profiles.settings import Dispatch
from qrpo_lib.runs import files, folders
from qrpo_lib.runs.errors import InputError

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

_RECORD = "batch.json"


class DispatchError(InputError):
    """Jobs failed; the message says which, and ends with the end of a log. `failures`: why, by the step's folder."""

    def __init__(self, message: str, failures: Mapping[str, str] | None = None):
        super().__init__(message)
        self.failures = dict(failures or {})


@dataclass
class Batch:
    """Jobs submitted together: `tasks[i]` is made by `jobs[i]`. `jobs` is empty until the submission has succeeded."""

    name: str
    executor: str
    host: str
    submitted: float
    tasks: list[str]
    jobs: list[str] = field(default_factory=list)

    @cached_property
    def folder(self) -> Path:
        return journal_folder() / self.name


# The jobs of a task, and the states of jobs by their ids.
Jobs = dict[str, list[tuple[Batch, str]]]
States = dict[str, executors.State]


def run(
    tasks: Iterable[Task],
    settings: Dispatch,
    *,
    on_change: Callable[[Progress], None] | None = None,
    executor: Any = None,
) -> None:
    """Make the folders of all tasks, and of what they need.

    Raises
    ------
    DispatchError
        Tasks failed; all that did not need them is complete. The same call tries them again.
    SubmissionError
        The scheduler refused the jobs, or there is none.
    """
    ordered = in_order(tasks)
    if settings.where == "here" and executor is None:
        for task in ordered.values():
            if not task.step.is_complete():
                task.make(*task.arguments)
        return
    dispatcher = Dispatcher(ordered, settings, executor or executors.executor_for(settings))
    if on_change is not None:
        _follow(dispatcher, settings, on_change)
    elif dispatcher.advance().is_open():
        from qrpo_lib.cluster import table

        with table.live() as show:
            _follow(dispatcher, settings, show)
    dispatcher.raise_failures()


def _follow(dispatcher: Dispatcher, settings: Dispatch, on_change: Callable[[Progress], None]) -> None:
    while True:
        progress = dispatcher.advance()
        on_change(progress)
        if not progress.is_open():
            return
        time.sleep(settings.poll_seconds)


def in_order(tasks: Iterable[Task]) -> dict[str, Task]:
    """The tasks and all they need, by name, each after what it needs."""
    ordered: dict[str, Task] = {}

    def add(task: Task) -> None:
        if task.name not in ordered:
            for need in task.needs:
                add(need)
            ordered[task.name] = task

    for task in tasks:
        add(task)
    return ordered


class Dispatcher:
    """Keeps jobs under way for all tasks that are not complete. `advance` does all that can be done now."""

    def __init__(self, ordered: dict[str, Task], settings: Dispatch, executor: Any):
        self.settings, self.executor = settings, executor
        self.progress = Progress(ordered, dict.fromkeys(ordered, "waiting"), {}, {})
        self._attempts: Counter[str] = Counter()
        # Tasks whose jobs this dispatcher has seen alive: how those end is its own to judge.
        self._watched: set[str] = set()
        # Tasks whose jobs were once seen to have ended without a folder; those of them that need another job.
        self._ended: set[str] = set()
        self._lost: set[str] = set()
        self._journal = Journal()
        there = _complete_folders()
        for name, task in ordered.items():
            if name in there and task.step.is_complete():  # checks what the folder holds, once
                self.progress.status[name] = "complete"

    def advance(self) -> Progress:
        """Look at folders and jobs once, and submit what nobody has submitted or what was lost."""
        progress = self.progress
        there = _complete_folders()
        for name, status in progress.status.items():
            if status in OPEN and name in there:
                progress.status[name] = "complete"
        if not progress.is_open():
            return progress
        with folders.lock("dispatch"):  # of two people who start at once, the second finds the jobs of the first
            batches = self._journal.read()
            try:
                self._adopt(batches)
                jobs = self._jobs(batches)
                states = self.executor.states([(batch.folder, job) for found in jobs.values() for batch, job in found])
            except executors.NoAnswerError as error:
                progress.note = f"the scheduler does not answer ({error}); asking again"
                return progress
            progress.note = ""
            self._submit(self._judge(jobs, states), jobs, states)
        return progress

    def raise_failures(self) -> None:
        """Raise DispatchError if a task failed."""
        progress = self.progress
        failed = [name for name, status in progress.status.items() if status == "failed"]
        if not failed:
            return
        blocked = progress.count("blocked")
        unmade = f"; {blocked} that need {'it' if len(failed) == 1 else 'them'} were not made" if blocked else ""
        raise DispatchError(
            f"{len(failed)} of {len(progress.status)} steps failed: {', '.join(failed[:5])}"
            f"{', ...' if failed[5:] else ''}{unmade}. The same command tries again. {failed[0]}: "
            f"{progress.details[failed[0]]}",
            {name: progress.details[name] for name in failed},
        )

    def _adopt(self, batches: list[Batch]) -> None:
        """Find the jobs of submissions that were interrupted before they could be written down."""
        for batch in batches:
            if not batch.jobs and batch.executor == self.executor.name and _is_ours(batch):
                batch.jobs = self.executor.find(batch.folder, batch.name, len(batch.tasks))
                batch.jobs += ["none"] * (len(batch.tasks) - len(batch.jobs))
                self._journal.write(batch)

    def _jobs(self, batches: list[Batch]) -> Jobs:
        """The latest jobs of each open task."""
        latest: Jobs = {}
        for batch in batches:
            if batch.executor != self.executor.name or not _is_ours(batch):
                continue
            of_batch: dict[str, list[tuple[Batch, str]]] = {}
            for name, job in zip(batch.tasks, batch.jobs, strict=True):
                if self.progress.status.get(name) in OPEN:
                    of_batch.setdefault(name, []).append((batch, job))
            latest |= of_batch
        self.progress.jobs = {name: [job for _, job in found] for name, found in latest.items()}
        return latest

    def _judge(self, jobs: Jobs, states: States) -> list[Task]:
        """Set the status of every open task; returns those that need a job now."""
        progress = self.progress
        wanted: dict[str, Task] = {}
        for name, task in progress.tasks.items():
            if progress.status[name] not in OPEN:
                continue
            needs = {need.name for need in task.needs}
            found = jobs.get(name, [])
            alive = {states[job] for _, job in found if states.get(job) in executors.ALIVE}
            if any(progress.status[need] in ("failed", "blocked") for need in needs):
                progress.status[name] = "blocked"
                self._cancel_pending(found, states)
            elif needs & wanted.keys():  # its dependency is on a job that is no more
                self._cancel_pending(found, states)
                wanted[name] = task
            elif alive:
                self._watched.add(name)
                self._ended.discard(name)
                progress.status[name] = "running" if "running" in alive else "queued"
            elif name not in self._watched:  # never submitted, or ended before this command began
                wanted[name] = task
            elif not needs & self._ended:
                failure = self._failure(task, found, states)
                if failure:
                    progress.status[name] = "failed"
                    progress.details[name] = failure
                elif name in self._lost:
                    wanted[name] = task
        for name in wanted:
            progress.status[name] = "waiting"
        return list(wanted.values())

    def _failure(self, task: Task, found: list[tuple[Batch, str]], states: States) -> str:
        """Why a task has failed whose jobs have all ended without its folder; empty if it has not.

        A job that ended without a word (its node failed, it was killed) is lost, not failed: `_lost` gets it, at the
        second look, since a shared file system may show a folder some seconds after it was moved into place.
        """
        name = task.name
        outcomes = [self.executor.outcome(batch.folder, job) for batch, job in found]
        errors = [text.strip().splitlines()[-1] for outcome, text in outcomes if outcome == "error"]
        if errors:
            why = errors[0]
        elif any(states.get(job) == "cancelled" for _, job in found):
            why = "its job was cancelled."
        elif name not in self._ended:
            self._ended.add(name)
            return ""
        elif self._attempts[name] < self.settings.retries:
            self._lost.add(name)
            return ""
        else:
            why = f"its job was lost {self._attempts[name] + 1} times."
        batch, job = found[0]
        log = self.executor.log(batch.folder, job)
        return f"{why} The end of the log of job {job} ({batch.folder}):\n{log}" if log else why

    def _cancel_pending(self, found: list[tuple[Batch, str]], states: States) -> None:
        waiting = [(batch.folder, job) for batch, job in found if states.get(job) == "pending"]
        if waiting:
            self.executor.cancel(waiting)

    def _submit(self, wanted: list[Task], jobs: Jobs, states: States) -> None:
        """Submit tasks of one kind that need the same things together, in the order of stages."""
        submitted: dict[str, list[str]] = {}
        sizes: Counter[str] = Counter()
        for (kind, needed), tasks in self._groups(wanted).items():
            if not self.executor.takes_dependencies:
                if needed:
                    continue
                alive = sum(state in executors.ALIVE for state in states.values()) + len(submitted)
                tasks = tasks[: max(0, self.settings.simultaneous - alive)]
            after = self._after(needed, submitted, jobs, states, sizes)
            for some in _chunks(tasks, kind, self.settings):
                batch = self._submit_batch(some, kind, after)
                for name, job in zip(batch.tasks, batch.jobs, strict=True):
                    submitted.setdefault(name, []).append(job)
                    sizes[job.split("_")[0]] += 1
        for name, ids in submitted.items():
            self._watched.add(name)
            self._attempts[name] += name in self._lost
            self._lost.discard(name)
            self._ended.discard(name)
            self.progress.status[name] = "queued"
            self.progress.jobs[name] = ids

    def _after(self, needed, submitted, jobs: Jobs, states: States, sizes: Counter[str]) -> After:
        """The jobs that make what is needed: those submitted just now, or those under way."""
        success, end = [], []
        for need in needed:
            makers = submitted.get(need) or [job for _, job in jobs[need] if states.get(job) in executors.ALIVE]
            alone = self.settings.of_kind(self.progress.tasks[need].kind).workers == 1
            (success if alone else end).extend(makers)
        return After(_whole_arrays(success, sizes), _whole_arrays(end, sizes))

    def _groups(self, wanted: list[Task]) -> dict[tuple[str, tuple[str, ...]], list[Task]]:
        groups: dict[tuple[str, tuple[str, ...]], list[Task]] = {}
        for task in wanted:
            needed = sorted({need.name for need in task.needs if self.progress.status[need.name] != "complete"})
            groups.setdefault((task.kind, tuple(needed)), []).append(task)
        return groups

    def _submit_batch(self, tasks: Sequence[Task], kind: str, after: After) -> Batch:
        resources = self.settings.of_kind(kind)
        repeated = [task for task in tasks for _ in range(resources.workers)]
        name = f"qrpo-{kind}-{uuid.uuid4().hex[:10]}"
        names = [task.name for task in repeated]
        batch = Batch(name, self.executor.name, socket.gethostname(), time.time(), names)
        # First what is about to be done, then the doing, then its ids: a kill between them loses no job.
        self._journal.write(batch)
        try:
            works = [task.work(resources.environment) for task in repeated]
            batch.jobs = self.executor.submit(batch.folder, name, works, resources, after)
        except executors.SubmissionError:
            self._journal.remove(batch)
            raise
        self._journal.write(batch)
        return batch


class Journal:
    """Every submission, in a folder of its own; what was read once is read again only when it has changed."""

    def __init__(self):
        self._read: dict[Path, tuple[int, Batch]] = {}

    def read(self) -> list[Batch]:
        """All batches, oldest first."""
        for path in journal_folder().glob(f"*/{_RECORD}"):
            changed = path.stat().st_mtime_ns
            if path not in self._read or self._read[path][0] != changed:
                self._read[path] = (changed, _batch(path))
        return sorted((batch for _, batch in self._read.values()), key=lambda batch: (batch.submitted, batch.name))

    def write(self, batch: Batch) -> None:
        path = batch.folder / _RECORD
        folders.write_atomically(path, (json.dumps(asdict(batch)) + "\n").encode())
        self._read[path] = (path.stat().st_mtime_ns, batch)

    def remove(self, batch: Batch) -> None:
        path = batch.folder / _RECORD
        path.unlink(missing_ok=True)
        self._read.pop(path, None)


def _batch(path: Path) -> Batch:
    """What a submission wrote down. Raises `files.UnreadableFileError`, since its jobs may be under way."""
    remedy = f"If none of its jobs is under way, remove the folder {path.parent} and run the same command again."
    values = files.read_json(path, remedy)
    try:
        batch = Batch(**values)
    except TypeError:
        raise files.unreadable(path, "it is not a submission of this version of the suite", remedy) from None
    texts = (batch.name, batch.executor, batch.host, *_listed(batch.tasks), *_listed(batch.jobs))
    numbers = isinstance(batch.submitted, int | float)
    if not numbers or not all(isinstance(text, str) for text in texts) or batch.name != path.parent.name:
        raise files.unreadable(path, "its values are not those of a submission", remedy)
    if batch.jobs and len(batch.jobs) != len(batch.tasks):
        raise files.unreadable(path, f"it has {len(batch.jobs)} jobs for {len(batch.tasks)} tasks", remedy)
    return batch


def _listed(value: object) -> list:
    return value if isinstance(value, list) else [None]


def journal_folder() -> Path:
    """Where submissions are written down, and where submitit keeps their files and logs."""
    return folders.runs_folder() / ".dispatch"


def _complete_folders() -> set[str]:
    # One look at a folder instead of one for each step: a shared file system feels the difference.
    try:
        return {entry.name for entry in os.scandir(folders.runs_folder())}
    except FileNotFoundError:
        return set()


def _is_ours(batch: Batch) -> bool:
    # Processes are seen only from their own machine; a cluster's jobs from everywhere.
    return batch.executor != "processes" or batch.host == socket.gethostname()


def _chunks(tasks: list[Task], kind: str, settings: Dispatch) -> list[list[Task]]:
    size = max(1, settings.array_size // settings.of_kind(kind).workers)
    return [tasks[start : start + size] for start in range(0, len(tasks), size)]


def _whole_arrays(jobs: list[str], sizes: Counter[str]) -> tuple[str, ...]:
    """Job ids for a dependency; an array all of whose jobs are needed stands for them."""
    jobs = list(dict.fromkeys(jobs))
    needed = Counter(job.split("_")[0] for job in jobs)
    return tuple(dict.fromkeys(m if needed[m := job.split("_")[0]] == sizes[m] else job for job in jobs))
