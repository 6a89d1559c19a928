"""The suite: which notebooks there are, what each needs and makes, and how they are run.

A notebook's execution is a step like any other (`qrpo_lib.runs.folders`): its folder holds the executed copy and what
it made under `figures/`, from where it is published to the project's `figures/`. Heavy work inside a notebook has run
folders of its own, so a notebook that is executed again only reads them.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qrpo_lib.experiment import grid as sweep
from qrpo_lib.experiment import relatives
from qrpo_lib.profiles import reward_traits
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import files, keys, pipeline, records
from qrpo_lib.runs.code_version import without_magics, without_own_imports
from qrpo_lib.runs.errors import InputError
from qrpo_lib.runs.paths import project_root, runs_folder
from qrpo_lib.steps import answers, initial_policy, reference_sampling, rounds
from qrpo_lib.suite import notebook_file, publishing

EXECUTED, RESTS_ON = "executed.ipynb", "rests_on.json"
_ANSWERS = 8  # that the notebook `initial_policy` shows
_ITERATIVE_SEEDS = 2  # of the experiment's: four plans each
THEORY = ("partition_function", "noise", "asymptotics", "optimal_policy", "reference_sets", "target_error")
ENUMERATED = ("exactness", "relatives")


@dataclass(frozen=True)
class Job:
    """One execution of a notebook.

    id: the notebook's path without suffix, and what distinguishes this execution, such as
        "experiments/training[chat, qrpo, seed 0]".
    parameters: of the notebook, beside `figures`.
    inputs: the steps whose results it shows; it makes those that no earlier job has made.
    possible: further steps that it may make, depending on results.
    after: ids of jobs that come first.
    all_cores: whether it works on all cores that there are, in processes of `threads` threads.
    """

    id: str
    path: str
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[keys.Step, ...] = ()
    after: tuple[str, ...] = ()
    threads: int = 1
    possible: tuple[keys.Step, ...] = ()
    all_cores: bool = False

    @property
    def source(self) -> Path:
        return project_root() / "notebooks" / f"{self.path}.ipynb"

    @property
    def step(self) -> keys.Step:
        cells = notebook_file.cells(self.source)
        code = [without_magics(source) for kind, source in cells if kind == "code"]
        # Cells as they stand, but for the lines that say where the package's modules live.
        shown = [source if kind != "code" else without_own_imports(source) for kind, source in cells]
        values = {name: value for name, value in self.parameters.items() if name != "profile"}
        parameters = {"notebook": self.path, "cells": shown, "parameters": values, "settings": self._settings()}
        return keys.Step(pipeline.notebook(self.path), parameters, inputs=self.inputs, source="\n".join(code))

    def _settings(self) -> dict[str, Any] | None:
        """The profile as this notebook reads it, without what changes no result; None for one that reads none."""
        name = self.parameters.get("profile")
        if name is None:
            return None
        arms = [self.parameters["arm"]] if "arm" in self.parameters else profiles.arms(name)
        return {arm: profiles.load(name, arm).model_dump(exclude={"dispatch"}) for arm in arms}


def jobs(profile_name: str) -> list[Job]:
    """Every execution that a profile's reproduction consists of, in an order that respects `after`."""
    ordered = [Job(f"theory/{name}", f"theory/{name}") for name in THEORY]
    ordered += [Job(f"experiments/{name}", f"experiments/{name}") for name in ENUMERATED]
    makers: dict[str, Job] = {}  # of initial policies, which arms may share
    for arm in profiles.arms(profile_name):
        ordered += _jobs_of_arm(profile_name, arm, makers)
    shown = [job for job in ordered if job.path in ("results/tables", "results/alpaca_eval")]
    of_tables = tuple(step for job in shown for step in (job.step, *job.inputs))
    after = tuple(job.id for job in shown)
    if shown:
        ordered.append(Job("results/protocol", "results/protocol", {"profile": profile_name}, of_tables, after))
    # What shows verdicts that other notebooks have published, and the pool's among them.
    together = ["results/worlds"] if profiles.worlds(profile_name) else []
    steps = [step for job in ordered for step in (job.step, *job.inputs)]
    for path in (*together, "results/power", "results/claims"):
        ordered.append(Job(path, path, {"profile": profile_name}, tuple(steps), tuple(job.id for job in ordered)))
        steps += (ordered[-1].step, *ordered[-1].inputs)
    return ordered


def in_world(selected: list[Job], profile_name: str, world: int) -> list[Job]:
    """Those of the jobs that belong to arms of this world. Raises InputError for a world that there is not."""
    known = profiles.worlds(profile_name)
    if world not in known:
        there = f"it has {', '.join(map(str, known))}" if known else "it has none"
        raise InputError(f"The profile {profile_name!r} has no world {world}; {there}.")
    arms = {of_world.get(world) for of_world in profiles.arms_of_worlds(profile_name).values()}
    return [job for job in selected if job.parameters.get("arm") in arms]


def _jobs_of_arm(profile_name: str, arm: str, makers: dict[str, Job]) -> list[Job]:
    profile = profiles.load(profile_name, arm)
    if profile.experiment.shows == "relatives":
        return _jobs_of_relatives(profile_name, profile)
    steps, job = sweep.Steps(profile), functools.partial(_job_of_arm, profile_name, profile)
    ordered = _jobs_before_training(profile, job, steps, makers)
    sampling = ordered[1]
    grid, scaling = _steps(steps, sweep.grid(profile)), _steps(steps, sweep.scaling(profile))
    transformations = _steps(steps, sweep.transformations(profile))
    # DPO's gain is the scale of the smallest effects that matter (claims.toml).
    dpo = _steps(steps, [run for run in sweep.grid(profile) if run.algorithm == "dpo"])
    possible, every = _steps(steps, sweep.possible(profile)), (*grid, *scaling, *transformations)
    all_runs = job("experiments/sweep", every, tuple(ordered), possible=possible, all_cores=True)
    ordered.append(all_runs)
    # Arms for Figure 4 and its cause, not for the paper's comparison.
    if reward_traits.prefers_length(profile) or reward_traits.has_annotator(profile):
        return [*ordered, job("results/length_bias", grid, (all_runs,))]
    if profile.experiment.shows == "scaling":
        return [*ordered, job("results/scaling", (*scaling, *dpo), (all_runs,))]
    trained = {"algorithm": profile.experiment.algorithms[-1], "seed": profile.experiment.seeds[0]}
    training = _steps(steps, [sweep.own_run(profile, trained["algorithm"], trained["seed"])])
    training += _steps(steps, list(dict.fromkeys([*sweep.figure_6(profile), *sweep.threshold_runs(profile)])))
    ordered += [
        job("experiments/training", training, (all_runs,), parameters=trained),
        job("results/tables", grid, (all_runs,)),
    ]
    if scaling:
        ordered.append(job("results/scaling", (*scaling, *dpo), (all_runs,)))
    if transformations:
        compared = dict.fromkeys([*sweep.transformations(profile), *sweep.identity_of_grid(profile)])
        ordered.append(job("results/transformations", (*_steps(steps, list(compared)), *dpo), (all_runs,)))
    if reward_traits.has_lc_reward(profile):
        if set(profile.experiment.algorithms) == set(profiles.ALGORITHMS):  # Figure 4 and its claim compare them all
            ordered.append(job("results/length_bias", grid, (all_runs,)))
        ordered.append(job("results/alpaca_eval", grid, (all_runs,)))
    if profile.experiment.rounds is not None:
        chosen = {"rounds": profile.experiment.rounds, "seeds": profile.experiment.seeds[:_ITERATIVE_SEEDS]}
        plans = itertools.product(rounds.plans(chosen["rounds"]), chosen["seeds"])
        last_rounds = tuple(rounds.step(profile, plan, seed, plan.rounds) for plan, seed in plans)
        inputs, needs = (*last_rounds, *dpo), (sampling, all_runs)
        ordered.append(job("experiments/iterative", inputs, needs, parameters=chosen, all_cores=True))
    return ordered


def _job_of_arm(
    profile_name: str,
    profile: profiles.Profile,
    path: str,
    inputs: tuple[keys.Step, ...],
    after: tuple[Job, ...] = (),
    **others: Any,
) -> Job:
    """A notebook's execution for one arm, with as many threads as a training has unless `others` say otherwise."""
    named = {"profile": profile_name, "arm": profile.arm} | others.pop("parameters", {})
    others = {"threads": profile.training.threads} | others
    return Job(f"{path}[{profile.arm}]", path, named, inputs, tuple(needed.id for needed in after), **others)


def _jobs_before_training(
    profile: profiles.Profile, job: Callable[..., Job], steps: sweep.Steps, makers: dict[str, Job]
) -> list[Job]:
    """The initial policy, its completions and, of a task that says what holds of it, the task's properties."""
    policy, completions = initial_policy.step(profile), reference_sampling.step(profile)
    threads, maker = profile.reference_sampling.threads, makers.get(policy.key)
    # Where steps are made elsewhere, so is what the policy answers (`results.samples`).
    answered = (answers.step(profile, _ANSWERS),) if profile.dispatch.where != "here" else ()
    before = (maker,) if maker else ()
    first = job("experiments/initial_policy", (policy,), before, threads=threads, possible=answered)
    makers.setdefault(policy.key, first)
    ordered = [first, job("experiments/reference_sampling", (completions,), (first,), threads=threads)]
    if reward_traits.has_stated_properties(profile):
        of_beta = _steps(steps, sweep.of_beta(profile))
        ordered.append(job("experiments/task_properties", of_beta, tuple(ordered), threads=threads, all_cores=True))
    return ordered


def _jobs_of_relatives(profile_name: str, profile: profiles.Profile) -> list[Job]:
    """A notebook for each study of QRPO beside its relatives; those before it come first, as studies share models."""
    ordered: list[Job] = []
    for study in profile.experiment.relatives:
        models = relatives.models(profile, study.study)
        inputs = tuple(model.answered(profile, split) for model in models for split in relatives.SPLITS)
        inputs += (relatives.before_training(profile, study.study, "reporting"),)
        path = f"results/beyond_{study.study}"
        ordered.append(_job_of_arm(profile_name, profile, path, inputs, tuple(ordered), all_cores=True))
    return ordered


def _steps(steps: sweep.Steps, wanted: list[sweep.Run]) -> tuple[keys.Step, ...]:
    return tuple(steps[run] for run in wanted)


def select(all_jobs: list[Job], only: list[str]) -> list[Job]:
    """The jobs of the notebooks named in `only` (path, name, file, or job id); all of them if it is empty.

    A file may be named as seen from here or from the project's folder, by its absolute path, or below `notebooks/`.

    Raises InputError for a name that no notebook has, or that notebooks of several folders have.
    """
    chosen: set[str] = set()
    for name in only:
        named = [job for job in all_jobs if _is_named(job, name)]
        paths = list(dict.fromkeys(job.path for job in named))
        if len(paths) == 1:
            chosen |= {job.id for job in named}
            continue
        known = list(dict.fromkeys(job.path for job in all_jobs))
        if paths:
            raise InputError(f"{name!r} names several notebooks: say which of {', '.join(paths)}.")
        short = [path.split("/")[-1] for path in known]
        close = difflib.get_close_matches(_without_folder(name), [*known, *short], n=1)
        hint = f"did you mean {close[0]!r}? There" if close else "there"
        raise InputError(f"There is no notebook {name!r}; {hint} are {', '.join(known)}.")
    return [job for job in all_jobs if job.id in chosen] if only else all_jobs


def _is_named(job: Job, name: str) -> bool:
    if name in (job.id, job.path, job.path.split("/")[-1]):
        return True
    if _without_folder(name) in (job.path, job.path.split("/")[-1]):
        return True
    return name.endswith(".ipynb") and Path(name).resolve() == job.source.resolve()


def _without_folder(name: str) -> str:
    """What a notebook's file is called below the project's `notebooks/`."""
    return posixpath.normpath(name).removeprefix("notebooks/").removesuffix(".ipynb")


def check(selected: list[Job]) -> None:
    """Find what would stop the run later, of which there is no need to wait.

    A parameter a notebook does not have, a corrupted run folder among those that would be read, an unreadable manifest.
    """
    from qrpo_lib.suite import parameters as notebook

    publishing.read_manifest(project_root() / "figures")
    for job in selected:
        notebook.check_values(job.parameters, notebook.declared_parameters(job.source))
    whole: set[str] = set()  # many jobs share them, and looking at a folder takes time
    for job in selected:
        check_folders(job, whole)


def check_folders(job: Job, whole: set[str]) -> None:
    """Raise CorruptedRunError if a folder that the job made, reads or may read is not what was written.

    `whole` has the names of folders that were found whole before, and gets more of them.
    """
    for step in keys.with_inputs(job.step, *job.possible):
        is_there(step.folder_name, whole)
    for name in _rests_on(job):
        is_there(name, whole)


def is_complete(job: Job, whole: set[str] | None = None) -> bool:
    """Whether the notebook was executed and all that it rests on is there, so that executing it would change nothing.

    A declared input that was not there when it was executed must not be there now: the claims' notebook shows what was
    published until then. `whole` as in `check_folders`, which also says what is raised.
    """
    whole = set() if whole is None else whole
    if not is_there(job.step.folder_name, whole):
        return False
    then = _rests_on(job)
    return all(is_there(name, whole) for name in then) and inputs_there(job) <= set(then)


def inputs_there(job: Job) -> set[str]:
    """Names of the run folders that the job declares as its inputs, and of theirs, as far as they are there."""
    return keys.there(*job.inputs)


def is_there(name: str, whole: set[str]) -> bool:
    folder = runs_folder() / name
    if name not in whole and folder.exists():
        records.check(folder)
        whole.add(name)
    return name in whole


def _rests_on(job: Job) -> list[str]:
    """Names of the run folders that the job's notebook read when it was executed."""
    path = job.step.folder / RESTS_ON
    if not path.exists():
        return []
    return files.read_json(path, f"Remove the folder {path.parent} and run the same command again.", list)


def steps(profile_name: str) -> list[keys.Step]:
    """Every step of a profile's reproduction, whichever cells turn out to be the best, by name and key."""
    every = jobs(profile_name)
    roots = [step for job in every for step in (job.step, *job.possible)]
    return sorted(keys.with_inputs(*roots), key=lambda step: (step.name, step.key))


def needed_folders(all_jobs: list[Job]) -> set[str]:
    """Names of the run folders that these jobs make or read, what is reported of their models among them."""
    roots = (step for job in all_jobs for step in (job.step, *job.possible))
    needed = {step.folder_name for step in keys.with_inputs(*roots)}
    return needed | {name for job in all_jobs for name in _rests_on(job)} | _of_trainings(needed)


def _of_trainings(needed: set[str]) -> set[str]:
    """Names of the folders with what a checkpoint of these trainings answers, which results decide, and what for."""
    names = set()
    for folder, record in records.read_all():
        inputs = {f"{name}-{key}" for name, key in record.get("inputs", {}).items()}
        if record["name"] in pipeline.OF_CHECKPOINTS and inputs & needed:
            names |= {folder.name, *inputs}
    return names
