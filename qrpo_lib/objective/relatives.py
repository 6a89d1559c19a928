"""Losses of QRPO's relatives: pure functions on tensors, one loss for each sample, no reduction, as `losses`.

Pointwise, regressions on a target for beta times the log-ratio: `regression` itself, `raw_reward` (Z estimated),
`discrete_qrpo` (App. E), `best_of_n` (App. B), `dro` (a value that is learned), `a_star_po` (a value from references).
From labels: `kto`. On pairs: `ipo`, `rpo`. Shapes, units and errors as in `losses`; log-ratios are sums over tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qrpo_lib.objective import losses, partitions
from qrpo_lib.objective.transforms import Named

DISTANCES = ("squared", "backward-kl")


def regression(logps: Tensor, ref_logps: Tensor, targets: Tensor, *, beta: float) -> Tensor:
    """(target - beta log-ratio)^2, the regression of Eq. 6 on any calibrated target: (...,).

    Parameters
    ----------
    logps, ref_logps: (...,) log-probabilities of the completions under the policy and under the reference policy.
    targets: (...,), in units of the reward.
    beta: strength of the KL regularisation, in the same units.

    Raises
    ------
    ValueError
        A beta that is not positive, shapes that differ, values that are not finite.
    """
    losses.check_beta(beta)
    losses.check_tensors(logps=logps, ref_logps=ref_logps, targets=targets)
    return (targets.to(logps) - beta * (logps - ref_logps)).square()


def raw_reward(
    logps: Tensor, ref_logps: Tensor, rewards: Tensor, ref_rewards: Tensor, *, beta: float, corrected: bool = False
) -> Tensor:
    """Eq. 6 with Z estimated from the references: `regression` on `partitions.raw_target`: (...,).

    Parameters
    ----------
    logps, ref_logps: (...,) log-probabilities of the completions under the policy and under the reference policy.
    rewards, ref_rewards: (...,) and (..., n) in one unit, which beta has too.
    beta: strength of the KL regularisation.
    corrected: whether log Z-hat is the jackknifed one, which needs n >= 2.
    """
    target = partitions.raw_target(rewards, ref_rewards, beta=beta, corrected=corrected)
    return regression(logps, ref_logps, target, beta=beta)


def discrete_qrpo(
    logps: Tensor,
    ref_logps: Tensor,
    rewards: Tensor,
    ref_rewards: Tensor,
    *,
    beta: float,
    transform: Named = "identity",
) -> Tensor:
    """QRPO with the partition function of few reward values (App. E): `regression` on `partitions.discrete_target`.

    Parameters
    ----------
    logps, ref_logps: (...,) log-probabilities of the completions under the policy and under the reference policy.
    rewards, ref_rewards: (...,) and (..., n) in any unit.
    beta, transform: as in `losses.qrpo`.
    """
    target = partitions.discrete_target(rewards, ref_rewards, beta=beta, transform=transform)
    return regression(logps, ref_logps, target, beta=beta)


def best_of_n(
    logps: Tensor, ref_logps: Tensor, rewards: Tensor, ref_rewards: Tensor, *, best_of: int, partition: str = "exact"
) -> Tensor:
    """QRPO whose optimum is the best of N reference completions: f = log at beta = 1/(N - 1), over that beta squared.

    The target of the log-ratio, (N - 1) log R_q + log N, is also that of vBoN (Amini et al. 2024): log N F^(N - 1), the
    density ratio of best-of-N for continuous rewards. In squared nats, so that losses at different N compare.

    Parameters
    ----------
    logps, ref_logps: (...,) log-probabilities of the completions under the policy and under the reference policy.
    rewards, ref_rewards: (...,) and (..., n) in any unit; quantiles below 1/n are clamped, so n should be far above N.
    best_of: N, at least 2.
    partition: as in `losses.qrpo`.
    """
    beta = 1 / (checked_count(best_of) - 1)
    of = {"beta": beta, "transform": "log", "partition": partition}
    return losses.qrpo(logps, ref_logps, rewards, ref_rewards, **of) / beta**2


def checked_count(best_of: int) -> int:
    """N of best-of-N. Raises ValueError unless it is an integer of at least 2."""
    if isinstance(best_of, bool) or int(best_of) != best_of or best_of < 2:
        raise ValueError(f"best_of is the number of completions that the best is taken of, at least 2, got {best_of}.")
    return int(best_of)


def dro(logps: Tensor, ref_logps: Tensor, rewards: Tensor, values: Tensor, *, beta: float) -> Tensor:
    """(R - V - beta log-ratio)^2, minimised over policy and value V(x) together (Richemond et al. 2024): (...,).

    At the minimum of both V = beta log Z. The authors multiply by 1/2 and rescale the gradient of each part.

    Parameters
    ----------
    logps, ref_logps: (...,) log-probabilities of the completions under the policy and under the reference policy.
    rewards: (...,) in the unit of beta.
    values: (...,) the value of each completion's prompt, learned: gradients flow into it.
    beta: strength of the KL regularisation (the authors' tau).
    """
    losses.check_beta(beta)
    losses.check_tensors(logps=logps, ref_logps=ref_logps, rewards=rewards, values=values)
    return (rewards.to(logps) - values.to(logps) - beta * (logps - ref_logps)).square()


def a_star_po(
    logps: Tensor, ref_logps: Tensor, rewards: Tensor, ref_rewards: Tensor, *, beta: float, value_beta: float
) -> Tensor:
    """(R - V*-hat - beta log-ratio)^2, V*-hat from references beforehand (Brantley et al. 2025): (...,).

    V*-hat = value_beta log (1/n) sum_i exp(r_i / value_beta). At value_beta = beta it is `raw_reward`; the authors take
    a far larger one, whose estimate is good, and which is off by a constant. They sample from the policy itself.

    Parameters
    ----------
    logps, ref_logps: (...,) log-probabilities of the completions under the policy and under the reference policy.
    rewards, ref_rewards: (...,) and (..., n) in one unit, which both betas have too.
    beta: strength of the KL regularisation of the regression (the authors' beta_2).
    value_beta: that of the value (beta_1).
    """
    value = value_beta * partitions.log_mean_exp(ref_rewards, beta=value_beta)
    losses.check_tensors(rewards=rewards, value=value)
    return regression(logps, ref_logps, rewards.double() - value, beta=beta)


def kto(
    logps: Tensor,
    ref_logps: Tensor,
    desirable: Tensor,
    kl: Tensor | float,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """lambda (1 - sigmoid(+-beta (log-ratio - z_0))), + where desirable (Ethayarajh et al. 2024, Eq. 7): (...,).

    Parameters
    ----------
    logps, ref_logps: (...,) log-probabilities of the completions under the policy and under the reference policy.
    desirable: (...,) booleans, or 0 and 1, such as whether all tests pass.
    kl: z_0, the KL of policy and reference, one number or (...,); no gradient flows into it, and below 0 it is 0.
    beta: the steepness; larger is more averse to risk.
    desirable_weight, undesirable_weight: lambda of the two kinds.
    """
    losses.check_beta(beta)
    losses.check_tensors(logps=logps, ref_logps=ref_logps, desirable=desirable.to(logps))
    if not ((desirable == 0) | (desirable == 1)).all():
        raise ValueError("a completion is desirable or not: True or False, 1 or 0.")
    z_0 = torch.as_tensor(kl, dtype=logps.dtype, device=logps.device).detach().clamp(min=0)
    losses.check_tensors(logps=logps, kl=z_0.expand(logps.shape) if not z_0.ndim else z_0)
    distance = beta * (logps - ref_logps - z_0)
    return (desirable_weight * F.sigmoid(-distance)).where(desirable.bool(), undesirable_weight * F.sigmoid(distance))


def ipo(
    chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, *, beta: float
) -> Tensor:
    """(difference of log-ratios - 1/(2 beta))^2 (Azar et al. 2024, Eq. 17; beta is their tau): (...,).

    Log-ratios are sums over tokens, as the paper writes; TRL divides each by its completion's length. It is REBEL of
    rewards 1 and 0 at twice the beta.

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps: (...,) log-probabilities of the two completions.
    beta: strength of the KL regularisation, of a reward that is the probability of being preferred.
    """
    losses.check_beta(beta)
    margin = losses.log_ratio_margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return (margin - 1 / (2 * beta)).square()


def rpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    *,
    beta: float,
    eta: float = 1.0,
    distance: str = "squared",
) -> Tensor:
    """D[beta x difference of log-ratios || eta x difference of rewards] (reward-aware, Sun et al. 2025): (...,).

    Squared: REBEL at beta / eta, times beta squared. Backward KL: of the coin whose logit is eta x the difference of
    rewards to the one whose logit is beta x that of log-ratios, the expectation of DPO's loss over
    preferences that Bradley and Terry's model draws.

    Parameters
    ----------
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps: (...,) log-probabilities of the two completions.
    chosen_rewards, rejected_rewards: (...,) in any unit.
    beta: strength of the KL regularisation.
    eta: scale of the rewards.
    distance: "squared" or "backward-kl".
    """
    losses.check_choice("distance", distance, DISTANCES)
    if not 0 < eta < float("inf"):
        raise ValueError(f"eta must be a positive number, got {eta}.")
    losses.check_beta(beta)
    margin = beta * losses.log_ratio_margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    losses.check_tensors(logps=chosen_logps, chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    wanted = (eta * (chosen_rewards - rejected_rewards)).to(margin)
    if distance == "squared":
        return (margin - wanted).square()
    return F.sigmoid(wanted) * (F.logsigmoid(wanted) - F.logsigmoid(margin)) + F.sigmoid(-wanted) * (
        F.logsigmoid(-wanted) - F.logsigmoid(-margin)
    )
