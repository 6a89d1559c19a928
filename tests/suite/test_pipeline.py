"""The pipeline as people run it: `qrpo reproduce`, killed, repeated and changed, and each theory notebook alone."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import papermill
import pytest

FAULTS = Path(__file__).parents[1] / "faults"
sys.path.insert(0, str(FAULTS))

from points import Fault  # noqa: E402

from qrpo_lib.paper import claims  # noqa: E402
from qrpo_lib.runs import paths  # noqa: E402
from qrpo_lib.runs.records import RECORD  # noqa: E402
from qrpo_lib.suite import notebooks, publishing  # noqa: E402

SMALLEST = Path(__file__).parents[1] / "data" / "smallest.toml"
SMALLEST_BEYOND = SMALLEST.with_name("smallest-beyond.toml")
MODELS = ["initial_policy", "reference_sampling", "sweep", "training"]
MODELS += ["tables", "scaling", "transformations", "length_bias", "alpaca_eval"]
MODELS += ["results/protocol", "results/power", "results/claims"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """Makes empty projects: the notebooks, no runs, no figures."""

    def make(name):
        root = tmp_path_factory.mktemp(name)
        (root / "notebooks").symlink_to(paths.PACKAGE.parent / "notebooks")
        return root

    return make


def command(root, *options, profile=SMALLEST, fault=None):
    environment = {key: value for key, value in os.environ.items() if key != "QRPO_RUNS"} | {"QRPO_ROOT": str(root)}
    if fault:
        environment["QRPO_FAULT"] = fault.dumps()
        environment["PYTHONPATH"] = os.pathsep.join([str(FAULTS / "hook"), os.environ.get("PYTHONPATH", "")])
    arguments = ["reproduce", "--profile", str(profile), "--only", *MODELS, *options]
    return subprocess.Popen(
        [sys.executable, "-m", "qrpo_lib.suite.cli", *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def reproduce(root, **changes):
    process = command(root, **changes)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return output


def published(root):
    figures = root / "figures"
    return {p.relative_to(figures).as_posix(): p.read_bytes() for p in figures.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def complete(projects):
    root = projects("complete")
    reproduce(root)
    return root


def test_figures_tables_and_claims_are_published(complete):
    names = published(complete).keys()
    assert {
        "smallest/chat/figure-6.pdf",
        "smallest/chat/figure-6.png",
        "smallest/chat/figure-6.csv",
        "smallest/chat/figure-1.png",
        "smallest/chat/figure-3.png",
        "smallest/chat/figure-3-lr-0.0002-finite.png",
        "smallest/chat/figure-4.png",
        "smallest/chat/table-1.tex",
        "smallest/chat/table-3.md",
        "smallest/chat/appendix-m.tex",
        "smallest/chat/selection-rules.md",
        "smallest/chat/alpaca_eval/qrpo.json",
        "smallest/claims.md",
    } <= names
    assert "smallest/chat/claims/qrpo-raises-reward.json" in names
    assert publishing.MANIFEST in names


def test_a_second_run_skips_everything(complete):
    before = published(complete)
    assert f"0 executed, {len(MODELS)} skipped" in reproduce(complete)
    assert published(complete) == before


def test_a_lost_figure_is_published_again_without_execution(complete):
    before = published(complete)
    (complete / "figures" / "smallest" / "chat" / "figure-6.png").unlink()
    assert "0 executed" in reproduce(complete)
    assert published(complete) == before


# Where the command is killed, one kill after the other (`points` names them), and how often a point is passed before.
KILLS = {
    "initial_policy: during": 0,
    "reference_sampling: piece": 0,
    "training: piece": 1,
    "training: recorded": 2,
    "notebook-experiments-sweep: made": 0,
    "notebook-results-claims: recorded": 0,
}


def test_another_complete_run_gives_the_same_bytes_even_if_killed(complete, projects, tmp_path):
    """What was whole before a kill is kept; no file is published that an unbroken run would not publish so."""
    root, whole, kept = projects("killed"), published(complete), {}
    for number, (point, after) in enumerate(KILLS.items()):
        counted = tmp_path / str(number)
        counted.mkdir()
        process = command(root, fault=Fault(point, "kill command", str(counted), after=after))
        output = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, (point, output)
        assert set(kept) <= set(records(root)), point
        kept = records(root)
        others = {name for name, content in published(root).items() if content != whole.get(name)}
        assert others <= {publishing.MANIFEST}, point  # which names what there is so far
    reproduce(root)
    assert published(root) == whole
    assert {name: content for name, content in records(root).items() if name in kept} == kept
    assert set(records(root)) <= set(records(complete))


def records(root):
    """The record of each complete run folder by the folder's name. A result that is made again has another record."""
    return {path.parent.name: path.read_bytes() for path in (root / "runs").glob(f"*/{RECORD}")}


def test_a_changed_training_parameter_runs_training_and_what_follows(complete, tmp_path):
    changed = tmp_path / "changed.toml"
    changed.write_text(f'extends = "{SMALLEST}"\n[experiment.betas]\ndpo = [0.17]\n')
    before = {path.name for path in (complete / "runs").iterdir()}
    reproduce(complete, profile=changed)
    made = {
        re.sub(r"-[0-9a-f]{12}$", "", path.name) for path in (complete / "runs").iterdir() if path.name not in before
    }
    assert "training" in made
    assert not made & {"initial_policy", "reference_sampling", "reference_evaluation", "reference_log_probs", "sft"}
    new_trainings = [p for p in (complete / "runs").glob("training-*") if p.name not in before]
    algorithms = [json.loads((path / RECORD).read_text())["parameters"]["algorithm"] for path in new_trainings]
    assert algorithms == ["dpo", "dpo"]  # one in each setting; nothing else depends on DPO's beta


def test_a_corrupted_folder_is_refused_before_work(complete):
    folder = sorted((complete / "runs").glob("reference_sampling-*"))[0]
    path = folder / "completions.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    process = command(complete)
    output = process.communicate()[0]
    path.write_bytes(content)
    assert process.returncode == 2
    assert f"qrpo clean --run {folder.name}" in output.replace("\n", " ")


@pytest.mark.parametrize("job", notebooks.jobs(str(SMALLEST_BEYOND))[-7:-2], ids=lambda job: job.path)
def test_a_study_of_relatives_runs_to_its_verdicts(job, tmp_path, monkeypatch, smallest_policy):
    monkeypatch.setenv("QRPO_RUNS", str(tmp_path / "runs"))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / smallest_policy.name).symlink_to(smallest_policy)
    values = job.parameters | {"figures": str(tmp_path / "figures")}
    papermill.execute_notebook(
        job.source, tmp_path / "out.ipynb", values, cwd=job.source.parent, progress_bar=False, start_timeout=600
    )
    judged = {path.stem for path in (tmp_path / "figures").glob("**/claims/*.json")}
    assert judged == {claim.id for claim in claims.judged_by(job.path)}
    assert len(list((tmp_path / "figures").glob("**/*.png"))) >= 1


@pytest.mark.parametrize("name", notebooks.THEORY)
def test_theory_notebook_runs_alone_with_its_defaults(name, tmp_path):
    source = paths.PACKAGE.parent / "notebooks" / "theory" / f"{name}.ipynb"
    papermill.execute_notebook(
        source,
        tmp_path / "out.ipynb",
        {"figures": str(tmp_path)},
        cwd=source.parent,
        progress_bar=False,
        start_timeout=600,
    )
    assert list(tmp_path.glob("theory/claims/*.json"))
    assert list(tmp_path.glob("theory/*.png"))
