"""What runs the jobs of `qrpo_lib.dispatch`: a SLURM cluster or local processes, both through submitit.

An executor knows jobs by their ids and says which are alive. Whether a result is complete it does not know: that is
decided by run folders alone. It needs no accounting database (`sacct`): states come from `squeue`, for as long as SLURM
remembers a job, and from the result that submitit leaves behind.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import submitit
from submitit.core import utils as submitit_utils
from submitit.helpers import Checkpointable, TorchDistributedEnvironment

from qrpo_lib import masking, runs
from qrpo_lib.errors import InputError
from qrpo_lib.profiles import Dispatch, Resources

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.code_version`)

State = Literal["pending", "running", "cancelled", "ended"]
ALIVE: tuple[State, ...] = ("pending", "running")

_RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
_PENDING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
_COMMAND_SECONDS = 60
# A local job ends when its work does: the longest time that submitit's local controller can be given.
_NO_LIMIT_MINUTES = 60 * 24 * 365
_LOG_LINES = 40


@dataclass(frozen=True)
class After:
    """Jobs that come first: each of `success` must succeed, each of `end` only end.

    What several workers make together is complete even if one of them was lost, so it is enough that all have ended; a
    job looks itself whether its inputs are there.
    """

    success: tuple[str, ...] = ()
    end: tuple[str, ...] = ()

    @property
    def option(self) -> str | None:
        """As sbatch's `--dependency`."""
        parts = [f"afterok:{':'.join(self.success)}"] if self.success else []
        parts += [f"afterany:{':'.join(self.end)}"] if self.end else []
        return ",".join(parts) or None


class SubmissionError(InputError):
    """The scheduler refused a job."""


class NoAnswerError(RuntimeError):
    """The scheduler could not be asked now."""


class StaleCodeError(InputError):
    """The code was changed between submission and start."""


class Work(Checkpointable):
    """What a job does: make one step's folder, after checking that it may begin. submitit pickles and calls it.

    As it is Checkpointable, submitit requeues the job that runs into its time limit; it then goes on from what the
    step's partial folder holds.
    """

    def __init__(
        self,
        step: runs.Step,
        make: Callable[..., Any],
        arguments: tuple,
        needs: tuple[str, ...],
        *,
        group: bool = False,
        environment: Mapping[str, str] | None = None,
    ):
        self.step, self.make, self.arguments, self.needs = step, make, arguments, needs
        self.group, self.environment = group, dict(environment or {})

    def __call__(self) -> str:
        for name in [name for name in os.environ if masking.is_secret(name)]:
            del os.environ[name]  # sbatch passes none on, but a login shell may set some again
        if _key_now(self.step) != self.step.key:
            raise StaleCodeError("The code was changed since this job was submitted; run the same command again.")
        missing = [name for name in self.needs if not (runs.runs_folder() / name).is_dir()]
        if missing:
            raise FileNotFoundError(f"This job needs what is not complete: {', '.join(missing)}.")
        os.environ["QRPO_STATUS"] = str(status_path(self.step))
        os.environ.update(self.environment)
        job = submitit.JobEnvironment()
        if job.num_tasks > 1 and self.group:
            TorchDistributedEnvironment().export(overwrite=True, set_cuda_visible_devices=False)
        elif job.num_tasks > 1 and "CUDA_VISIBLE_DEVICES" in os.environ:  # each task works alone, on a GPU of its own
            devices = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[job.local_rank % len(devices)]
        self.make(*self.arguments)
        return self.step.folder_name


def status_path(step: runs.Step) -> Path:
    """Where a job writes how far it is (`qrpo_lib.progress`)."""
    path = runs.runs_folder() / ".status" / f"{step.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _key_now(step: runs.Step) -> str:
    return _made_again(step).key


def _made_again(step: runs.Step) -> runs.Step:
    inputs = tuple(_made_again(source) for source in step.inputs)
    return runs.Step(step.name, step.parameters, inputs=inputs, code=step.code)


class _Submitit:
    """What both executors share: submitit's files, one folder for each batch of jobs."""

    def __init__(self, settings: Dispatch):
        self.settings = settings

    def outcome(self, folder: Path, job: str) -> tuple[Literal["success", "error"] | None, str]:
        """How the job's function ended, with its traceback, if submitit could still write that down."""
        outcomes = []
        for path in sorted(folder.glob(f"{job}_*_result.pkl")):
            try:
                outcome, value = submitit_utils.pickle_load(path)
            except Exception:  # cut off or damaged: unpickling then raises anything; its folder decides
                continue
            outcomes.append(outcome)
            if outcome == "error":
                return "error", masking.mask(str(value))
        return ("success", "") if "success" in outcomes else (None, "")

    def log(self, folder: Path, job: str) -> str:
        """The end of the job's log."""
        lines: list[str] = []
        for path in sorted(folder.glob(f"{job}_*_log.out")):
            with open(path, "rb") as stream:
                stream.seek(max(0, path.stat().st_size - 20_000))
                lines += stream.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
        return masking.mask("\n".join(lines[-_LOG_LINES:]))

    def _submit(self, executor: submitit.core.core.Executor, works: Sequence[Work]) -> list[str]:
        try:
            with masking.hidden(), executor.batch():
                jobs = [executor.submit(work) for work in works]
        except (submitit_utils.FailedJobError, submitit_utils.FailedSubmissionError) as error:
            raise SubmissionError(masking.mask(f"The jobs could not be submitted: {error}")) from None
        return [job.job_id for job in jobs]


class Slurm(_Submitit):
    """Jobs of a cluster. Whole stages are submitted at once, each after the jobs it needs."""

    name = "slurm"
    takes_dependencies = True

    def __init__(self, settings: Dispatch):
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise SubmissionError("There is no SLURM here (no sbatch): run this where sbatch is.")
        super().__init__(settings)

    def parameters(self, name: str, resources: Resources, after: After) -> dict[str, Any]:
        """The options of sbatch, under submitit's names."""
        settings = self.settings
        options = {
            "job_name": name,
            "account": settings.account,
            "partition": settings.partition,
            "time": resources.minutes,
            "nodes": resources.nodes,
            "ntasks_per_node": resources.tasks_per_node,
            "cpus_per_task": resources.cpus_per_task,
            "gpus_per_node": resources.gpus_per_node or None,
            "mem": None if resources.memory_gb is None else f"{round(resources.memory_gb * 1024)}MB",
            "array_parallelism": settings.simultaneous,
            "signal_delay_s": settings.seconds_before_limit,
            "stderr_to_stdout": True,
            "setup": list(settings.setup) or None,
            # A group is lost with one of its tasks; since 22.05 srun does not take over sbatch's --cpus-per-task.
            "srun_args": [
                "--kill-on-bad-exit=1",
                f"--cpus-per-task={resources.cpus_per_task}",
                *settings.srun_arguments,
            ],
            "dependency": after.option,
            # A node that fails puts its jobs back into the queue; a job whose inputs will never come leaves it.
            "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **resources.sbatch},
        }
        return {key: value for key, value in options.items() if value is not None}

    def executor(self, folder: Path, name: str, resources: Resources, after: After) -> submitit.SlurmExecutor:
        """submitit's executor for a batch of jobs."""
        made = submitit.SlurmExecutor(folder, max_num_timeout=self.settings.timeouts, python=self.settings.python)
        made.update_parameters(**self.parameters(name, resources, after))
        return made

    def submit(self, folder: Path, name: str, works: Sequence[Work], resources: Resources, after: After) -> list[str]:
        """Submit one job, or an array of several; returns their ids in the order of `works`."""
        return self._submit(self.executor(folder, name, resources, after), works)

    def find(self, folder: Path, name: str, count: int) -> list[str]:
        """The ids of a batch of which only the name is known: its submission was interrupted."""
        found = {line.strip() for line in _output(["squeue", "--noheader", "--states=all", f"--name={name}", "-o%F"])}
        if not found:
            return []
        (master,) = found
        return [master] if count == 1 else [f"{master}_{index}" for index in range(count)]

    def states(self, jobs: Iterable[tuple[Path, str]]) -> dict[str, State]:
        """States of those jobs that SLURM still remembers."""
        masters = sorted({job.split("_")[0] for _, job in jobs})
        states: dict[str, State] = {}
        for start in range(0, len(masters), 500):
            chosen = ",".join(masters[start : start + 500])
            try:
                lines = _output(["squeue", "--noheader", "--array", "--states=all", f"--jobs={chosen}", "-o%i %T %r"])
            except NoAnswerError as error:
                if "Invalid job id" in str(error):  # so it says when it has forgotten all of them
                    continue
                raise
            for line in lines:
                job, state, reason = [*line.split(None, 2), ""][:3]
                states[job] = _state(state, reason)
        return states

    def cancel(self, jobs: Sequence[tuple[Path, str]]) -> None:
        """Take the jobs from the queue."""
        ids = [job for _, job in jobs]
        for start in range(0, len(ids), 500):
            subprocess.run(["scancel", *ids[start : start + 500]], capture_output=True, timeout=_COMMAND_SECONDS)


class Processes(_Submitit):
    """Local processes, at most `simultaneous` at once. They survive the notebook that started them."""

    name = "processes"
    takes_dependencies = False

    def submit(self, folder: Path, name: str, works: Sequence[Work], resources: Resources, after: After) -> list[str]:
        """Start a process (or, with several tasks, a group of processes) for each of `works`."""
        executor = submitit.LocalExecutor(folder, python=self.settings.python)
        executor.update_parameters(
            nodes=1,
            tasks_per_node=resources.tasks_per_node,
            gpus_per_node=resources.gpus_per_node,
            timeout_min=_NO_LIMIT_MINUTES,
            stderr_to_stdout=True,
            setup=self.settings.setup,
        )
        with submitit.helpers.environment_variables(OMP_NUM_THREADS=str(resources.cpus_per_task)):
            return self._submit(executor, works)

    def find(self, folder: Path, name: str, count: int) -> list[str]:
        """Processes of an interrupted submission."""
        found = [path.name for path in Path("/proc").glob("[0-9]*") if _is_controller(path.name, folder)]
        return sorted(found, key=int)

    def states(self, jobs: Iterable[tuple[Path, str]]) -> dict[str, State]:
        """Those that run."""
        return {job: "running" for folder, job in jobs if _is_controller(job, folder)}

    def cancel(self, jobs: Sequence[tuple[Path, str]]) -> None:
        """Ask the processes to end."""
        for folder, job in jobs:
            if _is_controller(job, folder):
                os.kill(int(job), 15)


def _state(state: str, reason: str) -> State:
    if state in _PENDING:
        return "ended" if reason == "DependencyNeverSatisfied" else "pending"
    if state in _RUNNING:
        return "running"
    # What SLURM itself removes, since a job it waits for has failed, was not cancelled by a person.
    return "cancelled" if state.startswith("CANCELLED") and reason != "DependencyNeverSatisfied" else "ended"


def _output(command: list[str]) -> list[str]:
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"{command[0]} did not answer within {_COMMAND_SECONDS} s") from None
    if process.returncode:
        raise NoAnswerError(re.sub(r"\s+", " ", process.stderr).strip())
    return process.stdout.splitlines()


def _is_controller(job: str, folder: Path) -> bool:
    # The number may by now be another process's; submitit's controller has the folder on its command line.
    try:
        return str(folder).encode() in Path(f"/proc/{job}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def executor_for(settings: Dispatch) -> Slurm | Processes:
    """The executor that the profile names."""
    return Slurm(settings) if settings.where == "slurm" else Processes(settings)
