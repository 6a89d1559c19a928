"""Estimates with their confidence intervals, by what varies: prompts and training seeds in one world, and worlds.

Arrays in, arrays out. A world is an initial policy with prompts, pairs and reference completions of its own.

*In one world* prompts and seeds are crossed: every seed's policy answers the same prompts. Answers to a prompt are not
independent units: they are averaged first. So y[s, p] = mean + seed + prompt + rest, and the variance of the mean is
that of the seeds over S, plus that of the prompts over P, plus that of the rest over SP. The interval is the
generalised confidence interval of that model (Weerahandi 1993): each mean square is replaced by what could have given
it. It says nothing of other worlds.

*Over worlds* there is one number a world, and Student's t interval of these numbers: whatever varies between and inside
of worlds is in them. Both were chosen by coverage (`tests/results/test_coverage.py`, which also shows what was not
chosen: a bootstrap of few units is too narrow, at 3 seeds and 3 worlds by a third and more).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

DRAWS = 20_000


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval, from n prompts (or other independent units), some training seeds, and
    some worlds.

    error: the standard error.
    """

    mean: float
    low: float
    high: float
    n: int
    seeds: int = 1
    error: float = float("nan")
    worlds: int = 1

    def __str__(self) -> str:
        ends = "" if np.isinf(self.low) and np.isinf(self.high) else f" [{self.low:.4f}, {self.high:.4f}]"
        return f"{self.mean:.4f}{ends}"  # of one seed or world there is no interval


def mean_interval(values: np.ndarray, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean over prompts and seeds of one world with its confidence interval.

    Parameters
    ----------
    values: (prompts,) or (seeds, prompts) finite numbers. Repeats within a prompt (several completions) are averaged by
        the caller first, since they are not independent. One row is one seed: of the variation between seeds it says
        nothing, and the interval is Student's over prompts.
    level: coverage of the interval.
    seed: of the draws.

    Raises
    ------
    ValueError
        `values` has fewer than 2 prompts, another number of dimensions, or is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or values.shape[-1] < 2 or values.shape[0] < 1:
        raise ValueError(f"An interval needs at least 2 units, as (units,) or (seeds, units), not {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("An interval needs finite values.")
    values = np.atleast_2d(values)
    seeds, units = values.shape
    mean = float(values.mean())
    if seeds == 1:
        reach, error = _students(values[0], level)
        return Interval(mean, mean - reach, mean + reach, units, 1, error)
    squares, freedom = _mean_squares(values)
    of_seeds, of_prompts, of_rest, normal = _pivots(freedom, seed)
    drawn = squares[0] * of_seeds + squares[1] * of_prompts - squares[2] * of_rest
    # The law is symmetric: the quantile of absolute deviations has less noise than two quantiles.
    reach = float(np.quantile(np.sqrt(np.maximum(drawn, 0.0) / values.size) * normal, level))
    error = float(np.sqrt(max(squares[0] + squares[1] - squares[2], squares[1]) / values.size))
    return Interval(mean, mean - reach, mean + reach, units, seeds, error)


def clustered_interval(
    statistic: Callable[[np.ndarray], float],
    prompts: np.ndarray,
    seeds: np.ndarray,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Any smooth statistic of rows of one world, with its interval over prompts and seeds.

    The rows of one prompt and seed are left out, one cell after another; what the statistic then is gives each cell's
    share in it (the jackknife's pseudo-values), and `mean_interval` the interval of these.

    Parameters
    ----------
    statistic: row indices to a finite number.
    prompts, seeds: (rows,) of which prompt and which training seed each row is; each seed has rows of each prompt.
    level, seed: as of `mean_interval`.

    Raises
    ------
    ValueError
        Fewer than 2 prompts, a seed without rows of a prompt, or a statistic that is not finite, of all rows or of all
        but those of one cell.
    """
    prompt_names, prompts = np.unique(prompts, return_inverse=True)
    seed_names, seeds = np.unique(seeds, return_inverse=True)
    if len(prompt_names) < 2:
        raise ValueError("An interval needs at least 2 prompts.")
    shape = (len(seed_names), len(prompt_names))
    cell = seeds * shape[1] + prompts
    if len(np.unique(cell)) < shape[0] * shape[1]:
        raise ValueError("An interval needs rows of every prompt from every seed.")
    estimate = float(statistic(np.arange(len(cell))))
    without = np.array([statistic(np.flatnonzero(cell != number)) for number in range(shape[0] * shape[1])])
    if not (np.isfinite(estimate) and np.isfinite(without).all()):
        raise ValueError("An interval needs a statistic that is finite on all rows, and without those of one prompt.")
    shares = len(without) * (estimate - without) + without
    interval = mean_interval(shares.reshape(shape), level=level, seed=seed)
    low, high = (end - interval.mean + estimate for end in (interval.low, interval.high))
    return Interval(estimate, low, high, interval.n, interval.seeds, interval.error)


def over_worlds(estimates: Sequence[float], *, level: float = 0.95, n: int = 0, seeds: int = 1) -> Interval:
    """Mean of one estimate a world with Student's t interval; a single world has none: its ends are infinite.

    Parameters
    ----------
    estimates: (worlds,) finite numbers.
    level: coverage of the interval.
    n, seeds: prompts and training seeds of each world, which the result tells and nothing else.

    Raises
    ------
    ValueError
        No estimate, or one that is not finite.
    """
    mean, reach, error = _of_each(estimates, "world", level)
    return Interval(mean, mean - reach, mean + reach, n, seeds, error, len(estimates))


def not_below_best(values: dict[str, np.ndarray]) -> set[str]:
    """Which policies a table prints in bold: the best mean, and those that it is not significantly better than.

    values: of each policy, (seeds, prompts), the same prompts in the same order. Paired by prompt (and by seed where
    both have as many seeds, else by prompt means), at the 95 % level of `mean_interval`.
    """
    best = max(values, key=lambda name: np.mean(values[name]))
    return {name for name in values if name == best or difference(values[best], values[name]).low <= 0}


def difference(first: np.ndarray, second: np.ndarray) -> Interval:
    """Paired difference first - second of two policies on the same prompts, each (seeds, prompts)."""
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    if first.shape == second.shape:
        return mean_interval(first - second)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"Policies are compared on the same prompts, not on {first.shape[1]} and {second.shape[1]}.")
    # Another number of seeds: the smaller side's mean over its seeds stands against each seed of the larger one.
    if len(first) >= len(second):
        return mean_interval(first - second.mean(axis=0))
    return mean_interval(first.mean(axis=0) - second)


def seed_interval(values: np.ndarray, *, level: float = 0.95) -> Interval:
    """Mean of one number a training seed, (seeds,), with its t interval, for what is recorded as a mean over prompts.

    A single seed has no interval: its ends are infinite. Raises ValueError for none, or numbers that are not finite.
    """
    mean, reach, error = _of_each(values, "seed", level)
    return Interval(mean, mean - reach, mean + reach, 0, len(values), error)


def distance_interval(distance: float, n: int, *, level: float = 0.95) -> Interval:
    """The largest distance of two distribution functions, from that of the empirical one of n independent draws.

    By the inequality of Dvoretzky, Kiefer and Wolfowitz with Massart's constant: for any law, at any n.
    """
    reach = float(np.sqrt(np.log(2 / (1 - level)) / (2 * n)))
    return Interval(distance, max(distance - reach, 0.0), distance + reach, n)


def _of_each(values: Sequence[float], what: str, level: float) -> tuple[float, float, float]:
    """Mean of one number a world or seed, how far its interval reaches (infinitely for one), and the standard error."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 1 or not np.isfinite(values).all():
        raise ValueError(f"An interval over {what}s needs one finite number a {what}, not {values}.")
    return float(values.mean()), *(_students(values, level) if len(values) > 1 else (float("inf"), float("nan")))


def _students(values: np.ndarray, level: float) -> tuple[float, float]:
    """How far Student's interval of independent numbers reaches from their mean, and the standard error."""
    from scipy import stats

    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    return float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * error, error


@cache
def _pivots(freedom: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """(DRAWS,) each: degrees of freedom over draws of chi-square, and absolute values of normal numbers."""
    generator = np.random.default_rng(seed)
    drawn = [degrees / generator.chisquare(degrees, DRAWS) for degrees in freedom]
    return [*drawn, np.abs(generator.normal(size=DRAWS))]


def _mean_squares(values: np.ndarray) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
    """Mean squares of seeds, prompts and the rest of (seeds, prompts), and their degrees of freedom."""
    seeds, prompts = values.shape
    of_seeds, of_prompts, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    rest = values - of_seeds[:, None] - of_prompts + mean
    freedom = (seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1))
    sums = (prompts * ((of_seeds - mean) ** 2).sum(), seeds * ((of_prompts - mean) ** 2).sum(), (rest**2).sum())
    return tuple(float(total / degrees) for total, degrees in zip(sums, freedom, strict=True)), freedom
