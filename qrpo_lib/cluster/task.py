"""What a scheduler is given and what it tells: tasks that need one another, and where all of them stand."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from qrpo_lib.runs import folders, keys, paths, records
from qrpo_lib.runs.errors import InputError

Status = Literal["complete", "running", "queued", "waiting", "failed", "blocked"]
OPEN: tuple[Status, ...] = ("running", "queued", "waiting")
State = Literal["pending", "running", "cancelled", "ended"]
ALIVE: tuple[State, ...] = ("pending", "running")
# How a job ended: with what to say of an error, or of one that ended without a word (killed, its node failed).
JobOutcome = tuple[Literal["success", "error", "lost"], str]


class SubmissionError(InputError):
    """The scheduler of a cluster refused a job, or there is none."""


class NoAnswerError(RuntimeError):
    """The scheduler of a cluster could not be asked now."""


class FullError(RuntimeError):
    """The scheduler of a cluster takes no further job until others have ended."""


@dataclass
class SubmittedJob:
    """What an executor makes of a task: its id, where its files are (or its worker), its state and why it waits."""

    id: str
    place: Any = None
    state: State = "ended"
    reason: str = ""


@dataclass(frozen=True)
class After:
    """Ids of jobs that come first: each of `success` must succeed, each of `end` only end.

    What several workers make together is complete even if one of them was lost, so it is enough that all have ended; a
    job looks itself whether its inputs are there.

    each: an array, each job of which comes before the job of that number here, and must succeed; "" for none.
    """

    success: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    each: str = ""


@dataclass(frozen=True, eq=False)
class ScheduledTask:
    """Something to make, by calling a function of a module.

    name: for people, and unique in a scheduler: of a step the name of its run folder.
    make, arguments: what is called in a process of its own, or in one that stays; what it returns is not kept.
    needs: tasks that come first.
    step: whose run folder is made, which alone says whether the task is complete; None if only its job can say.
    kind: which of the profile's resources it gets; with several `workers`, as many jobs call `make` at once.
    group: whether the tasks of one job train together, rather than each calling `make` on its own.
    cores: how many cores of this machine it keeps busy.
    environment: variables of the process that makes it.
    """

    name: str
    make: Callable[..., Any]
    arguments: tuple = ()
    needs: tuple[ScheduledTask, ...] = ()
    step: keys.Step | None = None
    kind: str = "training"
    group: bool = False
    cores: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    # Whether it looks itself if what it reads is there, so that it may be made although a task it needs has failed.
    looks_itself: ClassVar[bool] = False

    @classmethod
    def of(
        cls, step: keys.Step, make: Callable[..., Any], arguments: tuple = (), needs=(), **settings
    ) -> ScheduledTask:
        """The task that makes a step's run folder, and is named after it.

        Parameters
        ----------
        step: whose run folder is made.
        make, arguments: what is called to make it.
        needs: tasks that come first.
        settings: other fields of a task, such as `kind`.
        """
        return cls(step.folder_name, make, arguments, needs, step, **settings)

    def is_complete(self) -> bool:
        """Whether there is nothing to make. Raises CorruptedRunError for a folder that is not what was written."""
        return self.step is not None and self.step.is_complete()

    def could_start(self) -> bool:
        """Whether what it reads is there, though a task that it needs has failed; asked if it `looks_itself`."""
        return False

    def accept(self) -> bool:
        """Look at what its job made that says it is done; whether that is there. Raises an error if it cannot be."""
        return self.step is None or self.step.folder.is_dir()

    @property
    def told(self) -> Path:
        """Where its process tells how far it is (`qrpo_lib.runs.progress`)."""
        named = self.step.key if self.step else re.sub(r"[^\w.-]+", "-", self.name)
        return paths.runs_folder() / ".status" / f"{named}.json"

    def doing(self) -> str:
        """What its process does now, for people; empty if it has not told."""
        return self.state()[0]

    def state(self) -> tuple[str, float]:
        """What its process does now, for people, and which share of that is done, from 0 to 1; "", 0 if unknown."""
        try:
            now = json.loads(self.told.read_text(encoding="utf-8"))
            words = f"{now['text']} {int(now['done'])}/{now['total']} {now['detail']}".rstrip()
            return words, min(max(now["done"] / now["total"], 0.0), 1.0)
        except (OSError, ValueError, TypeError, LookupError, ArithmeticError):  # not whole yet, or something else
            return "", 0.0


def to_be_made(tasks: Iterable[ScheduledTask]) -> list[ScheduledTask]:
    """The tasks without those whose results were restored from a record, which need nothing else to be there.

    What the others will be made from is removed where it was restored, to be made whole: it has no policies, no texts.
    """
    wanted = [
        task for task in tasks if not (task.step and records.restored_from(task.step.folder) and task.is_complete())
    ]
    folders.discard_restored(task.step for task in wanted if task.step)
    return wanted


def in_order(tasks: Iterable[ScheduledTask]) -> dict[str, ScheduledTask]:
    """The tasks and all they need, by name: first what most others wait for, so that each is after what it needs.

    What one other task waits for stands right before that: a model is evaluated before the next one is trained.
    """
    ordered: dict[str, ScheduledTask] = {}
    waits_for: dict[str, set[str]] = {}

    def add(task: ScheduledTask) -> None:
        if task.name not in ordered:
            for need in task.needs:
                add(need)
            ordered[task.name] = task
            needs = [need.name for need in task.needs]
            waits_for[task.name] = set(needs).union(*(waits_for[need] for need in needs))

    for task in tasks:
        add(task)
    needed_by = Counter(name for needs in waits_for.values() for name in needs)
    return dict(sorted(ordered.items(), key=lambda item: -needed_by[item[0]] if needed_by[item[0]] > 1 else 0))


@dataclass
class Progress:
    """Where the work stands, for programs and people: all by the names of tasks.

    failures: why each task failed. retried: the first error of each that was tried again.
    skipped: tasks that were complete before. seconds: how long each took that was made.
    jobs, reasons: the ids of each one's jobs, and why they wait. note: what there is to say about the whole.
    """

    tasks: dict[str, ScheduledTask]
    status: dict[str, Status] = field(init=False)
    failures: dict[str, str] = field(default_factory=dict)
    retried: dict[str, str] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)
    jobs: dict[str, list[str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self):
        self.status = dict.fromkeys(self.tasks, "waiting")

    def names(self, *statuses: Status) -> list[str]:
        """The tasks of which that is the status."""
        return [name for name, status in self.status.items() if status in statuses]

    def why(self, task: ScheduledTask) -> str:
        """Why a task was not made: its own error, or the first one of what it needs."""
        return self.failures.get(task.name) or next((why for need in task.needs if (why := self.why(need))), "")

    def is_open(self) -> bool:
        """Whether anything is still to come."""
        return any(status in OPEN for status in self.status.values())

    def seconds_left(self) -> float | None:
        """An estimate of the time that the rest takes, None before anything is done."""
        if not self.seconds:
            return None
        rest, at_once = len(self.names(*OPEN)), max(1, len(self.names("running")))
        return rest * sum(self.seconds.values()) / len(self.seconds) / min(at_once, max(rest, 1))


class Executor:
    """What a scheduler asks of an executor, and how most answer.

    Each has ways of its own to `look(names)`, which gives the latest jobs of these tasks by whomever they were started,
    to `submit(tasks, after)` tasks of one kind, which gives the ids of their jobs, to say how a job ended
    (`outcome(job)`) and whether it has room for a task beside those that are under way (`has_room(busy, task)`).

    takes_dependencies: whether a job can be submitted before what it needs is there.
    """

    takes_dependencies = False

    def in_one_array(self, tasks: Sequence[ScheduledTask]) -> bool:
        """Whether these tasks, of one kind, would be one array with one job each."""
        return False

    def turn(self) -> contextlib.AbstractContextManager:
        """A context in which no other command starts jobs."""
        return contextlib.nullcontext()

    def log(self, job: SubmittedJob) -> str:
        """The end of its log, where its error alone does not say enough."""
        return ""

    def cancel(self, jobs: Collection[SubmittedJob]) -> None:
        """Take jobs from the queue, where there is one."""

    def wait(self) -> None:
        """Until there may be news."""

    def interrupt(self) -> None:
        """The command ends: stop what would end with it."""
