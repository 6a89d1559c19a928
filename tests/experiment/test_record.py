import json
import shutil

import made_runs
import numpy as np
import pandas as pd
import pytest

from qrpo_lib.experiment import grid, record, train
from qrpo_lib.experiment.record_steps import Known
from qrpo_lib.paper import claims, style
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import best_models, length_bias, studies, verdicts
from qrpo_lib.runs import files, folders, keys, paths, records
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import fitting

PROFILE = """
extends = "tiny"
name = "made"

[arms.chat.task]
train_prompts = 8
selection_prompts = 15
reporting_prompts = 20

[reference_sampling]
ref_rewards = 50

[experiment]
algorithms = ["dpo", "simpo", "rebel", "qrpo"]
seeds = [0, 1]
grid_seeds = 1

[experiment.betas]
dpo = [0.1]
simpo = [2.0]
rebel = [0.3]
qrpo = [0.1, 0.3]

[arms.chat.experiment]
settings = ["off-policy-random", "sft-off-policy-random"]
scaling = [{ settings = ["off-policy-random", "offline"], num_ref_rewards = [1, 50], betas = [0.01, 0.3] }]
transformations = { setting = "off-policy-random", transforms = ["identity", "log"], betas = [0.1] }
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The profile's runs with made-up results, their record, and what the results' notebooks make of them."""
    root = tmp_path_factory.mktemp("recorded")
    (root / "made.toml").write_text(PROFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QRPO_RUNS", str(root / "runs"))
        profile = profiles.load(str(root / "made.toml"), "chat")
        gains = {"qrpo": 0.3, "dpo": 0.2, "rebel": 0.1, "simpo": 0.05}
        made_runs.make(profile, made_runs.everything(profile), lambda run: gains[run.algorithm] + 0.1 * run.beta)
        _reverse(grid.grid(profile)[0].report(profile, 4))
        size = record.write(Known([profile]), root / "record", "made", bits=53)
        yield profile, root, size, _results(profile, root / "before")


@pytest.fixture
def emptied(made, tmp_path, monkeypatch):
    """The profile, its record and what was made of it, where no run folder is."""
    profile, root, _, results = made
    monkeypatch.setenv("QRPO_RUNS", str(tmp_path / "runs"))
    shutil.copytree(root / "record", tmp_path / "record")
    return profile, tmp_path / "record", results


def test_everything_is_computed_from_the_record_as_it_was_from_the_runs(emptied, tmp_path, monkeypatch):
    profile, folder, results = emptied
    found = record.restore(Known([profile]), folder, "figures/made/record/all")
    assert found.put_back
    assert (found.stale, found.there) == ([], [])
    monkeypatch.setattr(train, "make_tasks", lambda *arguments: pytest.fail("something was to be made"))
    assert train.train(profile, grid.grid(profile)).total == 0
    assert _results(profile, tmp_path / "after") == results
    assert len(results) > 8
    assert not list(paths.runs_folder().glob("initial_policy-*"))  # nor was a policy trained


def test_a_restored_folder_says_so_with_the_record_of_its_run(emptied):
    profile, folder, _ = emptied
    record.restore(Known([profile]), folder, "figures/made/record/all")
    step = grid.grid(profile)[0].training(profile)
    said = records.check(step.folder)
    assert records.restored_from(step.folder) == "figures/made/record/all"
    assert {"versions", "processor", "git", "started", "seconds", "processor_seconds"} <= set(said)
    assert "host" not in said
    assert set(said["outputs"]) == {fitting.HISTORY}
    with open(step.folder / fitting.HISTORY, "a") as stream:
        stream.write("1\n")
    with pytest.raises(records.CorruptedRunError, match=fitting.HISTORY):
        records.check(step.folder)


def test_what_is_there_stays(emptied):
    profile, folder, _ = emptied
    step = grid.grid(profile)[0].training(profile)
    folders.complete(step, lambda into: (into / "made").write_text("here"))
    found = record.restore(Known([profile]), folder, "record")
    assert found.there == [step.folder_name]
    assert (step.folder / "made").is_file()
    assert not records.restored_from(step.folder)
    assert record.restore(Known([profile]), folder, "record").put_back == []


def test_results_of_other_settings_are_not_used(emptied):
    profile, folder, _ = emptied
    others = profile.model_copy(update={"evaluation": profile.evaluation.model_copy(update={"reporting_repeats": 5})})
    found = record.restore(Known([others]), folder, "record")
    kinds = {name.split("-")[0] for name in found.stale}
    assert kinds == {"report", "log_ratios", "reference_evaluation"}  # all that rests on the reporting prompts
    assert {name.split("-")[0] for name in found.put_back} >= {"training", "evaluation"}
    assert not any((paths.runs_folder() / name).exists() for name in found.stale)


def test_results_by_other_code_are_used_only_when_asked_for_and_never_become_todays(emptied, tmp_path, monkeypatch):
    profile, folder, results = emptied
    then = grid.grid(profile)[0].training(profile)
    monkeypatch.setattr(keys, "code_version", lambda *arguments: "mended")
    assert record.restore(Known([profile]), folder, "record").put_back == []
    found = record.restore(Known([profile]), folder, "record", any_code=True)
    assert (found.stale, found.there) == ([], [])
    assert len(found.by_other_code) == len(found.put_back)
    assert _results(profile, tmp_path / "after") == results
    today = grid.grid(profile)[0].training(profile)
    assert today.folder_name != then.folder_name
    said = records.check(today.folder)
    assert records.restored_from(today.folder) == "record (by other code than today's)"
    assert said["code"]["version"] != "mended"
    assert said["restored"]["folder_then"] == then.folder_name
    with pytest.raises(InputError, match="made by other code than today's"):
        record.write(Known([profile]), tmp_path / "again", "made")
    assert not (tmp_path / "again").exists()


def test_other_settings_are_not_other_code(emptied, monkeypatch):
    profile, folder, _ = emptied
    monkeypatch.setattr(keys, "code_version", lambda *arguments: "mended")
    others = profile.model_copy(update={"evaluation": profile.evaluation.model_copy(update={"reporting_repeats": 5})})
    found = record.restore(Known([others]), folder, "record", any_code=True)
    assert {name.split("-")[0] for name in found.stale} == {"report", "log_ratios", "reference_evaluation"}
    assert {name.split("-")[0] for name in found.by_other_code} >= {"training", "evaluation"}


@pytest.mark.parametrize("name", ["answers.parquet", "steps.parquet", "about.json"])
def test_a_damaged_record_is_refused_before_anything_is_put_back(emptied, name):
    profile, folder, _ = emptied
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 255
    (folder / name).write_bytes(content)
    with pytest.raises(files.UnreadableFileError, match=name):
        record.restore(Known([profile]), folder, "record")
    (folder / name).unlink()
    with pytest.raises(files.UnreadableFileError, match=name):
        record.restore(Known([profile]), folder, "record")
    assert not paths.runs_folder().exists()


def test_what_is_made_from_restored_results_is_made_from_whole_ones(emptied):
    profile, folder, _ = emptied
    record.restore(Known([profile]), folder, "record")
    run, other = grid.grid(profile)[0], grid.grid(profile)[1]
    folders.discard_restored([run.step(profile)])  # complete: it needs nothing
    assert run.training(profile).folder.is_dir()
    shutil.rmtree(run.step(profile).folder)
    folders.discard_restored([run.step(profile)])
    assert not run.training(profile).folder.exists()
    assert other.training(profile).folder.is_dir()


def test_rounding_leaves_alone_what_choices_rest_on(made, tmp_path):
    profile, root, size, _ = made
    assert record.write(Known([profile]), tmp_path, "made") < size
    exact, rounded = (record.read(folder)["answers"] for folder in (root / "record", tmp_path))
    is_selection = exact["split"] == "selection"
    assert exact.loc[is_selection, "reward"].equals(rounded.loc[is_selection, "reward"].astype("float64"))
    off = (rounded["reward"] / exact["reward"] - 1).abs()[~is_selection]
    assert 0 < off.max() <= 2.0**-record.BITS
    before, after = (record.read(folder)["log_ratios"] for folder in (root / "record", tmp_path))
    off = (after["logp"].astype("float64") / before["logp"].astype("float64") - 1).abs()
    assert 0 < off.max() <= 2.0 ** -(record.BITS + 6)
    said = json.loads((tmp_path / record.ABOUT).read_text())["significant_bits"]
    assert said["answers"]["reward"] == record.BITS < said["log_ratios"]["logp"]
    before, after = (record.read(folder)["histories"] for folder in (root / "record", tmp_path))
    off = (after["chosen_log_ratio"] / before["chosen_log_ratio"] - 1).abs()
    assert 0 < off.max() <= 2.0 ** -said["histories"]
    assert after["step"].equals(before["step"])


def test_what_a_training_logged_comes_back_with_its_columns(made, emptied):
    """Trainings of different algorithms log different columns, which one table holds."""
    profile, folder, _ = emptied
    _, root, _, _ = made
    record.restore(Known([profile]), folder, "record")
    steps = [run.training(profile) for run in grid.grid(profile)]
    columns = set()
    for step in steps:
        before, after = (
            pd.read_csv(runs / step.folder_name / fitting.HISTORY) for runs in (root / "runs", paths.runs_folder())
        )
        pd.testing.assert_frame_equal(before, after, check_dtype=False, rtol=1e-8)
        columns.add(tuple(after.columns))
    assert len(columns) > 1


def test_rounding_moves_no_mean_by_more_than_half_of_the_last_bit(made, tmp_path):
    """Of a report's rewards, and of the log-ratios of its answers; where there are many it moves by far less."""
    profile, root, _, _ = made
    record.write(Known([profile]), tmp_path, "made")
    exact, rounded = (record.read(folder) for folder in (root / "record", tmp_path))
    before, after = (of["answers"].set_index("folder")["reward"] for of in (exact, rounded))
    moved = (after.groupby(level=0).mean() - before.groupby(level=0).mean()).abs()
    assert moved.max() > 0
    assert (moved <= 2.0 ** -(record.BITS + 1) * before.abs().groupby(level=0).mean()).all()
    before, after = (of["log_ratios"].set_index("folder")[["logp", "ref_logp"]] for of in (exact, rounded))
    means = [(of["logp"] - of["ref_logp"]).groupby(level=0).mean() for of in (before, after)]
    sizes = before.abs().sum(axis=1).groupby(level=0).mean()
    assert ((means[1] - means[0]).abs() <= 2.0 ** -(record.BITS + 7) * sizes).all()


def test_significant_bits():
    values = np.array([0.0, 1.0, -3.3, 1e-6, 6 / 24, np.nan])
    assert np.array_equal(record.significant(values, 53), values, equal_nan=True)
    assert np.abs(record.significant(values, 12)[1:5] / values[1:5] - 1).max() <= 2.0**-12
    assert record.significant(np.array([5.0, 0.25]), 3).tolist() == [5.0, 0.25]


def test_a_record_is_the_same_bytes_each_time_and_says_which_run_a_row_is_of(made, tmp_path):
    profile, root, _, _ = made
    record.write(Known([profile]), tmp_path, "made", bits=53)
    for path in sorted((root / "record").iterdir()):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name
    tables = record.read(tmp_path)
    of_run = tables["steps"].set_index("folder")
    run = grid.grid(profile)[-1]
    row = of_run.loc[run.step(profile).folder_name]
    assert all(row[name] == getattr(run, name) for name in grid.COLUMNS)
    assert set(tables["answers"]["folder"]) <= set(of_run.index)
    assert run.report(profile, 4).folder_name in set(tables["answers"]["folder"])


def test_all_committed_records_together_are_within_the_limit():
    assert record.total_bytes(paths.PACKAGE.parent / "figures") <= record.LIMIT_BYTES


def _results(profile, folder):
    """What results' notebooks compute, as they publish it: content by name."""
    best, ledger = best_models.best_models(profile), claims.Ledger.of_arm(folder, profile)
    cells = studies.scaling_cells(profile)
    gains, points = best_models.gain_rows(best), best_models.length_points(profile, best)
    last = studies.last_log_ratios(profile, grid.threshold_runs(profile))
    tables = {
        "table-3": best_models.table_rows(profile, best),
        "appendix-m": best_models.appendix_rows(best),
        "gains": gains,
        "figure-3": studies.scaling_rows(cells),
        "figure-4": length_bias.shown(points),
        "thresholds": verdicts.threshold_table(last),
        "courses": studies.smallest_beta_courses(profile),
        "transformations": studies.transformation_rows(studies.transformation_cells(profile)),
        "starts": best_models.references(profile),
    }
    for name, table in tables.items():
        style.save_table(name, table, style.frame_markdown(table), folder)
    gain = gains.set_index("method")["gain"]["dpo"]
    ledger.judge("qrpo-first-or-ties", **verdicts.against(best, ["qrpo"], verdicts.baselines(best), gain=gain))
    ledger.judge("scales-off-policy", **verdicts.slope(cells, "off-policy", gain))
    ledger.judge("less-length-bias", **verdicts.less_length_bias(best, points, best_models.length_table(points)))
    ledger.judge("chosen-rise-above-threshold", **verdicts.threshold(last))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _reverse(step):
    """The rows of a folder in another order, which then is not that of prompts and repeats."""
    rows = pd.read_parquet(step.folder / "evaluation.parquet")
    folders.discard(step.folder)
    folders.complete(step, lambda folder: rows[::-1].reset_index(drop=True).to_parquet(folder / "evaluation.parquet"))
