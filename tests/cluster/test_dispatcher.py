"""Dispatch without a cluster: against an executor in memory, in local processes, and the text given to sbatch."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qrpo_lib.cluster import dispatcher as dispatch
from qrpo_lib.cluster import executors
from qrpo_lib.profiles.settings import Dispatch, Resources
from qrpo_lib.runs import folders, keys
from qrpo_lib.runs.code_version import code_version
from qrpo_lib.runs.errors import InputError

HERE = Path(__file__).parent
GOLDEN = HERE / "slurm" / "golden"
sys.path.insert(0, str(HERE / "slurm"))  # jobs find the toys by PYTHONPATH

import toys  # noqa: E402


class InMemory:
    """An executor whose jobs the test ends by hand."""

    name = "in-memory"
    takes_dependencies = True

    def __init__(self):
        self.after = []
        self.all, self.alive, self.ended, self.cancelled, self.answers = [], {}, {}, [], True

    def submit(self, folder, name, works, resources, after):
        self.after.append(after)
        master = str(len(self.all) + 1)
        ids = [master] if len(works) == 1 else [f"{master}_{index}" for index in range(len(works))]
        self.all.append((name, works, [*after.success, *after.end]))
        self.alive |= dict.fromkeys(ids, "pending")
        return ids

    def find(self, folder, name, count):
        (position,) = [i for i, (known, _, _) in enumerate(self.all, 1) if known == name] or [None]
        return [] if position is None else [str(position)]

    def states(self, jobs):
        if not self.answers:
            raise executors.NoAnswerError("Unable to contact slurm controller")
        return dict(self.alive)

    def cancel(self, jobs):
        self.cancelled += [job for _, job in jobs]

    def outcome(self, folder, job):
        return self.ended.get(job, (None, ""))

    def log(self, folder, job):
        return f"log of {job}"

    def end(self, job, outcome=None, text=""):
        self.alive.pop(job)
        if outcome:
            self.ended[job] = (outcome, text)

    def makes(self, job, task):
        toys.perform(task.step, "write", {})
        self.end(job, "success")


def dispatcher(executor, *tasks, **settings):
    return dispatch.Dispatcher(dispatch.in_order(tasks), Dispatch(where="slurm", **settings), executor)


@pytest.fixture
def diamond(runs_folder):
    """a, then b0, b1, b2, then z."""
    first = toys.task("a")
    middle = tuple(toys.task(f"b{number}", needs=(first,)) for number in range(3))
    return first, middle, toys.task("z", needs=middle)


def test_stages_are_arrays_with_dependencies(diamond):
    executor = InMemory()
    dispatcher(executor, diamond[2]).advance()
    assert [len(works) for _, works, _ in executor.all] == [1, 3, 1]
    assert [after for _, _, after in executor.all] == [[], ["1"], ["2"]]


def test_an_array_is_cut_and_a_stage_waits_for_all_its_parts(diamond):
    executor = InMemory()
    dispatcher(executor, diamond[2], array_size=2).advance()
    assert [(len(works), after) for _, works, after in executor.all] == [
        (1, []),
        (2, ["1"]),
        (1, ["1"]),
        (1, ["2", "3"]),
    ]


def test_a_step_that_workers_share_gets_as_many_jobs(runs_folder):
    shared = toys.task("shared", kind="sampling")
    after = toys.task("after", needs=(shared,))
    executor = InMemory()
    dispatcher(executor, after, resources={"sampling": Resources(workers=4)}).advance()
    assert [(len(works), needed) for _, works, needed in executor.all] == [(4, []), (1, ["1"])]
    assert executor.after == [executors.After(), executors.After(end=("1",))]  # one of the four may be lost


def test_what_is_complete_gets_no_job_and_no_dependency(diamond):
    first, middle, last = diamond
    for task in (first, middle[1]):
        toys.perform(task.step, "write", {})
    executor = InMemory()
    dispatcher(executor, last).advance()
    assert [(len(works), after) for _, works, after in executor.all] == [(2, []), (1, ["1"])]


def test_a_second_dispatcher_finds_the_jobs_of_the_first(diamond):
    executor = InMemory()
    dispatcher(executor, diamond[2]).advance()
    progress = dispatcher(executor, diamond[2]).advance()
    assert len(executor.all) == 3
    assert set(progress.status.values()) == {"queued"}


def test_a_submission_that_was_killed_before_its_ids_were_written_is_adopted(diamond, monkeypatch):
    executor = InMemory()
    submit = executor.submit

    def killed(*arguments):
        submit(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(executor, "submit", killed)
    with pytest.raises(KeyboardInterrupt):
        dispatcher(executor, diamond[0]).advance()
    monkeypatch.setattr(executor, "submit", submit)
    progress = dispatcher(executor, diamond[0]).advance()
    assert len(executor.all) == 1
    assert progress.status[diamond[0].name] == "queued"


def test_a_submission_that_never_reached_the_scheduler_is_made_again(diamond, monkeypatch):
    """It is written down and unknown to the scheduler: the next command submits it once, and the one after it not."""
    executor, task = InMemory(), diamond[0]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(executor, "submit", killed)
        with pytest.raises(KeyboardInterrupt):
            dispatcher(executor, task).advance()
    (interrupted,) = dispatch.journal_folder().iterdir()
    assert (executor.all, executor.alive) == ([], {})
    for _ in range(2):
        progress = dispatcher(executor, task).advance()
        assert (progress.status, progress.jobs) == ({task.name: "queued"}, {task.name: ["1"]})
        assert [(len(works), after) for _, works, after in executor.all] == [(1, [])]
    assert executor.all[0][0] != interrupted.name
    executor.makes("1", task)
    assert dispatcher(executor, task).advance().status == {task.name: "complete"}


def test_a_lost_job_is_submitted_again_with_all_that_waits_for_it(diamond):
    first, _, last = diamond
    executor = InMemory()
    following = dispatcher(executor, last)
    following.advance()
    executor.end("1")
    following.advance()
    assert len(executor.all) == 3  # a shared file system may show its folder a little later
    following.advance()
    assert [after for _, _, after in executor.all[3:]] == [[], ["4"], ["5"]]
    assert executor.cancelled == ["2_0", "2_1", "2_2", "3"]
    executor.makes("4", first)
    assert following.advance().status[first.name] == "complete"


def test_a_job_is_lost_only_so_often(runs_folder):
    executor = InMemory()
    task = toys.task("a")
    following = dispatcher(executor, task, retries=2)
    for job in ("1", "2", "3"):
        following.advance()
        executor.end(job)
        following.advance()
    assert not following.advance().is_open()
    assert len(executor.all) == 3
    with pytest.raises(dispatch.DispatchError, match=r"lost 3 times(.|\n)*log of 3"):
        following.raise_failures()


def test_an_error_is_told_with_the_log_and_blocks_what_needs_it_only(runs_folder):
    bad, good = toys.task("bad"), toys.task("good")
    after = toys.task("after", needs=(bad,))
    executor = InMemory()
    following = dispatcher(executor, after, good)
    following.advance()
    executor.end("1_0", "error", "Traceback ...\nValueError: beta must be positive")
    executor.makes("1_1", good)
    progress = following.advance()
    assert [progress.status[task.name] for task in (bad, good, after)] == ["failed", "complete", "blocked"]
    with pytest.raises(dispatch.DispatchError, match=r"1 of 3 (.|\n)*beta must be positive(.|\n)*log of 1_0"):
        following.raise_failures()


def test_a_cancelled_job_is_not_submitted_against_its_owner(runs_folder):
    executor = InMemory()
    task = toys.task("a")
    following = dispatcher(executor, task)
    following.advance()
    executor.alive["1"] = "cancelled"
    assert following.advance().status[task.name] == "failed"
    assert dispatcher(executor, task).advance().status[task.name] == "queued"  # the command, given again


def test_a_scheduler_that_does_not_answer_changes_nothing(diamond):
    executor = InMemory()
    following = dispatcher(executor, diamond[2])
    following.advance()
    executor.answers = False
    assert "does not answer" in following.advance().note
    assert len(executor.all) == 3


def test_a_folder_counts_whatever_the_job_did(runs_folder):
    executor = InMemory()
    task = toys.task("a")
    following = dispatcher(executor, task)
    following.advance()
    toys.perform(task.step, "write", {})
    executor.end("1", "error", "killed while it said goodbye")
    assert not following.advance().is_open()
    following.raise_failures()


# --- local processes --------------------------------------------------------------------------------------------------


@pytest.fixture
def importable(monkeypatch):
    """Jobs can import this checkout and the toys."""
    monkeypatch.setenv("PYTHONPATH", f"{folders.PACKAGE.parent}:{HERE / 'slurm'}")


def test_in_this_process(diamond):
    dispatch.run([diamond[2]], Dispatch(where="here"))
    assert diamond[2].step.is_complete()


def test_local_processes_make_all_and_hide_secrets(runs_folder, importable, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    settings = Dispatch(where="processes", simultaneous=2, poll_seconds=0.2)
    first = toys.task("first", "tell", variable="HF_TOKEN")
    last = toys.task("last", needs=(first, toys.task("other")))
    dispatch.run([last], settings)
    assert last.step.is_complete()
    assert (first.step.folder / "result.txt").read_text() == "None"
    for path in runs_folder.rglob("*"):
        assert not path.is_file() or b"x" * 30 not in path.read_bytes(), path


def test_local_processes_outlive_who_started_them_and_are_found_again(runs_folder, importable):
    task = toys.task("slow", seconds=4)
    script = (
        "import toys; from qrpo_lib.cluster import dispatcher as dispatch\n"
        "from qrpo_lib.profiles import settings as profiles\n"
        "dispatch.run([toys.task('slow', seconds=4)], profiles.Dispatch(where='processes', poll_seconds=0.2))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    while not toys.notes(runs_folder.parent, "slow"):
        time.sleep(0.1)
        assert process.poll() is None
    process.kill()
    process.wait()
    dispatch.run([task], Dispatch(where="processes", poll_seconds=0.2))
    assert task.step.is_complete()
    assert len(toys.notes(runs_folder.parent, "slow")) == 1


def test_a_job_refuses_other_code_and_missing_inputs(runs_folder, monkeypatch):
    task = toys.task("a", needs=(toys.task("b"),))
    with pytest.raises(FileNotFoundError, match="needs what is not complete: b-"):
        task.work()()
    toys.perform(task.needs[0].step, "write", {})
    monkeypatch.setattr(keys, code_version.__name__, lambda entries, source: "another")
    with pytest.raises(executors.StaleCodeError, match="run the same command again"):
        task.work()()


# --- the text given to sbatch -----------------------------------------------------------------------------------------

CASES = {
    "one_job": (Dispatch(where="slurm"), Resources(), executors.After(), 1),
    "array_after_a_stage": (
        Dispatch(where="slurm", account="a-project", partition="normal", simultaneous=16),
        Resources(nodes=2, tasks_per_node=4, gpus_per_node=4, cpus_per_task=72, memory_gb=460, minutes=720),
        executors.After(("41", "42_3"), ("43",)),
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
        executors.After(),
        3,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sbatch_text_is_the_golden_one(name, tmp_path, monkeypatch):
    """`QRPO_GOLDEN=write pytest ...` writes the files anew; read the difference before committing it."""
    monkeypatch.setattr(shutil, "which", lambda program, **_: f"/usr/bin/{program}")
    settings, resources, after, count = CASES[name]
    folder = tmp_path / "batch"
    executor = executors.Slurm(settings).executor(folder, "qrpo-training-0123456789", resources, after)
    if count > 1:
        executor.parameters["map_count"] = count
    text = executor._make_submission_file_text(executor._submitit_command_str, "id")
    text = text.replace(str(folder), "FOLDER").replace(sys.executable, "PYTHON") + "\n"
    golden = GOLDEN / f"{name}.sh"
    if os.environ.get("QRPO_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_states_of_squeue_are_understood(monkeypatch, tmp_path):
    """Lines as squeue 22.05 printed them on the test cluster."""
    lines = ["3_0 RUNNING None", "3_1 PENDING JobArrayTaskLimit", "4 PENDING DependencyNeverSatisfied", "5 NODE_FAIL x"]
    monkeypatch.setattr(shutil, "which", lambda program, **_: program)
    monkeypatch.setattr(
        executors, "_output", lambda command: [*lines, "6 CANCELLED None", "7 CANCELLED DependencyNeverSatisfied"]
    )
    found = executors.Slurm(Dispatch(where="slurm")).states([(tmp_path, job) for job in ("3_0", "4", "5", "6", "7")])
    assert found == {"3_0": "running", "3_1": "pending", "4": "ended", "5": "ended", "6": "cancelled", "7": "ended"}


def test_progress_is_told_in_counts_and_rows(diamond):
    from rich.console import Console

    from qrpo_lib.cluster import table

    executor = InMemory()
    progress = dispatcher(executor, diamond[2]).advance()
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table.render(progress))
    assert "5 queued" in captured.get()
    assert diamond[0].name in captured.get()


def test_the_journal_holds_no_more_than_names_and_ids(diamond):
    dispatcher(InMemory(), diamond[0]).advance()
    (record,) = dispatch.journal_folder().glob("*/batch.json")
    assert json.loads(record.read_text()).keys() == {"name", "executor", "host", "submitted", "tasks", "jobs"}


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda record: '{"name": "x', "no whole JSON"),
        (lambda record: "[]", "a list where a table"),
        (lambda record: "null", "nothing"),
        (lambda record: json.dumps({"name": "x"}), "not a submission of this version"),
        (lambda record: json.dumps(record | {"tasks": "b0"}), "its values"),
        (lambda record: json.dumps(record | {"submitted": None}), "its values"),
        (lambda record: json.dumps(record | {"jobs": ["1", "2"], "tasks": ["a"]}), "2 jobs for 1 tasks"),
    ],
)
def test_a_damaged_submission_is_one_sentence_with_its_file(diamond, damage, why):
    dispatcher(InMemory(), diamond[0]).advance()
    (path,) = dispatch.journal_folder().glob("*/batch.json")
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(InputError) as caught:
        dispatcher(InMemory(), diamond[0]).advance()
    assert str(path) in str(caught.value)
    assert why in str(caught.value)
    assert f"remove the folder {path.parent}" in str(caught.value)


@pytest.mark.parametrize("damage", [b"", b"\x80\x04", b"cno.such\nmodule\n.", b"null"])
def test_a_damaged_result_of_a_job_counts_as_none(tmp_path, damage):
    (tmp_path / "7_0_result.pkl").write_bytes(damage)
    assert executors._Submitit(Dispatch()).outcome(tmp_path, "7") == (None, "")
    shutil.copy(tmp_path / "7_0_result.pkl", tmp_path / "7_1_result.pkl")
    (tmp_path / "7_1_result.pkl").write_bytes(pickle.dumps(("error", "ValueError: x")))
    assert executors._Submitit(Dispatch()).outcome(tmp_path, "7") == ("error", "ValueError: x")


def test_what_failed_is_in_the_error_by_its_folder(runs_folder):
    bad, other = toys.task("bad"), toys.task("other")
    executor = InMemory()
    made = dispatcher(executor, bad, other)
    made.advance()
    ids = [job for job in executor.alive]
    executor.end(ids[0], "error", "Traceback\nValueError: beta is negative")
    executor.makes(ids[1], other)
    made.advance()
    with pytest.raises(dispatch.DispatchError) as caught:
        made.raise_failures()
    assert list(caught.value.failures) == [bad.name]
    assert caught.value.failures[bad.name].startswith("ValueError: beta is negative")
