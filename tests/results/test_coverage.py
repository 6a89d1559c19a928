"""How often intervals hold the truth, where it is known: those in use, and what was not chosen."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from qrpo_lib.results import statistics

PROMPTS = 96
# Variance of the mean by seeds over that by prompts and answers; and how much of the latter is by prompts.
RATIOS, SHARES = (0.0, 0.2, 1.0, 3.0), (0.1, 0.8)
# Of the worlds' variance over what one world's own sampling gives.
WORLD_RATIOS = (0.0, 1.0, 5.0)


def one_world(generator, seeds, ratio, share, skewed=False):
    """(seeds, prompts) with mean 0: effects of seeds and prompts, and answers' noise."""
    noise = generator.normal(size=(seeds, PROMPTS))
    if skewed:  # as rewards with a long right tail, of standard deviation 1
        noise = generator.exponential(size=(seeds, PROMPTS)) - 1
    of_seeds = generator.normal(0, np.sqrt(ratio * seeds / PROMPTS), size=(seeds, 1))
    of_prompts = generator.normal(0, np.sqrt(share), size=(1, PROMPTS))
    return of_seeds + of_prompts + np.sqrt((1 - share) * seeds) * noise


def worlds(generator, count, seeds, world_ratio, ratio, share):
    own = (1 + ratio) / PROMPTS  # variance of one world's mean by what is sampled in it
    shifts = generator.normal(0, np.sqrt(world_ratio * own), size=count)
    return [shift + one_world(generator, seeds, ratio, share) for shift in shifts]


def coverage(draw, interval, times):
    found = [interval(draw()) for _ in range(times)]
    return np.mean([one.low <= 0 <= one.high for one in found])


def of_pooled(values):
    return statistics.over_worlds([one.mean() for one in values])


def hierarchical_bootstrap(values, generator, resamples=200):
    """Percentile bootstrap of worlds, and in each of seeds and prompts: what was not chosen."""
    means = []
    for _ in range(resamples):
        drawn = [values[i] for i in generator.integers(len(values), size=len(values))]
        parts = []
        for one in drawn:
            seeds, prompts = (generator.integers(size, size=size) for size in one.shape)
            parts.append(one[np.ix_(seeds, prompts)].mean())
        means.append(np.mean(parts))
    low, high = np.quantile(means, [0.025, 0.975])
    return statistics.Interval(0.0, low, high, PROMPTS)


@pytest.mark.parametrize(("count", "seeds"), [(3, 3), (5, 5), (4, 4)])
def test_over_worlds_coverage_is_93_to_97_percent(count, seeds):
    """Whatever share of the variance worlds, seeds and prompts have."""
    generator = np.random.default_rng([count, seeds])
    for world_ratio, ratio in product(WORLD_RATIOS, (0.0, 1.0)):
        found = coverage(lambda w=world_ratio, r=ratio: worlds(generator, count, seeds, w, r, 0.5), of_pooled, 1200)
        # Three standard errors of 1,200 draws are 1.9 points.
        assert 0.93 < found < 0.97, (world_ratio, ratio)


@pytest.mark.parametrize("count", [3, 5])
def test_worlds_that_differ_skewly_are_missed_on_one_side(count):
    """As docs/results.md says: with exponential differences one end is missed in 11 %, the other hardly ever."""
    shifts = np.random.default_rng(0).exponential(size=(20_000, count)) - 1
    found = [statistics.over_worlds(some) for some in shifts]
    assert np.mean([one.high < 0 for one in found]) == pytest.approx(0.11, abs=0.01)
    assert np.mean([one.low > 0 for one in found]) < 0.01


def test_a_bootstrap_of_three_worlds_is_too_narrow():
    generator = np.random.default_rng(0)
    draw = lambda: worlds(generator, 3, 3, 5.0, 1.0, 0.5)  # noqa: E731
    assert coverage(draw, lambda values: hierarchical_bootstrap(values, generator, 100), 120) < 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "skewed"), [(3, False), (4, False), (5, False), (3, True)])
def test_in_one_world_coverage_is_93_to_98_percent(seeds, skewed):
    """It errs to the wide side where seeds hardly vary: three of them cannot show that."""
    generator = np.random.default_rng(seeds)
    for ratio, share in product(RATIOS, SHARES):
        draw = lambda r=ratio, s=share: one_world(generator, seeds, r, s, skewed)  # noqa: E731
        found = coverage(draw, statistics.mean_interval, 2000)
        assert 0.93 - 0.01 < found < 0.98 + 0.008, (ratio, share, found)


@pytest.mark.parametrize("ratio", [0.0, 3.0])
def test_in_one_world_three_seeds_are_covered(ratio):
    generator = np.random.default_rng(7)
    found = coverage(lambda: one_world(generator, 3, ratio, 0.5), statistics.mean_interval, 600)
    assert 0.925 < found < 0.99


def test_seeds_that_vary_make_the_interval_of_a_difference_wider():
    """Of two plans of rounds, say: prompts alone would say that there is a difference where one seed makes it."""
    generator = np.random.default_rng(0)
    prompts = generator.normal(size=(1, PROMPTS))
    first, second = (prompts + generator.normal(0, 0.1, size=(2, PROMPTS)) for _ in range(2))
    steady = statistics.difference(first, second)
    varying = statistics.difference(first + np.array([[0.5], [-0.5]]), second)
    assert varying.mean == pytest.approx(steady.mean)
    assert varying.high - varying.low > 5 * (steady.high - steady.low)


@pytest.mark.slow
@pytest.mark.parametrize("slope_deviation", [0.0, 0.3])
def test_of_a_rank_correlation_three_seeds_are_covered(slope_deviation):
    """Spearman's rho of answers whose slope differs between seeds, against its value in a large sample."""
    generator = np.random.default_rng(1)

    def rows(seeds, prompts):
        slopes = 0.5 + slope_deviation * generator.normal(size=(seeds, 1, 1))
        x = generator.normal(size=(seeds, prompts, 3))
        return x, slopes * x + generator.normal(size=x.shape)

    truth = np.mean([stats.spearmanr(*(one.ravel() for one in rows(1, 300)))[0] for _ in range(400)])
    seeds, prompts, _ = (axis.ravel() for axis in np.indices((3, 40, 3)))
    inside = 0
    for _ in range(150):
        x, y = (one.ravel() for one in rows(3, 40))

        def rho(index, x=x, y=y):
            a, b = stats.rankdata(x[index]), stats.rankdata(y[index])
            return np.corrcoef(a, b)[0, 1]

        found = statistics.clustered_interval(rho, prompts, seeds)
        inside += found.low <= truth <= found.high
    assert inside / 150 > 0.88


def fell(generator, worlds, shared, drop=0.0):
    """Whether a pool of worlds finds that the last of five checkpoints fell, by the best of the others and their mean.

    Two settings, three seeds and 48 prompts a world; seeds and single prompts vary by 1 at each checkpoint, what all
    seeds of a world share there by `shared`. There is no trend but a drop at the last checkpoint.
    """
    of_best, of_mean = [], []
    for _ in range(worlds):
        noise = generator.normal(size=(2, 5, 3, 1)) + generator.normal(size=(2, 5, 3, 48))
        of_steps = (noise + shared * generator.normal(size=(2, 5, 1, 1))).mean(axis=(2, 3))
        last = of_steps[:, -1] - drop
        of_best.append((of_steps[:, :-1].max(axis=1) - last).mean())
        of_mean.append((of_steps[:, :-1].mean(axis=1) - last).mean())
    return statistics.over_worlds(of_best).low > 0, statistics.over_worlds(of_mean).low > 0


@pytest.mark.parametrize("shared", [0.0, 1.0])
@pytest.mark.parametrize(("worlds", "at_least"), [(3, 0.2), (5, 0.4)])
def test_the_best_of_several_checkpoints_finds_a_fall_that_is_not_there_and_their_mean_does_not(
    worlds, at_least, shared
):
    generator = np.random.default_rng(worlds)
    of_best, of_mean = np.mean([fell(generator, worlds, shared) for _ in range(1500)], axis=0)
    assert of_best > at_least
    assert of_mean < 0.025 + 4 * np.sqrt(0.025 * 0.975 / 1500)


def test_a_fall_that_is_there_is_found_by_the_mean():
    generator = np.random.default_rng(0)
    assert np.mean([fell(generator, 5, 0.0, drop=2.5)[1] for _ in range(200)]) > 0.8
