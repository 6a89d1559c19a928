"""The optimal policy pi* seen through its rewards: densities, thresholds, best-of-N (Appendix A, Eq. 15 and 16)."""

import numpy as np
from scipy import special

from qrpo_lib.objective import transforms


def quantile_density(transform, beta: float, quantile):
    """Density of the quantile reward under pi*, exp(f(t)/beta)/Z_f at t = `quantile` (any shape); 1 under pi_ref."""
    f = transforms.get(transform)
    return np.exp(f(quantile) / beta - f.log_partition(beta))


def reward_density(transform, beta: float, distribution, rewards):
    """Density of the raw reward under pi*, p_ref(r) exp(f(F_ref(r))/beta)/Z_f (Eq. 16), shape of `rewards`.

    Parameters
    ----------
    transform: what `transforms.get` takes.
    beta: the strength.
    distribution: frozen scipy.stats distribution of the raw reward under pi_ref.
    rewards: where the density is wanted, any shape.
    """
    return distribution.pdf(rewards) * quantile_density(transform, beta, distribution.cdf(rewards))


def threshold(transform, beta):
    """beta log Z_f: a sample's probability rises at the start of training iff f(R_q) exceeds it. Shape of `beta`."""
    return (np.asarray(beta, dtype=float) * transforms.get(transform).log_partition(beta))[()]


def share_above(transform, beta):
    """Share of reference completions above the threshold, P(f(R_q) > beta log Z_f) for uniform R_q. Shape of `beta`."""
    f = transforms.get(transform)
    level = (np.asarray(threshold(f, beta)) - f.mean) / f.scale
    survival = {
        "identity": lambda x: 1 - x,
        "log": lambda x: -np.expm1(x),
        "square": lambda x: 1 - np.sqrt(x),
        "sqrt": lambda x: 1 - x**2,
        "normal": lambda x: special.ndtr(-x),
        "scaled-normal": lambda x: special.ndtr(-x),
    }
    return survival[f.name](level)[()]


def best_of_n_density(n: int, quantile):
    """Density of the quantile reward of the best of n reference completions, n t^(n-1), shape of `quantile`."""
    return n * np.asarray(quantile, dtype=float) ** (n - 1)


def best_of_n_log_beta(n: int) -> float:
    """The beta at which f = log t has the best-of-n policy as its optimum, 1/(n - 1): log t/beta = (n - 1) log t."""
    if n < 2:
        raise ValueError(f"best-of-N is an optimal policy for N >= 2; with N = {n} it is the reference policy itself.")
    return 1 / (n - 1)


def requantiled_best_of(beta: float, rounds: int) -> float:
    """N of the best-of-N policy after `rounds` rounds of f = log t at rounds x beta, with quantiles taken anew.

    Each round raises the completions' quantile to the power 1 + 1/(rounds beta), so N = (1 + 1/(rounds beta))^rounds,
    against N = 1 + 1/beta in one round, which the paper's argument gives for rewards that stay fixed.
    """
    return (1 + 1 / (rounds * beta)) ** rounds
