"""The suite: which notebooks there are, what each needs and makes, and how they are run.

A notebook's execution is a step like any other (`qrpo_lib.runs`): its folder holds the executed copy and what it made
under `figures/`, from where it is published to the project's `figures/`. Heavy work inside a notebook has run folders
of its own, so a notebook that is executed again only reads them.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from qrpo_lib import (
    initial_policy,
    iterative,
    masking,
    notebook,
    profiles,
    reference_sampling,
    results,
    runs,
    studies,
    sweep,
)

EXECUTED = "executed.ipynb"
MANIFEST = "manifest.json"
_ITERATIVE_SEEDS = 2  # of the experiment's: four plans each
# Figure 4 and the claim about it compare all of these.
_FOUR = {"dpo", "simpo", "rebel", "qrpo"}
THEORY = ("partition_function", "noise", "asymptotics", "optimal_policy")


class NotebookError(RuntimeError):
    """A notebook failed; the message names its cell and its error."""


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
    inputs: tuple[runs.Step, ...] = ()
    after: tuple[str, ...] = ()
    threads: int = 1
    possible: tuple[runs.Step, ...] = ()
    all_cores: bool = False

    @property
    def source(self) -> Path:
        return runs.project_root() / "notebooks" / f"{self.path}.ipynb"

    @property
    def step(self) -> runs.Step:
        cells = [(cell.cell_type, cell.source) for cell in nbformat.read(self.source, as_version=4).cells]
        code = [source for kind, source in cells if kind == "code"]
        modules = set().union(*(runs.imported_modules(_without_magics(source)) for source in code))
        parameters = {"notebook": self.path, "cells": cells, "parameters": self.parameters}
        name = f"notebook-{self.path.replace('/', '-')}"
        return runs.Step(name, parameters, inputs=self.inputs, code=tuple(sorted(modules)))


def jobs(profile_name: str) -> list[Job]:
    """Every execution that a profile's reproduction consists of, in an order that respects `after`."""
    made = [Job(f"theory/{name}", f"theory/{name}") for name in THEORY]
    made.append(Job("experiments/exactness", "experiments/exactness"))
    makers: dict[str, Job] = {}  # of initial policies, which arms may share
    for arm in profiles.arms(profile_name):
        made += _jobs_of_arm(profile_name, arm, makers)
    steps = tuple(step for job in made for step in (job.step, *job.inputs))
    ids = tuple(job.id for job in made)
    return [*made, Job("results/claims", "results/claims", {"profile": profile_name}, steps, ids)]


def _jobs_of_arm(profile_name: str, arm: str, makers: dict[str, Job]) -> list[Job]:
    profile = profiles.load(profile_name, arm)
    policy, completions = initial_policy.step(profile), reference_sampling.step(profile)
    grid, scaling = _steps(profile, sweep.grid(profile)), _steps(profile, sweep.scaling(profile))
    transformations = _steps(profile, sweep.transformations(profile))
    training = _steps(profile, [sweep.own_run(profile, profile.experiment.algorithms[-1], profile.experiment.seeds[0])])
    training += _steps(profile, list(dict.fromkeys([*sweep.figure_6(profile), *studies.threshold_runs(profile)])))
    # DPO's gain is the scale of the smallest effects that matter (claims.toml).
    dpo = _steps(profile, [run for run in sweep.grid(profile) if run.algorithm == "dpo"])

    def job(path: str, inputs: tuple[runs.Step, ...], after: tuple[Job, ...] = (), **extras) -> Job:
        named = {"profile": profile_name, "arm": arm} | extras.pop("parameters", {})
        extras = {"threads": profile.training.threads} | extras
        return Job(f"{path}[{arm}]", path, named, inputs, tuple(needed.id for needed in after), **extras)

    threads = profile.reference_sampling.threads
    maker = makers.get(policy.key)
    first = job("experiments/initial_policy", (policy,), (maker,) if maker else (), threads=threads)
    makers.setdefault(policy.key, first)
    sampling = job("experiments/reference_sampling", (completions,), (first,), threads=threads)
    all_runs = job(
        "experiments/sweep",
        (*grid, *scaling, *transformations),
        (first, sampling),
        possible=_steps(profile, sweep.possible(profile)),
        all_cores=True,
    )
    one = {"algorithm": profile.experiment.algorithms[-1], "seed": profile.experiment.seeds[0]}
    made = [first, sampling, all_runs]
    if results.prefers_length(profile):  # an arm for the method of Figure 4, not for the paper's comparison
        return [*made, job("results/length_bias", grid, (all_runs,))]
    made += [
        job("experiments/training", training, (all_runs,), parameters=one),
        job("results/tables", grid, (all_runs,)),
    ]
    if scaling:
        made.append(job("results/scaling", (*scaling, *dpo), (all_runs,)))
    if transformations:
        made.append(job("results/transformations", (*transformations, *dpo), (all_runs,)))
    if results.has_lc_reward(profile) and set(profile.experiment.algorithms) >= _FOUR:
        made.append(job("results/length_bias", grid, (all_runs,)))
    if results.has_lc_reward(profile):
        made.append(job("results/alpaca_eval", grid, (all_runs,)))
    if profile.experiment.rounds is not None:
        chosen = {"rounds": profile.experiment.rounds, "seeds": profile.experiment.seeds[:_ITERATIVE_SEEDS]}
        every = itertools.product(iterative.plans(chosen["rounds"]), chosen["seeds"])
        steps = tuple(iterative.step(profile, plan, seed, plan.rounds) for plan, seed in every)
        made.append(job("experiments/iterative", (*steps, *dpo), (sampling, all_runs), parameters=chosen))
    return made


def _steps(profile: profiles.Profile, wanted: list[sweep.Run]) -> tuple[runs.Step, ...]:
    return tuple(run.step(profile) for run in wanted)


def select(all_jobs: list[Job], only: list[str]) -> list[Job]:
    """The jobs of the notebooks named in `only` (path, name, or job id); all of them if it is empty.

    Raises ValueError for a name that no notebook has.
    """
    chosen = []
    for name in only:
        found = [job for job in all_jobs if name in (job.id, job.path, job.path.split("/")[-1])]
        if not found:
            known = ", ".join(dict.fromkeys(job.path for job in all_jobs))
            raise ValueError(f"There is no notebook {name!r}; there are {known}.")
        chosen += found
    return [job for job in all_jobs if job in chosen] if only else all_jobs


def check(selected: list[Job]) -> None:
    """Find what would stop the run later: a parameter a notebook does not have, a wheel missing, a corrupted folder."""
    steps = {}  # many jobs share them, and looking at a folder takes time
    for job in selected:
        notebook.check_values(job.parameters, notebook.declared_parameters(job.source))
        steps |= {step.key: step for step in _with_inputs(job.step)}
    for step in steps.values():
        step.is_complete()


def reproduce(selected: list[Job], *, force: bool, cores: int, on_change: Callable[[State], None]) -> State:
    """Execute what is not complete, as many jobs at once as the cores carry, and publish all figures.

    Of the jobs that could start, those that most others wait for come first. `on_change(state)` is called whenever
    there is news. A failed job does not stop those that do not need it.
    """
    state = State([job.id for job in selected])
    ids = set(state.waiting)
    to_do: set[str] = set()  # looked at and not complete: looking takes time, and this loop turns ten times a second
    waiting = _most_needed_first(selected)
    while waiting or state.running:
        for job in list(waiting):
            if any(needed in state.failed or needed in state.blocked for needed in job.after):
                waiting.remove(job)
                state.blocked.append(job.id)
            elif all(needed not in ids or needed in state.done or needed in state.skipped for needed in job.after):
                if job.id not in to_do and not force and job.step.is_complete():
                    waiting.remove(job)
                    state.skipped.append(job.id)
                    _publish(job)
                    continue
                to_do.add(job.id)
                if not state.running or sum(r.threads for r in state.running) + _threads(job, cores) <= cores:
                    waiting.remove(job)
                    state.running.append(_Running(job, force, _threads(job, cores)))
        state.waiting = [job.id for job in waiting]
        for running in list(state.running):
            if running.process.poll() is not None:
                state.running.remove(running)
                if running.process.returncode == 0:
                    state.done.append(running.job.id)
                    _publish(running.job)
                else:
                    state.failed[running.job.id] = running.error()
        on_change(state)
        time.sleep(0.1 if state.running else 0)
    return state


def _most_needed_first(selected: list[Job]) -> list[Job]:
    """By how many of them wait for a job, one for another; else in the given order."""
    waits_for: dict[str, set[str]] = {}
    for job in selected:  # each comes after what it waits for
        waits_for[job.id] = set(job.after).union(*(waits_for.get(needed, ()) for needed in job.after))
    needed_by = {job.id: sum(job.id in others for others in waits_for.values()) for job in selected}
    return sorted(selected, key=lambda job: -needed_by[job.id])


@dataclass
class State:
    """Where a reproduction stands: ids of jobs, and why the failed ones failed."""

    waiting: list[str]
    running: list[_Running] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def _threads(job: Job, cores: int) -> int:
    return max(cores, job.threads) if job.all_cores else job.threads


class _Running:
    """A job in a process of its own, which dies with this one."""

    def __init__(self, job: Job, force: bool, threads: int):
        self.job, self.threads = job, threads
        folder = runs.runs_folder() / ".status"
        folder.mkdir(parents=True, exist_ok=True)
        self._status, self._log = folder / f"{job.step.key}.json", folder / f"{job.step.key}.log"
        self._status.unlink(missing_ok=True)
        # PASSIVE: threads that wait leave their core to the other jobs.
        threading = {"OMP_NUM_THREADS": str(job.threads), "OMP_WAIT_POLICY": "PASSIVE", "QRPO_CORES": str(threads)}
        environment = masking.without_secrets(os.environ) | threading | {"QRPO_STATUS": str(self._status)}
        task = {"profile": job.parameters.get("profile", "tiny"), "id": job.id, "key": job.step.key, "force": force}
        with open(self._log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "qrpo_lib.suite", json.dumps(task)],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def doing(self) -> str:
        """What the job is doing now, for people."""
        try:
            status = json.loads(self._status.read_text())
        except (OSError, ValueError):
            return self.job.id
        return f"{self.job.id}: {status['text']} {status['done']}/{status['total']} {status['detail']}".rstrip()

    def error(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return (
            masking.mask(lines[-1]) if lines else f"ended with exit code {self.process.returncode}, and said nothing."
        )


def execute(job: Job, *, force: bool = False) -> Path:
    """Execute one job with papermill, in this process, unless it is complete. Returns its run folder."""
    if force and job.step.folder.exists():
        shutil.rmtree(job.step.folder)
    return runs.complete(job.step, lambda folder: _run_notebook(job, folder))


def _run_notebook(job: Job, folder: Path) -> None:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    executed = folder / EXECUTED
    try:
        papermill.execute_notebook(
            job.source,
            executed,
            parameters=job.parameters | {"figures": str(folder / "figures")},
            kernel_name="python3",
            cwd=job.source.parent,
            progress_bar=False,
        )
    except PapermillExecutionError as error:
        first = error.source.strip().splitlines()[0] if error.source.strip() else ""
        raise NotebookError(
            f"cell {error.exec_count} ({first}) failed: {error.ename}: {error.evalue} The executed copy is {executed}"
        ) from None


def _publish(job: Job) -> None:
    """Copy what a complete job made to `figures/` and enter it in the manifest; what it no longer makes goes."""
    made = job.step.folder / "figures"
    figures = runs.project_root() / "figures"
    manifest_path = figures / MANIFEST
    with runs.lock(MANIFEST):  # two profiles may be reproduced at once
        manifest = json.loads(manifest_path.read_text()) if manifest_path.exists() else {}
        paths = {p.relative_to(made).as_posix(): p for p in sorted(made.rglob("*")) if p.is_file()}
        for name in _superseded(manifest, job.id, set(paths)):
            (figures / name).unlink(missing_ok=True)
            del manifest[name]
        for name, path in paths.items():
            entry = {"made_by": job.id, "inputs": job.step.key, "sha256": runs.file_sha256(path)}
            target = figures / name
            if manifest.get(name) != entry or not target.exists() or runs.file_sha256(target) != entry["sha256"]:
                runs.write_atomically(target, path.read_bytes())
                manifest[name] = entry
        text = json.dumps(dict(sorted(manifest.items())), indent=1) + "\n"
        if not manifest_path.exists() or manifest_path.read_text() != text:
            runs.write_atomically(manifest_path, text.encode())


def _superseded(manifest: dict[str, Any], job_id: str, names: set[str]) -> list[str]:
    """Files that this job made before and makes no more. Other profiles' jobs of this id write to other folders."""
    folders = {name.split("/")[0] for name in names}
    return [
        name
        for name, entry in manifest.items()
        if entry["made_by"] == job_id and name not in names and name.split("/")[0] in folders
    ]


def _with_inputs(*steps: runs.Step) -> Iterator[runs.Step]:
    """The steps and all that they rest on, each once."""
    waiting, seen = list(steps), set()
    while waiting:
        step = waiting.pop()
        if step.key not in seen:
            seen.add(step.key)
            waiting += step.inputs
            yield step


def needed_folders(all_jobs: list[Job]) -> set[str]:
    """Names of the run folders that these jobs make or read."""
    roots = (step for job in all_jobs for step in (job.step, *job.possible))
    return {step.folder_name for step in _with_inputs(*roots)}


def _without_magics(source: str) -> str:
    return "\n".join(line for line in source.splitlines() if not line.startswith(("%", "!")))


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG: a killed `qrpo reproduce` leaves no work behind that a second one would compete with.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _execute_task(task: dict[str, Any]) -> None:
    """What a job's own process does."""
    job = next(job for job in jobs(task["profile"]) if job.id == task["id"])
    if job.step.key != task["key"]:
        raise NotebookError("the code, the profile or the notebook was changed meanwhile; run the same command again.")
    execute(job, force=task["force"])


if __name__ == "__main__":
    try:
        _execute_task(json.loads(sys.argv[1]))
    except Exception as error:
        raise SystemExit(str(error).replace("\n", " ")) from error
