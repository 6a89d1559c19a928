"""The simulated cluster of benchmarks/scheduling.py against what can be said without it."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from qrpo_lib.runs import keys

PATH = Path(__file__).parents[2] / "benchmarks" / "scheduling.py"


@pytest.fixture
def scheduling(monkeypatch):
    """The benchmark as a module; what it sets in the environment is undone."""
    for name in ("QRPO_RUNS", "PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    specification = importlib.util.spec_from_file_location("scheduling", PATH)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "scheduling", module)
    specification.loader.exec_module(module)
    return module


def small(scheduling):
    policy = scheduling._task("policy", "p")
    samples = scheduling._task("sampling", "s", needs=(policy,))
    return [scheduling._task("training", number, needs=(policy, samples)) for number in range(12)]


def test_without_failures_the_makespan_is_the_critical_path(scheduling, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduling, "RESOURCES", {"sampling": scheduling.Resources(workers=10, minutes=10_000)})
    monkeypatch.setattr(scheduling, "HOURS", {"policy": 0.3, "sampling": 10.0, "training": 0.5})
    report = scheduling.simulate(small(scheduling), nodes=100, failures=0, seed=0, folder=tmp_path)
    path = 0.3 + 10 / 10 + 0.5 + 3 * scheduling._STARTUP_HOURS
    assert path <= report["makespan (h)"] <= path + 3 / 60  # it looks once a minute
    assert report["job starts"] == report["jobs"] == 1 + 10 + 12
    assert report["of which work lost since a checkpoint (%)"] == 0


def test_with_failures_all_is_made_and_nothing_complete_is_made_again(scheduling, tmp_path):
    report = scheduling.simulate(small(scheduling), nodes=30, failures=0.2, seed=1, folder=tmp_path)
    assert report["failures"] > 5
    assert report["steps complete"] == report["steps"] == 14
    assert report["jobs submitted for complete steps"] == 0
    assert report["job starts"] > report["jobs"]


def test_the_papers_graph_has_the_papers_models(scheduling, runs_folder):
    """225 models of each of 4 algorithms (reference: the paper's appendix on its experiments), and Figure 3's 30."""
    trainings = [task for task in scheduling.paper_graph() if task.kind == "training"]
    assert len(trainings) == 4 * 225 + 30
    assert len({task.name for task in trainings}) == len(trainings)
    assert all(isinstance(task.step, keys.Step) for task in trainings)
