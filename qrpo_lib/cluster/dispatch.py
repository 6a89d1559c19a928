"""Making tasks where a profile's `[dispatch]` says: in this process, in local processes or on SLURM.

    dispatch.make([task, ...], profile.dispatch)      # returns when every folder is complete; shows a table meanwhile

It can be stopped at any time, and run again by anyone: jobs are found by the names of the run folders they make.
"""

from __future__ import annotations

from collections.abc import Iterable

from qrpo_lib.cluster.scheduler import Retries, Scheduler
from qrpo_lib.cluster.task import Progress, ScheduledTask, in_order, to_be_made
from qrpo_lib.profiles.settings import Dispatch
from qrpo_lib.runs.errors import InputError


class DispatchError(InputError):
    """Tasks failed; the message says which, and ends with the end of a log. `progress` has why each one failed."""

    def __init__(self, message: str, progress: Progress):
        super().__init__(message)
        self.progress = progress


def make(tasks: Iterable[ScheduledTask], settings: Dispatch) -> Progress:
    """Make the folders of all tasks, and of what they need; returns what became of each.

    Raises
    ------
    DispatchError
        Tasks failed; all that did not need them is complete. The same call tries them again.
    SubmissionError
        The scheduler refused the jobs, or there is none.
    """
    tasks = to_be_made(tasks)
    if settings.where == "here":
        return _make_here(tasks)
    from qrpo_lib.cluster import executors, table  # here: only such profiles need submitit

    retries = Retries(0, settings.retries, settings.pause_seconds)
    scheduler = Scheduler(tasks, executors.executor_for(settings), retries)
    if scheduler.advance().is_open():
        with table.live() as show:
            scheduler.run(show)
    return raise_failures(scheduler.progress)


def _make_here(tasks: Iterable[ScheduledTask]) -> Progress:
    """Make what is missing in this process; what fails stops only what needs it, and is raised in the end."""
    progress, errors = Progress(in_order(tasks)), []
    for name, task in progress.tasks.items():
        progress.status[name] = "complete"
        if any(progress.status[need.name] != "complete" for need in task.needs):
            progress.status[name] = "blocked"
        elif not task.is_complete():
            try:
                task.make(*task.arguments)
            except Exception as error:
                progress.status[name] = "failed"
                errors.append(error)
    if errors:
        raise errors[0]
    return progress


def raise_failures(progress: Progress) -> Progress:
    """The same progress, unless a task failed. Raises DispatchError."""
    failed = progress.names("failed")
    if failed:
        blocked = len(progress.names("blocked"))
        unmade = f"; {blocked} that need {'it' if len(failed) == 1 else 'them'} were not made" if blocked else ""
        raise DispatchError(
            f"{len(failed)} of {len(progress.status)} steps failed: {', '.join(failed[:5])}"
            f"{', ...' if failed[5:] else ''}{unmade}. The same command tries again. {failed[0]}: "
            f"{progress.failures[failed[0]]}",
            progress,
        )
    return progress
