"""Making the runs of a grid that are not there yet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qrpo_lib.cluster import dispatch
from qrpo_lib.cluster.scheduler import Scheduler
from qrpo_lib.cluster.task import Progress, Task
from qrpo_lib.cluster.workers import Workers
from qrpo_lib.experiment import jobs, tracking
from qrpo_lib.experiment.grid import FAILED, Run, Steps
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import account, cores, keys, progress

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

_MOST_LISTED = 4  # of the trainings that run, by what they tell
_MOST_SHARE = 0.99  # of a training that runs: after its last step it evaluates and saves


@dataclass
class Outcome:
    """What became of runs, by their names: seconds of those that were trained now, the first errors of the others."""

    total: int
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def train(profile: Profile, wanted: Sequence[Run], what: str = "sweep") -> Outcome:
    """Train the models that are not there yet, and say in the end which failed and why.

    On as many cores as `$QRPO_CORES` says (default: `cores.available`), with the profile's threads each. A failed run
    is tried once more; what fails twice is in the outcome and stops nothing; under `qrpo reproduce` the notebook is
    then not complete, and no other notebook of the command tries the run again. Where the profile dispatches elsewhere,
    each model is a job there. What somebody removed that the models rest on is made again.
    """
    tracking.check(profile)
    step_of = Steps(profile)
    steps = {run: step_of[run] for run in wanted}
    before = account.failed_before()
    known = {run.name: before[step.folder_name] for run, step in steps.items() if step.folder_name in before}
    missing = {
        run: _task(profile, run) for run, step in steps.items() if run.name not in known and not step.is_complete()
    }
    again = [need for run in _without_inputs(steps) for need in _task(profile, run).needs]
    made = _made(profile, [*missing.values(), *again], what) if missing or again else Progress({})
    outcome = Outcome(len(missing))
    for run, task in missing.items():
        if task.name in made.seconds:
            outcome.seconds[run.name] = made.seconds[task.name]
        if not task.step.folder.is_dir():
            outcome.failed[run.name] = made.why(task)
    outcome.failed |= known
    for run, step in steps.items():
        FAILED.pop(run, None)
        if run.name in outcome.failed:
            FAILED[run] = outcome.failed[run.name]
            account.failed(run.name, step.folder_name, outcome.failed[run.name])
    tracking.report(profile, list(steps))
    account.rests_on(one.folder_name for one in keys.with_inputs(*steps.values()) if one.folder.is_dir())
    return outcome


def _task(profile: Profile, run: Run) -> Task:
    return jobs.training(run.settings(profile), run.algorithm, run.seed)


def _without_inputs(steps: Mapping[Run, keys.Step]) -> list[Run]:
    """The runs that are complete, but of what they rest on something is not there; one for each such thing."""
    there = {one.folder_name for one in keys.with_inputs(*steps.values()) if one.folder.exists()}
    found: dict[frozenset[str], Run] = {}
    for run, step in steps.items():
        lost = frozenset(one.folder_name for one in keys.with_inputs(*step.inputs)) - there
        if lost and step.folder_name in there:
            found.setdefault(lost, run)
    return list(found.values())


def _made(profile: Profile, tasks: list[Task], what: str) -> Progress:
    """Make the tasks on this machine, in processes that are kept for the next ones, or where the profile says."""
    if profile.dispatch.where != "here":
        try:
            return dispatch.make(tasks, profile.dispatch)
        except dispatch.DispatchError as error:
            return error.progress
    jobs.make_data(profile)
    threads = profile.training.threads
    workers = Workers.kept(int(os.environ.get("QRPO_CORES") or cores.available()), threads)
    with progress.bar(what) as report:
        return Scheduler(tasks, workers).run(lambda now: report(*_told(now)))


def _told(now: Progress) -> tuple[float, int, str]:
    """How many tasks are done, with the shares that the running ones tell; how many there are; what these do now."""
    running = [now.tasks[name].state() for name in now.names("running", "queued")]
    doing = [words or "starting" for words, _ in running]
    listed = "; ".join(doing[:_MOST_LISTED]) + (f"; {len(doing) - _MOST_LISTED} more" if doing[_MOST_LISTED:] else "")
    seconds, failed = now.seconds_left(), len(now.names("failed", "blocked"))
    notes = [f"{failed} failed"] if failed else []
    notes += [] if seconds is None else [f"about {seconds / 60:.0f} min left"]
    done = len(now.names("complete", "failed", "blocked")) + sum(min(share, _MOST_SHARE) for _, share in running)
    return done, len(now.tasks), ", ".join([*notes, *([listed] if listed else [])])
