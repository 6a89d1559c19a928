"""Reading runs back: what is there, what failed, answers with the columns of their run."""

import made_runs
import numpy as np
import pytest

from qrpo_lib.experiment import grid, read, train
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import evaluation, fitting, log_ratios, reference_evaluation


@pytest.fixture
def profile(tmp_path, runs_folder):
    (tmp_path / "made.toml").write_text(made_runs.PROFILE)
    return profiles.load(str(tmp_path / "made.toml"), "chat")


@pytest.fixture
def run(profile):
    """One complete run, with made-up results."""
    run = grid.grid(profile)[0]
    made_runs.make(profile, [run], lambda run: 0.1)
    return run


def test_unfinished_runs_are_left_out(profile, run):
    unknown = grid.with_seed(run, 77)
    assert len(read.evaluations(profile, [run, unknown])) == len(read.evaluations(profile, [run]))
    assert read.missing(profile, [run]) == ""
    assert read.missing(profile, [run, unknown, run]).startswith("**1 of 2 runs are missing**")
    with pytest.raises(ValueError, match="None of these runs is complete"):
        read.evaluations(profile, [unknown])


def test_answers_have_their_runs_columns_and_step_0_is_the_policy_before_training(profile, run):
    start = evaluation.load(reference_evaluation.step(run.settings(profile), run.seed, "selection").folder)
    later = evaluation.load(run.step(profile).folder)
    rows = read.evaluations(profile, [run])
    assert rows["reward"].tolist() == [*start["reward"], *later["reward"]]
    assert set(rows["step"]) == set(made_runs.STEPS)
    for name in grid.COLUMNS:
        value = getattr(run, name)
        assert name not in rows if value is None else (rows[name] == value).all(), name
    assert "text" not in rows
    assert "text" in read.evaluations(profile, [run], text=True)
    history = read.histories(profile, [run])
    assert len(history) == len(fitting.load_history(run.training(profile).folder))
    assert (history["algorithm"] == run.algorithm).all()


def test_log_ratios_stand_beside_the_answers_they_are_of(profile, run):
    rows = read.answers(profile, {run: [4, 0]}, log_ratios=True)
    assert set(rows["split"]) == {"reporting"}
    before, after = rows[rows["step"] == 0], rows[rows["step"] == 4]
    assert (before["ref_logp"] == before["logp"]).all()  # the policy is its own reference
    made = log_ratios.step(run.settings(profile), run.algorithm, run.seed, 4, "reporting")
    expected = log_ratios.load(made.folder).set_index(["prompt_id", "repeat"])
    found = after.set_index(["prompt_id", "repeat"])
    assert len(found) == len(expected) == len(before)
    for name in ("logp", "ref_logp"):
        assert (found[name] == expected.loc[found.index, name]).all()


def test_failures_are_listed_with_their_first_error():
    outcome = train.SweepOutcome(2, failed={"dpo, seed 0": "ValueError: beta"})
    assert read.failures(outcome).to_dict("records") == [{"run": "dpo, seed 0", "error": "ValueError: beta"}]


def test_the_overview_counts_what_is_done_and_what_failed(profile):
    """By algorithm and setting, each run once, in the order of the runs; seconds of those that were timed."""
    cells = [run for run in grid.grid(profile) if run.setting == "off-policy-best"]
    (first, second), simpo = ([run for run in cells if run.algorithm == name] for name in ("dpo", "simpo"))
    lost, qrpo = grid.with_seed(first, 77), next(run for run in cells if run.algorithm == "qrpo")
    for run in (*simpo, first, second, qrpo):
        run.step(profile).folder.mkdir(parents=True)
    outcome = train.SweepOutcome(5, seconds={first.name: 2.0, second.name: 3.5, qrpo.name: 0.26, "another's": 99.0})
    outcome.failed[lost.name] = "ValueError: beta"
    table = read.overview(profile, [*simpo, first, second, lost, qrpo, first], outcome)
    expected = [("simpo", 1, 1, 0, np.nan), ("dpo", 3, 2, 1, 2.8), ("qrpo", 1, 1, 0, 0.3)]
    assert list(table.columns) == ["algorithm", "setting", "runs", "done", "failed", "seconds"]
    assert set(table["setting"]) == {"off-policy-best"}
    for (_, row), (algorithm, runs, done, failed, seconds) in zip(table.iterrows(), expected, strict=True):
        assert (row["algorithm"], row["runs"], row["done"], row["failed"]) == (algorithm, runs, done, failed)
        assert row["seconds"] == pytest.approx(seconds, nan_ok=True)
    assert "seconds" not in read.overview(profile, [first], train.SweepOutcome(1))  # where nothing was trained now
