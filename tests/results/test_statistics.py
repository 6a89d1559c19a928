import numpy as np
import pytest
from scipy import stats

from qrpo_lib.results.statistics import clustered_interval, difference, mean_interval, not_below_best


def test_interval_agrees_with_scipys_bootstrap():
    values = np.random.default_rng(0).exponential(size=200)
    ours = mean_interval(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert ours.mean == pytest.approx(values.mean(), rel=1e-12)
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_coverage_is_near_its_level():
    generator = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        interval = mean_interval(generator.normal(3.0, 1.0, size=80), level=0.8, seed=seed)
        inside += interval.low <= 3.0 <= interval.high
    # Binomial(200, 0.8): 0.001 and 0.999 quantiles.
    assert stats.binom.ppf(0.001, 200, 0.8) <= inside <= stats.binom.ppf(0.999, 200, 0.8)


def test_seeded():
    values = np.random.default_rng(0).normal(size=50)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)


@pytest.mark.parametrize("values", [[1.0], np.ones((2, 2, 2)), [1.0, np.nan]])
def test_unusable_values_are_refused(values):
    with pytest.raises(ValueError, match="bootstrap needs"):
        mean_interval(np.asarray(values))


def test_seeds_and_prompts_are_both_resampled():
    # y = seed effect + prompt effect: the variance of the resampled mean is known in closed form.
    generator = np.random.default_rng(1)
    of_seed, of_prompt = generator.normal(0, 1.0, size=(5, 1)), generator.normal(0, 2.0, size=(1, 100))
    interval = mean_interval(of_seed + of_prompt)
    expected = np.sqrt(of_seed.var() / 5 + of_prompt.var() / 100)
    assert interval.error == pytest.approx(expected, rel=0.03)
    assert (interval.n, interval.seeds) == (100, 5)
    only_prompts = mean_interval((of_seed + of_prompt).mean(axis=0))
    assert only_prompts.error == pytest.approx(of_prompt.std() / 10, rel=0.03)


def test_clusters_stay_together_and_agree_with_the_mean_of_means():
    generator = np.random.default_rng(2)
    cells = generator.normal(size=(3, 40, 1)) + generator.normal(size=(3, 40, 4)) * 0.1
    seeds, prompts, _ = (axis.ravel() for axis in np.indices(cells.shape))
    rows = cells.ravel()
    clustered = clustered_interval(lambda index: rows[index].mean(), prompts, seeds, resamples=4000)
    direct = mean_interval(cells.mean(axis=2))
    assert clustered.mean == pytest.approx(direct.mean)
    assert clustered.error == pytest.approx(direct.error, rel=0.06)
    assert (clustered.n, clustered.seeds) == (40, 3)


def test_bold_is_the_best_and_what_it_does_not_beat():
    generator = np.random.default_rng(3)
    prompts = generator.normal(size=(1, 200))
    values = {
        "best": prompts + generator.normal(0.30, 0.3, size=(3, 200)),
        "close": prompts + generator.normal(0.29, 0.3, size=(3, 200)),
        "worse": prompts + generator.normal(0.00, 0.3, size=(3, 200)),
        "one seed": (prompts + generator.normal(0.30, 0.3, size=(3, 200))).mean(axis=0, keepdims=True),
    }
    assert not_below_best(values) == {"best", "close", "one seed"}
    # Without pairing, the prompts' own spread would hide the difference.
    assert difference(values["best"], values["worse"]).error < 0.5 * prompts.std() / np.sqrt(200)


def test_policies_on_other_prompts_cannot_be_compared():
    with pytest.raises(ValueError, match="same prompts"):
        difference(np.ones((1, 3)), np.ones((2, 4)))
