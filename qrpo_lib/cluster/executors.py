"""Executors whose jobs outlive the command: a SLURM cluster, or local processes, both through submitit.

An executor knows jobs by their ids and says which are alive. Whether a result is complete it does not know: that is
decided by run folders alone. It needs no accounting database (`sacct`): states come from `squeue`, for as long as SLURM
remembers a job, and from the result that submitit leaves behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import submitit
from submitit.core import utils as submitit_utils

from qrpo_lib.cluster.journal import Batch, Journal
from qrpo_lib.cluster.task import (
    After,
    Executor,
    FullError,
    JobOutcome,
    NoAnswerError,
    ScheduledTask,
    State,
    SubmissionError,
    SubmittedJob,
)
from qrpo_lib.cluster.work import Work
from qrpo_lib.profiles.settings import Dispatch, Resources
from qrpo_lib.runs import folders, secrets

_RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
_PENDING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
# What sbatch says when it has not heard from the controller, which may have taken the job all the same; nothing if it
# was killed meanwhile.
_UNHEARD = re.compile(r"^$|unknown reason|timed out|unable to contact|communication|connect|zero bytes", re.IGNORECASE)
# What it says where a person, a project or the cluster has as many jobs as it may have: there is room again later.
_FULL = re.compile(r"(Max|Grp)SubmitJob|temporarily un(available|able to accept)", re.IGNORECASE)
_UNHEARD_SECONDS = 120
_COMMAND_SECONDS = 60
# A local job ends when its work does: the longest time that submitit's local controller can be given.
_NO_LIMIT_MINUTES = 60 * 24 * 365
_LOG_LINES = 40


class Submitted(Executor):
    """What both executors share: the journal, and submitit's files, a folder for each batch of jobs.

    Each has ways of its own to `launch` a batch, to `find` the ids of one of which only the name is known, to say what
    `states` its jobs are in, to `cancel` them, and whether a batch `is_ours`, so that this machine sees its jobs.
    """

    name: str

    def __init__(self, settings: Dispatch):
        self.settings = settings
        self._journal = Journal()
        self._unheard: dict[str, float] = {}  # batches whose submission may have arrived, and since when

    def turn(self) -> contextlib.AbstractContextManager:
        """A context in which no other command submits."""
        return folders.lock("dispatch")

    def wait(self) -> None:
        time.sleep(self.settings.poll_seconds)

    def has_room(self, busy: Collection[ScheduledTask], task: ScheduledTask) -> bool:
        """Whether another job may begin beside those; a cluster has a queue of its own."""
        return len(busy) < self.settings.simultaneous

    def in_one_array(self, tasks: Sequence[ScheduledTask]) -> bool:
        """Whether these tasks, of one kind, would be one array with one job each."""
        resources = self.settings.of_kind(tasks[0].kind)
        return resources.workers == 1 and 1 < len(tasks) <= self.settings.array_size

    def look(self, names: Collection[str]) -> dict[str, list[SubmittedJob]]:
        """The latest jobs of these tasks, by whomever they were submitted."""
        latest: dict[str, list[SubmittedJob]] = {}
        for batch in self._journal.read():
            if batch.executor != self.name or not self.is_ours(batch):
                continue
            if not batch.jobs:
                self._adopt(batch)
            of_batch: dict[str, list[SubmittedJob]] = defaultdict(list)
            for name, id in zip(batch.tasks, batch.jobs, strict=True):
                if name in names:
                    of_batch[name].append(SubmittedJob(id, batch.folder))
            latest |= of_batch
        every = [job for jobs in latest.values() for job in jobs]
        states = self.states(every) if every else {}
        for job in every:
            job.state, job.reason = states.get(job.id, ("ended", ""))
        return latest

    def submit(self, tasks: Sequence[ScheduledTask], after: After) -> dict[str, list[str]]:
        """Submit tasks of one kind, as many jobs of each as it has workers; returns their ids."""
        resources = self.settings.of_kind(tasks[0].kind)
        size = max(1, self.settings.array_size // resources.workers)
        ids: dict[str, list[str]] = defaultdict(list)
        for start in range(0, len(tasks), size):
            works = [Work(task, resources) for task in tasks[start : start + size] for _ in range(resources.workers)]
            # First what is about to be done, then the doing, then its ids: a kill between them loses no job.
            name = f"qrpo-{tasks[0].kind}-{uuid.uuid4().hex[:10]}"
            batch = self._journal.begin(name, self.name, [work.name for work in works])
            try:
                with secrets.hidden():
                    batch.jobs = self.launch(batch, works, resources, after)
            except (submitit_utils.FailedJobError, submitit_utils.FailedSubmissionError) as error:
                self._not_heard(batch, error)
            self._journal.write(batch)
            for work, id in zip(works, batch.jobs, strict=True):
                ids[work.name].append(id)
        return ids

    def outcome(self, job: SubmittedJob) -> JobOutcome:
        """How the job's function ended, with its error, if submitit could still write that down."""
        ended: JobOutcome = ("lost", "")
        for path in sorted(job.place.glob(f"{job.id}_*_result.pkl")):
            try:
                kind, value = submitit_utils.pickle_load(path)
            except Exception:  # cut off or damaged: unpickling then raises anything; its folder decides
                continue
            if kind == "error":
                return "error", secrets.mask(str(value)).strip().splitlines()[-1]
            ended = ("success", "")
        return ended

    def log(self, job: SubmittedJob) -> str:
        """The end of the job's log."""
        lines: list[str] = []
        for path in sorted(job.place.glob(f"{job.id}_*_log.out")):
            with open(path, "rb") as stream:
                stream.seek(max(0, path.stat().st_size - 20_000))
                lines += stream.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
        return secrets.mask("\n".join(lines[-_LOG_LINES:]))

    def _adopt(self, batch: Batch) -> None:
        """Find the jobs of a submission that was interrupted, or not answered, before they were written down."""
        ids, unheard_since = self.find(batch), self._unheard.get(batch.name)
        if not ids and unheard_since is not None and time.monotonic() - unheard_since < _UNHEARD_SECONDS:
            raise NoAnswerError("it may have taken jobs that it does not show yet")
        batch.jobs = ids + ["none"] * (len(batch.tasks) - len(ids))
        _hand_over(batch)
        self._journal.write(batch)

    def _not_heard(self, batch: Batch, error: Exception) -> None:
        """A submission that failed, or of which nobody knows: then its jobs are looked for before it is made again."""
        text = secrets.mask(str(error)).strip()
        without_ids = isinstance(error, submitit_utils.FailedSubmissionError)  # it took them and said no number
        if not (without_ids or _UNHEARD.search(text)):
            self._journal.remove(batch)
            if _FULL.search(text):
                raise FullError(re.sub(r"\s+", " ", text))
            raise SubmissionError(f"The jobs could not be submitted: {text}")
        self._unheard[batch.name] = time.monotonic()
        self._adopt(batch)


class Slurm(Submitted):
    """Jobs of a cluster. Whole stages are submitted at once, each after the jobs it needs."""

    name = "slurm"
    takes_dependencies = True

    def __init__(self, settings: Dispatch):
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise SubmissionError("There is no SLURM here (no sbatch): run this where sbatch is.")
        super().__init__(settings)

    def is_ours(self, batch: Batch) -> bool:
        """A cluster's jobs are seen from everywhere."""
        return True

    def executor(self, folder: Path, name: str, resources: Resources, after: str | None) -> submitit.SlurmExecutor:
        """submitit's executor for a batch of jobs, with the profile's settings and what such jobs are given.

        Parameters
        ----------
        folder: where submitit keeps the batch's files and logs.
        name: of the jobs, by which squeue knows them.
        resources: nodes, tasks, cores, GPUs, memory and minutes of each job.
        after: sbatch's `--dependency` (`dependency`), None for none.
        """
        settings, gpus, memory = self.settings, resources.gpus_per_node, resources.memory_gb
        options = {"job_name": name, "account": settings.account, "partition": settings.partition, "dependency": after}
        options |= {"nodes": resources.nodes, "ntasks_per_node": resources.tasks_per_node, "time": resources.minutes}
        options |= {"cpus_per_task": resources.cpus_per_task, "gpus_per_node": gpus or None}
        options |= {"mem": None if memory is None else f"{round(memory * 1024)}MB"}
        options |= {"array_parallelism": settings.simultaneous, "signal_delay_s": settings.seconds_before_limit}
        options |= {"stderr_to_stdout": True, "setup": list(settings.setup) or None}
        # A group is lost with one of its tasks; since 22.05 srun does not take over sbatch's --cpus-per-task.
        srun = ["--kill-on-bad-exit=1", f"--cpus-per-task={resources.cpus_per_task}", *settings.srun_arguments]
        # A node that fails puts its jobs back into the queue; a job whose inputs will never come leaves it.
        others = {"requeue": True, "kill-on-invalid-dep": "yes", **resources.sbatch}
        options |= {"srun_args": srun, "additional_parameters": others}
        slurm = submitit.SlurmExecutor(folder, max_num_timeout=settings.timeouts, python=settings.python)
        slurm.update_parameters(**{key: value for key, value in options.items() if value is not None})
        return slurm

    def launch(self, batch: Batch, works: Sequence[Work], resources: Resources, after: After) -> list[str]:
        """Submit one job, or an array of several.

        Parameters
        ----------
        batch: its name and its folder; ids of its jobs are not known yet.
        works: what each job calls.
        resources: of each job.
        after: jobs that come first.

        Returns
        -------
        Ids of the jobs, in the order of `works`; those of an array are "1234_0", "1234_1".

        Raises
        ------
        submitit's FailedJobError or FailedSubmissionError
            sbatch refused the jobs, or did not answer.
        """
        sizes = Counter(job.split("_")[0] for known in self._journal.read() for job in known.jobs)
        return _submitted(self.executor(batch.folder, batch.name, resources, dependency(after, sizes)), works)

    def find(self, batch: Batch) -> list[str]:
        """By the name of the batch."""
        lines = _output(["squeue", "--noheader", "--states=all", f"--name={batch.name}", "-o%F"])
        masters, count = sorted({line.strip() for line in lines}), len(batch.tasks)
        if not masters or count == 1:
            return masters[:1]
        return [f"{masters[0]}_{index}" for index in range(count)]

    def states(self, jobs: Collection[SubmittedJob]) -> dict[str, tuple[State, str]]:
        """As squeue has them."""
        states: dict[str, tuple[State, str]] = {}
        for chosen in _in_parts(sorted({job.id.split("_")[0] for job in jobs})):
            command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(chosen)}", "-o%i %T %r"]
            try:
                lines = _output(command)
            except NoAnswerError as error:
                if "Invalid job id" in str(error):  # so it says when it has forgotten all of them
                    continue
                raise
            for line in lines:
                id, state, reason = [*line.split(None, 2), ""][:3]
                states[id] = _state(state, reason), reason.replace("_", " ")
        return states

    def cancel(self, jobs: Collection[SubmittedJob]) -> None:
        """With scancel."""
        for ids in _in_parts([job.id for job in jobs]):
            with contextlib.suppress(NoAnswerError):  # some have left it already, or the next look does it again
                _output(["scancel", *ids])


class Processes(Submitted):
    """Local processes, at most `simultaneous` at once. They survive the notebook that started them."""

    name = "processes"

    def is_ours(self, batch: Batch) -> bool:
        """Processes are seen only from their own machine."""
        return batch.host == socket.gethostname()

    def launch(self, batch: Batch, works: Sequence[Work], resources: Resources, after: After) -> list[str]:
        """Start a process (or, with several tasks, a group of processes) for each of `works`.

        Parameters
        ----------
        batch: its folder; ids of its jobs are not known yet.
        works: what each process, or group, calls.
        resources: of each: tasks, GPUs, and cores for the threads of a task.
        after: ignored, as a process is only started once what it needs is there.

        Returns
        -------
        The ids of submitit's controlling processes, in the order of `works`.
        """
        executor = submitit.LocalExecutor(batch.folder, python=self.settings.python)
        given = {"tasks_per_node": resources.tasks_per_node, "gpus_per_node": resources.gpus_per_node}
        given |= {"nodes": 1, "timeout_min": _NO_LIMIT_MINUTES, "stderr_to_stdout": True, "setup": self.settings.setup}
        executor.update_parameters(**given)
        with submitit.helpers.environment_variables(OMP_NUM_THREADS=str(resources.cpus_per_task)):
            return _submitted(executor, works)

    def find(self, batch: Batch) -> list[str]:
        """By the folder of the batch."""
        pids = [
            path.name for path in Path("/proc").glob("[0-9]*") if _is_controller(SubmittedJob(path.name, batch.folder))
        ]
        return sorted(pids, key=int)

    def states(self, jobs: Collection[SubmittedJob]) -> dict[str, tuple[State, str]]:
        """Those that run."""
        return {job.id: ("running", "") for job in jobs if _is_controller(job)}

    def cancel(self, jobs: Collection[SubmittedJob]) -> None:
        """Ask the processes to end."""
        for job in jobs:
            if _is_controller(job):
                os.kill(int(job.id), 15)


def executor_for(settings: Dispatch) -> Submitted:
    """The executor that the profile names."""
    return Slurm(settings) if settings.where == "slurm" else Processes(settings)


def dependency(after: After, sizes: Counter[str]) -> str | None:
    """sbatch's `--dependency`; an array, of such a size, all of whose jobs are needed stands for them."""

    def ids(jobs: tuple[str, ...]) -> str:
        needed = Counter(job.split("_")[0] for job in dict.fromkeys(jobs))
        whole = (array if needed[array := job.split("_")[0]] == sizes[array] else job for job in jobs)
        return ":".join(dict.fromkeys(whole))

    parts = [f"{word}:{ids(jobs)}" for word, jobs in (("afterok", after.success), ("afterany", after.end)) if jobs]
    parts += [f"aftercorr:{after.each}"] if after.each else []
    return ",".join(parts) or None


def _submitted(executor: submitit.Executor, works: Sequence[Work]) -> list[str]:
    with executor.batch():
        jobs = [executor.submit(work) for work in works]
    return [job.job_id for job in jobs]


def _hand_over(batch: Batch) -> None:
    """Give the jobs what they are to call: submitit names those files after them only once sbatch has answered."""
    without: dict[str, list[str]] = defaultdict(list)
    for name, id in zip(batch.tasks, batch.jobs, strict=True):
        if id != "none" and not (batch.folder / f"{id}_submitted.pkl").exists():
            without[name].append(id)
    for path in batch.folder.glob("*.pkl") if without else ():
        if re.fullmatch(r"[0-9a-f]{32}", path.stem):
            ids = without[submitit_utils.DelayedSubmission.load(path).function.name]
            if ids:
                path.rename(batch.folder / f"{ids.pop()}_submitted.pkl")


def _in_parts(ids: list[str]) -> list[list[str]]:
    # A command line holds only so much.
    return [ids[start : start + 500] for start in range(0, len(ids), 500)]


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


def _is_controller(job: SubmittedJob) -> bool:
    # The number may by now be another process's; submitit's controller has the folder on its command line.
    try:
        return str(job.place).encode() in Path(f"/proc/{job.id}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
