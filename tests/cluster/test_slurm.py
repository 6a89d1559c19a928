"""Dispatch on a real SLURM, two "nodes" on this machine: what goes wrong on a cluster, done to it on purpose.

After each fault the same command completes, nothing that was complete is computed again, and no half-written folder is
taken for whole.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cluster as slurm_cluster
import pandas
import pytest
import safetensors.torch
import torch
import toys

from qrpo_lib.cluster import dispatch, journal, table
from qrpo_lib.experiment import jobs
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.settings import Dispatch, Resources
from qrpo_lib.results import rounds
from qrpo_lib.runs import paths
from qrpo_lib.runs.records import RECORD
from qrpo_lib.steps import rounds as steps

HERE = Path(__file__).parent
SMALLEST = Path(__file__).parents[1] / "data" / "smallest.toml"

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SETTINGS = {"where": "slurm", "poll_seconds": 0.5, "pause_seconds": 0.5, "seconds_before_limit": 25}
WHOLE = "first half, second half"


@pytest.fixture(scope="module")
def running_cluster():
    try:
        with slurm_cluster.running() as started:
            yield started
    except slurm_cluster.Unavailable as reason:
        pytest.skip(f"no SLURM here: {reason}")


@pytest.fixture
def cluster(running_cluster, runs_folder, monkeypatch):
    """The cluster, ready for this test's jobs; `runs_folder` is shared by its nodes."""
    for name, value in running_cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", f"{paths.PACKAGE.parent}:{HERE / 'slurm'}")
    yield running_cluster
    running_cluster.command("scancel", "--user", str(os.getuid()))


@pytest.fixture
def root(runs_folder):
    return runs_folder.parent


def run(*tasks, **settings):
    dispatch.make(tasks, Dispatch(**SETTINGS | settings))


def computed(root, *tasks):
    return [len(toys.notes(root, task.step.name)) for task in tasks]


def result(task):
    return (task.step.folder / "result.txt").read_text()


def until(condition, seconds=600):
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.1)
    return found


def in_background(code):
    """A person's own process that dispatches; `code` has `toys`, `run` and the settings."""
    script = (
        "import sys, toys; from qrpo_lib.cluster import dispatch\n"
        "from qrpo_lib.profiles import settings as profiles\n"
        f"def run(*tasks): dispatch.make(tasks, profiles.Dispatch(**{SETTINGS}))\n{code}"
    )
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def job_of(root, name):
    """Job id, process id and node of the first computation of a step, as soon as it runs."""
    _, job, process, node = until(lambda: toys.notes(root, name))[0].split()
    return job, int(process), node


def test_stages_run_as_arrays_in_their_order(cluster, root):
    first = toys.task("first")
    middle = tuple(toys.task(f"middle{number}", needs=(first,)) for number in range(5))
    last = toys.task("last", needs=middle)
    run(last, simultaneous=2)
    assert computed(root, first, *middle, last) == [1] * 7
    run(last)
    assert computed(root, first, *middle, last) == [1] * 7


def test_scancel(cluster, root):
    before, slow = toys.task("before"), toys.task("slow", held=True)
    after = toys.task("after", needs=(before, slow))
    process = in_background(
        "before, slow = toys.task('before'), toys.task('slow', held=True)\n"
        "run(toys.task('after', needs=(before, slow)))"
    )
    job, _, _ = job_of(root, "slow")
    until(before.step.folder.exists)
    cluster.command("scancel", job)
    output = process.communicate(timeout=900)[0]
    assert process.returncode
    assert "was cancelled" in output
    assert not slow.step.folder.exists()
    toys.release(root)
    run(after)
    assert result(slow) == WHOLE
    assert computed(root, before, slow, after) == [1, 2, 1]


def test_kill_9_of_a_worker_needs_no_person(cluster, root):
    slow = toys.task("slow", held=True)
    after = toys.task("after", needs=(slow,))
    process = in_background("run(toys.task('after', needs=(toys.task('slow', held=True),)))")
    _, worker, _ = job_of(root, "slow")
    os.kill(worker, signal.SIGKILL)
    toys.release(root)
    assert process.wait(900) == 0, process.stdout.read()
    assert result(slow) == WHOLE
    assert computed(root, slow, after) == [2, 1]


def test_a_lost_node(cluster, root):
    """kill -9 of a node's daemon and of all that runs there: SLURM puts the job back, to the other node."""
    slow = toys.task("slow", held=True)
    process = in_background("run(toys.task('slow', held=True))")
    _, worker, node = job_of(root, "slow")
    cluster.kill_node(node)
    parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    for process_id in (parent, worker):  # the daemon of the job's step, and the job
        os.kill(process_id, signal.SIGKILL)
    toys.release(root)
    try:
        assert process.wait(900) == 0, process.stdout.read()
    finally:
        cluster.start_node(node)
    assert result(slow) == WHOLE
    assert len({line.split()[3] for line in toys.notes(root, "slow")}) == 2


def test_a_killed_daemon_alone_loses_nothing(cluster, root):
    """The job itself lives on and completes; that SLURM starts it anew elsewhere computes nothing twice."""
    slow = toys.task("slow", seconds=5)
    process = in_background("run(toys.task('slow', seconds=5))")
    _, _, node = job_of(root, "slow")
    cluster.kill_node(node)
    try:
        assert process.wait(900) == 0, process.stdout.read()
    finally:
        cluster.start_node(node)
    assert result(slow) == WHOLE
    assert computed(root, slow) == [1]


def test_at_its_time_limit_a_job_is_requeued_and_goes_on(cluster, root):
    task = toys.task("counting", "count", steps=60, seconds=1)
    run(task, resources={"training": Resources(minutes=1)})
    begins = [int(line.split()[0].rpartition("-")[2]) for line in toys.notes(root, "counting", "begins-at")]
    assert begins[0] == 0
    assert len(begins) > 1
    assert all(later > earlier for earlier, later in itertools.pairwise(begins))
    assert len({line.split()[1] for line in toys.notes(root, "counting", "begins-at")}) == 1  # the same job
    assert (task.step.folder / "count.txt").read_text() == "60"


def test_a_full_disk(cluster, root, runs_folder):
    runs_folder.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(runs_folder)]
    if subprocess.run(small, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        before, large = toys.task("before"), toys.task("large", "fill", megabytes=8)
        run(before)
        with pytest.raises((dispatch.DispatchError, OSError), match="No space left"):
            run(before, large)
        assert not large.step.folder.exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(runs_folder)], check=True)
        run(before, large)
        assert (large.step.folder / "result.bin").stat().st_size == 8 * 2**20
        assert computed(root, before, large) == [1, 2]
    finally:
        cluster.command("scancel", "--user", str(os.getuid()))
        until(lambda: not subprocess.run(["umount", str(runs_folder)], capture_output=True).returncode)


def test_a_killed_notebook_finds_its_jobs(cluster, root):
    tasks = [toys.task(f"slow{number}", seconds=4) for number in range(3)]
    process = in_background("run(*[toys.task(f'slow{number}', seconds=4) for number in range(3)])")
    job_of(root, "slow0")
    process.kill()
    process.wait()
    run(*tasks)
    assert [result(task) for task in tasks] == [WHOLE] * 3
    assert computed(root, *tasks) == [1, 1, 1]
    assert len(list(journal.folder().glob("*"))) == 1


def test_a_dispatcher_killed_before_it_wrote_down_its_jobs_finds_them(cluster, root):
    tasks = [toys.task(f"slow{number}", seconds=6) for number in range(3)]
    process = in_background("run(*[toys.task(f'slow{number}', seconds=6) for number in range(3)])")
    job_of(root, "slow0")
    process.kill()
    process.wait()
    (record,) = journal.folder().glob("*/batch.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"jobs": []}))
    run(*tasks)
    assert computed(root, *tasks) == [1, 1, 1]
    assert len(list(journal.folder().glob("*"))) == 1


def test_a_shared_step_survives_the_loss_of_one_of_its_workers(cluster, root):
    """The job after it starts although one of the jobs before it has failed."""
    shared = toys.task("shared", kind="sampling", held=True)
    after = toys.task("after", needs=(shared,))
    process = in_background(
        f"settings = profiles.Dispatch(**{SETTINGS}, resources={{'sampling': profiles.Resources(workers=2)}})\n"
        "shared = toys.task('shared', kind='sampling', held=True)\n"
        "dispatch.make([toys.task('after', needs=(shared,))], settings)"
    )
    _, worker, _ = job_of(root, "shared")
    os.kill(worker, signal.SIGKILL)  # the other one, which waited for the lock, makes it
    toys.release(root)
    assert process.wait(900) == 0, process.stdout.read()
    assert result(shared) == WHOLE
    assert computed(root, shared, after) == [2, 1]


def test_two_people_start_the_same_run_at_once(cluster, root):
    code = "run(*[toys.task(f'slow{number}', seconds=2) for number in range(3)])"
    people = [in_background(code) for _ in range(2)]
    for person in people:
        assert person.wait(900) == 0, person.stdout.read()
    tasks = [toys.task(f"slow{number}", seconds=2) for number in range(3)]
    assert [result(task) for task in tasks] == [WHOLE] * 3
    assert computed(root, *tasks) == [1, 1, 1]
    assert len(list(journal.folder().glob("*"))) == 1


def test_secrets_reach_no_job_and_no_file(cluster, root, monkeypatch, runs_folder):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    task = toys.task("telling", "tell", variable="HF_TOKEN")
    run(task)
    assert result(task) == "None"
    for path in runs_folder.rglob("*"):
        assert not path.is_file() or b"x" * 30 not in path.read_bytes(), path


def test_processes_that_train_together_wait_hours_for_one_another(cluster, root):
    """Gloo's own limit is half an hour, NCCL's ten minutes; one of them may evaluate for longer."""
    task = toys.task("group", "wait_in_group", group=True)
    run(task, resources={"training": Resources(nodes=2)})
    assert float(result(task)) >= 12 * 3600


def fake_sbatch(folder, monkeypatch, script):
    """Put a command called sbatch before SLURM's own, which is `$REAL` in the script."""
    folder.mkdir()
    (folder / "sbatch").write_text(f"#!/bin/sh\nREAL={shutil.which('sbatch')}\n{script}\n")
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


TIMED_OUT = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"


@pytest.mark.parametrize(("count", "end"), [(1, TIMED_OUT), (3, TIMED_OUT), (1, "echo accepted"), (1, "kill -9 $$")])
def test_an_sbatch_that_gives_no_answer_after_submitting_is_found(cluster, root, tmp_path, monkeypatch, count, end):
    """The jobs run, although submitit had no number after which it names what they call."""
    fake_sbatch(tmp_path / "bin", monkeypatch, f'$REAL "$@" >/dev/null; {end}')
    tasks = [toys.task(f"unheard{number}") for number in range(count)]
    run(*tasks)
    assert computed(root, *tasks) == [1] * count
    assert len(list(journal.folder().glob("*"))) == 1


def test_a_cluster_with_a_limit_of_jobs_a_person_gets_them_one_after_the_other(cluster, root, tmp_path, monkeypatch):
    refusal = "echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1"
    fake_sbatch(tmp_path / "bin", monkeypatch, f'[ -z "$(squeue --noheader)" ] || {{ {refusal}; }}; $REAL "$@"')
    last = toys.task("last", needs=(toys.task("first"),))
    run(last)
    assert computed(root, *last.needs, last) == [1, 1]


def test_a_job_held_after_failed_launches_shows_why(cluster, root, monkeypatch):
    """As SLURM holds a job whose launch has failed on its node; here a person holds it."""
    said, plain = [], table.summary

    def summary(progress):
        said.append(plain(progress))
        if "held" in said[-1].lower():
            (jobs,) = progress.jobs.values()
            cluster.command("scontrol", "release", jobs[0])
        return plain(progress)

    monkeypatch.setattr(table, "summary", summary)
    fake_sbatch(root / "bin", monkeypatch, '$REAL --hold "$@"')
    task = toys.task("held")
    run(task)
    assert any("JobHeldUser" in line for line in said)
    assert computed(root, task) == [1]


# --- the pipeline -----------------------------------------------------------------------------------------------------


def reproduce(cluster, root, profile):
    """`qrpo reproduce` of what the models make, in an empty project; returns the bytes of all it published."""
    root.mkdir()
    (root / "notebooks").symlink_to(paths.PACKAGE.parent / "notebooks")
    command = [
        sys.executable,
        "-m",
        "qrpo_lib.suite.cli",
        "reproduce",
        "--profile",
        str(profile),
        "--only",
        "tables",
        "initial_policy",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "QRPO_RUNS"} | {"QRPO_ROOT": str(root)}
    cluster.run(command, environment)
    figures = root / "figures"
    return {p.relative_to(figures).as_posix(): p.read_bytes() for p in figures.rglob("*") if p.is_file()}


def test_the_pipeline_through_slurm_publishes_the_same_bytes(cluster, tmp_path):
    profile = tmp_path / "smallest.toml"
    smallest = f'extends = "{SMALLEST}"\n[dispatch]\npoll_seconds = 0.5\n'
    profile.write_text(smallest)
    here = reproduce(cluster, tmp_path / "here", profile)
    profile.write_text(smallest + 'where = "slurm"\n')
    through_slurm = reproduce(cluster, tmp_path / "slurm", profile)
    assert any(name.endswith(".csv") for name in here)
    assert through_slurm.keys() == here.keys()
    assert [name for name in here if here[name] != through_slurm[name]] == []
    made = {"initial_policy", "reference_sampling", "reference_evaluation", "reference_log_probs", "training"}
    made |= {"sample_answers", "evaluation", "report"}
    records = [record for _, record in read_records(tmp_path / "slurm" / "runs") if record["name"] in made]
    assert {record["name"] for record in records} == made
    assert all(record["slurm_job"] for record in records)


def read_records(folder):
    return [(path.parent, json.loads(path.read_text())) for path in folder.glob(f"*-*/{RECORD}")]


def test_training_on_two_tasks_is_training_on_one(cluster, tmp_path):
    """gloo over two nodes: a batch of 8 as 2 processes x 1 micro-batch x 4 pairs, against 1 process x 2 x 4."""
    path = tmp_path / "smallest.toml"
    path.write_text(f'extends = "{SMALLEST}"\n[training]\nmicro_batch_size = 4\n')
    task = jobs.training(profiles.load(path), "qrpo", 0)
    dispatch.make([task], Dispatch(where="here"))
    one = task.step.folder.rename(tmp_path / "one")
    run(task, resources={"training": Resources(nodes=2)})
    two = task.step.folder
    assert json.loads((two / RECORD).read_text())["slurm_job"]
    (log,) = [p.read_text() for p in journal.folder().glob("qrpo-training-*/*_1_log.out")]
    assert "node=1(2)" in log  # the second process ran, on the second node
    pandas.testing.assert_frame_equal(
        pandas.read_csv(one / "history.csv"), pandas.read_csv(two / "history.csv"), rtol=1e-4, atol=1e-5
    )
    weights = [safetensors.torch.load_file(folder / "policy" / "model.safetensors") for folder in (one, two)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=2e-5)


def test_rounds_are_made_by_jobs(cluster, tmp_path):
    path = tmp_path / "smallest.toml"
    path.write_text(f'extends = "{SMALLEST}"\n[dispatch]\nwhere = "slurm"\npoll_seconds = 0.5\n')
    plan = steps.Plan(2, "renewed")
    folders_of_rounds = rounds.run(profiles.load(path), [plan], [0])[plan, 0]
    assert len(folders_of_rounds) == 2
    for folder in folders_of_rounds:
        assert json.loads((folder / RECORD).read_text())["slurm_job"]
