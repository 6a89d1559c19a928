"""Means with their confidence intervals, by a seeded bootstrap: arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval, from n independent units."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def mean_interval(values: np.ndarray, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of independent units with its percentile-bootstrap confidence interval.

    Parameters
    ----------
    values: (n,) finite numbers, one for each independent unit. Repeats within a unit (several completions of one
        prompt, say) are averaged by the caller first, since they are not independent.
    level: coverage of the interval.
    seed: of the resampling.

    Raises
    ------
    ValueError
        `values` is not one-dimensional, has fewer than 2 units, or is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size < 2:
        raise ValueError(f"A bootstrap needs at least 2 units in one dimension, not an array of shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("A bootstrap needs finite values.")
    generator = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    # In blocks: all resamples at once would take resamples x n of memory.
    block = max(1, 2_000_000 // values.size)
    for start in range(0, RESAMPLES, block):
        stop = min(start + block, RESAMPLES)
        means[start:stop] = values[generator.integers(values.size, size=(stop - start, values.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), values.size)
