import made_runs
import numpy as np
import pandas as pd
import pytest

from qrpo_lib import alpaca, length_bias, profiles, result_claims, results, selection, studies, sweep

LC = {"qrpo": 0.30, "dpo": 0.20, "rebel": 0.10, "simpo": 0.0}


def effect(run):
    """QRPO gains most, more so with beta 0.3, on random pairs, off-policy with more references; never with SFT."""
    gain = LC[run.algorithm]
    if run.algorithm in ("qrpo", "dpo"):
        gain += 0.15 * (run.beta == 0.3) + 0.15 * run.setting.endswith("random") - 0.15 * run.setting.startswith("sft")
    if run.algorithm == "qrpo" and run.setting == "off-policy-random":
        gain += 0.3 * (run.num_ref_rewards == 50)
    if run.setting == "offline":
        gain = 0.4 if run.beta == 0.3 else -0.4
    return gain - 0.2 * (run.transform == "log")


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    (folder / "made.toml").write_text(made_runs.PROFILE)
    patch = pytest.MonkeyPatch()
    patch.setenv("QRPO_RUNS", str(folder / "runs"))
    made = profiles.load(str(folder / "made.toml"), "chat")
    made_runs.make(
        made, made_runs.everything(made), effect, slope=lambda run: 2.0 * (run.algorithm in ("dpo", "simpo"))
    )
    yield made
    patch.undo()


@pytest.fixture(scope="module")
def best(profile):
    return results.best_models(profile)


def test_the_best_cells_get_all_seeds(profile):
    checkpoints = results.best_checkpoints(profile)
    assert len(checkpoints) == 4 * 4
    chosen = checkpoints[checkpoints["algorithm"].isin(["dpo", "qrpo"])]
    assert set(chosen["beta"]) == {0.3}
    assert set(chosen["step"]) == {4}
    further = results.further_runs(profile, checkpoints)
    assert len(further) == 4 * 4 * 3
    assert {run.seed for run in further} == {0, 1, 2}


def test_the_models_of_the_tables(profile, best):
    rows = results.table_rows(profile, best).set_index("method")
    assert list(rows.index[:2]) == ["initial", "sft"]
    chosen = best.cells[best.cells["selected"]].drop_duplicates("algorithm").set_index("algorithm")
    assert chosen.loc["dpo", "setting"] == "off-policy-random"
    # DPO at its best: 0.20 + 0.15 + 0.15; 40 prompts x 3 repeats x 3 seeds of noise 0.2 on the same prompts.
    gain = results.compare(best, "dpo", "initial")
    assert gain.mean == pytest.approx(0.50, abs=0.04)
    assert gain.low < 0.50 < gain.high
    assert (gain.n, gain.seeds) == (40, 3)
    assert rows["reward_bold"].to_dict() == {name: name == "qrpo" for name in rows.index}
    assert rows.loc["dpo", "reward"] == pytest.approx(best.reporting("dpo", "reward").mean())
    assert rows.loc["sft", "reward"] - rows.loc["initial", "reward"] == pytest.approx(0.1, abs=0.04)


def test_appendix_rows_hold_both_splits_of_each_setting(best):
    rows = results.appendix_rows(best)
    assert rows.groupby("method").size().to_dict() == {
        "initial": 1,
        "sft": 1,
        "dpo": 4,
        "qrpo": 4,
        "rebel": 4,
        "simpo": 4,
    }
    assert rows.groupby("method")["selected"].sum().to_dict() == {
        "initial": 0, "sft": 0, "dpo": 1, "qrpo": 1, "rebel": 1, "simpo": 1
    }  # fmt: skip
    row = rows[(rows["method"] == "dpo") & (rows["setting"] == "off-policy-best")].iloc[0]
    found = best.evaluations
    of_row = found[(found["algorithm"] == "dpo") & (found["setting"] == "off-policy-best")]
    assert row["reward_test"] == pytest.approx(of_row[of_row["split"] == "reporting"]["reward"].mean())


def test_selection_rules_can_be_compared(best):
    compared = selection.compare_rules(best.cells)
    assert set(compared["algorithm"]) == {"dpo", "simpo", "rebel", "qrpo"}
    assert not compared["reward_cost"].isna().any()


def test_claims_of_the_tables(profile, best):
    assert result_claims.first_or_ties(profile, best, "reward", "t").verdict == "reproduced"
    assert result_claims.raises_reward(profile, best, "qrpo", "t").verdict == "reproduced"
    assert result_claims.raises_reward(profile, best, "simpo", "t").verdict == "not reproduced"
    assert result_claims.random_over_best(profile, best, "t").verdict == "reproduced"
    assert result_claims.simpo_falls_short(profile, best, "t").verdict == "reproduced"
    claim = result_claims.raises_reward(profile, best, "qrpo", "t")
    assert "40 prompts x 3 seeds" in claim.measured
    assert claim.profile == "made, chat"


def test_scaling_is_found_where_it_is_and_not_where_it_is_not(profile):
    cells = studies.scaling_cells(profile)
    rows = studies.scaling_rows(cells)
    assert len(rows) == 8
    one = rows[(rows["setting"] == "off-policy") & (rows["beta"] == 0.3) & (rows["num_ref_rewards"] == 50)].iloc[0]
    assert one["reward"] == pytest.approx(results.initial_reward(profile) + 0.90, abs=0.05)
    scales, flat = result_claims.scaling(profile, cells, "figure-3")
    assert (scales.verdict, flat.verdict) == ("reproduced", "reproduced")
    swapped = {("offline" if key[0] == "off-policy" else "off-policy", *key[1:]): cell for key, cell in cells.items()}
    scales, flat = result_claims.scaling(profile, swapped, "figure-3")
    assert (scales.verdict, flat.verdict) == ("not reproduced", "not reproduced")
    assert len(studies.best_rates(cells)) == 8


def test_a_higher_reward_of_the_finite_partition_would_be_found(profile):
    cells = studies.scaling_cells(profile)
    higher = {
        (*key[:-1], "finite"): studies.Cell(cell.step, cell.selection, cell.values + 0.1) for key, cell in cells.items()
    }
    assert result_claims.finite_partition(profile, cells | higher, "f").verdict == "reproduced"
    same = {(*key[:-1], "finite"): cell for key, cell in cells.items()}
    assert result_claims.finite_partition(profile, cells | same, "f").verdict == "not reproduced"


def test_transformations_are_compared_at_their_best_beta(profile):
    cells = studies.transformation_cells(profile)
    assert set(cells) == {("identity", 0.3), ("log", 0.3)}
    assert result_claims.log_not_better(profile, cells, "t").verdict == "reproduced"
    swapped = {("log", 0.3): cells[("identity", 0.3)], ("identity", 0.3): cells[("log", 0.3)]}
    assert result_claims.log_not_better(profile, swapped, "t").verdict == "not reproduced"
    rows = studies.transformation_rows(cells).set_index("transform")
    assert rows.loc["identity", "reward"] - rows.loc["log", "reward"] == pytest.approx(0.2, abs=0.05)


def test_chosen_rise_above_the_threshold_only(profile):
    curves = studies.log_ratio_curves(profile, sweep.figure_6(profile))
    assert set(curves["beta"]) == {0.3, 0.01}
    assert result_claims.threshold(profile, curves, "f").verdict == "reproduced"
    table = result_claims.threshold_table(curves)
    expected = [beta * np.log(beta * np.expm1(1 / beta)) for beta in table["beta"]]
    np.testing.assert_allclose(table["threshold"], expected, rtol=1e-9)
    wrong = curves.assign(chosen_log_ratio=1.0)
    assert result_claims.threshold(profile, wrong, "f").verdict == "not reproduced"
    one_side = curves[curves["beta"] == 0.3]
    assert result_claims.threshold(profile, one_side, "f").verdict == "beyond this scale"


def test_length_bias_of_the_reported_models(profile, best):
    points = results.length_points(profile, best)
    rows = results.length_table(points)
    table = rows.set_index("method")
    assert table.loc["DPO", "low"] > 0.5
    assert table.loc["QRPO", "low"] < 0 < table.loc["QRPO", "high"]
    assert result_claims.less_length_bias(profile, points, rows, "figure-4").verdict == "reproduced"
    assert result_claims.length_bias_detected(profile, rows, "figure-4").verdict == "not reproduced"
    assert result_claims.length_bias_detected(profile, rows[rows["method"] == "DPO"], "f").verdict == "reproduced"
    shown = length_bias.shown(points)
    assert set(shown["algorithm"]) == set(points)
    assert len(shown) < sum(map(len, points.values()))


def test_alpaca_eval_gets_an_answer_to_every_reporting_prompt(profile, best, monkeypatch):
    prompts = [made_runs.as_prompt(*pair) for pair in made_runs.held_out(profile)]
    monkeypatch.setattr(alpaca.tasks, "prompts", lambda *_: prompts)
    outputs = alpaca.outputs(profile, best)
    assert set(outputs) == {"initial", "sft", "dpo", "simpo", "rebel", "qrpo"}
    assert all(len(found) == 40 for found in outputs.values())
    assert outputs["qrpo"][0] == {"instruction": "request r000", "output": "answer 0", "generator": "qrpo"}
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert alpaca.missing()


def test_unfinished_runs_are_left_out(profile):
    run = sweep.grid(profile)[0]
    unknown = sweep.with_seed(run, 77)
    assert len(sweep.evaluations(profile, [run, unknown])) == len(sweep.evaluations(profile, [run]))
    assert sweep.missing(profile, [run]) == ""
    assert sweep.missing(profile, [run, unknown]).startswith("**1 of 2 runs are missing**")
    with pytest.raises(ValueError, match="None of these runs is complete"):
        sweep.evaluations(profile, [unknown])
    assert isinstance(sweep.overview(profile, [run, unknown], sweep.workers.Outcome(0)), pd.DataFrame)
