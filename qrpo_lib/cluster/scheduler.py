"""The scheduler: keeps jobs under way for tasks that need one another, until each is complete, failed or blocked.

    progress = Scheduler([task, ...], executor, Retries(errors=1)).run(on_change)

Notebooks of a reproduction, trainings of a sweep and steps on a cluster all go through it. What a job is, an executor
knows (`task.Executor`): a call in a process that stays (`workers`), a process of its own, or a job of SLURM
(`executors`).
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from qrpo_lib.cluster.task import (
    ALIVE,
    OPEN,
    After,
    Executor,
    FullError,
    NoAnswerError,
    Progress,
    ScheduledTask,
    SubmissionError,
    SubmittedJob,
    in_order,
)
from qrpo_lib.runs import failures, paths
from qrpo_lib.runs.errors import InputError

Jobs = dict[str, list[SubmittedJob]]  # by the names of tasks
_UNMADE = {"failed", "blocked"}
# How long a cluster may take no jobs while none of this run is there; those that have just ended may still count.
_FULL_SECONDS = 600


@dataclass(frozen=True)
class Retries:
    """How often a task is tried again.

    errors, losses: tries beyond the first, where the last one ended with an error, or without a word (it was killed).
    pause_seconds: before the second try; doubled before each further one.
    """

    errors: int = 1
    losses: int = 1
    pause_seconds: float = 0


class Scheduler:
    """Keeps jobs under way for all tasks that are not complete. `advance` does all that can be done now."""

    def __init__(self, tasks: Iterable[ScheduledTask], executor: Executor, retries: Retries = Retries()):
        self.executor, self.retries = executor, retries
        self.progress = Progress(in_order(tasks))
        # Tasks whose jobs this scheduler has started or seen alive: how those end is its own to judge.
        self._watched: set[str] = set()
        # Tasks whose jobs were once seen to have ended without a result.
        self._ended: set[str] = set()
        self._full_since: float | None = None  # when the cluster first took no more jobs, and none of ours was there
        # Why each try of a task failed; when the next one may begin; since when it runs.
        self._tried: defaultdict[str, list[str]] = defaultdict(list)
        self._again: dict[str, float] = {}
        self._since: dict[str, float] = {}
        there = _complete_folders()
        for name, task in self.progress.tasks.items():
            if name in there and task.is_complete():  # checks what the folder holds, once
                self._skip(name)

    def run(self, on_change: Callable[[Progress], None]) -> Progress:
        """Go on until nothing is open; `on_change(progress)` is called whenever there may be news."""
        try:
            while self.advance().is_open():
                on_change(self.progress)
                self.executor.wait()
        except BaseException:
            self.executor.interrupt()
            raise
        on_change(self.progress)
        return self.progress

    def advance(self) -> Progress:
        """Look at folders and jobs once, and start what nobody has started or what was lost."""
        progress, there = self.progress, _complete_folders()
        for name in progress.names(*OPEN):
            if progress.tasks[name].step is not None and name in there:
                self._complete(name)
        if not progress.is_open():
            return progress
        with self.executor.turn():  # of two people who start at once, the second finds the jobs of the first
            try:
                jobs = self.executor.look(set(progress.names(*OPEN)))
                progress.note = ""
                progress.jobs |= {name: [job.id for job in of_task] for name, of_task in jobs.items()}
                wanted = self._judge(jobs)
                start = self._submit_stages if self.executor.takes_dependencies else self._start_what_is_free
                start(self._without_paused(wanted), jobs)
                self._full_since = None
            except NoAnswerError as error:
                progress.note = f"the scheduler does not answer ({error}); asking again"
            except FullError as error:
                self._wait_for_room(str(error))
        return progress

    # --- how tasks stand ----------------------------------------------------------------------------------------------

    def _complete(self, name: str) -> None:
        self.progress.status[name] = "complete"
        if name in self._since:
            self.progress.seconds[name] = time.monotonic() - self._since[name]

    def _skip(self, name: str) -> None:
        self.progress.status[name] = "complete"
        self.progress.skipped.add(name)

    def _fail(self, name: str, why: str) -> None:
        self.progress.status[name] = "failed"
        self.progress.failures[name] = why

    def _judge(self, jobs: Jobs) -> list[ScheduledTask]:
        """Set the status of every open task; returns those that need a job, each after what it needs."""
        progress = self.progress
        progress.reasons = {}
        wanted: dict[str, ScheduledTask] = {}
        for name in progress.names(*OPEN):
            task, of_task = progress.tasks[name], jobs.get(name, [])
            needs = {need.name for need in task.needs}
            alive = [job for job in of_task if job.state in ALIVE]
            if self._is_blocked(task):
                progress.status[name] = "blocked"
                self._cancel_pending(of_task)
            elif needs & wanted.keys():  # its dependency is on a job that is no more
                self._cancel_pending(of_task)
                wanted[name] = task
            elif alive:
                self._see_alive(name, alive)
            elif self._needs_a_job(task, of_task):
                wanted[name] = task
        progress.status |= dict.fromkeys(wanted, "waiting")
        return list(wanted.values())

    def _is_blocked(self, task: ScheduledTask) -> bool:
        statuses = {self.progress.status[need.name] for need in task.needs}
        if not statuses & _UNMADE:
            return False
        return not task.looks_itself or (not statuses & set(OPEN) and not task.could_start())

    def _see_alive(self, name: str, alive: list[SubmittedJob]) -> None:
        self._watched.add(name)
        self._ended.discard(name)
        runs = any(job.state == "running" for job in alive)
        self.progress.status[name] = "running" if runs else "queued"
        if runs:
            self._since.setdefault(name, time.monotonic())
        elif alive[0].reason not in ("", "None"):
            self.progress.reasons[name] = alive[0].reason

    def _needs_a_job(self, task: ScheduledTask, jobs: list[SubmittedJob]) -> bool:
        """Whether a task without a job under way is to get one: its first, or another one since the last was lost."""
        name = task.name
        if name not in self._watched or name in self._again:  # never started, or ended before this command began
            return True
        return not any(need.name in self._ended for need in task.needs) and self._is_to_try_again(task, jobs)

    def _is_to_try_again(self, task: ScheduledTask, jobs: list[SubmittedJob]) -> bool:
        """Judge a task whose jobs have all ended: complete, failed, to be tried again, or to be looked at once more.

        A shared file system may show a folder some seconds after it was moved into place, so what ended without a
        result is judged at the second look.
        """
        outcomes = [self.executor.outcome(job) for job in jobs]
        errors = [text for kind, text in outcomes if kind == "error"]
        if errors:
            return self._failed_once(task, jobs, errors[0], self.retries.errors)
        if any(job.state == "cancelled" for job in jobs):
            return self._failed_once(task, jobs, "its job was cancelled.", 0)
        succeeded = any(kind == "success" for kind, _ in outcomes)
        if succeeded and self._is_accepted(task):
            return False
        if task.name not in self._ended:
            self._ended.add(task.name)
            return False
        if succeeded:
            edited = "the code was edited meanwhile, so that its result is another one's."
            return self._failed_once(task, jobs, edited, 0)
        return self._failed_once(task, jobs, next((text for _, text in outcomes if text), ""), self.retries.losses)

    def _is_accepted(self, task: ScheduledTask) -> bool:
        """Whether what a job says it has made is there, or cannot be taken, so that the task is done with."""
        try:
            if task.accept():
                self._complete(task.name)
        except (InputError, OSError) as error:
            self._fail(task.name, failures.sentence(error, *failures.disks()))
        return self.progress.status[task.name] not in OPEN

    def _failed_once(self, task: ScheduledTask, jobs: list[SubmittedJob], why: str, allowed: int) -> bool:
        name, tried = task.name, self._tried[task.name]
        tried.append(why)
        if len(tried) <= allowed:
            self.progress.retried.setdefault(name, why or "its job was lost")
            self._again[name] = time.monotonic() + self.retries.pause_seconds * 2 ** (len(tried) - 1)
            return True
        log = self.executor.log(jobs[0]) if jobs else ""
        end = f" The end of the log of job {jobs[0].id} ({jobs[0].place}):\n{log}" if log else ""
        self._fail(name, _told(tried) + end)
        return False

    def _cancel_pending(self, jobs: list[SubmittedJob]) -> None:
        waiting = [job for job in jobs if job.state == "pending"]
        if waiting:
            self.executor.cancel(waiting)

    # --- starting jobs ------------------------------------------------------------------------------------------------

    def _wait_for_room(self, why: str) -> None:
        """Jobs of this run end and make room. Raises SubmissionError where for some time there have been none."""
        now = time.monotonic()
        is_ours = bool(self.progress.names("running", "queued"))
        self._full_since = None if is_ours else self._full_since or now
        if self._full_since is not None and now - self._full_since > _FULL_SECONDS:
            raise SubmissionError(
                f"The cluster takes no more jobs ({why}), and none of this run is under way: wait until others have "
                "ended, or set dispatch.array_size in the profile below the number of jobs that it takes at once."
            )
        self.progress.note = f"the cluster takes no more jobs now ({why}); asking again"

    def _without_paused(self, wanted: list[ScheduledTask]) -> list[ScheduledTask]:
        """Those that may be started now: not what was lost a moment ago, nor what needs it."""
        paused: set[str] = set()
        for task in wanted:
            left = self._again.get(task.name, 0) - time.monotonic()
            if left > 0:
                self.progress.reasons[task.name] = f"tried again in {left:.0f} s"
            if left > 0 or any(need.name in paused for need in task.needs):
                paused.add(task.name)
        return [task for task in wanted if task.name not in paused]

    def _started(self, ids: dict[str, list[str]]) -> None:
        for name, jobs in ids.items():
            self._watched.add(name)
            self._ended.discard(name)
            self._again.pop(name, None)
            self._since.pop(name, None)
            if not self.executor.takes_dependencies:  # what is started runs
                self._since[name] = time.monotonic()
            self.progress.status[name], self.progress.jobs[name] = "queued", jobs

    def _start_what_is_free(self, wanted: list[ScheduledTask], jobs: Jobs) -> None:
        """Start tasks whose needs are there, as far as there is room; those that failed before come last."""
        progress = self.progress
        busy = [progress.tasks[name] for name in progress.names("running", "queued")]
        for task in sorted(wanted, key=lambda task: len(self._tried[task.name])):
            waits = any(progress.status[need.name] in OPEN for need in task.needs)
            if waits or self._is_blocked(task) or not self.executor.has_room(busy, task):
                continue
            try:
                if task.is_complete():
                    self._skip(task.name)
                else:
                    self._started(self.executor.submit([task], After()))
                    busy.append(task)
            except (InputError, OSError) as error:
                self._fail(task.name, failures.sentence(error, *failures.disks()))

    def _submit_stages(self, wanted: list[ScheduledTask], jobs: Jobs) -> None:
        """Submit all tasks of one kind that need the same things together, each after the jobs that make those."""
        progress = self.progress
        groups: dict[tuple[str, tuple[str, ...]], list[ScheduledTask]] = {}
        for task in wanted:
            needed = sorted({need.name for need in task.needs if progress.status[need.name] != "complete"})
            groups.setdefault((task.kind, tuple(needed)), []).append(task)
        makers = {name: [job.id for job in of_task if job.state in ALIVE] for name, of_task in jobs.items()}
        alone = Counter(need.name for task in wanted for need in task.needs)
        held: list[_Held] = []  # until nobody can join them, or somebody needs them
        for (_, needed), tasks in groups.items():
            if any(waiting.task.name in needed for waiting in held):
                self._submit_held(held, makers)
            array, number = _of_array([makers[need] for need in needed if alone[need] == 1])
            if len(tasks) == 1 and array:
                held.append(_Held(tasks[0], needed, array, number))
            else:
                self._submit_after(tasks, needed, makers)
        self._submit_held(held, makers)

    def _submit_held(self, held: list[_Held], makers: dict[str, list[str]]) -> None:
        """Submit tasks that each need one job of an array: as an array themselves, if they are as many, else alone."""
        pairs: dict[tuple[str, str, frozenset[str]], list[_Held]] = {}
        for waiting in held:
            own = {need for need in waiting.needed if makers[need] == [f"{waiting.array}_{waiting.number}"]}
            pairs.setdefault((waiting.task.kind, waiting.array, frozenset(waiting.needed) - own), []).append(waiting)
        held.clear()
        for (_, array, others), some in pairs.items():
            some.sort(key=lambda waiting: waiting.number)
            tasks = [waiting.task for waiting in some]
            if [waiting.number for waiting in some] == list(range(len(some))) and self.executor.in_one_array(tasks):
                self._submit_after(tasks, tuple(sorted(others)), makers, array)
            else:
                for waiting in some:
                    self._submit_after([waiting.task], waiting.needed, makers)

    def _submit_after(
        self, tasks: list[ScheduledTask], needed: tuple[str, ...], makers: dict[str, list[str]], each: str = ""
    ) -> None:
        """Submit tasks after the jobs that make what all of them need, and if given each after its own of an array."""
        success = [job for need in needed if len(makers[need]) == 1 for job in makers[need]]
        end = [job for need in needed if len(makers[need]) > 1 for job in makers[need]]
        submitted = self.executor.submit(tasks, After(tuple(success), tuple(end), each))
        self._started(submitted)
        makers |= submitted


@dataclass(frozen=True)
class _Held:
    """A task that needs the job of that number of an array, and whatever else there is in `needed`."""

    task: ScheduledTask
    needed: tuple[str, ...]
    array: str
    number: int


def _of_array(makers: list[list[str]]) -> tuple[str, int]:
    """The array and the number in it of the first of these tasks whose one job is of an array; ("", 0) without any."""
    for ids in makers:
        array, _, number = ids[0].partition("_") if len(ids) == 1 else ("", "", "")
        if number:
            return array, int(number)
    return "", 0


def _told(tried: list[str]) -> str:
    """What to say of a task that failed as often: the first error, and the last if it is another one."""
    first, last = tried[0], tried[-1]
    if not any(tried):
        return f"its job was lost {len(tried)} time{'s' if len(tried) > 1 else ''}."
    return first if first == last else f"{first or 'its job was lost'} (the last time: {last or 'it was lost'})"


def _complete_folders() -> set[str]:
    # One look at a folder instead of one for each step: a shared file system feels the difference.
    try:
        return {entry.name for entry in os.scandir(paths.runs_folder())}
    except FileNotFoundError:
        return set()
