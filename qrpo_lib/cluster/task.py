"""What a dispatch is given and what it tells: a task for each step, and where all of them stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qrpo_lib.cluster.executors import Work
from qrpo_lib.runs import folders

IS_INFRASTRUCTURE = True


Status = Literal["complete", "running", "queued", "waiting", "failed", "blocked"]


OPEN: tuple[Status, ...] = ("running", "queued", "waiting")


@dataclass(frozen=True)
class Task:
    """One step of a run, as something that a job can make.

    make, arguments: a function of a module and what it is called with; it leaves the step's folder complete.
    needs: tasks whose folders must be complete before.
    kind: which of the profile's resources it gets; with several `workers`, as many jobs call `make` at once.
    group: whether the tasks of one job train together, rather than each calling `make` on its own.
    """

    step: folders.Step
    make: Callable[..., Any]
    arguments: tuple = ()
    needs: tuple[Task, ...] = ()
    kind: str = "training"
    group: bool = False

    @property
    def name(self) -> str:
        """The name of the folder it makes."""
        return self.step.folder_name

    def work(self, environment: Mapping[str, str] | None = None) -> Work:
        """What its job does."""
        needs = tuple(need.name for need in self.needs)
        return Work(self.step, self.make, self.arguments, needs, group=self.group, environment=environment)


@dataclass
class Progress:
    """Where a dispatch stands, for people: the status of every task, and what there is to say about it."""

    tasks: dict[str, Task]
    status: dict[str, Status]
    details: dict[str, str]
    jobs: dict[str, list[str]]
    note: str = ""

    def count(self, status: Status) -> int:
        return sum(found == status for found in self.status.values())

    def is_open(self) -> bool:
        """Whether anything is still to come."""
        return any(status in OPEN for status in self.status.values())
