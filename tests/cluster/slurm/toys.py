"""Steps that take no time or a chosen one, for tests of dispatch. Each says in a log when it really computes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from qrpo_lib.cluster.task import ScheduledTask
from qrpo_lib.runs import files, folders, keys, paths


def task(
    name: str, action: str = "write", *, needs=(), kind: str = "training", group: bool = False, **options
) -> ScheduledTask:
    """A task whose job does `action`, a function of this module, with `options`."""
    step = keys.Step(name, {"action": action, **options}, inputs=tuple(need.step for need in needs))
    return ScheduledTask.of(step, perform, (step, action, options), needs, kind=kind, group=group)


def perform(step: keys.Step, action: str, options: dict) -> None:
    """Make the step's folder."""
    resumable = action == "count"
    folders.complete(step, lambda folder: globals()[action](step, folder, **options), resumable=resumable)


def write(step: keys.Step, folder: Path, seconds: float = 0, held: bool = False) -> None:
    """Write a file, in two halves with a pause between them; if it is held, until `release`."""
    note("computes", step)
    with open(folder / "result.txt", "w") as stream:
        stream.write("first half, ")
        stream.flush()
        time.sleep(seconds)
        while held and not (paths.runs_folder().parent / "released").exists():
            time.sleep(0.05)
        stream.write("second half")


def count(step: keys.Step, folder: Path, steps: int, seconds: float) -> None:
    """Count with pauses; a checkpoint after each number, from which an interrupted count goes on."""
    done = int((folder / "count.txt").read_text()) if (folder / "count.txt").exists() else 0
    note(f"begins-at-{done}", step)
    for number in range(done, steps):
        time.sleep(seconds)
        files.write_atomically(folder / "count.txt", str(number + 1).encode())
    note("computes", step)


def fail(step: keys.Step, folder: Path) -> None:
    """Fail until a file named `repaired` lies beside the run folders."""
    note("computes", step)
    if not (paths.runs_folder().parent / "repaired").exists():
        print("the last words of the log")
        raise ValueError("this step is not possible yet")


def fill(step: keys.Step, folder: Path, megabytes: int) -> None:
    """Write more than a small disk holds."""
    note("computes", step)
    (folder / "result.bin").write_bytes(os.urandom(2**20) * megabytes)


def tell(step: keys.Step, folder: Path, variable: str) -> None:
    """Print a variable of the environment, and keep it."""
    print("the variable is", os.environ.get(variable))
    (folder / "result.txt").write_text(str(os.environ.get(variable)))


def wait_in_group(step: keys.Step, folder: Path) -> None:
    """Say how long the processes of the group wait for one another, in seconds."""
    import torch.distributed

    backend = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
    if folders.is_main_process():
        (folder / "result.txt").write_text(str(backend.options._timeout.total_seconds()))


def note(what: str, step: keys.Step) -> None:
    """Append a line to the log of this step, with the job and the process."""
    folder = paths.runs_folder().parent / "notes"
    folder.mkdir(exist_ok=True)
    with open(folder / step.name, "a") as stream:
        stream.write(f"{what} {os.environ.get('SLURM_JOB_ID')} {os.getpid()} {os.environ.get('SLURMD_NODENAME')}\n")


def release(root: Path) -> None:
    """Let the tasks that are held go on, now and later."""
    (root / "released").touch()


def notes(root: Path, name: str, what: str = "computes") -> list[str]:
    """Lines of the log of a step."""
    path = root / "notes" / name
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.startswith(what)]
