"""Making the missing runs of a grid, and the answers that are reported of them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qrpo_lib.cluster import dispatch
from qrpo_lib.cluster.scheduler import Scheduler
from qrpo_lib.cluster.task import Progress, ScheduledTask, to_be_made
from qrpo_lib.cluster.workers import Workers
from qrpo_lib.experiment import jobs, kept, tracking
from qrpo_lib.experiment.grid import FAILED, Run, Steps
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import account, cores, folders, keys, progress, records
from qrpo_lib.runs.errors import InputError

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

_MOST_LISTED = 4  # of the trainings that run, by what they tell
_MOST_SHARE = 0.99  # of a training that runs: after its last step it evaluates and saves


@dataclass
class SweepOutcome:
    """What happened to runs, by name: seconds of those that were trained now, first errors of those that failed."""

    total: int
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def train(profile: Profile, wanted: Sequence[Run], what: str = "sweep") -> SweepOutcome:
    """Train and evaluate the models that are not there yet, and say in the end which failed and why.

    On as many cores as `$QRPO_CORES` says (default: `cores.available`), with the profile's threads each. A failed run
    is tried once more; what fails twice is in the outcome and stops nothing; under `qrpo reproduce` the notebook is
    then not complete, and no other notebook of the command tries the run again. Where the profile dispatches elsewhere,
    each model is a job there. What somebody removed that the models rest on is made again; so is, on this machine, a
    training whose checkpoints are wanted once more after they were removed (`kept`).
    """
    tracking.check(profile)
    step_of = Steps(profile)
    steps = {run: step_of[run] for run in wanted}
    before = account.failed_before()
    known = {run.name: before[step.folder_name] for run, step in steps.items() if step.folder_name in before}
    missing = {
        run: _task(profile, run)
        for run, step in steps.items()
        if run.name not in known and not (step.is_complete() and run.training(profile).folder.is_dir())
    }
    if profile.dispatch.where == "here":  # elsewhere it costs too much to do unasked
        _discard_incomplete(profile, [run for run in missing if not run.step(profile).folder.is_dir()])
    untried = {run: step for run, step in steps.items() if run.name not in known}
    again = [need for run in _without_inputs(untried) for need in _evaluation(profile, run).needs]
    ended = make_tasks(profile, [*missing.values(), *again], what) if missing or again else Progress({})
    outcome = SweepOutcome(len(missing))
    for run, task in missing.items():
        if task.name in ended.seconds:
            parts = {task.name, run.training(profile).folder_name}
            outcome.seconds[run.name] = sum(ended.seconds.get(part, 0.0) for part in parts)
        if not task.step.folder.is_dir():
            outcome.failed[run.name] = ended.why(task)
    outcome.failed |= known
    for run, step in steps.items():
        FAILED.pop(run, None)
        if run.name in outcome.failed:
            FAILED[run] = outcome.failed[run.name]
            account.failed(run.name, step.folder_name, outcome.failed[run.name])
    tracking.report(profile, list(steps))
    account.rests_on(keys.there(*steps.values()))
    kept.remove_others(profile, steps)
    return outcome


def report(
    profile: Profile, wanted: Mapping[Run, Collection[int]], split: str = "reporting", *, log_ratios: bool = False
) -> None:
    """Make what these runs, which are complete, answer after these steps to the prompts of a split, if it is missing.

    Parameters
    ----------
    profile: whose runs they are.
    wanted: of each run the steps after which its policy answers.
    split: "selection" or "reporting".
    log_ratios: and the log-probabilities of the answers, under policy and reference.

    Raises
    ------
    InputError
        Something could not be made; the sentence says what and why.
    """
    asked = [(run, step) for run, steps in wanted.items() for step in sorted(steps)]
    tasks = []
    for run, step in asked:
        arguments = (run.settings(profile), run.algorithm, run.seed)
        if log_ratios and step > 0:
            tasks.append(jobs.log_ratios(*arguments, step, split))
        else:
            tasks.append(jobs.report(*arguments, step) if split == "reporting" else jobs.evaluation(*arguments))
    missing = [task for task in tasks if not task.is_complete()]
    if missing:
        if profile.dispatch.where == "here":
            lost = [one for one, task in zip(asked, tasks, strict=True) if task in missing]
            there = [(run, step) for run, step in lost if run.training(profile).folder.is_dir()]
            _discard_incomplete(profile, [run for run, step in there if step not in kept.steps(profile, run)])
        ended = make_tasks(profile, missing, "reports")
        for (run, step), task in zip(asked, tasks, strict=True):
            if not task.is_complete():
                raise InputError(f"{run.name}, step {step}, could not be evaluated: {ended.why(task)}")
    account.rests_on(keys.there(*(task.step for task in tasks)))


def _discard_incomplete(profile: Profile, runs: Iterable[Run]) -> None:
    """Remove those trainings from which checkpoints were removed, since one of these is wanted once more: after an
    evaluation was lost, or by another arm, which has the same training and reports another step of it."""
    for run in runs:
        folder = run.training(profile).folder
        if records.removed_parts(folder):
            folders.discard(folder)


def _task(profile: Profile, run: Run) -> ScheduledTask:
    """What is missing of a run: its evaluation with all before it, or a training that somebody removed since."""
    if not run.step(profile).folder.is_dir():
        return _evaluation(profile, run)
    return jobs.training(run.settings(profile), run.algorithm, run.seed)


def _evaluation(profile: Profile, run: Run) -> ScheduledTask:
    return jobs.evaluation(run.settings(profile), run.algorithm, run.seed)


def _without_inputs(steps: Mapping[Run, keys.Step]) -> list[Run]:
    """The runs that are complete, but of what they rest on something is not there; one for each such thing.

    Results that were restored from a record are complete without it.
    """
    there = keys.there(*steps.values())
    by_lost: dict[frozenset[str], Run] = {}
    for run, step in steps.items():
        lost = frozenset(source.folder_name for source in keys.with_inputs(*step.inputs)) - there
        if lost and step.folder_name in there and not records.restored_from(step.folder):
            by_lost.setdefault(lost, run)
    return list(by_lost.values())


def make_tasks(profile: Profile, tasks: list[ScheduledTask], what: str) -> Progress:
    """Make the tasks where the profile says; on this machine in worker processes that later calls use again."""
    if profile.dispatch.where != "here":
        try:
            return dispatch.make(tasks, profile.dispatch)
        except dispatch.DispatchError as error:
            return error.progress
    tasks = to_be_made(tasks)
    jobs.make_data(profile)
    threads = profile.training.threads
    workers = Workers.kept(int(os.environ.get("QRPO_CORES") or cores.available()), threads)
    with progress.bar(what) as report:
        return Scheduler(tasks, workers).run(lambda now: report(*_told(now)))


def make_all(profile: Profile, tasks: Sequence[ScheduledTask], what: str) -> None:
    """Make those that are missing, side by side on all cores of the notebook or where the profile says.

    Parameters
    ----------
    profile: says where.
    tasks: of any kinds of step; what they need is made too.
    what: how the bar that shows their progress is called.

    Raises
    ------
    InputError
        One could not be made, though it was tried again; the sentence says which and why. The others are there.
    """
    missing = [task for task in tasks if not task.is_complete()]
    if not missing:
        return
    ended = make_tasks(profile, missing, what)
    failed = [task for task in missing if ended.status.get(task.name) in ("failed", "blocked")]
    if failed:
        first = f"{failed[0].name}: {ended.why(failed[0])}"
        raise InputError(f"{len(failed)} of {len(missing)} could not be made, such as {first}")


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
