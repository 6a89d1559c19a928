"""Noise of the calibrated target: an estimated partition function against an estimated quantile (Appendices G, H, I).

Standard deviations are in units of the reward. Where the formula overflows, logarithms are returned.
"""

import math

import numpy as np
from scipy import special, stats

from qrpo_lib.objective import transforms

# --- the two formulas of Figure 7 -----------------------------------------------------------------------------------


def log_exponential_variance(beta, sigma: float = 1.0):
    """log Var[exp(r/beta)] = log(e^(sigma^2/beta^2) (e^(sigma^2/beta^2) - 1)) for Gaussian r of mean 0 (Appendix H)."""
    exponent = (sigma / np.asarray(beta, dtype=float)) ** 2
    return 2 * exponent + np.log(-np.expm1(-exponent))


def log_partition_noise(beta, n, sigma: float = 1.0):
    """log of Eq. 17, Std[beta log Z-hat] ~ beta sqrt((e^(sigma^2/beta^2) - 1)/n), broadcast over beta and n.

    The logarithm, because e^(sigma^2/beta^2) overflows below beta = 0.04. It linearises log around Z, so it says
    something only for n far above e^(sigma^2/beta^2).
    """
    beta, n = np.asarray(beta, dtype=float), np.asarray(n, dtype=float)
    log_z = (sigma / beta) ** 2 / 2
    return np.log(beta) + (log_exponential_variance(beta, sigma) - np.log(n)) / 2 - log_z


def quantile_noise(quantile, n):
    """Std[R_q-hat] = sqrt(F(1 - F)/n) for a sample of exact quantile F, broadcast; exact for every n (Appendix I)."""
    quantile = np.asarray(quantile, dtype=float)
    return np.sqrt(quantile * (1 - quantile) / np.asarray(n, dtype=float))


# --- the same by simulation -----------------------------------------------------------------------------------------


def simulate_log_partition(betas, counts, repeats: int, seed: int, sigma: float = 1.0) -> np.ndarray:
    """Errors of beta log Z-hat, Z-hat = mean of exp(r_i/beta) over n Gaussian rewards: (betas, counts, repeats).

    The same draws serve every beta and count (the first n of them), in the log domain; the exact value is
    sigma^2/(2 beta).

    Parameters
    ----------
    betas: (betas,), and counts: (counts,), the numbers n, ascending.
    repeats: simulations of each.
    seed: of the draws.
    sigma: standard deviation of the rewards; the errors are in their unit.
    """
    betas, counts = np.asarray(betas, dtype=float), np.asarray(counts)
    rng = np.random.default_rng(seed)
    errors = np.empty((len(betas), len(counts), repeats))
    chunk = max(1, 2_000_000 // int(counts[-1]))  # bounds memory to 16 MB a chunk
    for first in range(0, repeats, chunk):
        rewards = rng.normal(scale=sigma, size=(min(chunk, repeats - first), int(counts[-1])))
        for row, beta in enumerate(betas):
            errors[row, :, first : first + chunk] = beta * _running_log_mean(rewards / beta, counts)
    return errors - (sigma**2 / (2 * betas))[:, None, None]


def _running_log_mean(values, counts) -> np.ndarray:
    """log of the mean of exp(values[:, :n]) for each n in `counts` (ascending): (counts, rows)."""
    result, total, done = [], np.full(len(values), -np.inf), 0
    for n in counts:
        if n > done:
            block = values[:, done:n]
            highest = block.max(-1)
            block = highest + np.log(np.exp(block - highest[:, None]).sum(-1))
            total, done = np.logaddexp(total, block), n
        result.append(total - math.log(n))
    return np.array(result)


def simulate_quantile(quantiles, counts, repeats: int, seed: int) -> np.ndarray:
    """Errors of R_q-hat from n reference rewards for samples of exact quantile F: (quantiles, counts, repeats).

    Made from reward draws, not from the binomial law: Gaussian references are compared with the reward at quantile F.

    Parameters
    ----------
    quantiles: (quantiles,), the F.
    counts: (counts,), the n.
    repeats: simulations of each.
    seed: of the draws.
    """
    quantiles, counts = np.asarray(quantiles, dtype=float), np.asarray(counts)
    rng = np.random.default_rng(seed)
    rewards = stats.norm.ppf(quantiles)
    errors = np.empty((len(quantiles), len(counts), repeats))
    for column, n in enumerate(counts):
        chunk = max(1, 2_000_000 // int(n))
        for first in range(0, repeats, chunk):
            ref_rewards = np.sort(rng.normal(size=(min(chunk, repeats - first), int(n))), axis=-1)
            ranks = np.array([np.searchsorted(row, rewards, side="right") for row in ref_rewards])
            errors[:, column, first : first + chunk] = ranks.T / n - quantiles[:, None]
    return errors


def standard_deviation(errors):
    """Standard deviation over the last axis and its standard error (from the fourth central moment)."""
    centred = errors - errors.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1)
    fourth = (centred**4).mean(-1)
    error = np.sqrt(np.maximum(fourth - variance**2, 0) / errors.shape[-1])
    std = np.sqrt(variance)
    return std, np.divide(error, 2 * std, out=np.zeros_like(std), where=std > 0)


# --- what beta log Z-hat does where the linearisation fails ----------------------------------------------------------


def extreme_value_bias(beta, n, sigma: float = 1.0):
    """Bias of beta log Z-hat when the largest reward dominates: E[max of n] - beta log n - sigma^2/(2 beta), broadcast.

    The small-beta limit, for n far below e^(sigma^2/(2 beta^2)), the number of samples that reach the rewards
    around sigma^2/beta that make up Z.
    """
    beta, n = np.asarray(beta, dtype=float), np.asarray(n)
    return sigma * _normal_maximum(n)[0] - beta * np.log(n) - sigma**2 / (2 * beta)


def extreme_value_std(n, sigma: float = 1.0):
    """Standard deviation of beta log Z-hat in the same limit: that of the largest of n Gaussian rewards."""
    return sigma * _normal_maximum(n)[1]


def _normal_maximum(n):
    """Mean and standard deviation of the largest of n standard normals, shape of n (trapezoid rule on its density)."""
    x = np.linspace(-12, 12, 4801)
    n = np.asarray(n, dtype=float)[..., None]
    density = np.exp(np.log(n) + stats.norm.logpdf(x) + (n - 1) * special.log_ndtr(x))
    weight = density / density.sum(-1, keepdims=True)
    mean = (weight * x).sum(-1)
    return mean, np.sqrt((weight * (x - mean[..., None]) ** 2).sum(-1))


# --- the whole calibrated target f(R_q-hat) - beta log Z_f with n reference rewards ----------------------------------


def target_moments(transform, n: int, quantile):
    """Bias and standard deviation of f(R_q-hat) for samples of exact quantile F: two arrays shaped as F.

    They are those of the calibrated target with the exact log Z_f at every beta; `partition="finite"` adds
    `partition_gap` to the bias. Exact: n R_q-hat is Binomial(n, F). `transform` a Transformation, whose clamp is
    applied; F in (0, 1). In units of the transformed reward; divide by beta for nats of the log-ratio. Raises
    ValueError as `clamp` does.
    """
    quantile = np.asarray(quantile, dtype=float)
    ranks = np.arange(n + 1)
    probabilities = stats.binom.pmf(ranks, n, quantile[..., None])
    values = transform(transform.clamp(ranks / n, n))
    mean = probabilities @ values
    std = np.sqrt((probabilities * (values - mean[..., None]) ** 2).sum(-1))
    return mean - transform(quantile), std


def mean_target_errors(transform, n: int):
    """Errors of the target with the exact log Z_f, averaged over reference completions (F uniform): three floats.

    The mean of its bias, the root mean square of its bias, and that of its standard deviation; units of the
    transformed reward.
    """
    tail = 2.0 ** -np.arange(20, 1, -1)  # log t and the normal are infinite at the ends
    edges = np.concatenate([[0], tail, np.linspace(0.25, 0.75, 9)[1:-1], 1 - tail[::-1], [1]])
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half = np.diff(edges)[:, None] / 2
    quantiles, shares = (edges[:-1, None] + half * (nodes + 1)).ravel(), (half * weights).ravel()
    bias, std = target_moments(transform, n, quantiles)
    return float(shares @ bias), math.sqrt(shares @ bias**2), math.sqrt(shares @ std**2)


def partition_gap(transform, beta, n: int):
    """beta (log Z_f - log Z_f,n): how far the paper's target lies below the finite-sample one. Shape of `beta`.

    In units of the transformed reward; over beta, in nats, it is the log of E[exp(target/beta)] over reference
    completions with its sign changed: 0 for targets that a normalised policy can meet.
    """
    gap = np.asarray(transform.log_partition(beta)) - transforms.finite_log_partition(transform, beta, n)
    return (np.asarray(beta, dtype=float) * gap)[()]


def simulate_finite_partition(transform, beta: float, n: int, distribution, prompts: int, seed: int):
    """Monte Carlo log Z_f,n, and its standard error (delta method).

    The mean of exp(f(R_q-hat)/beta) over fresh draws of a sample and its n references.

    Parameters
    ----------
    transform: a Transformation, whose clamp is applied.
    beta: the strength.
    n: the number of references.
    distribution: frozen scipy.stats distribution of the raw reward.
    prompts: the number of draws.
    seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    rewards, ref_rewards = distribution.rvs(prompts, random_state=rng), distribution.rvs((prompts, n), random_state=rng)
    values = transform(transform.clamp(np.count_nonzero(ref_rewards <= rewards[:, None], axis=-1) / n, n)) / beta
    highest = values.max()
    scaled = np.exp(values - highest)
    return math.log(scaled.mean()) + highest, scaled.std() / scaled.mean() / math.sqrt(prompts)


def given_references_spread(transform, beta: float, n: int, repeats: int, seed: int) -> np.ndarray:
    """beta log Z of one prompt given its n reference rewards, minus beta log Z_f,n: (repeats,) prompts.

    Given the references, a fresh sample has rank k with probability F(r_(k+1)) - F(r_(k)): uniform spacings, whose
    mean is 1/(n + 1), so Z_f,n is the mean over prompts of these Z.

    Parameters
    ----------
    transform: a Transformation, whose clamp is applied; the result is in units of the transformed reward.
    beta: the strength.
    n: the number of references.
    repeats: the number of prompts.
    seed: of the spacings.
    """
    spacings = np.random.default_rng(seed).dirichlet(np.ones(n + 1), size=repeats)
    values = transform(transform.clamp(np.arange(n + 1) / n, n)) / beta
    log_z = special.logsumexp(values, b=spacings, axis=-1)
    return beta * (log_z - transforms.finite_log_partition(transform, beta, n))
