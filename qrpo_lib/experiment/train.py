"""Making the runs of a grid that are not there yet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from qrpo_lib.cluster import pool
from qrpo_lib.experiment.grid import FAILED, Run
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import account, cores, folders, progress
from qrpo_lib.steps import fitting


def train(profile: Profile, wanted: Sequence[Run], what: str = "sweep") -> pool.Outcome:
    """Train the models that are not there yet, and say in the end which failed and why.

    In as many processes as `$QRPO_CORES` (default: `cores.available`) carry with the profile's threads each. A failed
    run is tried once more; what fails twice is in the outcome and stops nothing; under `qrpo reproduce` the notebook is
    then not complete, and no other notebook of the command tries the run again. Where the profile dispatches elsewhere,
    each model is a job there. What somebody removed that the models rest on is made again.
    """
    steps = {run: run.step(profile) for run in dict.fromkeys(wanted)}
    before = account.failed_before()
    known = {run.name: before[step.folder_name] for run, step in steps.items() if step.folder_name in before}
    missing = [run for run, step in steps.items() if run.name not in known and not step.is_complete()]
    make = _trained_here if profile.dispatch.where == "here" else _dispatched
    outcome = make(profile, missing, _without_inputs(steps), what)
    for run in missing:
        if run.name not in outcome.failed and not steps[run].folder.is_dir():
            outcome.failed[run.name] = "the code was edited meanwhile, so that its result is another one's."
    outcome.failed |= known
    for run, step in steps.items():
        FAILED.pop(run, None)
        if run.name in outcome.failed:
            FAILED[run] = outcome.failed[run.name]
            account.failed(run.name, step.folder_name, outcome.failed[run.name])
    account.rests_on(one.folder_name for one in folders.with_inputs(*steps.values()) if one.folder.is_dir())
    return outcome


def _dispatched(profile: Profile, missing: list[Run], incomplete: list[Run], what: str) -> pool.Outcome:
    """`train` in jobs of a cluster, or in local processes that outlive this one."""
    from qrpo_lib.cluster import dispatcher
    from qrpo_lib.experiment import jobs  # here: only such profiles need submitit

    tasks = {run.name: jobs.training(run.settings(profile), run.algorithm, run.seed) for run in [*missing, *incomplete]}
    wanted = {run.name: tasks[run.name] for run in missing}
    again = {need.name: need for run in incomplete for need in tasks[run.name].needs}
    error, errors = "", {}
    try:
        jobs.make_all(profile, wanted | again)
    except dispatcher.DispatchError as failure:
        error, errors = str(failure), failure.failures
    failed = {name: errors.get(task.name, error) for name, task in wanted.items() if not task.step.folder.is_dir()}
    return pool.Outcome(len(wanted), failed=failed)


def _detail(outcome: pool.Outcome, processes: int) -> str:
    seconds = outcome.seconds_left(processes)
    left = "" if seconds is None else f", about {seconds / 60:.0f} min left"
    failed = f", {len(outcome.failed)} failed" if outcome.failed else ""
    return f"{len(outcome.running)} running{failed}{left}"


def _without_inputs(steps: Mapping[Run, folders.Step]) -> list[Run]:
    """The runs that are complete, but of what they rest on something is not there; one for each such thing."""
    there = {
        name for step in folders.with_inputs(*steps.values()) if (name := step.folder_name) and step.folder.exists()
    }
    found: dict[tuple[str, ...], Run] = {}
    for run, step in steps.items():
        lost = tuple(
            sorted(one.folder_name for one in folders.with_inputs(*step.inputs) if one.folder_name not in there)
        )
        if lost and step.folder_name in there:
            found.setdefault(lost, run)
    return list(found.values())


def _trained_here(profile: Profile, missing: list[Run], incomplete: list[Run], what: str) -> pool.Outcome:
    """`train` in processes of this machine."""
    threads = profile.training.threads
    processes = max(1, int(os.environ.get("QRPO_CORES") or cores.available()) // threads)
    folder = folders.runs_folder() / ".sweep" / f"{profile.name}-{profile.arm}"

    def made(tasks: list[pool.Task], title: str) -> pool.Outcome:
        if not tasks:
            return pool.Outcome(0)
        with progress.bar(title) as report:
            return pool.run(
                tasks,
                processes=processes,
                threads=threads,
                log_folder=folder,
                on_change=lambda now: report(len(now.seconds) + len(now.failed), now.total, _detail(now, processes)),
            )

    # What runs share comes first, so that no process waits for another one to make it.
    shared: dict[tuple[str, ...], list[Run]] = {}
    for run in missing:
        shared.setdefault(fitting.shared_key(run.settings(profile)), []).append(run)
    preparing = {f"what {of[0].name} needs": of for of in shared.values()}
    tasks = [pool.Task(name, fitting.prepare, (of[0].settings(profile),)) for name, of in preparing.items()]
    again = {f"what {run.name} rested on": run for run in incomplete}
    tasks += [
        pool.Task(name, _make_needs, (run.settings(profile), run.algorithm, run.seed)) for name, run in again.items()
    ]
    prepared = made(tasks, f"{what}: what the runs share")
    unprepared = {run.name: error for name, error in prepared.failed.items() for run in preparing.get(name, ())}
    unprepared |= {again[name].name: error for name, error in prepared.failed.items() if name in again}
    training = [
        pool.Task(run.name, fitting.run, (run.settings(profile), run.algorithm, run.seed))
        for run in missing
        if run.name not in unprepared
    ]
    outcome = made(training, what)
    outcome.total += len(unprepared)
    outcome.failed |= unprepared
    return outcome


def _make_needs(profile: Profile, algorithm: str, seed: int) -> None:
    from qrpo_lib.experiment import jobs  # here: only what was removed needs submitit

    jobs.make_needs(profile, algorithm, seed)
