"""Trackers are told what the results say, of each model once, and change no key."""

import json

import pandas as pd
import pytest

from qrpo_lib.experiment import grid, tracking
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import extras, paths
from qrpo_lib.steps import evaluation, fitting, reference_evaluation

HISTORY = pd.DataFrame(
    [
        {"step": 0, "split": "validation", "loss": 0.5, "log_ratio": 0.0, "grad_norm": None},
        {"step": 1, "split": "train", "loss": 0.25, "log_ratio": 0.125, "grad_norm": 2.0},
    ]
)
ANSWERS = pd.DataFrame(
    [
        {"prompt_id": "a", "split": "selection", "step": step, "repeat": repeat, "length": 4, "finish_reason": "stop"}
        | {"reward": reward, "logp": -2.0, "text": "x", "token_ids": [1]}
        for step, repeat, reward in ((0, 0, 1.0), (0, 1, 3.0), (1, 0, 4.0))
    ]
)
EXPECTED = {
    0: {"validation/loss": 0.5, "validation/log_ratio": 0.0, "selection/reward": 2.0},
    1: {"train/loss": 0.25, "train/log_ratio": 0.125, "train/grad_norm": 2.0, "selection/reward": 4.0},
}


@pytest.fixture
def made(tmp_path, runs_folder):
    """Makes a profile with trackers, and one trained model of it."""

    def make(*trackers):
        path = tmp_path / "tracked.toml"
        path.write_text(f'extends = "tiny"\n[experiment]\nreport_to = {json.dumps(trackers)}\n')
        profile = profiles.load(str(path), "chat")
        run = grid.grid(profile)[0]
        before = reference_evaluation.step(run.settings(profile), run.seed, "selection")
        for step in (run.training(profile), run.step(profile), before):
            step.folder.mkdir(parents=True)
        HISTORY.to_csv(run.training(profile).folder / fitting.HISTORY, index=False)
        for step, rows in ((before, ANSWERS["step"] == 0), (run.step(profile), ANSWERS["step"] > 0)):
            ANSWERS[rows].to_parquet(step.folder / evaluation.EVALUATION)
        return profile, run

    return make


def test_trackers_change_no_key(made):
    profile, run = made("tensorboard", "wandb")
    assert run.step(profile).key == run.step(profiles.load("tiny", "chat")).key


def test_what_is_told(made):
    profile, run = made()
    found = tracking.scalars(profile, run)
    assert {step: EXPECTED[step].items() <= values.items() for step, values in found.items()} == {0: True, 1: True}
    assert found[0]["selection/length"] == 4
    assert "validation/grad_norm" not in found[0]
    tracking.report(profile, [run])  # no tracker: nothing is written
    assert not (paths.runs_folder() / ".trackers").exists()


@pytest.mark.slow
def test_tensorboard(made):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    profile, run = made("tensorboard")
    never_made = grid.grid(profile)[1]
    for _ in range(2):  # the second time there is nothing to tell
        tracking.report(profile, [run, never_made])
    (file,) = (paths.runs_folder() / ".trackers" / "tensorboard").rglob("events.out.tfevents*")
    events = accumulator.EventAccumulator(str(file.parent)).Reload()
    for step, values in EXPECTED.items():
        for name, value in values.items():
            assert value in [event.value for event in events.Scalars(name) if event.step == step], name
    assert len(events.Scalars("train/loss")) == 1
    assert file.parent.parent.name == "tracked-chat"


@pytest.mark.slow
def test_trackio(made):
    pytest.importorskip("trackio")
    import sqlite3

    profile, run = made("trackio")
    tracking.report(profile, [run])
    folder = paths.runs_folder() / ".trackers" / "trackio"
    (file,) = folder.glob("*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    assert [(name, step) for name, step, _ in rows] == [(run.name, 0), (run.name, 1)]
    for _, step, metrics in rows:
        assert EXPECTED[step].items() <= json.loads(metrics).items()


@pytest.mark.slow
def test_wandb_offline(made, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    profile, run = made("wandb")
    tracking.report(profile, [run])
    (file,) = (paths.runs_folder() / ".trackers" / "wandb").rglob("offline-run-*/*.wandb")
    assert b"train/loss" in file.read_bytes()


def test_a_tracker_that_is_missing_is_named_before_work(made, monkeypatch):
    profile, _ = made("wandb")
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(extras.MissingExtraError, match=r"qrpo-lib\[trackers\]"):
        tracking.check(profile)
