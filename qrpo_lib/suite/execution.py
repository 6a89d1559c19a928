"""Executing one notebook with papermill in a kernel of its own: what it made, why it failed."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib.experiment import jobs
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import account, failures, files, folders, keys
from qrpo_lib.runs.errors import InputError
from qrpo_lib.runs.usage import Usage
from qrpo_lib.suite import publishing
from qrpo_lib.suite.notebooks import EXECUTED, RESTS_ON, inputs_there, is_complete

if TYPE_CHECKING:
    from qrpo_lib.suite.notebooks import Job


_ACCOUNT = ".account.jsonl"
# Seconds that a kernel may take to start, and a cell's last outputs to come, on a machine that has much to do.
_START_SECONDS, _OUTPUT_SECONDS = 600, 60


class NotebookError(InputError):
    """A notebook failed; the message names its cell or the run that failed, and the first error."""


def check_unedited(job: Job, step: keys.Step) -> None:
    """Raise NotebookError if the notebook, or the profile that it reads, is another one than when it was started."""
    if job.step.key != step.key:
        raise NotebookError(
            "the notebook was edited while it ran, so what it made is not published: run the same command again."
        )


def execute(job: Job, step: keys.Step | None = None, force: bool = False) -> Path:
    """Execute one job with papermill, unless it is complete. Returns its run folder.

    step: what was to be executed when that was decided; something else is refused.
    """
    step = step or job.step
    if job.step.key != step.key:
        raise NotebookError("the code, the profile or the notebook was changed meanwhile; run the same command again.")
    if step.folder.is_symlink():
        raise OSError(f"{step.folder} is a link, not a run folder: remove the link yourself.")
    with folders.lock(f"execution-{step.folder_name}"):  # of two commands the second finds what the first has made
        if not force and is_complete(job):
            return step.folder
        # What it rests on may have been removed: executing it again makes that anew, and gives the same result.
        took: list[Usage] = []
        return folders.complete(
            step,
            lambda folder: took.append(_run_notebook(job, step, folder)),
            again=step.folder.exists(),
            by_kernel=lambda: took[-1],
        )


def _run_notebook(job: Job, step: keys.Step, folder: Path) -> Usage:
    """Execute it and note what it rests on; what its own work took."""
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    executed = folder / EXECUTED
    os.environ.pop("MPLBACKEND", None)  # figures are shown in the notebook, whatever the user has set for other work
    noted = Path(os.environ.get(account.VARIABLE) or folder / _ACCOUNT)
    if "arm" in job.parameters:  # its data may have been removed, and nothing later asks for them if it is complete
        jobs.make_data(profiles.load(job.parameters["profile"], job.parameters["arm"]))
    earlier, before = len(account.read(noted).took), time.process_time()
    try:
        with account.kept_in(noted):  # the kernel inherits it
            _in_a_kernel(job, executed, folder / publishing.FIGURES)
    except PapermillExecutionError as error:
        raise NotebookError(_first_error(account.read(noted)) or _error_of_cell(error, executed)) from None
    except DeadKernelError:
        failed = _first_error(account.read(noted))
        raise NotebookError(
            failed or f"its kernel died: something killed it, or memory ran out.{failures.full_disk(*failures.disks())}"
        ) from None
    kept = account.read(noted)
    (folder / _ACCOUNT).unlink(missing_ok=True)  # that of a command stays: its next notebooks look there
    check_unedited(job, step)
    if kept.failed:
        raise NotebookError(_first_error(kept))
    rests_on = sorted(kept.rests_on | inputs_there(job))
    files.write_atomically(folder / RESTS_ON, (json.dumps(rests_on) + "\n").encode())
    return _own_work(kept.took[earlier:], time.process_time() - before)


def _in_a_kernel(job: Job, executed: Path, figures: Path) -> None:
    import papermill

    from qrpo_lib.suite.kernels import OwnKernelManager

    papermill.execute_notebook(
        job.source,
        executed,
        parameters=job.parameters | {"figures": str(figures)},
        kernel_name="python3",
        kernel_manager_class=OwnKernelManager,
        cwd=job.source.parent,
        progress_bar=False,
        start_timeout=_START_SECONDS,
        iopub_timeout=_OUTPUT_SECONDS,
    )


def _own_work(told: list[Usage], here: float) -> Usage:
    """What a notebook's own work took: what its kernel told, and processor seconds of this process meanwhile."""
    if not told or told[-1].processor_seconds is None:  # it was killed, or was not forked
        return Usage()
    return replace(told[-1], processor_seconds=round(told[-1].processor_seconds + here, 3))


def _first_error(kept: account.Account) -> str:
    """What to say of a notebook whose trainings failed; empty if none did."""
    if not kept.failed:
        return ""
    name, error = next(iter(kept.failed.items()))
    others = f" {len(kept.failed) - 1} more failed." if len(kept.failed) > 1 else ""
    return f"{name} failed twice: {error}{'' if error.endswith('.') else '.'}{others}"


def _error_of_cell(error: Any, executed: Path) -> str:
    first = error.source.strip().splitlines()[0] if error.source.strip() else ""
    told = f"{error.ename}: {error.evalue}" if str(error.evalue).strip() else f"{error.ename} (without a message)"
    said = f"cell {error.exec_count} ({first}) failed: {told} The executed copy is {executed}"
    if failures.says_full("\n".join([str(error.evalue), *map(str, error.traceback or ())])):
        return f"The disk is full: make room and run the same command again. ({said})"
    return said + failures.full_disk(*failures.disks())
