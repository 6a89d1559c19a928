"""Estimates with their confidence intervals, by a seeded bootstrap over prompts and training seeds.

Arrays in, arrays out. Prompts and seeds are crossed: every seed's policy answers the same prompts. A resample draws
prompts with replacement and, where there are several, seeds with replacement, independently (Owen 2007). Repeats within
a prompt and seed are not independent units: they are averaged first, or stay together. With S seeds the variance
between seeds is understated by the factor (S - 1)/S, as in any bootstrap of few units, and noise of single (seed,
prompt) cells counts up to three times: the intervals of a mean dominated by that noise are wide rather than narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval, from n prompts (or other independent units) and some training seeds.

    error: standard deviation of the bootstrap's estimates.
    """

    mean: float
    low: float
    high: float
    n: int
    seeds: int = 1
    error: float = float("nan")

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def mean_interval(values: np.ndarray, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of independent units with its percentile-bootstrap confidence interval.

    Parameters
    ----------
    values: (units,) or (seeds, units) finite numbers. Repeats within a unit (several completions of one prompt, say)
        are averaged by the caller first, since they are not independent.
    level: coverage of the interval.
    seed: of the resampling.

    Raises
    ------
    ValueError
        `values` has fewer than 2 units, another number of dimensions, or is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or values.shape[-1] < 2 or values.shape[0] < 1:
        raise ValueError(f"A bootstrap needs at least 2 units, as (units,) or (seeds, units), not {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("A bootstrap needs finite values.")
    values = np.atleast_2d(values)
    seeds, units = values.shape
    generator = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    # In blocks: all resamples at once would take resamples x units of memory.
    block = max(1, 2_000_000 // values.size)
    for start in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - start)
        drawn = generator.integers(units, size=(count, units))
        of_seeds = generator.integers(seeds, size=(count, seeds)) if seeds > 1 else np.zeros((count, 1), dtype=int)
        means[start : start + count] = values[of_seeds[:, :, None], drawn[:, None, :]].mean(axis=(1, 2))
    return _interval(float(values.mean()), means, level, units, seeds)


def clustered_interval(
    statistic: Callable[[np.ndarray], float],
    prompts: np.ndarray,
    seeds: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Any statistic of rows with its percentile-bootstrap interval, resampled by prompt and by seed.

    Parameters
    ----------
    statistic: row indices (in which a row can occur several times) to a finite number.
    prompts, seeds: (rows,) of which prompt and which training seed each row is. All rows of a pair stay together.

    Raises
    ------
    ValueError
        Fewer than 2 prompts, or the statistic of all rows is not finite.
    """
    prompt_names, prompts = np.unique(prompts, return_inverse=True)
    seed_names, seeds = np.unique(seeds, return_inverse=True)
    if len(prompt_names) < 2:
        raise ValueError("A bootstrap needs at least 2 prompts.")
    estimate = float(statistic(np.arange(len(prompts))))
    if not np.isfinite(estimate):
        raise ValueError("A bootstrap needs a statistic that is finite on all rows.")
    generator = np.random.default_rng(seed)
    estimates = np.empty(resamples)
    for i in range(resamples):
        times = np.bincount(generator.integers(len(prompt_names), size=len(prompt_names)), minlength=len(prompt_names))
        of_seed = np.ones(1, dtype=int)
        if len(seed_names) > 1:
            of_seed = np.bincount(generator.integers(len(seed_names), size=len(seed_names)), minlength=len(seed_names))
        estimates[i] = statistic(np.repeat(np.arange(len(prompts)), times[prompts] * of_seed[seeds]))
    return _interval(estimate, estimates, level, len(prompt_names), len(seed_names))


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
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 1 or not np.isfinite(values).all():
        raise ValueError(f"An interval over seeds needs one finite number a seed, not {values}.")
    if len(values) == 1:
        return Interval(float(values[0]), -np.inf, np.inf, 0, 1)
    from scipy import stats

    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    reach = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * error
    mean = float(values.mean())
    return Interval(mean, mean - reach, mean + reach, 0, len(values), error)


def distance_interval(distance: float, n: int, *, level: float = 0.95) -> Interval:
    """The largest distance of two distribution functions, from that of the empirical one of n independent draws.

    By the inequality of Dvoretzky, Kiefer and Wolfowitz with Massart's constant: for any law, at any n.
    """
    reach = float(np.sqrt(np.log(2 / (1 - level)) / (2 * n)))
    return Interval(distance, max(distance - reach, 0.0), distance + reach, n)


def _interval(estimate: float, estimates: np.ndarray, level: float, units: int, seeds: int) -> Interval:
    estimates = estimates[np.isfinite(estimates)]
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), units, seeds, float(estimates.std(ddof=1)))
