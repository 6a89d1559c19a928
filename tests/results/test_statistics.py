import numpy as np
import pytest
from scipy import stats

from qrpo_lib.results import statistics
from qrpo_lib.results.statistics import (
    Interval,
    clustered_interval,
    difference,
    distance_interval,
    mean_interval,
    not_below_best,
    over_worlds,
    seed_interval,
)


def test_of_one_seed_the_interval_is_students():
    values = np.random.default_rng(0).exponential(size=200)
    ours = mean_interval(values)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs))
    assert (ours.mean, ours.error, ours.n, ours.seeds) == pytest.approx((values.mean(), stats.sem(values), 200, 1))


def test_coverage_is_near_its_level():
    generator = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        interval = mean_interval(generator.normal(3.0, 1.0, size=80), level=0.8, seed=seed)
        inside += interval.low <= 3.0 <= interval.high
    # Binomial(200, 0.8): 0.001 and 0.999 quantiles.
    assert stats.binom.ppf(0.001, 200, 0.8) <= inside <= stats.binom.ppf(0.999, 200, 0.8)


def test_seeded():
    values = np.random.default_rng(0).normal(size=(3, 50))
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)


@pytest.mark.parametrize("values", [[1.0], np.ones((2, 2, 2)), [1.0, np.nan]])
def test_unusable_values_are_refused(values):
    with pytest.raises(ValueError, match="interval needs"):
        mean_interval(np.asarray(values))


def test_seeds_and_prompts_are_both_in_the_error():
    # y = seed effect + prompt effect: the variance of the mean is known in closed form.
    generator = np.random.default_rng(1)
    of_seed, of_prompt = generator.normal(0, 1.0, size=(5, 1)), generator.normal(0, 2.0, size=(1, 100))
    interval = mean_interval(of_seed + of_prompt)
    assert interval.error == pytest.approx(np.sqrt(of_seed.var(ddof=1) / 5 + of_prompt.var(ddof=1) / 100))
    assert (interval.n, interval.seeds) == (100, 5)
    only_prompts = mean_interval((of_seed + of_prompt).mean(axis=0))
    assert only_prompts.error == pytest.approx(of_prompt.std(ddof=1) / 10)


def test_where_seeds_alone_vary_the_interval_is_students_over_seeds():
    of_seed = np.array([[0.3], [1.1], [0.4]])
    interval = mean_interval(np.broadcast_to(of_seed, (3, 80)))
    theirs = stats.ttest_1samp(of_seed[:, 0], 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx(tuple(theirs), rel=0.1)


def mean_squares_by_regression(values):
    """Mean squares of seeds, prompts and the rest, with their degrees of freedom: what regressors leave unexplained."""
    seeds, prompts = (axis.ravel() for axis in np.indices(values.shape))
    of_seeds, of_prompts = np.eye(len(values))[seeds], np.eye(values.shape[1])[prompts]

    def left(*regressors):
        design = np.column_stack([np.ones(values.size), *regressors])
        fitted = design @ np.linalg.lstsq(design, values.ravel(), rcond=None)[0]
        return ((values.ravel() - fitted) ** 2).sum(), values.size - np.linalg.matrix_rank(design)

    rest, rest_freedom = left(of_seeds, of_prompts)
    without = [left(of_prompts), left(of_seeds)]
    squares = [(total - rest) / (freedom - rest_freedom) for total, freedom in without]
    return [*squares, rest / rest_freedom], [freedom - rest_freedom for _, freedom in without] + [rest_freedom]


@pytest.mark.parametrize(
    ("seeds", "prompts", "spread"),
    [(2, 3, (0, 0)), (3, 5, (0, 0)), (3, 5, (0, 3)), (3, 5, (2, 0)), (2, 40, (0.5, 2)), (6, 4, (1, 1))],
)
def test_the_generalised_interval_is_that_of_the_mean_squares(seeds, prompts, spread):
    """Weerahandi's pivot with mean squares of a regression and other draws, ten times as many."""
    generator = np.random.default_rng([seeds, prompts])
    values = generator.normal(size=(seeds, prompts)) + spread[0] * generator.normal(size=(seeds, 1))
    values += spread[1] * generator.normal(size=(1, prompts))
    squares, freedom = mean_squares_by_regression(values)
    first, second, rest = (
        square * degrees / generator.chisquare(degrees, 200_000)
        for square, degrees in zip(squares, freedom, strict=True)
    )
    variances = np.maximum(first + second - rest, 0) / values.size
    reach = np.quantile(np.abs(generator.normal(size=200_000)) * np.sqrt(variances), 0.95)
    interval = mean_interval(values)
    assert (interval.high - interval.mean, interval.mean - interval.low) == pytest.approx((reach, reach), rel=0.1)
    # The variance of the mean by its unbiased estimate, or without the seeds' share where that came out negative.
    between = max(squares[0] - squares[2], 0)
    assert interval.error == pytest.approx(np.sqrt((between + squares[1]) / values.size))


def test_draws_are_the_same_in_every_process():
    values = np.random.default_rng(0).normal(size=(3, 20))
    before = mean_interval(values)
    statistics._pivots.cache_clear()
    assert mean_interval(values) == before


def test_two_prompts_are_enough():
    interval = mean_interval([1.0, 3.0])
    assert (interval.mean, interval.error) == (2.0, 1.0)
    assert interval.high - 2.0 == pytest.approx(12.7062, rel=1e-5)  # Student's 97.5 % with one degree of freedom


@pytest.mark.parametrize("interval_of", [mean_interval, over_worlds, seed_interval])
def test_single_precision_is_lost_by_no_sum(interval_of):
    values = (1e4 + np.random.default_rng(0).normal(size=50)).astype(np.float32)
    ours, exact = interval_of(values), interval_of(values.astype(np.float64))
    assert (ours.mean, ours.low, ours.high, ours.error) == (exact.mean, exact.low, exact.high, exact.error)


def test_an_interval_holds_what_its_level_says():
    values = np.random.default_rng(0).normal(size=(4, 60))
    reaches = [mean_interval(values, level=level).high - values.mean() for level in (0.5, 0.8, 0.95)]
    assert 0 < reaches[0] < reaches[1] < reaches[2]
    # Wider tails than the normal law's, narrower than Student's of the seeds without the last of four.
    students, normals = (law.ppf(0.975) / law.ppf(0.75) for law in (stats.t(2), stats.norm))
    assert normals < reaches[2] / reaches[0] < students


def test_of_a_mean_the_interval_of_rows_is_that_of_the_cells():
    generator = np.random.default_rng(2)
    cells = generator.normal(size=(3, 40, 1)) + generator.normal(size=(3, 40, 4)) * 0.1
    seeds, prompts, _ = (axis.ravel() for axis in np.indices(cells.shape))
    rows = cells.ravel()
    order = generator.permutation(len(rows))
    asked = {"level": 0.7, "seed": 5}
    clustered = clustered_interval(lambda index: rows[order][index].mean(), prompts[order], seeds[order], **asked)
    direct = mean_interval(cells.mean(axis=2), **asked)
    for name in ("mean", "low", "high", "error", "n", "seeds"):
        assert getattr(clustered, name) == pytest.approx(getattr(direct, name)), name


def test_of_a_correlation_the_interval_is_near_fishers():
    generator = np.random.default_rng(4)
    x = generator.normal(size=300)
    y = 0.6 * x + 0.8 * generator.normal(size=300)
    found = clustered_interval(lambda rows: stats.pearsonr(x[rows], y[rows])[0], np.arange(300), np.zeros(300))
    theirs = stats.pearsonr(x, y).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.02)


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


def test_two_seeds_say_little():
    """Student's quantile of one degree of freedom is 12.7: seeds that differ leave a wide interval."""
    cells = np.array([[0.0] * 6, [1.0] * 6])
    interval = mean_interval(cells)
    assert interval.error == pytest.approx(0.5)
    assert interval.high - 0.5 == pytest.approx(stats.t.ppf(0.975, 1) * 0.5, rel=0.1)
    seeds, prompts = (axis.ravel() for axis in np.indices(cells.shape))
    clustered = clustered_interval(lambda index: cells.ravel()[index].mean(), prompts, seeds)
    assert (clustered.low, clustered.high) == pytest.approx((interval.low, interval.high))


def test_rows_that_give_no_interval_are_refused():
    with pytest.raises(ValueError, match="at least 2 prompts"):
        clustered_interval(lambda rows: 0.0, [7, 7, 7], [0, 1, 2])
    with pytest.raises(ValueError, match="finite on all rows"):
        clustered_interval(lambda rows: np.nan, [0, 1], [0, 0])
    with pytest.raises(ValueError, match="without those of one prompt"):
        clustered_interval(lambda rows: 3.0 if len(set(rows)) == 2 else np.nan, [0, 1], [0, 0])
    with pytest.raises(ValueError, match="every prompt from every seed"):
        clustered_interval(lambda rows: 0.0, [0, 1, 0], [0, 0, 1])


def test_policies_that_are_the_same_are_bold_together():
    values = np.random.default_rng(5).normal(size=(2, 30))
    assert not_below_best({"one": values, "same": values.copy(), "worse": values - 0.1}) == {"one", "same"}


@pytest.mark.parametrize(("first", "second"), [(3, 2), (1, 4), (2, 2)])
def test_a_difference_turns_round_with_its_sides(first, second):
    """Also with other numbers of seeds, where the mean over the fewer stands against each of the more."""
    generator = np.random.default_rng(first)
    one, other = generator.normal(0.4, 1, size=(first, 50)), generator.normal(0, 1, size=(second, 50))
    forth, back = difference(one, other), difference(other, one)
    assert forth.mean == pytest.approx(one.mean() - other.mean())
    assert (forth.mean, forth.low, forth.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert (forth.n, forth.seeds) == (back.n, back.seeds) == (50, max(first, second))


@pytest.mark.parametrize("level", [0.95, 0.6])
def test_seed_interval_is_students(level):
    values = [1.0, 4.0, 2.5, 3.5]
    interval = seed_interval(values, level=level)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert (interval.low, interval.high) == pytest.approx(tuple(theirs))
    assert (interval.mean, interval.error) == pytest.approx((2.75, stats.sem(values)))
    assert (interval.n, interval.seeds) == (0, 4)
    if level == 0.95:
        assert seed_interval(values) == interval


def test_one_seed_says_nothing_and_none_is_refused():
    alone = seed_interval([2.0])
    assert (alone.mean, alone.low, alone.high, alone.n, alone.seeds) == (2.0, -np.inf, np.inf, 0, 1)
    for values in ([], [1.0, np.nan], [[1.0, 2.0]], 1.0):
        with pytest.raises(ValueError, match="one finite number a seed"):
            seed_interval(values)


def test_distance_interval_solves_the_inequality_for_its_reach():
    """P(distance > reach) <= 2 exp(-2 n reach^2), which is to be 1 - level; no distance is below 0."""
    for n, level in ((50, 0.95), (2000, 0.8)):
        interval = distance_interval(0.9, n, level=level)
        for reach in (interval.high - 0.9, 0.9 - interval.low):
            assert 2 * np.exp(-2 * n * reach**2) == pytest.approx(1 - level)
        assert (interval.mean, interval.n) == (0.9, n)
        assert interval.low < 0.9 < interval.high
    assert distance_interval(0.01, 50).low == 0


def test_an_interval_is_written_with_its_ends_in_order():
    assert str(Interval(0.5, 0.25, 1.0, 40, 3)) == "0.5000 [0.2500, 1.0000]"
    assert str(Interval(1.5, 1.0, 2.0, 9)) == "1.5000 [1.0000, 2.0000]"
    assert str(statistics.seed_interval(np.array([1.5]))) == "1.5000"  # one seed has none


def test_over_worlds_it_is_students():
    values = [1.0, 4.0, 2.5, 3.5]
    interval = over_worlds(values, n=96, seeds=3)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx(tuple(theirs))
    assert interval.error == pytest.approx(stats.sem(values))
    assert (interval.mean, interval.n, interval.seeds, interval.worlds) == (2.75, 96, 3, 4)
    alone = over_worlds([2.0], n=96, seeds=3)
    assert (alone.mean, alone.low, alone.high) == (2.0, -np.inf, np.inf)
    assert (alone.n, alone.seeds, alone.worlds) == (96, 3, 1)
    assert (over_worlds(values).n, over_worlds(values).seeds) == (0, 1)
    for wrong in ([], [1.0, np.inf], 3.0):
        with pytest.raises(ValueError, match="one finite number a world"):
            over_worlds(wrong)
