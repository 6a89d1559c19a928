"""Executing one notebook: what is said when it fails, whatever the reason."""

import json
import sys
import time

import nbformat
import pytest

from qrpo_lib.runs import account, records, times
from qrpo_lib.suite import execution, kernel_server, notebooks


def failure(job):
    with pytest.raises(execution.NotebookError) as caught:
        execution.execute(job)
    assert not notebooks.is_complete(job)
    return str(caught.value)


TWO_FAILED = """
from qrpo_lib.runs import account
account.failed("dpo, seed 0", "training-aaaaaaaaaaaa", "KeyError: 'first'")
account.failed("qrpo, seed 0", "training-bbbbbbbbbbbb", "ValueError: other")
"""


def test_a_training_that_failed_makes_its_notebook_incomplete(one_notebook):
    told = failure(one_notebook(TWO_FAILED))
    assert told == "dpo, seed 0 failed twice: KeyError: 'first'. 1 more failed."


def test_what_came_of_a_failure_does_not_hide_it(one_notebook):
    job = one_notebook(TWO_FAILED, 'raise ValueError("None of these runs is complete: train them first.")')
    assert failure(job).startswith("dpo, seed 0 failed twice: KeyError: 'first'.")


def test_a_failure_stays_in_the_account_of_its_command(one_notebook, tmp_path):
    from qrpo_lib.runs import account

    (tmp_path / "command").mkdir()
    with account.kept_in(tmp_path / "command" / "first.jsonl"):
        failure(one_notebook(TWO_FAILED))
    with account.kept_in(tmp_path / "command" / "second.jsonl"):
        assert set(account.failed_before()) == {"training-aaaaaaaaaaaa", "training-bbbbbbbbbbbb"}


@pytest.mark.parametrize(
    "cell",
    [
        "import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'weights')",
        "try:\n    raise OSError(28, 'No space left on device')\nfinally:\n    next(iter(()))",
    ],
)
def test_a_full_disk_in_a_notebook_is_named(one_notebook, cell):
    assert failure(one_notebook(cell)).startswith("The disk is full: make room")


def test_an_error_without_a_message_is_told_with_its_class(one_notebook):
    assert "failed: StopIteration (without a message)" in failure(one_notebook("next(iter(()))"))


def test_a_killed_kernel_is_named(one_notebook):
    assert failure(one_notebook("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")).startswith(
        "its kernel died"
    )


def test_a_notebook_that_was_edited_while_it_ran_is_not_complete(one_notebook, tmp_path):
    path = tmp_path / "notebooks" / "made.ipynb"
    edit = f"from pathlib import Path\np = Path({str(path)!r})\np.write_text(p.read_text().replace('first', 'second'))"
    job = one_notebook(edit, "'first'")
    before = job.step
    with pytest.raises(execution.NotebookError, match=r"edited while it ran.*run the same command again"):
        execution.execute(job)
    assert not before.folder.exists()
    assert not notebooks.is_complete(job)


@pytest.mark.parametrize("where", ["JUPYTER_PATH", "HOME"])
def test_another_environments_kernel_is_not_used(one_notebook, tmp_path, monkeypatch, where):
    kernels = tmp_path / "data" / "kernels" if where == "JUPYTER_PATH" else tmp_path / ".local/share/jupyter/kernels"
    (kernels / "python3").mkdir(parents=True)
    dead = {"argv": [str(tmp_path / "no-such-python"), "{connection_file}"], "display_name": "x", "language": "python"}
    (kernels / "python3" / "kernel.json").write_text(json.dumps(dead))
    monkeypatch.setenv(where, str(kernels.parent if where == "JUPYTER_PATH" else tmp_path))
    monkeypatch.delenv(kernel_server.WANTED)  # a forked kernel needs none of them
    job = one_notebook(f"import sys\nassert sys.executable == {sys.executable!r}, sys.executable")
    assert (execution.execute(job) / notebooks.EXECUTED).exists()


@pytest.fixture
def failing(tmp_path, runs_folder, monkeypatch, forked_kernels):
    """A project whose only notebook fails in its third code cell."""
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made = nbformat.v4.new_notebook(metadata=metadata)
    parameters = nbformat.v4.new_code_cell('figures: str = ""', metadata={"tags": ["parameters"]})
    made.cells = [parameters, nbformat.v4.new_code_cell("1 / 1"), nbformat.v4.new_code_cell("x = 0\n1 / x")]
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    nbformat.write(made, tmp_path / "notebooks" / "bad.ipynb")
    return notebooks.Job("bad", "bad")


def test_a_failed_notebook_is_named_with_cell_and_error_and_its_copy_stays(failing, runs_folder):
    with pytest.raises(
        execution.NotebookError, match=r"\(x = 0\) failed: ZeroDivisionError: division by zero"
    ) as caught:
        execution.execute(failing)
    executed = failing.step.partial / notebooks.EXECUTED
    assert str(executed) in str(caught.value)
    assert "ZeroDivisionError" in executed.read_text()
    assert not failing.step.is_complete()


# --- what a notebook's own work took: told by its kernel, of which this process is no parent ------------------------

BURN = """
import json, resource, subprocess, sys, time

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def used():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
"""
CHILD = f"subprocess.run([sys.executable, '-c', {(BURN + 'burn(0.5)')!r}], check=True)"
MADE_STEP = """
from qrpo_lib.runs import folders, keys
folder = folders.complete(keys.Step("training", {"made": PLACE}), lambda folder: burn(2))
"""
IN_THE_POOL = f"""
from qrpo_lib.cluster import task, workers
pool = workers.Workers.kept(1, 1)
code = {BURN + MADE_STEP.replace("PLACE", '"in the pool"')!r} + "open(FILE, 'w').write(str(used()))"
given = task.ScheduledTask("in the pool", exec, (code.replace("FILE", repr(FILE)), {{}}))
pool.submit([given], task.After())
while pool.look([given.name])[given.name][0].state != "ended":
    pool.wait()
assert pool.outcome(pool.look([given.name])[given.name][0]) == ("success", "")
"""
SHOW = "print(json.dumps(used()))"


def record_of(folder):
    return json.loads((folder / records.RECORD).read_text())


def shown(folder):
    """What the kernel printed last."""
    cells = nbformat.read(folder / notebooks.EXECUTED, as_version=4).cells
    return json.loads(cells[-1]["outputs"][-1]["text"])


def test_a_notebooks_own_work_is_in_its_record(one_notebook):
    """Against what the notebook measured itself: its time and its products, and the memory that it held."""
    held = "held = b'x' * (700 * 2**20)\nfrom qrpo_lib.runs import products\nproducts.chosen()"
    show = "made = products.in_force()\nprint(json.dumps([used(), made]))"
    before = time.process_time()
    folder = execution.execute(one_notebook(BURN, "burn(1)", CHILD, held, show))
    made, (own, multiplied) = record_of(folder), shown(folder)
    assert own >= 1.5
    here = time.process_time() - before
    assert own <= made["processor_seconds"] <= own + here + 1.0  # 1.0: for what comes after its last cell
    assert made["peak_memory_mb"] >= 700
    assert made["float32_products"] == multiplied
    assert set(multiplied) == {"library", "gflops", "error"}
    assert made["measured"] == "kernel"
    [phase] = times.phases([made])
    assert (phase.processor_seconds, phase.unknown) == (made["processor_seconds"], 0)


def test_steps_that_a_notebook_makes_are_not_in_its_own_work(one_notebook, tmp_path, runs_folder):
    """One step in its process, one in a worker of its pool: what both processes took, less what the steps did."""
    noted = tmp_path / "of the worker"
    steps = MADE_STEP.replace("PLACE", "'in the kernel'"), IN_THE_POOL.replace("FILE", repr(str(noted)))
    before = time.process_time()
    folder = execution.execute(one_notebook(BURN, *steps, "burn(0.5)", SHOW))
    here = time.process_time() - before
    of_steps = [record_of(path)["processor_seconds"] for path in runs_folder.glob("training-*")]
    assert len(of_steps) == 2
    assert min(of_steps) >= 2
    own = shown(folder) + float(noted.read_text()) - sum(of_steps)
    assert own >= 0.5
    assert own - 0.1 <= record_of(folder)["processor_seconds"] <= own + here + 1.0


def test_what_a_kernel_that_was_killed_took_is_not_known(one_notebook):
    """It dies as it is asked to end, with all cells executed: the notebook is complete, its work is not known."""
    killing = (
        "import os, signal\nkernel = get_ipython().kernel\n"
        "type(kernel).do_shutdown = lambda *given: os.kill(os.getpid(), signal.SIGKILL)"
    )
    made = record_of(execution.execute(one_notebook(BURN, "burn(1)", killing)))
    unknown = ("processor_seconds", "peak_memory_mb", "float32_products")
    assert [made[name] for name in unknown] == [None, None, None]
    [phase] = times.phases([made])
    assert (phase.processor_seconds, phase.unknown) == (None, 1)


def test_an_earlier_attempts_work_is_not_taken_for_that_of_a_kernel_that_was_killed(one_notebook, tmp_path):
    killing = (
        "import os, signal\nif os.path.exists(MARK):\n"
        "    type(get_ipython().kernel).do_shutdown = lambda *given: os.kill(os.getpid(), signal.SIGKILL)\n"
        "open(MARK, 'w').close()"
    ).replace("MARK", repr(str(tmp_path / "mark")))
    job = one_notebook(killing)
    with account.kept_in(tmp_path / "command.jsonl"):
        assert record_of(execution.execute(job))["processor_seconds"] > 0
        assert record_of(execution.execute(job, force=True))["processor_seconds"] is None
