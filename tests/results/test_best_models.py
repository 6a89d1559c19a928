import dataclasses
from types import SimpleNamespace

import made_runs
import numpy as np
import pandas as pd
import pytest

from qrpo_lib.experiment import grid, read, train
from qrpo_lib.paper import claims, rules
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import alpaca, best_models, length_bias, reports, selection, studies, tables, verdicts

LC = {"qrpo": 0.30, "dpo": 0.20, "rebel": 0.10, "simpo": 0.08}


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
    return best_models.best_models(profile)


def test_the_best_cells_get_all_seeds(profile):
    checkpoints = best_models.best_checkpoints(profile)
    assert len(checkpoints) == 4 * 4
    chosen = checkpoints[checkpoints["algorithm"].isin(["dpo", "qrpo"])]
    assert set(chosen["beta"]) == {0.3}
    assert set(chosen["step"]) == {4}
    further = best_models.further_runs(profile, checkpoints)
    assert len(further) == 4 * 4 * 3
    assert {run.seed for run in further} == {0, 1, 2}


def test_the_models_of_the_tables(profile, best):
    rows = best_models.table_rows(profile, best).set_index("method")
    assert list(rows.index[:2]) == ["initial", "sft"]
    chosen = best.cells[best.cells["selected"]].drop_duplicates("algorithm").set_index("algorithm")
    assert chosen.loc["dpo", "setting"] == "off-policy-random"
    # DPO at its best: 0.20 + 0.15 + 0.15; 40 prompts x 6 repeats x 3 seeds of noise 0.2 on the same prompts.
    gain = best_models.compare(best, "dpo", "initial")
    assert gain.mean == pytest.approx(0.50, abs=0.04)
    assert gain.low < 0.50 < gain.high
    assert (gain.n, gain.seeds) == (40, 3)
    assert rows["reward_bold"].to_dict() == {name: name == "qrpo" for name in rows.index}
    assert rows.loc["dpo", "reward"] == pytest.approx(best.reporting("dpo", "reward").mean())
    assert rows.loc["sft", "reward"] - rows.loc["initial", "reward"] == pytest.approx(0.1, abs=0.04)


def test_appendix_rows_hold_both_splits_of_each_setting(best):
    rows = best_models.appendix_rows(best)
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


def test_the_choice_of_each_selection_rule_is_worth_what_the_made_up_law_says(best):
    """The plain rule's choice against a search through all cells, the worth of both against `effect`."""
    compared = selection.compare_rules(best.cells).set_index("algorithm")
    gains = {"dpo": 0.50, "simpo": 0.08, "rebel": 0.10, "qrpo": 0.60}  # of the best cell of each
    assert set(compared.index) == set(gains)
    start, names = best.reporting("initial", "reward").mean(), ["setting", "beta", "learning_rate", "step"]
    for algorithm, row in compared.iterrows():
        rows = best.evaluations[best.evaluations["algorithm"] == algorithm]
        worth = {cell: of_cell.groupby("split")["reward"].mean() for cell, of_cell in rows.groupby(names)}
        of_paper, of_best = (tuple(row[f"{rule}_{name}"] for name in names) for rule in ("paper", "best"))
        assert of_best == max(worth, key=lambda cell: worth[cell]["selection"])
        for rule, cell in (("paper", of_paper), ("best", of_best)):
            assert row[f"{rule}_reward"] == pytest.approx(worth[cell]["reporting"])
            assert row[f"{rule}_reward"] - start == pytest.approx(gains[algorithm], abs=0.05)
        assert row["reward_cost"] == pytest.approx(worth[of_best]["reporting"] - worth[of_paper]["reporting"])
        assert row["differ"] == (of_paper != of_best)


@pytest.fixture
def judge(tmp_path):
    """The verdict on a claim of the made-up arm, from what a function of `verdicts` measured."""
    ledger = claims.Ledger(tmp_path, "made, chat", "chat")
    return lambda claim_id, measured: ledger.judge(claim_id, **measured)


def untrained(best, algorithm):
    """These models with an algorithm whose reported checkpoint is the policy before training."""
    cells = best.cells.copy()
    cells.loc[cells["algorithm"] == algorithm, "step"] = 0
    return dataclasses.replace(best, cells=cells)


def test_claims_of_the_tables(profile, best, judge):
    gain = best_models.gain_rows(best).set_index("method").loc["dpo", "gain"]
    ties = verdicts.against(best, ["qrpo"], verdicts.baselines(best), gain=gain)
    assert set(ties["values"]) == {"QRPO - DPO", "QRPO - SimPO", "QRPO - REBEL"}
    assert judge("qrpo-first-or-ties", ties).verdict == "supported"
    worse = judge("qrpo-first-or-ties", verdicts.against(best, ["simpo"], ["qrpo", "dpo"], gain=gain))
    assert worse.verdict == "contradicted"
    of_qrpo = judge("qrpo-raises-reward", verdicts.raises_reward(best, "qrpo", gain))
    assert of_qrpo.verdict == "supported"
    assert "40 prompts x 3 seeds" in of_qrpo.measured
    assert "step 4 of 4" in of_qrpo.measured
    assert "last checkpoint" in of_qrpo.measured
    assert judge("dpo-random-over-best", verdicts.random_over_best(best, gain)).verdict == "supported"
    short = verdicts.against(best, ["dpo", "qrpo"], ["simpo"], gain=gain)
    assert judge("simpo-falls-short-on-code", short).verdict == "supported"


def test_without_a_baseline_there_is_nothing_to_tie_with(best, judge):
    alone = verdicts.against(best, ["qrpo"], [])
    assert judge("qrpo-first-or-ties", alone).verdict == "not testable"


def test_a_gain_counts_from_the_policy_that_was_trained_from(profile, best):
    """Without SFT QRPO gains what training added; after SFT the 0.1 that SFT added is not credited to it."""
    plain = best_models.gain_rows(best).set_index("method")
    assert plain.loc["qrpo", "start"] == "initial"
    assert plain.loc["qrpo", "gain"] == pytest.approx(0.60, abs=0.05)
    cells = best.cells.copy()
    of_qrpo = cells["algorithm"] == "qrpo"
    cells.loc[of_qrpo, "selected"] = cells.loc[of_qrpo, "setting"] == "sft-off-policy-random"
    runs = [run for run in best_models.further_runs(profile) if run.setting == "sft-off-policy-random"]
    last = best_models.reported(profile, {run: {4} for run in runs if run.algorithm == "qrpo"})
    tuned = dataclasses.replace(best, cells=cells, last=pd.concat([best.last, last], ignore_index=True))
    row = best_models.gain_rows(tuned).set_index("method").loc["qrpo"]
    assert row["start"] == "sft"
    rewards = [tuned.reporting(name, "reward").mean() for name in ("qrpo", "sft")]
    assert row["gain"] == pytest.approx(rewards[0] - rewards[1])
    assert row["low"] < row["gain"] < row["high"]


def test_the_last_checkpoint_stands_beside_the_selected_one(profile, best):
    """A run that is best on the way and worse than its start at the end."""
    early = best.evaluations["step"].eq(4) & best.evaluations["algorithm"].eq("rebel")
    better = best.evaluations.assign(reward=best.evaluations["reward"] + 1.0 * early)
    row = best_models.gain_rows(dataclasses.replace(best, evaluations=better)).set_index("method").loc["rebel"]
    assert row["gain"] - row["last_gain"] == pytest.approx(1.0)
    assert (row["last_low"] < row["last_gain"] < row["last_high"], row["last_step"]) == (True, 4)


def test_an_untrained_model_is_shown_as_such_and_decides_nothing(profile, best, judge):
    none = untrained(best, "simpo")
    assert none.untrained(none.methods) == ["SimPO"]
    ties = judge("qrpo-first-or-ties", verdicts.against(none, ["qrpo"], ["dpo", "simpo"], gain=0.5))
    assert (ties.verdict, ties.reason) == ("not testable", "untrained, the selected step is 0: SimPO")
    alone = judge("simpo-raises-reward", verdicts.raises_reward(none, "simpo", 0.5))
    assert alone.verdict == "not testable"
    rows = best_models.table_rows(profile, none)
    assert rows.set_index("method")["trained"].to_dict() == {name: name != "simpo" for name in rows["method"]}
    assert "SimPO (untrained)" in tables.table_3(rows, "Reward").markdown
    assert "SimPO (untrained)" in tables.table_2(best_models.as_pass_rates(rows)).latex
    assert "untrained" not in tables.table_3(best_models.table_rows(profile, best), "Reward").markdown


def test_dpos_gain_is_that_of_its_reported_model(profile, best, monkeypatch):
    monkeypatch.setattr(best_models.train, "train", lambda *_: None)  # all is trained
    expected = best_models.gain_rows(best).set_index("method").loc["dpo", "gain"]
    assert best_models.dpo_gain(profile) == pytest.approx(expected)


@pytest.mark.slow
def test_the_sweep_makes_every_report_that_the_results_read(profile, monkeypatch):
    """So the results' notebooks only read; and only what a table or figure shows is made."""
    asked, plain = [], train.report

    def report(of, wanted, split="reporting", *, log_ratios=False):
        asked.extend((run, step, split, log_ratios) for run, steps in wanted.items() for step in steps)
        plain(of, wanted, split, log_ratios=log_ratios)

    monkeypatch.setattr(train, "report", report)
    monkeypatch.setattr(train, "train", lambda *_: None)  # all is trained
    assert reports.make(profile) == []
    made = set(asked)
    asked.clear()
    best = best_models.best_models(profile)
    best_models.length_points(profile, best)
    best_models.dpo_gain(profile)
    studies.scaling_cells(profile), studies.transformation_cells(profile)
    assert set(asked) == made
    # Four algorithms in four settings, the last of the four that are shown, eight cells of Figure 3 and two
    # transformations: with three seeds each.
    cells = 3 * (16 + 4 + 8 + 2)
    assert len({one[:2] for one in made if one[1] > 0}) <= cells
    assert len({one for one in made if one[3]}) == 3 * 4
    monkeypatch.setattr(studies, "scaling_cells", lambda of: read.evaluations(of, [grid.grid(of)[0]] * 0))
    assert reports.make(profile) == ["None of these runs is complete: train them first."]


def test_a_checkpoint_whose_answers_to_reporting_prompts_are_too_long_makes_room(profile, monkeypatch):
    """As the authors filter: what the selection prompts choose is looked at, then the next best one that was kept."""
    monkeypatch.setattr(best_models.paper_lengths, "are_used", lambda of: True)
    monkeypatch.setattr(best_models.paper_lengths, "counted", lambda of, rows: rows)
    monkeypatch.setattr(best_models.paper_lengths, "evaluations", read.evaluations)
    looked_at = []

    def long_at_beta_03(of, wanted, text, log_ratios):
        looked_at.extend(
            (run.algorithm, run.setting, run.beta, step) for run, steps in wanted.items() for step in steps
        )
        rows = read.answers(of, wanted, text=text, log_ratios=log_ratios)
        is_long = (rows["algorithm"] == "dpo") & (rows["beta"] == 0.3) & (rows["step"] == 4)
        return rows.assign(length=rows["length"] + 5000 * is_long)

    monkeypatch.setattr(best_models.paper_lengths, "reports", long_at_beta_03)
    limited = profile.model_copy(
        update={"evaluation": profile.evaluation.model_copy(update={"max_mean_length": 1000.0})}
    )
    chosen = best_models.best_checkpoints(limited).set_index(["algorithm", "setting"])
    assert (chosen.loc["dpo", "beta"] == 0.1).all()
    assert (chosen.loc["qrpo", "beta"] == 0.3).all()
    assert set(chosen["step"]) <= {0, 4}  # of made-up runs the last alone is there
    assert ("dpo", "off-policy-best", 0.3, 4) in looked_at
    assert ("qrpo", "off-policy-best", 0.1, 4) not in looked_at


def swap(cells):
    """The cells with off-policy and offline exchanged."""
    return {("offline" if key[0] == "off-policy" else "off-policy", *key[1:]): cell for key, cell in cells.items()}


def trained(cells):
    """The cells as if each were reported at a step of its own."""
    return {key: dataclasses.replace(cell, step=4) for key, cell in cells.items()}


def test_scaling_is_found_where_it_is_and_not_where_it_is_not(profile, judge):
    cells = trained(studies.scaling_cells(profile))
    rows = studies.scaling_rows(cells)
    assert len(rows) == 8
    one = rows[(rows["setting"] == "off-policy") & (rows["beta"] == 0.3) & (rows["num_ref_rewards"] == 50)].iloc[0]
    assert one["reward"] == pytest.approx(best_models.initial_reward(profile) + 0.90, abs=0.05)
    assert judge("scales-off-policy", verdicts.slope(cells, "off-policy", 0.5)).verdict == "supported"
    assert judge("scales-off-policy", verdicts.slope(swap(cells), "off-policy", 0.5)).verdict != "supported"
    # Flat is within 5 % of a gain of 3, or 0.15; with more noise nobody can tell.
    assert judge("flat-offline", verdicts.slope(cells, "offline", 3.0)).verdict == "supported"
    generator = np.random.default_rng(0)
    noisy = {
        key: dataclasses.replace(cell, values=cell.values + generator.normal(0, 3, cell.values.shape))
        for key, cell in cells.items()
    }
    assert judge("flat-offline", verdicts.slope(noisy, "offline", 3.0)).verdict == "undecided"
    assert judge("flat-offline", verdicts.slope(swap(cells), "offline", 3.0)).verdict == "contradicted"
    assert len(studies.best_rates(cells)) == 8


def test_slopes_of_each_beta_have_the_mean_that_is_judged(profile):
    cells = studies.scaling_cells(profile)
    by_beta = studies.slopes_by_beta(cells)
    assert by_beta["beta"].nunique() > 1
    for setting, values in studies.scaling_slopes(cells).items():
        gains = by_beta[by_beta["setting"] == setting]["gain"]
        assert gains.mean() == pytest.approx(values.mean())
    assert by_beta["gain"].nunique() > 1
    one_n = {key: cell for key, cell in cells.items() if key[3] == min(of[3] for of in cells)}
    assert studies.slopes_by_beta(one_n).empty


def test_the_slope_uses_all_numbers_of_references():
    """Against a straight line, and a bump in the middle that the two ends do not see."""
    numbers = [1, 3, 10, 50]
    line = {
        ("offline", 0.1, 1e-4, n, "exact"): studies.ReportedCell(1, 0.0, np.full((2, 5), 0.3 * np.log(n)))
        for n in numbers
    }
    np.testing.assert_allclose(studies.scaling_slopes(line)["offline"], 0.3 * np.log(50))
    bump = dict(line)
    bump["offline", 0.1, 1e-4, 3, "exact"] = studies.ReportedCell(1, 0.0, np.full((2, 5), 5.0))
    rewards = [0.0, 5.0, 0.3 * np.log(10), 0.3 * np.log(50)]
    expected = np.polyfit(np.log(numbers), rewards, 1)[0] * np.log(50)
    np.testing.assert_allclose(studies.scaling_slopes(bump)["offline"], expected)


def test_figure_3_shows_the_rates_that_the_profile_names():
    """Of two betas and rates: the rate of each beta that the profile names, whichever is better."""
    profile = profiles.load("gh200", "llama-magpieair")
    cells = {
        (setting, beta, rate, n, "exact"): studies.ReportedCell(1, rate, np.full((1, 4), rate))
        for setting in ("offline", "off-policy")
        for beta in (0.003, 0.01, 0.1)
        for rate in (1e-7, 3e-7, 1e-6)
        for n in (1, 50)
    }
    shown = studies.main_rates(profile, cells)
    assert set(zip(shown["beta"], shown["learning_rate"], strict=True)) == {(0.003, 1e-6), (0.01, 3e-7), (0.1, 1e-7)}
    assert len(shown) == 2 * 3 * 2
    assert set(studies.best_rates(cells)["learning_rate"]) == {1e-6}
    none_named = studies.main_rates(profiles.load("tiny", "chat"), cells)
    pd.testing.assert_frame_equal(none_named, studies.best_rates(cells))


def test_cells_that_are_the_initial_policys_decide_nothing(profile, judge):
    """Offline, beta 0.01 makes the policy worse: its best checkpoint is the start."""
    cells = studies.scaling_cells(profile)
    flat = judge("flat-offline", verdicts.slope(cells, "offline", 3.0))
    assert flat.verdict == "not testable"
    assert "offline, beta 0.01" in flat.reason
    assert judge("scales-off-policy", verdicts.slope(cells, "off-policy", 0.5)).verdict == "supported"
    one_n = {key: cell for key, cell in cells.items() if key[3] == 1}
    assert judge("scales-off-policy", verdicts.slope(one_n, "off-policy", 0.5)).verdict == "not testable"
    no_offline = {key: cell for key, cell in cells.items() if key[0] == "off-policy"}
    for measured in (verdicts.offline_at_small_beta, verdicts.off_policy_at_large_beta):
        assert "both offline and off-policy" in measured(no_offline, 0.5)["absent"]


def test_a_higher_reward_of_the_finite_partition_would_be_found(profile, judge):
    cells = trained(studies.scaling_cells(profile))

    def finite(change, step=4):
        made = {
            (*key[:-1], "finite"): studies.ReportedCell(
                step if key[0] == "offline" else 4, cell.selection, cell.values + change
            )
            for key, cell in cells.items()
        }
        return verdicts.finite_partition(cells | made, 0.5)

    assert judge("finite-partition-helps", finite(0.1)).verdict == "supported"
    assert judge("finite-partition-helps", finite(0.0)).verdict == "contradicted"
    assert "offline left out" in judge("finite-partition-helps", finite(0.1, step=0)).measured


def test_rapid_gain_and_then_degradation(profile, judge):
    courses = studies.smallest_beta_courses(profile)
    assert (courses["beta"] == 0.01).all()
    assert set(courses["setting"]) == {"off-policy-random", "offline"}
    # Made-up rewards go one way all the time.
    one_way = verdicts.gain_then_degradation(courses, [0.01, 0.3], 0.5)
    assert judge("gain-then-degradation", one_way).verdict == "contradicted"
    falls = courses.assign(reward=courses["reward"] + 2.0 * (courses["step"] == 2))
    found = judge("gain-then-degradation", verdicts.gain_then_degradation(falls, [0.01, 0.3], 0.5))
    assert found.verdict == "supported"
    assert "beta 0.01" in found.measured


def courses_of(by_step):
    """Made-up courses of one setting, two seeds and three prompts that have the same reward."""
    rows = [
        {"setting": "offline", "learning_rate": 1e-4, "beta": 0.01, "step": step, "seed": seed, "prompt_id": prompt}
        | {"reward": reward + 0.01 * prompt}
        for step, reward in by_step.items()
        for seed in (0, 1)
        for prompt in (0, 1, 2)
    ]
    return pd.DataFrame(rows)


def test_of_the_checkpoints_on_the_way_the_mean_is_compared():
    """Written out: 0, then 4, 1 and 1, at last 2. The best would have fallen by 2; the mean, 2, has not."""
    measured = verdicts.gain_then_degradation(courses_of({0: 0.0, 5: 4.0, 10: 1.0, 15: 1.0, 20: 2.0}), [0.01, 0.1], 0.5)
    assert measured["values"]["gain"].mean == pytest.approx(2.0)
    assert measured["values"]["degradation"].mean == pytest.approx(0.0)
    assert "steps 5, 10, 15 of 20" in measured["measured"]


@pytest.mark.parametrize(
    ("steps", "betas", "named"),
    [((0, 20), [0.01, 0.1], "between the first and the last"), ((0, 10, 20), [0.01, 0.01], "a single beta")],
)
def test_degradation_is_not_judged_where_it_could_not_be_seen(judge, steps, betas, named):
    courses = courses_of(dict.fromkeys(steps, 1.0))
    judged = judge("gain-then-degradation", verdicts.gain_then_degradation(courses, betas, 0.5))
    assert judged.verdict == "not testable"
    assert named in judged.reason


def test_transformations_are_compared_at_their_best_beta(profile, judge):
    cells = studies.transformation_cells(profile)
    assert set(cells) == {("identity", 0.3), ("log", 0.3)}
    assert judge("log-not-better", verdicts.log_slightly_worse(cells, 0.5)).verdict == "supported"
    assert studies.missed_beta(profile) is None
    unknown = judge("log-not-better", verdicts.log_slightly_worse(cells, 0.5, missed=0.03))
    assert (unknown.verdict, "best beta is 0.03" in unknown.reason) == ("not testable", True)
    swapped = {("log", 0.3): cells[("identity", 0.3)], ("identity", 0.3): cells[("log", 0.3)]}
    assert judge("log-not-better", verdicts.log_slightly_worse(swapped, 0.5)).verdict == "contradicted"
    rows = studies.transformation_rows(cells).set_index("transform")
    assert rows.loc["identity", "reward"] - rows.loc["log", "reward"] == pytest.approx(0.2, abs=0.05)


def test_a_beta_that_the_study_of_transformations_lacks_is_missed(profile, monkeypatch):
    best = best_models.best_checkpoints(profile, ["qrpo"]).assign(beta=0.03)
    monkeypatch.setattr(studies, "best_checkpoints", lambda *_: best)
    assert studies.missed_beta(profile) == 0.03


def test_the_threshold_is_tested_at_every_beta_and_setting(profile):
    wanted = grid.threshold_runs(profile)
    assert {(run.setting, run.beta) for run in wanted} >= {
        (setting, beta) for setting in ("offline", "off-policy-random") for beta in (0.01, 0.3)
    }
    assert {run.setting for run in wanted} >= set(profile.experiment.settings)
    assert {run.algorithm for run in wanted} == {"qrpo"}
    last = studies.last_log_ratios(profile, wanted)
    assert (last["step"] == 4).all()
    assert not last.duplicated(["setting", "beta", "learning_rate", "num_ref_rewards", "seed"]).any()
    assert len(last) == len(wanted)
    assert set(grid.figure_6(profile)) <= set(wanted)
    best_cells = {run for run in best_models.further_runs(profile) if run.algorithm == "qrpo"}
    identity = grid.more_seeds(profile, [studies.best_transformations(profile)["identity"]])
    assert len({run.seed for run in best_cells}) == len({run.seed for run in identity}) == 3
    assert set(studies.threshold_runs(profile)) == {*wanted, *best_cells, *identity}


def test_a_cell_of_one_seed_decides_no_sign_in_a_world_and_is_told_to_the_pool():
    last = pd.DataFrame(
        {"setting": "off-policy-best", "beta": [0.3, 0.3, 0.01], "learning_rate": 1e-3, "num_ref_rewards": 10}
        | {"chosen_log_ratio": [-1.0, -1.1, 5.0], "rejected_log_ratio": [-2.0, -2.1, 5.0], "seed": [0, 1, 0]}
        | {"chosen_quantile": 0.9, "rejected_quantile": 0.1}
    )
    found = verdicts.off_policy_falls(last)
    values = list(found["values"].values())
    assert sorted((round(one.mean, 2), one.seeds) for one in values) == [(-1.55, 2), (5.0, 1)]
    assert rules.sign(found["values"], found["predicted"]).verdict == "supported"
    assert "1 values of one seed" in found["measured"]
    assert verdicts.off_policy_falls(last[last["seed"] == 0])["absent"]
    by_name = verdicts.threshold(last)
    assert by_name["absent"]  # chosen completions of the cell with seeds are on one side of the threshold
    assert len(by_name["values"]) == 4


def test_length_bias_of_the_reported_models(profile, best, judge):
    points = best_models.length_points(profile, best)
    rows = best_models.length_table(points)
    table = rows.set_index("method")
    assert table.loc["DPO", "low"] > 0.5
    assert table.loc["QRPO", "low"] < 0 < table.loc["QRPO", "high"]
    assert judge("less-length-bias", verdicts.less_length_bias(best, points, rows)).verdict == "supported"
    nobody = rows.assign(low=-0.5)
    not_there = judge("less-length-bias", verdicts.less_length_bias(best, points, nobody))
    assert (not_there.verdict, not_there.reason) == ("not testable", "no algorithm has a positive length bias")
    assert judge("length-bias-detected", verdicts.detected_length_bias(best, points)).verdict == "contradicted"
    of_dpo = {"dpo": points["dpo"]}
    assert judge("length-bias-detected", verdicts.detected_length_bias(best, of_dpo)).verdict == "supported"
    shown = length_bias.shown(points)
    assert set(shown["algorithm"]) == set(points)
    assert len(shown) < sum(map(len, points.values()))


def test_alpaca_eval_gets_an_answer_to_every_reporting_prompt(profile, best, monkeypatch):
    prompts = [made_runs.as_prompt(*pair) for pair in made_runs.held_out(profile)]
    monkeypatch.setattr(alpaca.tasks, "of", lambda _: SimpleNamespace(prompts=lambda _: prompts))
    outputs = alpaca.outputs(profile, best)
    assert set(outputs) == {"initial", "sft", "dpo", "simpo", "rebel", "qrpo"}
    assert all(len(found) == 40 for found in outputs.values())
    assert outputs["qrpo"][0] == {"instruction": "request r000", "output": "answer 0", "generator": "qrpo"}
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert alpaca.missing()
