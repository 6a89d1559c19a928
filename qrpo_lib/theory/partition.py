"""The partition function as a moment generating function, and the law of the quantile reward (Appendices C, D, E).

The other analytical parts stand in modules of their own: `noise`, `asymptotics`, `optimal_policy`, `tabular`.
"""

import math

import numpy as np
from scipy import optimize, special, stats

from qrpo_lib.objective import transforms
from qrpo_lib.objective.quantile import quantile_reward

# --- log Z(beta) = log MGF(1/beta) of the reference reward, for known reward distributions (Eq. 7) -------------------


def gaussian_log_partition(beta, mean: float = 0.0, std: float = 1.0):
    """log Z for Gaussian reference rewards: mean/beta + std^2/(2 beta^2). Shape of `beta`; rewards in any unit."""
    return transforms.get("scaled-normal", mu=mean, sigma=std).log_partition(beta)


def uniform_log_partition(beta, low: float = 0.0, high: float = 1.0):
    """log Z for rewards uniform on [low, high], low < high. Shape of `beta`."""
    if not low < high:
        raise ValueError(f"a uniform distribution needs low < high, got {low} and {high}.")
    betas = np.asarray(beta, dtype=float)[()]
    return low / betas + transforms.get("identity").log_partition(betas / (high - low))


def exponential_log_partition(beta, rate: float = 1.0):
    """log Z for exponential rewards with that rate: -log(1 - 1/(rate beta)), finite only for beta > 1/rate.

    Shape of `beta`. Raises DivergentPartitionError where 1/beta >= rate: the right tail is too heavy (Appendix F).
    """
    betas = np.asarray(beta, dtype=float)
    if not (betas * rate > 1).all():
        raise transforms.DivergentPartitionError(
            f"Z is infinite: exponential rewards of rate {rate} need beta > {1 / rate:g}, got beta={beta}."
        )
    return -np.log1p(-1 / (rate * betas))[()]


def normal_quadrature(transform, beta: float) -> float:
    """log Z of `normal` or `scaled-normal` by quadrature over z = Phi^-1(t), within 15 of the integrand's peak.

    Independent of the closed form, and possible at every beta, where quadrature over t is not: the mass of Z lies
    around z = sigma/beta, where t rounds to 1.
    """
    centre = transform.scale / beta

    def f(u):  # beta times the log of phi(z) exp((mu + sigma z)/beta) dz/du, so that exp(f/beta) is the integrand
        z = centre + 30 * (u - 0.5)
        return transform.mean + transform.scale * z + beta * (math.log(30) - math.log(2 * math.pi) / 2 - z**2 / 2)

    return transforms.log_partition(f, beta)


def discrete_reward_log_partition(beta, values, probabilities):
    """log sum_k p_k exp(v_k/beta) for rewards `values` (K,) and `probabilities` (K,) summing to 1. Shape of `beta`.

    With the completions' own rewards and probabilities it is the definition of Z (Eq. 2); with the distinct rewards
    and their total probabilities it is the moment generating function: Appendix C says both agree.
    """
    p = np.asarray(probabilities, dtype=float)
    if (p < 0).any() or abs(p.sum() - 1) > 1e-6:
        raise ValueError("probabilities must be >= 0 and sum to 1.")
    return special.logsumexp(np.asarray(values) / np.asarray(beta, dtype=float)[..., None], b=p, axis=-1)


def group_by_reward(rewards, probabilities):
    """The distribution of rewards: distinct values (K,) ascending and their probabilities (K,) (Appendix C's P_ref)."""
    values, index = np.unique(np.asarray(rewards), return_inverse=True)
    return values, np.bincount(index, weights=probabilities, minlength=len(values))


# --- the law of the quantile reward (Appendix D) --------------------------------------------------------------------


def exact_quantile_test(distribution, samples: int, seed: int) -> float:
    """p-value of the Kolmogorov-Smirnov test that F_ref(R) is uniform on (0, 1) for rewards R ~ `distribution`.

    `distribution` is a frozen scipy.stats distribution; uniform exactly when it is continuous.
    """
    rewards = distribution.rvs(samples, random_state=np.random.default_rng(seed))
    return float(stats.kstest(distribution.cdf(rewards), "uniform").pvalue)


def target_distribution_test(source, target, samples: int, seed: int) -> float:
    """p-value of the test that f(R_q) follows `target` for f its inverse distribution function (Appendix B).

    Parameters
    ----------
    source: the law of the raw reward.
    target: the law wanted; both are frozen continuous scipy.stats distributions.
    samples: how many rewards are drawn.
    seed: of the draws.
    """
    rewards = source.rvs(samples, random_state=np.random.default_rng(seed))
    return float(stats.kstest(target.ppf(source.cdf(rewards)), target.cdf).pvalue)


def discrete_quantile_test(probabilities, samples: int, seed: int) -> float:
    """p-value of the chi-square test that, with K tied reward values, R_q = F_k with probability p_k.

    The test is made on the shares of samples with R_q <= F_k, k = 1..K, where the uniform law still holds.
    """
    p = np.asarray(probabilities, dtype=float)
    rewards = np.random.default_rng(seed).choice(len(p), size=samples, p=p)
    quantiles = np.cumsum(p)[rewards]
    counts = np.diff([np.count_nonzero(quantiles <= level + 1e-12) for level in (0.0, *np.cumsum(p))])
    return float(stats.chisquare(counts, samples * p).pvalue)


def estimated_quantile_test(distribution, n: int, samples: int, seed: int) -> float:
    """p-value of the chi-square test that n R_q is uniform on 0, 1, ..., n when R_q is estimated from n references.

    Parameters
    ----------
    distribution: frozen continuous scipy.stats distribution of the raw reward.
    n: the number of references.
    samples: how many quantiles are estimated.
    seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    quantiles = quantile_reward(
        distribution.rvs(samples, random_state=rng), distribution.rvs((samples, n), random_state=rng)
    )
    counts = np.bincount(np.rint(quantiles * n).astype(int), minlength=n + 1)
    return float(stats.chisquare(counts).pvalue)


# --- the paper's simplification, beta log Z_q ~ 1 + beta log beta (Eq. 12) ------------------------------------------


def simplification_error(beta):
    """(1 + beta log beta) - beta log Z_q = -beta log(1 - e^(-1/beta)) > 0, in units of the quantile reward."""
    betas = np.asarray(beta, dtype=float)
    return (-betas * np.log1p(-np.exp(-1 / betas)))[()]


def simplification_range(tolerance: float = 1e-6) -> float:
    """The largest beta up to which 1 + beta log beta is within `tolerance` of beta log Z_q."""
    return math.exp(optimize.brentq(lambda u: math.log(simplification_error(math.exp(u)) / tolerance), -6, 3))


# --- discrete rewards (Appendix E) ----------------------------------------------------------------------------------


def estimated_discrete_error(transform, beta: float, probabilities, n: int, repeats: int, seed: int) -> np.ndarray:
    """beta log Z_f from probabilities counted on n reference rewards, minus its exact value: (repeats,) errors.

    Parameters
    ----------
    transform: what `transforms.discrete_log_partition` takes; the error is in units of the transformed reward.
    beta: the strength.
    probabilities: (K,) of the reward values in increasing order.
    n: the number of reference rewards.
    repeats: simulations.
    seed: of the draws.
    """
    counts = np.random.default_rng(seed).multinomial(n, probabilities, size=repeats)
    estimated = transforms.discrete_log_partition(transform, beta, counts / n)
    return beta * (estimated - transforms.discrete_log_partition(transform, beta, probabilities))


def continuous_approximation_error(transform, beta, values: int):
    """beta log Z_f of K = `values` equally likely rewards minus that of continuous ones. Shape of `beta`."""
    exact = transforms.discrete_log_partition(transform, beta, np.full(values, 1 / values))
    return np.asarray(beta, dtype=float)[()] * (exact - transform.log_partition(beta))
