"""A reproduction: as many notebooks at once as the cores carry, each in a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from qrpo_lib.runs import account, failures, folders, secrets
from qrpo_lib.runs.code_version import package_file
from qrpo_lib.runs.errors import InputError
from qrpo_lib.suite import publishing
from qrpo_lib.suite.execution import check_unedited, disks
from qrpo_lib.suite.notebooks import Job, is_complete, is_there

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)


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
        state.failed[job.id] = failures.sentence(error, *disks())
    else:
        state.skipped.append(job.id)
    return True


def _could_start(job: Job, whole: set[str]) -> bool:
    """Whether all that the job reads is there, though a job that should have made it has failed."""
    try:
        return all(is_there(step.folder_name, whole) for step in folders.with_inputs(*job.inputs))
    except folders.CorruptedRunError:
        return False


def _start(job: Job, force: bool, threads: int, accounts: Path, state: State) -> None:
    try:
        state.running.append(_Running(job, force, threads, accounts))
    except OSError as error:
        state.failed[job.id] = failures.sentence(error, *disks())


def _end(running: _Running, state: State) -> None:
    """Publish what a job made whose process has ended; what it made stands only if the notebook is still the same."""
    job = running.job
    error = running.error()
    if not error:
        try:
            check_unedited(job, running.step)
            publishing.publish(job.id, running.step.folder)
        except (InputError, OSError) as failure:
            error = failures.sentence(failure, *disks())
    if error:
        state.failed[job.id] = error
    else:
        state.done.append(job.id)


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
                    [sys.executable, "-m", "qrpo_lib.suite.execution", json.dumps(task | {"answer": theirs})],
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
            answer += failures.full_disk(*disks())
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


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG: a killed `qrpo reproduce` leaves no work behind that a second one would compete with.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
