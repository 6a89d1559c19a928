"""What a job does: what it checks before it begins, and what of its node it takes."""

import contextlib
import os
import random
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import toys

from qrpo_lib.cluster import work
from qrpo_lib.profiles.settings import Resources
from qrpo_lib.runs import folders, keys
from qrpo_lib.runs.code_version import code_version


def test_a_job_refuses_other_code_and_missing_inputs(runs_folder, monkeypatch):
    task = toys.task("a", needs=(toys.task("b"),))
    with pytest.raises(FileNotFoundError, match="needs what is not complete: b-"):
        work.Work(task, Resources())()
    toys.perform(task.needs[0].step, "write", {})
    monkeypatch.setattr(keys, code_version.__name__, lambda entries, source: "another")
    with pytest.raises(work.StaleCodeError, match="run the same command again"):
        work.Work(task, Resources())()


def test_a_job_that_fails_waits_for_no_other(runs_folder, monkeypatch):
    """Nor one that submitit ends at its time limit, by an exception too."""
    forgotten = []
    monkeypatch.setattr(work.atexit, "unregister", forgotten.append)
    monkeypatch.setattr(work.submitit, "JobEnvironment", lambda: SimpleNamespace(num_tasks=1))
    monkeypatch.setenv("QRPO_STATUS", "")
    made, failing = (work.Work(toys.task(name, name), Resources()) for name in ("write", "fail"))
    assert made() == made.name
    assert forgotten == []
    with pytest.raises(ValueError, match="not possible yet"):
        failing()
    assert forgotten == [folders.leave_group]


@pytest.mark.parametrize(
    ("visible", "gpus", "rank", "taken"),
    [
        ("4,5,6,7", 4, 2, "6"),
        ("GPU-a,GPU-b", 2, 1, "GPU-b"),
        ("3", 4, 2, "3"),  # the cluster has given each task its own
        (None, 4, 2, "2"),
        (None, 4, 5, "1"),
        (None, 0, 1, None),
        ("", 4, 1, ""),  # none on purpose
    ],
)
def test_each_task_that_works_alone_takes_a_gpu_of_its_own(monkeypatch, visible, gpus, rank, taken):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    work.take_gpu(rank, gpus)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == taken


def test_the_work_of_a_job_knows_slurms_local_rank(runs_folder, monkeypatch):
    """As srun starts the third of four tasks on a node whose cluster does not set CUDA_VISIBLE_DEVICES."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_LOCALID": "2", "SLURM_PROCID": "2", "SLURM_NODEID": "0"}
    slurm |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here", "SUBMITIT_EXECUTOR": "slurm"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("QRPO_STATUS", "")
    task = toys.task("telling", "tell", variable="CUDA_VISIBLE_DEVICES")
    work.Work(task, Resources(gpus_per_node=4, tasks_per_node=4))()
    assert (task.step.folder / "result.txt").read_text() == "2"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


JOIN = """
import subprocess, sys, torch
import submitit
from qrpo_lib.cluster import work
work.join_group(submitit.JobEnvironment(), float(sys.argv[2]))
if sys.argv[3]:
    subprocess.run([sys.executable, "-c", sys.argv[3]], check=True)
mine = torch.tensor([float(sys.argv[1])])
torch.distributed.all_reduce(mine)
print(mine.item())
"""


# A program that forms a group of its own, as vLLM does; each process of a job may start one.
ALONE = """
import datetime, socket, torch
with socket.create_server(("127.0.0.1", 0)) as free:
    at = f"tcp://127.0.0.1:{free.getsockname()[1]}"
torch.distributed.init_process_group("gloo", at, datetime.timedelta(seconds=60), world_size=1, rank=0)
"""


def process_of_a_job(folder, rank, number, minutes=5, restart="0", starts=""):
    """As srun starts one of two tasks of job 2, which adds its number to the other's."""
    slurm = {"SLURM_JOB_ID": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
    slurm |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost"}
    slurm |= {"SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_FOLDER": str(folder), "SLURM_RESTART_COUNT": restart}
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", JOIN, str(number), str(minutes), starts],
        env=os.environ | slurm,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_jobs_of_the_same_number_are_groups_of_their_own(tmp_path):
    """As two clusters give them on one machine, one of them to a job that was put back into the queue; submitit's port
    for it is taken by yet another program."""
    numbers = {"here": (1, 2), "there": (10, 20)}
    with contextlib.ExitStack() as taken:
        with contextlib.suppress(OSError):  # it is taken already
            taken.enter_context(socket.create_server(("", random.Random("2").randint(20000, 60000))))
        processes = {
            cluster: [process_of_a_job(tmp_path / cluster, rank, numbers[cluster][rank]) for rank in (1, 0)]
            for cluster in numbers
        }
        said = {cluster: [one.communicate(timeout=600) for one in some] for cluster, some in processes.items()}
        again = [process_of_a_job(tmp_path / "there", rank, 100, restart="1", starts=ALONE) for rank in (1, 0)]
        said["again"] = [one.communicate(timeout=600) for one in again]
    sums = {cluster: [out.strip() for out, _ in some] for cluster, some in said.items()}
    assert sums == {"here": ["3.0"] * 2, "there": ["30.0"] * 2, "again": ["200.0"] * 2}, said


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_whose_group_never_comes_says_so(tmp_path, rank):
    process = process_of_a_job(tmp_path, rank, 1, minutes=0.02)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 1
    assert f"The 2 processes of job 2 did not find each other within 0.02 minutes; process {rank}, which" in said
