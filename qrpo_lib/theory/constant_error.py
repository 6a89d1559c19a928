"""What an error c common to all targets of a prompt does to the best policy: who needs an exact partition function?

Targets t + c, where t = beta log(pi*/pi_ref) are those of a policy, are those of none: exp((t + c)/beta) sums to
e^(c/beta). Among the policies that there are, the one with the least E_data (t + c - beta log(pi/pi_ref))^2 has, with
delta = log(pi/pi*), w = pi*/data and Lagrange's multiplier for the sum of probabilities,

    delta + k w e^delta = c/beta,   so that   delta = c/beta - W(k w e^(c/beta)),

with Lambert's W and k, of the sign of c, such that sum pi* e^delta = 1. What follows from that:

- data = pi* (online training, at its end): w = 1, so delta = 0 whatever c is;
- small c: delta = (c/beta) (1 - w/E w), KL = (c/beta)^2/2 Var(w)/E(w)^2, moments under pi*;
- c > 0 (Z too small): pi moves towards the data, and is pi_data (1 + (t - ...)/c) in the end: imitation;
- c < 0 (Z too large): away from the data. Below a certain c one completion takes what the others must not have; what
  the data does not hold at all takes 1 - e^(c/beta) at no cost, and the rest is fitted without error.

A policy is its log-probabilities (m,) over the completions of one prompt, as in `tabular`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from qrpo_lib.objective import transforms

_NOTHING = 1e-12  # nats: the sum of the optimum's probabilities is no nearer to 1


@dataclass(frozen=True)
class Best:
    """A stationary policy: log-probabilities (m,), and the completion on W's other branch, or None.

    That completion takes what the sum of probabilities needs and all others must not have.
    """

    log_policy: np.ndarray
    alone: int | None = None


def best_policy(log_optimum: np.ndarray, log_data: np.ndarray, c_over_beta: float) -> Best:
    """The policy with the least squared error on the data where all targets are off by c, in closed form but for k.

    Parameters
    ----------
    log_optimum: (m,) of pi*, what the policy would be at c = 0.
    log_data: (m,) of what is trained on, all finite.
    c_over_beta: the error in nats of the log-ratio; as good as 0 below 1e-12.
    """
    if c_over_beta > -_NOTHING:
        return connected_policy(log_optimum, log_data, c_over_beta)
    every = (_stationary(log_optimum, log_data, c_over_beta, alone) for alone in (None, *range(len(log_data))))
    points = [point for point in every if point is not None]
    data = np.exp(log_data)
    return min(points, key=lambda point: squared_error(point.log_policy, log_optimum, data, c_over_beta))


def connected_policy(log_optimum: np.ndarray, log_data: np.ndarray, c_over_beta: float) -> Best:
    """The stationary policy that pi* becomes as c moves away from 0: what training comes to first.

    For c > 0 it is the only one, and the best. For c < 0 it is a local minimum; where W's branch ends, the completion
    with the largest w goes on alone. Parameters as in `best_policy`.
    """
    if abs(c_over_beta) < _NOTHING:
        return Best(log_optimum.copy())
    stationary = _stationary(log_optimum, log_data, c_over_beta, None)
    if stationary is None:
        stationary = _stationary(log_optimum, log_data, c_over_beta, int(np.argmax(log_optimum - log_data)))
    if stationary is None:
        raise ValueError(f"no policy is at a minimum for c/beta = {c_over_beta}.")
    return stationary


def _stationary(log_optimum, log_data, c_over_beta: float, alone: int | None) -> Best | None:
    """The stationary policy with that completion on W's other branch, or None if there is none."""
    # |k| w e^(c/beta) = exp(a + log_w): a stays in range where k itself overflows
    log_w = log_optimum - log_data
    log_w = log_w - log_w.max()

    def log_ratio(a: float) -> np.ndarray:
        if c_over_beta > 0:
            return c_over_beta - special.wrightomega(a + log_w)
        delta = c_over_beta - special.lambertw(-np.exp(a + log_w)).real
        if alone is not None:
            delta[alone] = c_over_beta - _other_branch(a + log_w[alone])
        return delta

    def excess(a: float) -> float:
        return float(special.logsumexp(log_optimum + log_ratio(a)))

    if c_over_beta > 0:
        low, high = -10.0, 10.0
        while excess(low) < 0:
            low *= 2
        while excess(high) > 0:
            high *= 2
    else:
        high = -1.0 - 1e-12  # beyond, the completion with the largest w has no real solution
        # From few nats below 0 to far below, where the others are at e^(c/beta) and that completion at more than 1.
        below = high - np.geomspace(1e-6, 1e3, 40)
        signs = [excess(high) > 0, *(excess(a) > 0 for a in below)]
        change = next((i for i in range(40) if signs[i] != signs[i + 1]), None)
        if change is None:
            return None
        low, high = below[change], (high, *below)[change]
    policy = log_optimum + log_ratio(optimize.brentq(excess, low, high, xtol=1e-13))
    return Best(policy - special.logsumexp(policy), alone)


def squared_error(log_policy, log_optimum, data, c_over_beta: float) -> float:
    """E_data (c/beta - log(pi/pi*))^2, the loss over beta^2, in squared nats.

    Parameters
    ----------
    log_policy, log_optimum: (m,) log-probabilities.
    data: (m,) probabilities of what is trained on.
    c_over_beta: the error of all targets in nats.
    """
    return float(data @ (c_over_beta - (log_policy - log_optimum)) ** 2)


def numerical_policy(log_optimum: np.ndarray, log_data: np.ndarray, c_over_beta: float, start=None) -> np.ndarray:
    """The minimum of `best_policy` by BFGS on the logits, independent of the closed form: (m,) log-probabilities.

    Parameters
    ----------
    log_optimum: (m,) of pi*, what the policy would be at c = 0.
    log_data: (m,) of what is trained on.
    c_over_beta: the error of all targets, in nats of the log-ratio.
    start: (m,) logits to start from; pi* by default. Where there are several minima it decides which one is found.
    """
    data = np.exp(log_data)

    def loss(logits):
        policy = special.log_softmax(logits)
        residual = c_over_beta - (policy - log_optimum)
        weighted = -2 * data * residual
        return float(data @ residual**2), weighted - weighted.sum() * np.exp(policy)

    start = log_optimum if start is None else start
    result = optimize.minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 20_000})
    return special.log_softmax(result.x)


def second_order_kl(log_optimum: np.ndarray, log_data: np.ndarray, c_over_beta: float) -> float:
    """(c/beta)^2/2 Var(w)/E(w)^2 under pi*, w = pi*/data: KL of the best policy to pi*, either way, for small c."""
    log_w = log_optimum - log_data
    first = special.logsumexp(log_optimum + log_w)
    second = special.logsumexp(log_optimum + 2 * log_w)
    return c_over_beta**2 / 2 * math.expm1(second - 2 * first)


def reference_data_factor(beta: float, transform="identity") -> float:
    """Var(w)/(2 E(w)^2) for continuous rewards and the reference's data, so that KL = factor x (c/beta)^2.

    w = exp(f/beta)/Z: by Z at beta, beta/2 and beta/3. For f = t and small beta it is 1/6.
    """
    f = transforms.get(transform)
    log_z = [f.log_partition(beta / k) for k in (1, 2, 3)]
    return math.expm1(log_z[2] + log_z[0] - 2 * log_z[1]) / 2


@dataclass(frozen=True)
class Gain:
    """What a policy gains over the reference: mean reward, its KL in nats, and the objective reward - beta KL."""

    reward: float
    kl: float
    objective: float


def outcome(log_policy, log_ref, rewards, beta: float) -> Gain:
    """What a policy gains over the reference policy, in the rewards' unit at strength beta.

    Parameters
    ----------
    log_policy, log_ref: (m,) log-probabilities.
    rewards: (m,).
    beta: the strength.
    """
    policy = np.exp(log_policy)
    gain = float((policy - np.exp(log_ref)) @ rewards)
    kl = float(policy @ (log_policy - log_ref))
    return Gain(gain, kl, gain - beta * kl)


def _other_branch(log_minus: float) -> float:
    """W_-1(-e^x) for x <= -1; below double range from w = x - log(-w), iterated."""
    if log_minus > -700:
        return float(special.lambertw(-math.exp(log_minus), -1).real)
    w = log_minus
    for _ in range(60):
        w = log_minus - math.log(-w)
    return w
