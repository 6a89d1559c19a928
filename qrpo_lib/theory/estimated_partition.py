"""The error of beta log Z-hat of n reference rewards, exactly: bias, noise and law, at every n, beta and reward law.

Z-hat = (1/n) sum_i exp(r_i / beta). Its logarithm has no closed form, but with E exponential and apart from it,

    P(log E - log Z-hat > x) = E exp(-e^x Z-hat) = L(e^x / n)^n,   L(s) = E exp(-s exp(r / beta)),

for one reward r: the law of log Z-hat with a Gumbel's noise added (-log E), by one integral over r for each x. The
Gumbel's mean and variance, Euler's constant and pi^2/6, are then taken off. No simulation, no expansion in 1/n or beta.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from qrpo_lib.theory import partition

# Of the grid of x: exp(-e^x) is analytic to pi/2 off the real line, so the trapezoid rule errs by e^(-pi^2/step).
_STEP = 0.25
_NORMAL_STEP = 0.35  # of a normal reward, over beta, for the same reason


@dataclass(frozen=True, eq=False)
class RewardLaw:
    """A law of reference rewards: "normal", "uniform", or of few values (k,) with their probabilities (k,)."""

    name: str
    values: np.ndarray
    probabilities: np.ndarray

    def nodes(self, beta: float) -> tuple[np.ndarray, np.ndarray]:
        """Values and weights, both (k,): exact for few values, else of a quadrature fine enough for exp(r / beta)."""
        if self.name != "normal":
            return self.values, self.probabilities
        values = np.linspace(-12, 12, 2 * int(12 / min(_NORMAL_STEP * beta, 0.05)) + 1)
        weights = stats.norm.pdf(values)
        return values, weights / weights.sum()

    def log_partition(self, beta: float) -> float:
        """log Z = log E exp(r / beta) (Eq. 7), exact."""
        if self.name == "normal":
            return partition.gaussian_log_partition(beta)
        if self.name == "uniform":
            return partition.uniform_log_partition(beta)
        return partition.discrete_reward_log_partition(beta, self.values, self.probabilities)

    def draw(self, shape, rng: np.random.Generator) -> np.ndarray:
        """Rewards of that shape, from the law itself and not from its grid."""
        if self.name == "normal":
            return rng.normal(size=shape)
        if self.name == "uniform":
            return rng.random(size=shape)
        return rng.choice(self.values, p=self.probabilities, size=shape)


@functools.cache
def normal() -> RewardLaw:
    """The standard normal, the paper's."""
    return RewardLaw("normal", np.empty(0), np.empty(0))


def uniform() -> RewardLaw:
    """Uniform on [0, 1]: a quantile reward whose Z one estimates although it is known. For beta of 0.003 and above."""
    nodes, weights = np.polynomial.legendre.leggauss(32)
    edges = np.linspace(0, 1, 33)
    values = (edges[:-1, None] + (nodes + 1) / 2 / 32).ravel()
    return RewardLaw("uniform", values, np.tile(weights / 2 / 32, 32))


def pass_rate(tests: int, rate: float) -> RewardLaw:
    """The share passed of so many tests, each passed with that probability: values 0, 1/tests, ..., 1."""
    counts = np.arange(tests + 1)
    return RewardLaw(f"pass rate of {tests} tests", counts / tests, stats.binom.pmf(counts, tests, rate))


@dataclass(frozen=True)
class Error:
    """Mean and standard deviation of beta log Z-hat - beta log Z, in units of the reward.

    R - beta log Z-hat, the raw target, has the mean with its sign changed: the target is too high where Z is too low.
    """

    bias: float
    std: float


def error(law: RewardLaw, n: int, beta: float) -> Error:
    """Bias and standard deviation of beta log Z-hat, for any n >= 1 and beta > 0."""
    x, survival = _noisy(law, n, beta)
    # Moments of Y = log E - log Z-hat about x[0], from its survival function; the second integrand starts with slope 1.
    step = x[1] - x[0]
    first = np.trapezoid(survival, dx=step)
    second = 2 * (np.trapezoid(survival * (x - x[0]), dx=step) + step**2 / 12)
    mean = -np.euler_gamma - (x[0] + first)
    variance = max(second - first**2 - math.pi**2 / 6, 0.0)
    return Error(beta * (mean - law.log_partition(beta)), beta * math.sqrt(variance))


def jackknife_bias(law: RewardLaw, n: int, beta: float) -> float:
    """Bias of beta times the jackknifed log Z-hat: n times that of n references less n - 1 times that of n - 1."""
    return n * error(law, n, beta).bias - (n - 1) * error(law, n - 1, beta).bias


def noisy_cdf(law: RewardLaw, n: int, beta: float, values) -> np.ndarray:
    """P(log Z-hat + G <= value), G a Gumbel apart from it: the law of log Z-hat but for known noise.

    Parameters
    ----------
    law: of the rewards.
    n: references of a prompt.
    beta: strength of the KL regularisation, in units of the reward.
    values: (k,), in nats.

    Returns
    -------
    (k,) probabilities, interpolated between the points of a grid.
    """
    x, survival = _noisy(law, n, beta)
    return np.interp(-np.asarray(values, dtype=float), x, survival)


def simulate(law: RewardLaw, n: int, beta: float, repeats: int, seed: int) -> np.ndarray:
    """beta log Z-hat - beta log Z of so many prompts with n drawn references each: (repeats,), in reward units.

    Parameters
    ----------
    law: of the rewards.
    n: references of a prompt.
    beta: the strength.
    repeats: prompts.
    seed: of the draws.
    """
    rewards = law.draw((repeats, n), np.random.default_rng(seed))
    return beta * (special.logsumexp(rewards / beta, axis=-1) - math.log(n) - law.log_partition(beta))


@functools.lru_cache(maxsize=64)
def _noisy(law: RewardLaw, n: int, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """x, and P(log E - log Z-hat > x) there: (steps,) each, from where it is 1 to where it is 0."""
    values, probabilities = law.nodes(beta)
    scaled = values / beta
    low, high = _ends(values, probabilities, n, beta)
    x = np.linspace(low, high, int((high - low) / _STEP) + 2)
    survival = np.empty_like(x)
    for part in np.array_split(np.arange(len(x)), max(1, len(x) * len(scaled) // 2_000_000)):
        exponent = np.clip(x[part, None] + scaled - math.log(n), -745, 50)
        with np.errstate(under="ignore"):
            # 1 - L(s) rather than L: near 1, n of them are multiplied
            hit = -np.expm1(-np.exp(exponent)) @ probabilities
            survival[part] = np.exp(n * np.log1p(-np.minimum(hit, 1 - 1e-16)))
    return x, survival


def _ends(values, probabilities, n: int, beta: float) -> tuple[float, float]:
    """Between which log E - log Z-hat lies but for a probability of about 1e-15."""
    cumulative = np.cumsum(probabilities)
    most = values[min(np.searchsorted(cumulative, 1 - 1e-16 / n), len(cumulative) - 1)]
    least = values[np.searchsorted(cumulative, 1e-16 ** (1 / n) / 2)]
    return -most / beta - 38, -least / beta + math.log(n) + 5
