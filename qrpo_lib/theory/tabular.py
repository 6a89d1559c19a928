"""A policy over enumerated completions of one prompt: closed forms, the exact loss, gradient descent (Eq. 2, 6, 14).

A policy is its log-probabilities (m,) over m completions; rewards (m,) are whatever the objective optimises, usually
f of the quantile reward. No neural network, no sampling: every expectation is a sum.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special


@dataclass(frozen=True)
class TabularFit:
    """What gradient descent reached: log-probabilities, loss after each step, and whether it met the tolerance."""

    log_policy: np.ndarray
    losses: np.ndarray
    converged: bool


def random_prompt(completions: int, seed: int, concentration: float = 1.0):
    """Log-probabilities (m,) of a Dirichlet-random reference policy and distinct Gaussian raw rewards (m,)."""
    rng = np.random.default_rng(seed)
    # log of Gamma draws rather than of Dirichlet draws, which underflow to 0 for small concentrations
    logits = np.log(rng.gamma(concentration + 1, size=completions)) + np.log(rng.random(completions)) / concentration
    return special.log_softmax(logits), rng.normal(size=completions)


def quantiles(log_policy, rewards) -> np.ndarray:
    """F(R(y)) = P_{y' ~ policy}[R(y') <= R(y)] for every completion (Eq. 8), exact: (m,). Ties count."""
    values, index = np.unique(rewards, return_inverse=True)
    cumulative = np.cumsum(np.bincount(index, weights=np.exp(log_policy), minlength=len(values)))
    return (cumulative / cumulative[-1])[index]


def quantile_rewards(transform, log_policy, rewards) -> np.ndarray:
    """f(F(R(y))) for every completion, with F clamped for m references where f needs it (log, normal): (m,)."""
    return transform(transform.clamp(quantiles(log_policy, rewards), len(rewards)))


def log_partition(log_ref, rewards, beta: float) -> float:
    """log Z = log sum_y pi_ref(y) exp(R(y)/beta) (Eq. 2)."""
    return float(special.logsumexp(log_ref + np.asarray(rewards) / beta))


def optimal_policy(log_ref, rewards, beta: float) -> np.ndarray:
    """log pi*(y) = log pi_ref(y) + R(y)/beta - log Z (Eq. 2): (m,)."""
    return log_ref + np.asarray(rewards) / beta - log_partition(log_ref, rewards, beta)


def rounds(transform, log_ref, rewards, beta: float, count: int, requantile: bool) -> np.ndarray:
    """log-policy (m,) after `count` rounds at strength count x beta, each referring to the last policy (Appendix A).

    Parameters
    ----------
    transform: a Transformation.
    log_ref, rewards: (m,) log-probabilities of the first reference, and raw rewards.
    beta: the strength of one stage.
    count: the number of rounds.
    requantile: take the quantile rewards anew under each round's reference, as QRPO would; otherwise they stay those of
        `log_ref`, as the paper's argument assumes.
    """
    policy, fixed = log_ref, quantile_rewards(transform, log_ref, rewards)
    for _ in range(count):
        reward = quantile_rewards(transform, policy, rewards) if requantile else fixed
        policy = optimal_policy(policy, reward, count * beta)
    return policy


def kl(log_policy, log_other) -> float:
    """KL(policy || other) in nats, as the sum of p (e^w - 1 - w), w = log(other/policy): no cancellation."""
    w = log_other - log_policy
    near = np.where(np.abs(w) < 1e-4, w, 0.0)
    far = np.exp(log_other) - np.exp(log_policy) * (1 + w)
    return float(np.where(np.abs(w) < 1e-4, np.exp(log_policy) * near**2 * (1 / 2 + near / 6), far).sum())


def regularised_reward(log_policy, log_ref, rewards, beta: float) -> float:
    """E_policy[R] - beta KL(policy || pi_ref), the objective (Eq. 1), in units of the reward.

    Parameters
    ----------
    log_policy, log_ref: (m,) log-probabilities.
    rewards: (m,).
    beta: the strength.
    """
    return float((np.exp(log_policy) * (rewards - beta * (log_policy - log_ref))).sum())


def loss(log_policy, log_ref, rewards, beta: float, data) -> float:
    """E_{y ~ data}[(R - beta log Z - beta log(pi/pi_ref))^2] (Eq. 6), in reward units squared.

    Parameters
    ----------
    log_policy, log_ref: (m,) log-probabilities.
    rewards: (m,).
    beta: the strength.
    data: (m,) probabilities that the completions are trained on with.
    """
    return float((data * _residual(log_policy, log_ref, rewards, beta) ** 2).sum())


def gradient(log_policy, log_ref, rewards, beta: float, data) -> np.ndarray:
    """Gradient (m,) of `loss` in the logits: -2 beta E[residual x grad log pi] (Eq. 14), grad log pi(y) = e_y - pi.

    Parameters
    ----------
    log_policy, log_ref, rewards, beta, data: as in `loss`.
    """
    weighted = -2 * beta * data * _residual(log_policy, log_ref, rewards, beta)
    return weighted - weighted.sum() * np.exp(log_policy)


def fit(log_ref, rewards, beta: float, data=None, tolerance: float = 1e-6, max_steps: int = 100_000) -> TabularFit:
    """Gradient descent on `loss` from pi_ref, until every log-ratio is near its target.

    The step is the inverse of a bound on the curvature.

    Parameters
    ----------
    log_ref, rewards: (m,).
    beta: the strength.
    data: (m,) probabilities > 0, uniform by default.
    tolerance: the largest distance of a log-ratio from its target, in nats.
    max_steps: where it stops at the latest.

    Raises
    ------
    ValueError
        A completion without probability in the data.
    """
    data = np.full(len(log_ref), 1 / len(log_ref)) if data is None else np.asarray(data)
    if not (data > 0).all():
        raise ValueError("every completion needs a positive probability in the data: the others are never fitted.")
    policy, losses = log_ref, []
    target = rewards - beta * log_partition(log_ref, rewards, beta) + beta * log_ref
    for _ in range(max_steps):
        residual = target - beta * policy
        losses.append(float((data * residual**2).sum()))
        if np.abs(residual).max() <= beta * tolerance:
            break
        probabilities = np.exp(policy)
        weighted = -2 * beta * data * residual
        # the Jacobian of log pi in the logits is I - 1 pi^T, of norm at most 1 + sqrt(m) |pi|
        curvature = 2 * beta**2 * data.max() * (1 + np.sqrt(len(policy)) * np.linalg.norm(probabilities)) ** 2
        logits = policy - (weighted - weighted.sum() * probabilities) / curvature
        logits -= logits.max()
        policy = logits - np.log(np.exp(logits).sum())
    return TabularFit(policy, np.array(losses), bool(np.abs(residual).max() <= beta * tolerance))


def _residual(log_policy, log_ref, rewards, beta):
    """R - beta log Z - beta log(pi/pi_ref): (m,), in units of the reward."""
    return rewards - beta * log_partition(log_ref, rewards, beta) - beta * (log_policy - log_ref)
