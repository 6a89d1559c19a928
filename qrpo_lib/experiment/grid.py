"""The sweep: which models an arm of a profile trains, and training them in parallel processes.

    runs = grid.grid(profile)                    # algorithm x setting x beta x learning rate x seed
    outcome = grid.train(profile, runs)          # those that are not there yet
    evaluations = grid.evaluations(profile, runs)

Runs that differ in the loss alone share everything before it: initial policy, completions, pairs, and the evaluation of
the reference policy. Only then is the grid known whose best cells get further seeds (`more_seeds`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from qrpo_lib.cluster import pool
from qrpo_lib.profiles.settings import Profile, ScaledNormal, Transform
from qrpo_lib.runs import account, cores, folders, progress
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import fitting

if TYPE_CHECKING:
    import pandas as pd

# Columns of a run that change from run to run.
COLUMNS = ("algorithm", "setting", "beta", "learning_rate", "num_ref_rewards", "transform", "partition", "seed")
# What failed twice in this process, and its first error: told where its results are asked for.
_FAILED: dict[Run, str] = {}


class MissingRunsError(InputError):
    """Results were asked for of which none is there."""


@dataclass(frozen=True)
class Run:
    """One trained model. The last three are QRPO's; None for the other algorithms."""

    algorithm: str
    setting: str
    beta: float
    learning_rate: float
    seed: int
    num_ref_rewards: int | None = None
    transform: Transform | None = None
    partition: str | None = None

    @property
    def name(self) -> str:
        """For people, and unique in a sweep."""
        extras = (
            [f"n {self.num_ref_rewards}", transform_label(self.transform), self.partition]
            if self.algorithm == "qrpo"
            else []
        )
        parts = [self.algorithm, self.setting, f"beta {self.beta:g}", f"lr {self.learning_rate:g}", *extras]
        return ", ".join([*parts, f"seed {self.seed}"])

    def settings(self, profile: Profile) -> Profile:
        """The profile with this run's values."""
        values = {"setting": self.setting}
        names = ("beta", "learning_rate", "num_ref_rewards", "transform", "partition")
        values |= {f"{self.algorithm}.{name}": getattr(self, name) for name in names if getattr(self, name) is not None}
        return profile.with_training(**values)

    def step(self, profile: Profile) -> folders.Step:
        """The step that trains this model."""
        return fitting.step(self.settings(profile), self.algorithm, self.seed)


def transform_label(transform: Transform) -> str:
    """How a transformation is named in tables and figures."""
    if isinstance(transform, ScaledNormal):
        return f"{transform.name}({transform.mu:g}, {transform.sigma:g})"
    return transform


def grid(profile: Profile) -> list[Run]:
    """Every algorithm in every setting with each of its betas and learning rates and each of the grid's seeds."""
    experiment = profile.experiment
    seeds = experiment.seeds[: experiment.grid_seeds]
    found = []
    for algorithm in experiment.algorithms:
        cells = product(
            experiment.settings or [profile.training.setting],
            experiment.betas.get(algorithm) or [getattr(profile.training, algorithm).beta],
            experiment.learning_rates.get(algorithm) or [getattr(profile.training, algorithm).learning_rate],
        )
        found += [_run(profile, algorithm, *cell, seed) for cell in cells for seed in seeds]
    return found


def scaling(profile: Profile) -> list[Run]:
    """Figure 3's runs: QRPO by setting, beta, learning rate, number of reference rewards and partition function."""
    found = []
    for study in profile.experiment.scaling:
        rates = study.learning_rates or [profile.training.qrpo.learning_rate]
        cells = product(study.settings, study.betas, rates, study.num_ref_rewards, study.partitions)
        for setting, beta, rate, n, partition in cells:
            values = {"num_ref_rewards": n, "partition": partition}
            found += [_run(profile, "qrpo", setting, beta, rate, seed, **values) for seed in profile.experiment.seeds]
    return list(dict.fromkeys(found))


def transformations(profile: Profile) -> list[Run]:
    """QRPO with every transformation and beta of the study, with the grid's seeds."""
    study = profile.experiment.transformations
    if study is None:
        return []
    rate = profile.training.qrpo.learning_rate
    seeds = profile.experiment.seeds[: profile.experiment.grid_seeds]
    return [
        _run(profile, "qrpo", study.setting, beta, rate, seed, transform=transform)
        for transform, beta, seed in product(study.transforms, study.betas, seeds)
    ]


def own_run(profile: Profile, algorithm: str, seed: int) -> Run:
    """The model that the profile's own values of `training` describe."""
    values = getattr(profile.training, algorithm)
    return _run(profile, algorithm, profile.training.setting, values.beta, values.learning_rate, seed)


def figure_6(profile: Profile, betas: list[float] | None = None) -> list[Run]:
    """Figure 6's runs: offline, all seeds, at these betas or the scaling studies' largest and smallest.

    Of the scaling studies those with the most reference rewards; empty if none is offline.
    """
    offline = [run for run in scaling(profile) if run.setting == "offline" and run.partition == "exact"]
    if not offline:
        return []
    most = max(run.num_ref_rewards for run in offline)
    known = [run.beta for run in offline]
    rate = max(run.learning_rate for run in offline)
    return [
        _run(profile, "qrpo", "offline", beta, rate, seed, num_ref_rewards=most)
        for beta in betas or (max(known), min(known))
        for seed in profile.experiment.seeds
    ]


def threshold_runs(profile: Profile) -> list[Run]:
    """What the threshold of App. A is tested on: QRPO in every setting and at every beta, of the scaling studies with
    the most references and of the grid. Empty where no study trains offline."""
    studied = [run for run in scaling(profile) if _has_threshold(run)]
    if not any(run.setting == "offline" for run in studied):
        return []
    most = max(run.num_ref_rewards for run in studied)
    of_grid = [run for run in grid(profile) if run.algorithm == "qrpo" and _has_threshold(run)]
    return list(dict.fromkeys([run for run in studied if run.num_ref_rewards == most] + of_grid))


def _has_threshold(run: Run) -> bool:
    # Of the quantile itself, with the partition function of the paper.
    return run.partition == "exact" and transform_label(run.transform) == "identity"


def with_seed(run: Run, seed: int) -> Run:
    """The same cell with another training seed."""
    return replace(run, seed=seed)


def more_seeds(profile: Profile, best: Iterable[Run]) -> list[Run]:
    """These runs with all the profile's seeds."""
    return [with_seed(run, seed) for run in dict.fromkeys(best) for seed in profile.experiment.seeds]


def possible(profile: Profile) -> list[Run]:
    """Every run that the experiment could consist of, whichever cells are the best."""
    every = more_seeds(profile, [*grid(profile), *transformations(profile)])
    return list(dict.fromkeys([*every, *scaling(profile)]))


def planned(profile: Profile) -> dict[str, int]:
    """How many models each part of the experiment trains, each counted once, those of the further seeds included."""
    experiment = profile.experiment
    parts = {"grid": set(grid(profile))}
    more = len(experiment.seeds) - len(experiment.seeds[: experiment.grid_seeds])
    cells = {(run.algorithm, run.setting) for run in parts["grid"]}
    counts = {"grid": len(parts["grid"]), "further seeds of the best cells": more * len(cells)}
    known = set(parts["grid"])
    for name, found in (("scaling", scaling(profile)), ("transformations", transformations(profile))):
        counts[name] = len(set(found) - known)
        known |= set(found)
    if experiment.transformations:
        counts["further seeds of the best transformations"] = more * len(experiment.transformations.transforms)
    return counts


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
        _FAILED.pop(run, None)
        if run.name in outcome.failed:
            _FAILED[run] = outcome.failed[run.name]
            account.failed(run.name, step.folder_name, outcome.failed[run.name])
    account.rests_on(one.folder_name for one in folders.with_inputs(*steps.values()) if one.folder.is_dir())
    return outcome


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


def overview(profile: Profile, wanted: Sequence[Run], outcome: pool.Outcome) -> pd.DataFrame:
    """Of each algorithm and setting: how many runs are done, how many failed, and the mean seconds of a run."""
    import pandas as pd

    rows = []
    for run in dict.fromkeys(wanted):
        done = run.step(profile).folder.is_dir()
        row = {"algorithm": run.algorithm, "setting": run.setting, "runs": 1, "done": int(done)}
        rows.append(row | {"failed": int(run.name in outcome.failed), "seconds": outcome.seconds.get(run.name)})
    frame = pd.DataFrame(rows).groupby(["algorithm", "setting"], sort=False)
    counts = frame[["runs", "done", "failed"]].sum()
    return counts.assign(seconds=frame["seconds"].mean().astype(float).round(1)).reset_index()


def missing(profile: Profile, wanted: Sequence[Run]) -> str:
    """A sentence for tables that rest on fewer runs than planned; empty if none is missing."""
    lost = [run.name for run in dict.fromkeys(wanted) if not run.step(profile).folder.is_dir()]
    if not lost:
        return ""
    return f"**{len(lost)} of {len(dict.fromkeys(wanted))} runs are missing**, such as {lost[0]}: see the sweep."


def failures(outcome: pool.Outcome) -> pd.DataFrame:
    """The runs that failed twice, with the first error of each."""
    import pandas as pd

    return pd.DataFrame(list(outcome.failed.items()), columns=["run", "error"])


def evaluations(profile: Profile, wanted: Sequence[Run], text: bool = False) -> pd.DataFrame:
    """Every recorded completion of the runs that are complete, with the columns of the run beside it."""
    import pandas as pd

    columns = None if text else [name for name in fitting.RECORDED if name != "text"]
    parts = []
    for run in dict.fromkeys(wanted):
        folder = run.step(profile).folder
        if folder.is_dir():
            parts.append(fitting.load_evaluation(folder, columns).assign(**_columns(run)))
    if not parts:
        raise _none_complete(wanted)
    return pd.concat(parts, ignore_index=True)


def histories(profile: Profile, wanted: Sequence[Run]) -> pd.DataFrame:
    """Losses and metrics of training of the runs that are complete, with the columns of the run beside them."""
    import pandas as pd

    found = [(run, run.step(profile).folder) for run in dict.fromkeys(wanted)]
    parts = [fitting.load_history(path).assign(**_columns(run)) for run, path in found if path.is_dir()]
    if not parts:
        raise _none_complete(wanted)
    return pd.concat(parts, ignore_index=True)


def _none_complete(wanted: Sequence[Run]) -> MissingRunsError:
    failed = {run: _FAILED[run] for run in wanted if run in _FAILED}
    if failed:
        run, error = next(iter(failed.items()))
        return MissingRunsError(f"None of these runs is complete, since their training failed. {run.name}: {error}")
    return MissingRunsError("None of these runs is complete: train them first.")


def _run(profile: Profile, algorithm: str, setting: str, beta: float, rate: float, seed: int, **changes) -> Run:
    extras = {}
    if algorithm == "qrpo":
        defaults = profile.training.qrpo
        names = ("num_ref_rewards", "transform", "partition")
        extras = {name: getattr(defaults, name) for name in names} | changes
    return Run(algorithm, setting, beta, rate, seed, **extras)


def _columns(run: Run) -> dict[str, object]:
    values = {name: getattr(run, name) for name in COLUMNS if getattr(run, name) is not None}
    return values | ({"transform": transform_label(run.transform)} if run.transform is not None else {})


def _detail(outcome: pool.Outcome, processes: int) -> str:
    seconds = outcome.seconds_left(processes)
    left = "" if seconds is None else f", about {seconds / 60:.0f} min left"
    failed = f", {len(outcome.failed)} failed" if outcome.failed else ""
    return f"{len(outcome.running)} running{failed}{left}"
