"""Executors without a cluster: the text given to sbatch, what squeue says, and what a job leaves behind."""

import os
import pickle
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import toys
from submitit.core.utils import DelayedSubmission

from qrpo_lib.cluster import executors, journal, work
from qrpo_lib.cluster.task import After, SubmittedJob
from qrpo_lib.profiles.settings import Dispatch, Resources

HERE = Path(__file__).parent
GOLDEN = HERE / "slurm" / "golden"


# --- the text given to sbatch -----------------------------------------------------------------------------------------

CASES = {
    "one_job": (Dispatch(where="slurm"), Resources(), After(), 1),
    "array_after_a_stage": (
        Dispatch(where="slurm", account="a-project", partition="normal", simultaneous=16),
        Resources(nodes=2, tasks_per_node=4, gpus_per_node=4, cpus_per_task=72, memory_gb=460, minutes=720),
        After(("41", "42_3"), ("43",)),
        64,
    ),
    "container": (
        Dispatch(
            where="slurm",
            setup=["module load cray", "export HF_HUB_OFFLINE=1"],
            srun_arguments=["--environment=qrpo"],
            python="/opt/qrpo/bin/python",
        ),
        Resources(gpus_per_node=4, sbatch={"constraint": "gpu", "exclusive": True}),
        After(),
        3,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sbatch_text_is_the_golden_one(name, tmp_path, monkeypatch):
    """`QRPO_GOLDEN=write pytest ...` writes the files anew; read the difference before committing it."""
    monkeypatch.setattr(shutil, "which", lambda program, **_: f"/usr/bin/{program}")
    settings, resources, after, count = CASES[name]
    folder = tmp_path / "batch"
    needed = executors.dependency(after, Counter({"41": 1, "42": 4, "43": 1}))
    executor = executors.Slurm(settings).executor(folder, "qrpo-training-0123456789", resources, needed)
    if count > 1:
        executor.parameters["map_count"] = count
    text = executor._make_submission_file_text(executor._submitit_command_str, "id")
    text = text.replace(str(folder), "FOLDER").replace(sys.executable, "PYTHON") + "\n"
    golden = GOLDEN / f"{name}.sh"
    if os.environ.get("QRPO_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_each_job_of_an_array_can_wait_for_its_own_of_another():
    after = After(("41_0", "41_1"), ("43",), "42")
    assert executors.dependency(after, Counter({"41": 2})) == "afterok:41,afterany:43,aftercorr:42"


def test_states_of_squeue_are_understood(monkeypatch):
    """Lines as squeue 22.05 printed them on the test cluster."""
    lines = ["3_0 RUNNING None", "3_1 PENDING JobArrayTaskLimit", "4 PENDING DependencyNeverSatisfied", "5 NODE_FAIL x"]
    lines += ["6 CANCELLED None", "7 CANCELLED DependencyNeverSatisfied", "8 PENDING launch failed requeued held"]
    monkeypatch.setattr(shutil, "which", lambda program, **_: program)
    monkeypatch.setattr(executors, "_output", lambda command: lines)
    found = executors.Slurm(Dispatch(where="slurm")).states(
        [SubmittedJob(id) for id in ("3_0", "4", "5", "6", "7", "8")]
    )
    states = {"3_0": "running", "3_1": "pending", "4": "ended", "5": "ended", "6": "cancelled", "7": "ended"}
    assert {id: state for id, (state, _) in found.items()} == states | {"8": "pending"}
    assert found["8"][1] == "launch failed requeued held"
    assert found["3_1"][1] == "JobArrayTaskLimit"


def test_an_array_all_of_whose_jobs_are_needed_stands_for_them():
    sizes = Counter({"1": 2, "2": 3, "7": 1})
    assert executors.dependency(After(("1_0", "1_1"), ("2_0", "2_1")), sizes) == "afterok:1,afterany:2_0:2_1"
    assert executors.dependency(After(("7",)), sizes) == "afterok:7"
    assert executors.dependency(After(), sizes) is None


def test_jobs_of_an_unanswered_submission_get_what_they_are_to_call(runs_folder):
    """submitit names those files after its jobs only once sbatch has answered."""
    tasks = [toys.task(f"task{number}") for number in range(4)]
    batch = journal.Journal().begin("qrpo-training-x", "slurm", [task.name for task in tasks])
    for number, task in enumerate(tasks):
        DelayedSubmission(work.Work(task, Resources())).dump(batch.folder / f"{number:032x}.pkl")
    batch.jobs = [f"9_{number}" for number in range(4)]
    for _ in range(2):
        executors._hand_over(batch)
        for id, task in zip(batch.jobs, tasks, strict=True):
            path = batch.folder / f"{id}_submitted.pkl"
            assert DelayedSubmission.load(path).function.name == task.name


@pytest.mark.parametrize("damage", [b"", b"\x80\x04", b"cno.such\nmodule\n.", b"null"])
def test_a_damaged_result_of_a_job_counts_as_none(tmp_path, damage):
    (tmp_path / "7_0_result.pkl").write_bytes(damage)
    job = SubmittedJob("7", tmp_path)
    assert executors.Submitted(Dispatch()).outcome(job) == ("lost", "")
    shutil.copy(tmp_path / "7_0_result.pkl", tmp_path / "7_1_result.pkl")
    (tmp_path / "7_1_result.pkl").write_bytes(pickle.dumps(("error", "Traceback ...\nValueError: x")))
    assert executors.Submitted(Dispatch()).outcome(job) == ("error", "ValueError: x")
