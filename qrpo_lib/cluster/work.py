"""What a job of a cluster or a local process does: make the run folder of one task, after checking that it may."""

from __future__ import annotations

import atexit
import os
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import submitit
from submitit.helpers import Checkpointable, TorchDistributedEnvironment

from qrpo_lib.cluster.task import ScheduledTask
from qrpo_lib.profiles.settings import Resources
from qrpo_lib.runs import files, folders, keys, paths, secrets
from qrpo_lib.runs.errors import InputError

if TYPE_CHECKING:
    from torch.distributed import TCPStore

# One process of a group may sample, score or wait for a lock while the others wait for it in a collective.
_GROUP_HOURS = 24
# All are started at once; the first to come may wait for one whose node reads the packages for the first time.
_FORMING_MINUTES = 30
_SERVED: list[TCPStore] = []  # by the group's first process, for as long as it lives
_IS_SERVED = "TORCHELASTIC_USE_AGENT_STORE"
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class StaleCodeError(InputError):
    """The code was changed between submission and start."""


class Work(Checkpointable):
    """Makes a task's folder. submitit pickles and calls it.

    As it is Checkpointable, submitit requeues the job that runs into its time limit; it then goes on from what the
    step's partial folder holds.
    """

    def __init__(self, task: ScheduledTask, resources: Resources):
        self.name, self.step, self.make, self.arguments = task.name, task.step, task.make, task.arguments
        self.needs = [need.name for need in task.needs]
        self.group, self.gpus = task.group, resources.gpus_per_node
        self.environment = {"QRPO_STATUS": str(task.told), **resources.environment}

    def __call__(self) -> str:
        for name in [name for name in os.environ if secrets.is_secret(name)]:
            del os.environ[name]  # sbatch passes none on, but a login shell may set some again
        if _made_again(self.step).key != self.step.key:
            raise StaleCodeError("The code was changed since this job was submitted; run the same command again.")
        missing = [name for name in self.needs if not (paths.runs_folder() / name).is_dir()]
        if missing:
            raise FileNotFoundError(f"This job needs what is not complete: {', '.join(missing)}.")
        os.environ.update(self.environment)
        job = submitit.JobEnvironment()
        if job.num_tasks > 1 and self.group:
            join_group(job)
        elif job.num_tasks > 1:
            take_gpu(job.local_rank, self.gpus)
        try:
            self.make(*self.arguments)
        except BaseException:  # also the end that submitit brings about at the time limit
            atexit.unregister(folders.leave_group)
            raise
        return self.name


def take_gpu(local_rank: int, gpus: int) -> None:
    """Leave this process, which works alone beside others of its node, one of the node's GPUs.

    local_rank: SLURM_LOCALID, which of the node's processes this is. gpus: of the node; where the cluster does not say
    which ones the job has (`CUDA_VISIBLE_DEVICES`), they are numbered from 0.
    """
    devices = [device for device in os.environ.get(_VISIBLE, "").split(",") if device]
    if _VISIBLE not in os.environ:
        devices = [str(number) for number in range(gpus)]
    if devices:
        os.environ[_VISIBLE] = devices[local_rank % len(devices)]


def join_group(job: submitit.JobEnvironment, minutes: float = _FORMING_MINUTES) -> None:
    """Make this process one of a group that trains together, with time limits of hours where the others wait for it.

    The first process listens at a port that is free there, and the others read which in the folder of the job's files:
    a port that follows from the job's number, as submitit's does, may be another program's, or the same number's on
    another cluster, whose processes would then be waited for.

    Parameters
    ----------
    job: what this process is of; its folder is seen by all nodes.
    minutes: how long the processes may take to find each other.

    Raises
    ------
    TimeoutError
        They did not.
    """
    place = TorchDistributedEnvironment().export(overwrite=True, set_cuda_visible_devices=False)
    limit, forming = timedelta(hours=_GROUP_HOURS), timedelta(minutes=minutes)
    os.environ.setdefault("DEEPSPEED_TIMEOUT", str(int(limit.total_seconds() // 60)))  # minutes, of its own groups
    import torch
    from accelerate import PartialState

    # A job that was put back into the queue has the same number and the same folder.
    told = job.paths.folder / f"{job.job_id}_{os.environ.get('SLURM_RESTART_COUNT', '0')}_port"
    connect = partial(torch.distributed.TCPStore, place.master_addr, world_size=place.world_size, timeout=forming)
    try:
        if place.rank == 0:
            store = connect(port=0, is_master=True, wait_for_workers=False)
            _SERVED.append(store)
            files.write_atomically(told, str(store.port).encode())
        else:
            store = connect(port=_read(told, forming), is_master=False)
        store.set(f"joined {place.rank}", "")
        store.wait([f"joined {rank}" for rank in range(place.world_size)], forming)
    except (torch.distributed.DistError, TimeoutError) as error:
        raise TimeoutError(
            f"The {place.world_size} processes of job {job.job_id} did not find each other within {minutes:g} minutes; "
            f"process {place.rank}, which looks for the first on {place.master_addr}, says: {error}"
        ) from None
    os.environ["MASTER_PORT"] = str(store.port)
    # The first serves already, as torchrun's agent does. What is started from here, as vLLM, serves itself.
    os.environ[_IS_SERVED] = "True"
    try:
        PartialState(cpu=not torch.cuda.is_available(), timeout=limit)
    finally:
        del os.environ[_IS_SERVED]


def _read(told: Path, forming: timedelta) -> int:
    """The port that the first process has written down, or will have in this time."""
    latest = time.monotonic() + forming.total_seconds()
    while not told.exists():
        if time.monotonic() > latest:
            raise TimeoutError("the first has not said where it listens")
        os.listdir(told.parent)  # a shared file system may remember for a while that a file is not there
        time.sleep(0.2)
    return int(told.read_text())


def _made_again(step: keys.Step) -> keys.Step:
    inputs = tuple(_made_again(source) for source in step.inputs)
    return keys.Step(step.name, step.parameters, inputs=inputs, code=step.code)
