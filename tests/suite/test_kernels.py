"""Kernels that are forked from a process which has imported what notebooks use: as if each had been started alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from qrpo_lib.suite import execution, kernel_server, kernels, notebooks

LOOK = """
import json, os, signal, sys
print(json.dumps({
    "pid": os.getpid(), "cwd": os.getcwd(), "modules": sorted(sys.modules), "argv": sys.argv[0],
    "variable": os.environ.get("VARIABLE"), "child": repr(signal.getsignal(signal.SIGCHLD)), "path": sys.path,
    "main": sorted(name for name in dir(sys.modules["__main__"]) if not name.startswith("_")),
}))
"""


@pytest.fixture
def job(tmp_path, runs_folder, monkeypatch):
    """Makes the job of a notebook with these code cells."""
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()

    def made(name, *cells):
        language = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(metadata={"kernelspec": language})
        parameters = nbformat.v4.new_code_cell('figures: str = ""', metadata={"tags": ["parameters"]})
        notebook.cells = [parameters, *map(nbformat.v4.new_code_cell, cells)]
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
        return notebooks.Job(name, name)

    return made


def outputs(folder):
    cells = nbformat.read(folder / notebooks.EXECUTED, as_version=4).cells
    return [output for cell in cells for output in cell.get("outputs", ())]


def looked(folder):
    return json.loads(outputs(folder)[0]["text"])


def test_each_kernel_is_a_process_of_its_own_with_nothing_of_this_package(job, forked_kernels, monkeypatch):
    monkeypatch.setenv("VARIABLE", "first")
    first = looked(execution.execute(job("first", LOOK, "left_behind = 1")))
    monkeypatch.setenv("VARIABLE", "second")
    second = looked(execution.execute(job("second", LOOK)))
    servers = [server.process.pid for server in forked_kernels.values()]
    assert servers
    assert len({first["pid"], second["pid"], os.getpid(), *servers}) == 3 + len(servers)
    for seen, variable in ((first, "first"), (second, "second")):
        assert seen["variable"] == variable
        assert seen["cwd"].endswith("notebooks")
        assert {"pandas", "matplotlib.pyplot", "scipy.stats"} <= set(seen["modules"])
        assert not [name for name in seen["modules"] if name.startswith(("qrpo_lib", "torch", "tqdm"))]
        assert not [path for path in seen["path"] if path.endswith("qrpo_lib/suite")]
        assert "SIG_DFL" in seen["child"]
        assert "left_behind" not in seen["main"]


FIGURE = """
%matplotlib inline
import matplotlib.pyplot as plt, pandas as pd, numpy as np, subprocess, sys, multiprocessing
plt.plot(np.random.default_rng(0).normal(size=50).cumsum());
"""
CHILDREN = """
ended = subprocess.run([sys.executable, "-c", "import sys; sys.exit(3)"]).returncode
with multiprocessing.get_context("spawn").Pool(1) as pool:
    squares = pool.map(abs, [-1, 2])
ended, squares, pd.DataFrame({"a": [1.5]})
"""


def test_a_forked_kernel_gives_what_one_that_was_started_alone_gives(job, forked_kernels, monkeypatch):
    by_fork = outputs(execution.execute(job("forked", FIGURE, CHILDREN)))
    monkeypatch.delenv(kernel_server.WANTED)
    alone = outputs(execution.execute(job("alone", FIGURE, CHILDREN)))
    assert [output["output_type"] for output in by_fork] == ["display_data", "execute_result"]
    assert by_fork == alone
    assert "(3," in by_fork[1]["data"]["text/plain"].replace("\n", "")


def test_a_forked_kernel_that_dies_is_named_and_the_next_one_starts(job, forked_kernels):
    dying = job("dying", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(execution.NotebookError, match="its kernel died"):
        execution.execute(dying)
    assert looked(execution.execute(job("next", LOOK)))


def test_a_server_that_has_ended_is_started_anew(job, forked_kernels):
    first = looked(execution.execute(job("first", LOOK)))
    for server in forked_kernels.values():
        server.process.kill()
        server.process.wait()
    assert looked(execution.execute(job("second", LOOK)))["pid"] != first["pid"]


def test_without_a_server_a_kernel_is_started_all_the_same(job, forked_kernels, monkeypatch):
    def start(server, told):
        raise OSError(90, "Message too long")

    monkeypatch.setattr(kernels._Server, "start", start)
    assert looked(execution.execute(job("alone", LOOK)))["argv"].endswith("ipykernel_launcher.py")


def test_kernels_end_with_the_process_that_wanted_them(job, tmp_path):
    waiting = job(
        "waiting",
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()) + '.')\ntime.sleep(600)",
    )
    code = "from qrpo_lib.suite import execution, notebooks\nexecution.execute(notebooks.Job('waiting', 'waiting'))"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {kernel_server.WANTED: "1"})
    noted = tmp_path / "pid"
    while not (noted.exists() and noted.read_text().endswith(".")):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    status = Path(f"/proc/{noted.read_text()[:-1]}/status")
    for _ in range(6000):
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"the kernel of {waiting.id} lives on")
