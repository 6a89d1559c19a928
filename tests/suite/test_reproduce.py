"""A reproduction: which notebooks start first, and which could."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from qrpo_lib.cluster.task import in_order
from qrpo_lib.runs import folders, keys, paths
from qrpo_lib.suite import notebooks, reproduce


def test_what_most_jobs_wait_for_starts_first_and_is_made_by_one_of_them():
    jobs = notebooks.jobs("tiny")
    order = list(in_order(reproduce.tasks(jobs, 2, Path("accounts"))))
    assert order[0] == "experiments/initial_policy[chat]"
    assert order[-1] == "results/claims"
    assert sorted(order) == sorted(job.id for job in jobs)
    # The policy is the same in all arms: while one makes it, the others do not wait in a process.
    waits = {job.id: job.after for job in jobs if job.path == "experiments/initial_policy"}
    others = [after for name, after in waits.items() if name != order[0]]
    assert others == [(order[0],)] * 2


def toy(number):
    return keys.Step("toy", {"number": number})


def write(folder):
    (folder / "out").write_text("x")


def test_a_job_whose_maker_failed_runs_if_all_it_reads_is_there(one_notebook):
    job = one_notebook("1", inputs=(toy(0), toy(1)))
    folders.complete(toy(0), write)
    assert not reproduce.Notebook("x", print, job=job).could_start()
    folders.complete(toy(1), write)
    assert reproduce.Notebook("x", print, job=job).could_start()
    (toy(1).folder / "out").write_text("y")
    assert not reproduce.Notebook("x", print, job=job).could_start()


def run(*arguments, program=("-m", "qrpo_lib.suite.cli"), **settings):
    environment = os.environ | settings.pop("environment", {})
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, capture_output=True, env=environment, timeout=900, **settings)


def test_a_notebook_is_executed_whatever_the_users_settings(tmp_path, monkeypatch):
    """As tab completion names it, in a folder with brackets, with settings under which nothing could be drawn."""
    root = tmp_path / "[x] β"
    shutil.copytree(paths.PACKAGE.parent / "notebooks", root / "notebooks")
    v4 = nbformat.v4
    parameters = v4.new_code_cell('figures: str = "x"', metadata={"tags": ["parameters"]})
    draw = """import matplotlib, os, pathlib
from matplotlib import pyplot as plt
folder = pathlib.Path(figures)
folder.mkdir(parents=True)
axis = plt.subplots()[1]
axis.set_title("$x$ β")
print("β")
(folder / "said.txt").write_text(f"{matplotlib.rcParams['text.usetex']} {'inline' in matplotlib.get_backend()}")"""
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made = v4.new_notebook(cells=[parameters, v4.new_code_cell(draw)], metadata=metadata)
    nbformat.write(made, root / "notebooks" / "theory" / "noise.ipynb")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: TkAgg\n")
    settings = {"QRPO_ROOT": str(root), "QRPO_RUNS": str(root / "runs"), "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    settings |= {"MPLBACKEND": "TkAgg", "PYTHONIOENCODING": "ascii"}
    ended = run("reproduce", "--only", "notebooks/theory/noise.ipynb", environment=settings, cwd=root)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert b"[x] \\u03b2/figures" in ended.stdout
    assert (root / "figures" / "said.txt").read_text() == "False True"
    (executed,) = root.glob(f"runs/notebook-theory-noise-*/{notebooks.EXECUTED}")
    assert "image/png" in executed.read_text()
