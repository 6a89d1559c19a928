from itertools import product

import numpy as np
import pandas as pd
import pytest

from qrpo_lib.results import selection

RNG = np.random.default_rng(0)


def checkpoint(setting, step, reward, *, lc=None, std=0.01, lc_std=0.01, length=50.0, reporting=None, algorithm="qrpo"):
    cell = {"algorithm": algorithm, "setting": setting, "beta": 0.1, "learning_rate": 1e-4, "step": step}
    values = {"reward_std": std, "lc_reward": reward if lc is None else lc, "lc_reward_std": lc_std, "length": length}
    return [
        cell | values | {"split": split, "reward": value}
        for split, value in (("selection", reward), ("reporting", reward if reporting is None else reporting))
    ]


def table(*checkpoints):
    return pd.DataFrame([row for rows in checkpoints for row in rows])


def chosen(scores, rule):
    (row,) = selection.select(scores, rule).itertuples()
    return row.setting, row.step


def test_each_settings_best_checkpoint_enters():
    scores = table(checkpoint("offline", 0, 1.0), checkpoint("offline", 5, 3.0), checkpoint("off-policy-best", 5, 2.0))
    best = selection.best_of_settings(scores)
    assert set(zip(best["setting"], best["step"], strict=True)) == {("offline", 5), ("off-policy-best", 5)}


def test_reporting_rewards_do_not_matter():
    scores = table(checkpoint("offline", 5, 3.0, reporting=0.0), checkpoint("off-policy-best", 5, 2.0, reporting=9.0))
    assert chosen(scores, "paper") == chosen(scores, "best") == ("offline", 5)


def test_answers_that_are_too_long_do_not_enter():
    scores = table(checkpoint("offline", 5, 3.0, length=1001.0), checkpoint("off-policy-best", 5, 2.0, length=1000.0))
    assert chosen(scores, "paper") == ("off-policy-best", 5)
    with pytest.raises(ValueError, match="No checkpoint is left"):
        selection.select(scores, max_mean_length=10.0)


def test_lc_reward_decides_between_rewards_that_are_close():
    # 3.00 - 2.98 = 0.02 <= 2 sqrt(0.01^2 + 0.01^2) = 0.0283; 3.00 - 2.97 = 0.03 is further.
    scores = table(
        checkpoint("offline", 5, 3.00, lc=1.0),
        checkpoint("off-policy-best", 5, 2.98, lc=2.0),
        checkpoint("off-policy-random", 5, 2.97, lc=9.0),
    )
    assert chosen(scores, "paper") == ("off-policy-best", 5)
    assert chosen(scores, "best") == ("offline", 5)


def test_reward_decides_between_lc_rewards_that_are_close():
    # 0.8 sqrt(2) 0.01 = 0.0113
    scores = table(checkpoint("offline", 5, 3.00, lc=1.00), checkpoint("off-policy-best", 5, 2.99, lc=1.011))
    assert chosen(scores, "paper") == ("offline", 5)
    scores = table(checkpoint("offline", 5, 3.00, lc=1.00), checkpoint("off-policy-best", 5, 2.99, lc=1.012))
    assert chosen(scores, "paper") == ("off-policy-best", 5)


@pytest.mark.parametrize(("gap", "enters"), [(0.0999, True), (0.1001, False)])
def test_the_margin_is_two_deviations_of_the_difference(gap, enters):
    """2 sqrt(0.03^2 + 0.04^2) = 0.1, whichever of the two the larger deviation belongs to."""
    for stds in ((0.03, 0.04), (0.04, 0.03)):
        scores = table(
            checkpoint("offline", 5, 3.0, lc=1.0, std=stds[0]),
            checkpoint("off-policy-best", 5, 3.0 - gap, lc=2.0, std=stds[1]),
        )
        assert chosen(scores, "paper") == (("off-policy-best", 5) if enters else ("offline", 5))


def test_without_spread_the_best_reward_is_chosen():
    scores = table(
        checkpoint("offline", 5, 3.0, lc=1.0, std=0.0, lc_std=0.0),
        checkpoint("off-policy-best", 5, 2.999, lc=2.0, std=0.0, lc_std=0.0),
    )
    assert chosen(scores, "paper") == ("offline", 5)


def test_an_lc_reward_that_one_setting_has_not_decides_nothing():
    scores = table(
        checkpoint("offline", 5, 3.00, lc=np.nan),
        checkpoint("off-policy-best", 5, 2.99, lc=2.0),
    )
    assert chosen(scores, "paper") == ("offline", 5)


def test_without_a_limit_long_answers_enter():
    scores = table(checkpoint("offline", 5, 3.0, length=5000.0), checkpoint("off-policy-best", 5, 2.0))
    (row,) = selection.select(scores, "best", max_mean_length=None).itertuples()
    assert row.setting == "offline"


def test_code_has_no_lc_reward():
    scores = table(checkpoint("off-policy-random", 5, 0.3), checkpoint("off-policy-random", 9, 0.4))
    assert chosen(scores.drop(columns=["lc_reward", "lc_reward_std"]), "paper") == ("off-policy-random", 9)


def test_cost_of_the_papers_rule():
    scores = table(
        checkpoint("offline", 5, 3.00, lc=1.0, reporting=2.5),
        checkpoint("off-policy-best", 5, 2.98, lc=2.0, reporting=2.2),
        checkpoint("offline", 5, 1.0, algorithm="dpo"),
    )
    compared = selection.compare_rules(scores).set_index("algorithm")
    assert compared["differ"].to_dict() == {"qrpo": True, "dpo": False}
    assert compared.loc["qrpo", "reward_cost"] == pytest.approx(0.3)
    assert compared.loc["qrpo", "lc_gain"] == pytest.approx(1.0)
    assert compared.loc["dpo", "reward_cost"] == 0


def test_both_rules_are_compared_among_the_checkpoints_that_are_short_enough():
    scores = table(checkpoint("offline", 5, 1.0, length=20.0), checkpoint("offline", 9, 2.0, length=50.0))
    compared = selection.compare_rules(scores, max_mean_length=30.0)
    assert list(compared.columns[:2]) == ["algorithm", "differ"]
    assert compared[["paper_step", "best_step"]].to_numpy().tolist() == [[5, 5]]
    assert selection.compare_rules(scores)["paper_step"].item() == 9


def test_a_choice_is_a_row_of_each_algorithm_in_the_columns_of_its_scores():
    scores = table(checkpoint("offline", 5, 1.0), checkpoint("offline", 7, 2.0, algorithm="dpo"))
    assert list(selection.select(scores).columns) == list(scores.columns)
    assert selection.select(scores)[["algorithm", "step"]].to_numpy().tolist() == [["dpo", 7], ["qrpo", 5]]


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="no selection rule 'bset'"):
        selection.select(table(checkpoint("offline", 5, 1.0)), "bset")


@pytest.fixture
def evaluations():
    index = pd.MultiIndex.from_product(
        [[0, 1], ["selection", "reporting"], range(6), range(3)], names=["seed", "split", "prompt_id", "repeat"]
    )
    frame = index.to_frame(index=False).assign(
        algorithm="qrpo", setting="offline", beta=0.1, learning_rate=1e-4, step=5
    )
    return frame.assign(reward=RNG.normal(size=len(frame)), length=RNG.integers(5, 50, size=len(frame)))


def test_deviation_is_that_of_the_means_of_repeats(evaluations):
    scores = selection.scores(evaluations).set_index("split")
    rows = evaluations[evaluations["split"] == "selection"]
    means = [rows[(rows["seed"] == s) & (rows["repeat"] == r)]["reward"].mean() for s in (0, 1) for r in range(3)]
    assert scores.loc["selection", "reward"] == pytest.approx(np.mean(means))
    assert scores.loc["selection", "reward_std"] == pytest.approx(np.std(means, ddof=1))
    assert scores.loc["selection", "repeats"] == 6
    assert scores.loc["selection", "length"] == pytest.approx(rows["length"].mean())
    with_lc = selection.scores(evaluations.assign(lc_reward=3 * evaluations["reward"] + 1)).set_index("split")
    assert with_lc.loc["selection", "lc_reward"] == pytest.approx(3 * np.mean(means) + 1)
    assert with_lc.loc["selection", "lc_reward_std"] == pytest.approx(3 * np.std(means, ddof=1))


def test_one_repeat_has_no_deviation(evaluations):
    alone = evaluations[(evaluations["seed"] == 0) & (evaluations["repeat"] == 0)]
    scores = selection.scores(alone)
    assert scores["reward_std"].tolist() == [0.0, 0.0]
    assert "length_std" not in scores
    assert scores["repeats"].tolist() == [1, 1]


def test_every_model_and_split_has_its_own_length_coefficient():
    """Rewards made of a quality and a slope in length: without the slope it is the quality that is left, exactly."""
    generator = np.random.default_rng(4)
    # Of each prompt, mean and standard deviation of the reward, then of the length, of three references at -1, 0, 1.
    prompts = {"b": (1.0, 0.5, 100, 10), "c": (-2.0, 2.0, 60, 20), "a": (0.3, 0.1, 300, 75)}
    references = pd.DataFrame(
        [
            {"prompt_id": name, "reward": mean + spread * i, "length": length + reach * -i}
            for i in (-1, 0, 1)
            for name, (mean, spread, length, reach) in prompts.items()
        ]
    )
    rows = []
    for algorithm, beta, step, seed, split in product(("dpo", "qrpo"), (0.1, 0.3), (0, 5), (0, 1), ("s", "r")):
        slope, quality = generator.normal(size=2)
        for name, repeat in product("abc", range(4)):
            mean, spread, length, reach = prompts[name]
            longer = int(generator.integers(-3, 4))
            row = {"algorithm": algorithm, "setting": "offline", "beta": beta, "learning_rate": 1e-4, "step": step}
            row |= {"seed": seed, "split": split, "prompt_id": name, "repeat": repeat}
            row |= {"reward": mean + spread * (quality + slope * longer), "length": length + reach * longer}
            rows.append(row | {"expected": mean + spread * quality})
    evaluations = pd.DataFrame(rows).sample(frac=1, random_state=0)
    controlled = selection.with_lc_reward(evaluations, references)
    assert controlled.drop(columns="lc_reward").equals(evaluations)
    np.testing.assert_allclose(controlled["lc_reward"], evaluations["expected"], rtol=1e-9)
    assert np.abs(controlled["lc_reward"] - evaluations["reward"]).mean() > 0.1


def with_slopes(slopes):
    """Evaluations of three prompts, a slope of the reward in the length for each repeat; and their references."""
    references = [(name, 10 * i, 100 + 20 * i) for name in "abc" for i in (-1, 0, 1)]
    rows = [
        {"prompt_id": name, "repeat": repeat, "length": 100 + 20 * i, "reward": 10 * (1 + slope * i)}
        for repeat, slope in enumerate(slopes)
        for name, i in zip("abcabc", (-2, 3, 1, 0, -3, 1), strict=True)
    ]
    cell = {"algorithm": "qrpo", "setting": "offline", "beta": 0.1, "learning_rate": 1e-4, "step": 5, "seed": 0}
    return pd.DataFrame(rows).assign(**cell, split="s"), pd.DataFrame(
        references, columns=["prompt_id", "reward", "length"]
    )


def test_asked_so_every_repeat_has_its_own_length_coefficient():
    """The reward is 10 for every length less a slope of the repeat: with coefficients of repeats that is left."""
    evaluations, references = with_slopes((0.5, -2.0))
    apart = selection.with_lc_reward(evaluations, references, each_repeat=True)["lc_reward"]
    np.testing.assert_allclose(apart, 10, rtol=1e-9)
    assert np.abs(selection.with_lc_reward(evaluations, references)["lc_reward"] - 10).max() > 1


def test_names_as_categories_change_nothing(evaluations):
    """As columns of names are in files: of categories, one of which may have no row."""
    references = evaluations.drop_duplicates(["prompt_id", "repeat"])[["prompt_id", "reward", "length"]]
    categories = pd.CategoricalDtype(["dpo", "qrpo", "rebel"])
    as_category = evaluations.astype({"algorithm": categories})
    results = []
    for given in (evaluations, as_category):
        controlled = selection.with_lc_reward(given, references)
        scores = selection.scores(controlled)
        results.append((controlled, scores, selection.best_of_settings(scores), selection.select(scores)))
    for plain, categorical in zip(*results, strict=True):
        pd.testing.assert_frame_equal(plain, categorical.astype({"algorithm": plain["algorithm"].dtype}))
