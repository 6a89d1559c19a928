"""What a job does: what it checks before it begins, and what of its node it takes."""

import os
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
