"""The pipeline as people run it: `qrpo reproduce`, killed, repeated and changed, and each theory notebook alone."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import papermill
import pytest

from qrpo_lib import runs, suite

SMALLEST = Path(__file__).parent / "data" / "smallest.toml"
MODELS = ["initial_policy", "reference_sampling", "sweep", "training"]
MODELS += ["tables", "scaling", "transformations", "length_bias", "alpaca_eval", "results/claims"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """Makes empty projects: the notebooks, no runs, no figures."""

    def make(name):
        root = tmp_path_factory.mktemp(name)
        (root / "notebooks").symlink_to(runs.PACKAGE.parent / "notebooks")
        return root

    return make


def command(root, *options, profile=SMALLEST):
    environment = {key: value for key, value in os.environ.items() if key != "QRPO_RUNS"} | {"QRPO_ROOT": str(root)}
    arguments = ["reproduce", "--profile", str(profile), "--only", *MODELS, *options]
    return subprocess.Popen(
        [sys.executable, "-m", "qrpo_lib.cli", *arguments], env=environment, stdout=subprocess.PIPE, text=True
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
    assert suite.MANIFEST in names


def test_a_second_run_skips_everything(complete):
    before = published(complete)
    assert f"0 executed, {len(MODELS)} skipped" in reproduce(complete)
    assert published(complete) == before


def test_a_lost_figure_is_published_again_without_execution(complete):
    before = published(complete)
    (complete / "figures" / "smallest" / "chat" / "figure-6.png").unlink()
    assert "0 executed" in reproduce(complete)
    assert published(complete) == before


def test_another_complete_run_gives_the_same_bytes_even_if_killed(complete, projects):
    root = projects("killed")
    for seconds in (6, 12, 18):
        process = command(root)
        time.sleep(seconds)
        assert seconds > 6 or process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    reproduce(root)
    assert published(root) == published(complete)


def test_a_changed_training_parameter_runs_training_and_what_follows(complete, tmp_path):
    changed = tmp_path / "changed.toml"
    changed.write_text(f'extends = "{SMALLEST}"\n[experiment.betas]\ndpo = [0.17]\n')
    before = {path.name for path in (complete / "runs").iterdir()}
    reproduce(complete, profile=changed)
    made = {
        re.sub(r"-[0-9a-f]{12}$", "", path.name) for path in (complete / "runs").iterdir() if path.name not in before
    }
    assert "training" in made
    assert not made & {"initial_policy", "reference_sampling", "reference_evaluation", "sft"}
    new_trainings = [p for p in (complete / "runs").glob("training-*") if p.name not in before]
    algorithms = [json.loads((path / runs.RECORD).read_text())["parameters"]["algorithm"] for path in new_trainings]
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


@pytest.mark.parametrize("name", suite.THEORY)
def test_theory_notebook_runs_alone_with_its_defaults(name, tmp_path):
    source = runs.PACKAGE.parent / "notebooks" / "theory" / f"{name}.ipynb"
    papermill.execute_notebook(
        source, tmp_path / "out.ipynb", {"figures": str(tmp_path)}, cwd=source.parent, progress_bar=False
    )
    assert list(tmp_path.glob("theory/claims/*.json"))
    assert list(tmp_path.glob("theory/*.png"))
