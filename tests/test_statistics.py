import numpy as np
import pytest
from scipy import stats

from qrpo_lib.statistics import mean_interval


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


@pytest.mark.parametrize("values", [[1.0], np.ones((2, 2)), [1.0, np.nan]])
def test_unusable_values_are_refused(values):
    with pytest.raises(ValueError, match="bootstrap needs"):
        mean_interval(np.asarray(values))
