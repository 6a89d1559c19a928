"""The suite: which notebooks there are, what each needs and makes, and how they are run.

A notebook's execution is a step like any other (`qrpo_lib.runs.folders`): its folder holds the executed copy and what
it made under `figures/`, from where it is published to the project's `figures/`. Heavy work inside a notebook has run
folders of its own, so a notebook that is executed again only reads them.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import itertools
import json
import os
import posixpath
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from qrpo_lib.experiment import grid as sweep
from qrpo_lib.profiles import reward_traits
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import account, failures, files, folders, secrets
from qrpo_lib.runs.code_version import package_file, without_own_imports
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import initial_policy, reference_sampling, rounds
from qrpo_lib.suite import notebook_file, publishing
from qrpo_lib.suite.publishing import MANIFEST
from qrpo_lib.tasks import registry as tasks

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

__all__ = ["MANIFEST"]  # also found here
EXECUTED, RESTS_ON = "executed.ipynb", "rests_on.json"
_ITERATIVE_SEEDS = 2  # of the experiment's: four plans each
# Figure 4 and the claim about it compare all of these.
_FOUR = {"dpo", "simpo", "rebel", "qrpo"}
_ACCOUNT = ".account.jsonl"
# What a pipe takes at once, so that a process can answer and end before anybody reads.
_LONGEST_ANSWER = 4096
THEORY = ("partition_function", "noise", "asymptotics", "optimal_policy")


class NotebookError(InputError):
    """A notebook failed; the message names its cell or the run that failed, and the first error."""


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
    inputs: tuple[folders.Step, ...] = ()
    after: tuple[str, ...] = ()
    threads: int = 1
    possible: tuple[folders.Step, ...] = ()
    all_cores: bool = False

    @property
    def source(self) -> Path:
        return folders.project_root() / "notebooks" / f"{self.path}.ipynb"

    @property
    def step(self) -> folders.Step:
        cells = notebook_file.cells(self.source)
        code = [_without_magics(source) for kind, source in cells if kind == "code"]
        # Cells as they stand, but for the lines that say where the package's modules live.
        shown = [source if kind != "code" else without_own_imports(_without_magics(source)) for kind, source in cells]
        values = {name: value for name, value in self.parameters.items() if name != "profile"}
        parameters = {"notebook": self.path, "cells": shown, "parameters": values, "settings": self._settings()}
        name = f"notebook-{self.path.replace('/', '-')}"
        return folders.Step(name, parameters, inputs=self.inputs, source="\n".join(code))

    def _settings(self) -> dict[str, Any] | None:
        """The profile as this notebook reads it, without what changes no result; None for one that reads none."""
        name = self.parameters.get("profile")
        if name is None:
            return None
        arms = [self.parameters["arm"]] if "arm" in self.parameters else profiles.arms(name)
        return {arm: profiles.load(name, arm).model_dump(exclude={"dispatch"}) for arm in arms}


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
    training += _steps(profile, list(dict.fromkeys([*sweep.figure_6(profile), *sweep.threshold_runs(profile)])))
    # DPO's gain is the scale of the smallest effects that matter (claims.toml).
    dpo = _steps(profile, [run for run in sweep.grid(profile) if run.algorithm == "dpo"])

    def job(path: str, inputs: tuple[folders.Step, ...], after: tuple[Job, ...] = (), **extras) -> Job:
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
    if reward_traits.prefers_length(profile):  # an arm for the method of Figure 4, not for the paper's comparison
        return [*made, job("results/length_bias", grid, (all_runs,))]
    made += [
        job("experiments/training", training, (all_runs,), parameters=one),
        job("results/tables", grid, (all_runs,)),
    ]
    if scaling:
        made.append(job("results/scaling", (*scaling, *dpo), (all_runs,)))
    if transformations:
        made.append(job("results/transformations", (*transformations, *dpo), (all_runs,)))
    if reward_traits.has_lc_reward(profile) and set(profile.experiment.algorithms) >= _FOUR:
        made.append(job("results/length_bias", grid, (all_runs,)))
    if reward_traits.has_lc_reward(profile):
        made.append(job("results/alpaca_eval", grid, (all_runs,)))
    if profile.experiment.rounds is not None:
        chosen = {"rounds": profile.experiment.rounds, "seeds": profile.experiment.seeds[:_ITERATIVE_SEEDS]}
        every = itertools.product(rounds.plans(chosen["rounds"]), chosen["seeds"])
        steps = tuple(rounds.step(profile, plan, seed, plan.rounds) for plan, seed in every)
        made.append(job("experiments/iterative", (*steps, *dpo), (sampling, all_runs), parameters=chosen))
    return made


def _steps(profile: profiles.Profile, wanted: list[sweep.Run]) -> tuple[folders.Step, ...]:
    return tuple(run.step(profile) for run in wanted)


def select(all_jobs: list[Job], only: list[str]) -> list[Job]:
    """The jobs of the notebooks named in `only` (path, name, file, or job id); all of them if it is empty.

    A file may be named as seen from here or from the project's folder, by its absolute path, or below `notebooks/`.

    Raises InputError for a name that no notebook has, or that notebooks of several folders have.
    """
    chosen: set[str] = set()
    for name in only:
        found = [job for job in all_jobs if _is_named(job, name)]
        paths = list(dict.fromkeys(job.path for job in found))
        if len(paths) == 1:
            chosen |= {job.id for job in found}
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

    publishing.read_manifest(folders.project_root() / "figures")
    for job in selected:
        notebook.check_values(job.parameters, notebook.declared_parameters(job.source))
    whole: set[str] = set()  # many jobs share them, and looking at a folder takes time
    for job in selected:
        check_folders(job, whole)


def check_folders(job: Job, whole: set[str]) -> None:
    """Raise CorruptedRunError if a folder that the job made, reads or may read is not what was written.

    `whole` has the names of folders that were found whole before, and gets more of them.
    """
    for step in folders.with_inputs(job.step, *job.possible):
        _is_there(step.folder_name, whole)
    for name in _rests_on(job):
        _is_there(name, whole)


def is_complete(job: Job, whole: set[str] | None = None) -> bool:
    """Whether the notebook was executed and all that it rests on is there, so that executing it would change nothing.

    A declared input that was not there when it was executed must not be there now: the claims' notebook shows what was
    published until then. `whole` as in `check_folders`, which also says what is raised.
    """
    whole = set() if whole is None else whole
    if not _is_there(job.step.folder_name, whole):
        return False
    then = _rests_on(job)
    return all(_is_there(name, whole) for name in then) and _inputs_there(job) <= set(then)


def _inputs_there(job: Job) -> set[str]:
    """Names of the run folders that the job declares as its inputs, and of theirs, as far as they are there."""
    return {step.folder_name for step in folders.with_inputs(*job.inputs) if step.folder.exists()}


def _is_there(name: str, whole: set[str]) -> bool:
    folder = folders.runs_folder() / name
    if name not in whole and folder.exists():
        folders.check(folder)
        whole.add(name)
    return name in whole


def _rests_on(job: Job) -> list[str]:
    """Names of the run folders that the job's notebook read when it was executed."""
    path = job.step.folder / RESTS_ON
    if not path.exists():
        return []
    return files.read_json(path, f"Remove the folder {path.parent} and run the same command again.", list)


def reproduce(selected: list[Job], *, force: bool, cores: int, on_change: Callable[[State], None]) -> State:
    """Execute what is not complete, as many jobs at once as the cores carry, and publish all figures.

    Of the jobs that could start, those that most others wait for come first. `on_change(state)` is called whenever
    there is news. A failed job does not stop those that do not need it, nor those whose inputs are there all the same.
    """
    state = State([job.id for job in selected])
    ids = set(state.waiting)
    to_do: set[str] = set()  # looked at and not complete: looking takes time, and this loop turns ten times a second
    whole: set[str] = set()
    waiting = _most_needed_first(selected)
    with _accounts() as accounts:
        while waiting or state.running:
            for job in list(waiting):
                if not all(needed not in ids or needed in state.ended for needed in job.after):
                    continue
                if job.id not in to_do and not force and _is_published(job, state, whole):
                    waiting.remove(job)
                    continue
                to_do.add(job.id)
                if any(needed in state.unmade for needed in job.after) and not _could_start(job, whole):
                    waiting.remove(job)
                    state.blocked.append(job.id)
                elif not state.running or sum(r.threads for r in state.running) + _threads(job, cores) <= cores:
                    waiting.remove(job)
                    _start(job, force, _threads(job, cores), accounts, state)
            state.waiting = [job.id for job in waiting]
            for running in list(state.running):
                if running.process.poll() is not None:
                    state.running.remove(running)
                    _end(running, state)
            on_change(state)
            time.sleep(0.1 if state.running else 0)
    return state


def _is_published(job: Job, state: State, whole: set[str]) -> bool:
    """Whether there is nothing left to execute for a job: it is complete and published, or that has just failed."""
    try:
        if not is_complete(job, whole):
            return False
        publishing.publish(job.id, job.step.folder)
    except (InputError, OSError) as error:
        state.failed[job.id] = failures.sentence(error, *_disks())
    else:
        state.skipped.append(job.id)
    return True


def _could_start(job: Job, whole: set[str]) -> bool:
    """Whether all that the job reads is there, though a job that should have made it has failed."""
    try:
        return all(_is_there(step.folder_name, whole) for step in folders.with_inputs(*job.inputs))
    except folders.CorruptedRunError:
        return False


def _start(job: Job, force: bool, threads: int, accounts: Path, state: State) -> None:
    try:
        state.running.append(_Running(job, force, threads, accounts))
    except OSError as error:
        state.failed[job.id] = failures.sentence(error, *_disks())


def _end(running: _Running, state: State) -> None:
    """Publish what a job made whose process has ended; what it made stands only if the notebook is still the same."""
    job = running.job
    error = running.error()
    if not error:
        try:
            _check_unedited(job, running.step)
            publishing.publish(job.id, running.step.folder)
        except (InputError, OSError) as failure:
            error = failures.sentence(failure, *_disks())
    if error:
        state.failed[job.id] = error
    else:
        state.done.append(job.id)


def _check_unedited(job: Job, step: folders.Step) -> None:
    if job.step.key != step.key:
        raise NotebookError(
            "the notebook was edited while it ran, so what it made is not published: run the same command again."
        )


def _disks() -> tuple[Path, ...]:
    """Where files are written."""
    return folders.runs_folder(), folders.project_root() / "figures", Path(tempfile.gettempdir())


@contextlib.contextmanager
def _accounts() -> Iterator[Path]:
    """A folder for the accounts of this command's notebooks (`qrpo_lib.runs.account`), removed in the end.

    What commands that were killed left behind goes too: only they could still have read it.
    """
    parent = folders.runs_folder() / ".status"
    mine = parent / f"command-{socket.gethostname()}-{os.getpid()}"
    for path in parent.glob(f"command-{socket.gethostname()}-*"):
        if path == mine or not _is_alive(int(path.name.rpartition("-")[2])):
            shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):  # on a full disk each job says so
        mine.mkdir(parents=True, exist_ok=True)
    try:
        yield mine
    finally:
        shutil.rmtree(mine, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


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

    @property
    def unmade(self) -> set[str]:
        """Jobs that failed or that nobody could start."""
        return {*self.failed, *self.blocked}

    @property
    def ended(self) -> set[str]:
        """Jobs of which nothing more will come."""
        return {*self.done, *self.skipped, *self.unmade}


def _threads(job: Job, cores: int) -> int:
    return max(cores, job.threads) if job.all_cores else job.threads


class _Running:
    """A job in a process of its own, which dies with this one."""

    def __init__(self, job: Job, force: bool, threads: int, accounts: Path):
        self.job, self.step, self.threads = job, job.step, threads
        folder = folders.runs_folder() / ".status"
        folder.mkdir(parents=True, exist_ok=True)
        self._status, self._log = folder / f"{self.step.key}.json", folder / f"{self.step.key}.log"
        self._status.unlink(missing_ok=True)
        # PASSIVE: threads that wait leave their core to the other jobs.
        threading = {"OMP_NUM_THREADS": str(job.threads), "OMP_WAIT_POLICY": "PASSIVE", "QRPO_CORES": str(threads)}
        told = {"QRPO_STATUS": str(self._status), account.VARIABLE: str(accounts / f"{self.step.key}.jsonl")}
        # Figures are shown in the notebook and look as published, whatever the user has set for other work.
        told |= {"MATPLOTLIBRC": str(package_file("matplotlibrc")), "PYTHONIOENCODING": "utf-8"}
        users = {name: value for name, value in secrets.without_secrets(os.environ).items() if name != "MPLBACKEND"}
        # The process says through a pipe why it failed: that works on a full disk too.
        self._answer, theirs = os.pipe()
        task = {"profile": job.parameters.get("profile", "tiny"), "id": job.id, "key": self.step.key, "force": force}
        try:
            with _opened(self._log) as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "qrpo_lib.suite.notebooks", json.dumps(task | {"answer": theirs})],
                    env=users | threading | told,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs],
                    preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                )
        except OSError:
            os.close(self._answer)
            raise
        finally:
            os.close(theirs)

    def doing(self) -> str:
        """What the job is doing now, for people."""
        try:
            status = json.loads(self._status.read_text(encoding="utf-8"))
            return f"{self.job.id}: {status['text']} {status['done']}/{status['total']} {status['detail']}".rstrip()
        except (OSError, ValueError, TypeError, LookupError):  # it is being written, or something else lies there
            return self.job.id

    def error(self) -> str:
        """Why the job failed, once its process has ended; empty if it has not."""
        with open(self._answer, "rb", closefd=True) as pipe:
            os.set_blocking(self._answer, False)  # a process that it left behind may hold the other end
            answer = (pipe.read() or b"").decode(errors="replace")
        if self.process.returncode == 0:
            return ""
        if not answer:
            answer = f"{failures.exit_text(self.process.returncode)}{self._end_of_log()}."
            answer += failures.full_disk(*_disks())
        return secrets.mask(answer)

    def _end_of_log(self) -> str:
        if self.process.returncode < 0:  # what killed it did not ask it
            return ""
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").strip().splitlines()
            if lines:
                return f" (the last line of {self._log}: {lines[-1].strip()})"
        return ""


def _opened(log: Path) -> TextIO:
    try:
        return open(log, "w")
    except OSError:  # a full disk: the job itself says so, through its pipe
        return open(os.devnull, "w")


def execute(job: Job, *, force: bool = False) -> Path:
    """Execute one job with papermill, in this process, unless it is complete. Returns its run folder."""
    step = job.step
    if step.folder.is_symlink():
        raise OSError(f"{step.folder} is a link, not a run folder: remove the link yourself.")
    with folders.lock(f"execution-{step.folder_name}"):  # of two commands the second finds what the first has made
        if not force and is_complete(job):
            return step.folder
        # What it rests on may have been removed: executing it again makes that anew, and gives the same result.
        return folders.complete(step, lambda folder: _run_notebook(job, step, folder), again=step.folder.exists())


def _run_notebook(job: Job, step: folders.Step, folder: Path) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from qrpo_lib.suite.kernels import OwnKernelManager

    executed = folder / EXECUTED
    noted = Path(os.environ.get(account.VARIABLE) or folder / _ACCOUNT)
    _make_data(job)
    try:
        with account.kept_in(noted):  # the kernel inherits it
            papermill.execute_notebook(
                job.source,
                executed,
                parameters=job.parameters | {"figures": str(folder / publishing.FIGURES)},
                kernel_name="python3",
                kernel_manager_class=OwnKernelManager,
                cwd=job.source.parent,
                progress_bar=False,
            )
    except PapermillExecutionError as error:
        raise NotebookError(_first_error(account.read(noted)) or _error_of_cell(error, executed)) from None
    except DeadKernelError:
        failed = _first_error(account.read(noted))
        raise NotebookError(
            failed or f"its kernel died: something killed it, or memory ran out.{failures.full_disk(*_disks())}"
        ) from None
    made = account.read(noted)
    (folder / _ACCOUNT).unlink(missing_ok=True)  # that of a command stays: its next notebooks look there
    _check_unedited(job, step)
    if made.failed:
        raise NotebookError(_first_error(made))
    rests_on = sorted(made.rests_on | _inputs_there(job))
    folders.write_atomically(folder / RESTS_ON, (json.dumps(rests_on) + "\n").encode())


def _make_data(job: Job) -> None:
    """Prepare the arm's data if somebody removed them: nothing later asks for them where it is complete itself."""
    if "arm" in job.parameters:
        profile = profiles.load(job.parameters["profile"], job.parameters["arm"])
        if not all(step.is_complete() for step in tasks.of(profile.task).inputs()):
            tasks.of(profile.task).prompts(profile.seed)


def _first_error(made: account.Account) -> str:
    """What to say of a notebook whose trainings failed; empty if none did."""
    if not made.failed:
        return ""
    name, error = next(iter(made.failed.items()))
    others = f" {len(made.failed) - 1} more failed." if len(made.failed) > 1 else ""
    return f"{name} failed twice: {error}{'' if error.endswith('.') else '.'}{others}"


def _error_of_cell(error: Any, executed: Path) -> str:
    first = error.source.strip().splitlines()[0] if error.source.strip() else ""
    told = f"{error.ename}: {error.evalue}" if str(error.evalue).strip() else f"{error.ename} (without a message)"
    said = f"cell {error.exec_count} ({first}) failed: {told} The executed copy is {executed}"
    if failures.says_full("\n".join([str(error.evalue), *map(str, error.traceback or ())])):
        return f"The disk is full: make room and run the same command again. ({said})"
    return said + failures.full_disk(*_disks())


def steps(profile_name: str) -> list[folders.Step]:
    """Every step of a profile's reproduction, whichever cells turn out to be the best, by name and key."""
    every = jobs(profile_name)
    roots = [step for job in every for step in (job.step, *job.possible)]
    return sorted(folders.with_inputs(*roots), key=lambda step: (step.name, step.key))


def needed_folders(all_jobs: list[Job]) -> set[str]:
    """Names of the run folders that these jobs make or read."""
    roots = (step for job in all_jobs for step in (job.step, *job.possible))
    return {step.folder_name for step in folders.with_inputs(*roots)}


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


def _main(task: dict[str, Any]) -> None:
    try:
        _execute_task(task)
    except Exception as error:
        said = failures.sentence(error, *_disks())
        os.write(task["answer"], said.encode()[:_LONGEST_ANSWER])
        raise SystemExit(said) from error


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
