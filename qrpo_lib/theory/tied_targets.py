"""What ties do to the calibrated target: bias and noise with the exact, the finite and the discrete log Z (App. E).

A reward has K values with reference probabilities p; a completion of value k has the true quantile F_k = p_1 + ... +
p_k and the true target f(F_k) - beta log Z, Z = sum_k p_k exp(f(F_k) / beta). Of n references the counts of the values
are multinomial, so every moment is a sum over counts.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from qrpo_lib.objective import transforms

PARTITIONS = ("exact", "finite", "discrete")
MOST_COUNTS = 500_000


@dataclass(frozen=True)
class Errors:
    """Of a target, in units of the transformed reward; over completions of the reference, references drawn anew.

    bias, std: (K,) of the target of each value, mean and standard deviation of its error. constant_bias, constant_rms:
    of -beta log Z alone, which is common to all completions of a prompt. rms: of the target, over values.
    """

    bias: np.ndarray
    std: np.ndarray
    constant_bias: float
    constant_rms: float
    rms: float


def errors(probabilities, n: int, beta: float, partition: str, transform="identity") -> Errors:
    """Errors of f(R_q-hat) - beta log Z, with the quantile estimated from n references and the log Z that is named.

    Parameters
    ----------
    probabilities: (K,) of the reward's values in increasing order, under the reference.
    n: references of a prompt.
    beta: the strength.
    partition: "exact" and "finite" as in `losses.qrpo`, "discrete" as in `partitions.discrete_target`.
    transform: a name or a Transformation, whose clamp is applied.

    Raises
    ------
    ValueError
        An unknown partition, or more combinations of counts than can be summed.
    """
    if partition not in PARTITIONS:
        raise ValueError(f"unknown partition {partition!r}: use one of {', '.join(PARTITIONS)}.")
    f, p = transforms.get(transform), np.asarray(probabilities, dtype=float)
    counts, weights = _counts(tuple(p), n)
    ranks = np.cumsum(counts, axis=-1)
    values = f(f.clamp(ranks / n, n))
    true = f(np.cumsum(p).clip(max=1.0))
    true_log_z = transforms.discrete_log_partition(f, beta, p)
    if partition == "discrete":
        with np.errstate(divide="ignore"):
            terms = np.where(counts > 0, values / beta + np.log(counts / n), -np.inf)
        log_z = special.logsumexp(terms, axis=-1)
    else:
        log_z = f.log_partition(beta) if partition == "exact" else transforms.finite_log_partition(f, beta, n)
    constant = np.broadcast_to(-beta * (log_z - true_log_z), weights.shape)
    error = values - true + constant[:, None]
    bias = weights @ error
    std = np.sqrt(weights @ (error - bias) ** 2)
    return Errors(
        bias,
        std,
        float(weights @ constant),
        math.sqrt(weights @ constant**2),
        math.sqrt(p @ (bias**2 + std**2)),
    )


@functools.lru_cache(maxsize=8)
def _counts(probabilities: tuple[float, ...], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every way that n references divide among the values, (ways, K), and the probability of each."""
    values = len(probabilities)
    if math.comb(n + values - 1, values - 1) > MOST_COUNTS:
        raise ValueError(f"{n} references divide among {values} values in more than {MOST_COUNTS} ways: take fewer.")
    bars = np.array(list(itertools.combinations(range(n + values - 1), values - 1))).reshape(-1, values - 1)
    edges = np.concatenate([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), n + values - 1)], axis=1)
    counts = np.diff(edges, axis=1) - 1
    logs = special.gammaln(n + 1) - special.gammaln(counts + 1).sum(-1)
    return counts, np.exp(logs + special.xlogy(counts, np.array(probabilities)).sum(-1))
