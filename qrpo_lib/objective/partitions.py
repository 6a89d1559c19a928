"""Calibrated targets whose log Z is estimated from each prompt's own reference rewards: beyond the paper's exact ones.

The paper's argument is that Z of a raw reward has to be estimated and Z of a quantile is known. Here are the estimates:
`log_mean_exp` for raw rewards, `jackknife` of it, and `discrete_log_partition` for quantile rewards with ties (App. E).
`qrpo_lib.theory.estimated_partition` and `tied_targets` say how far each is off.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qrpo_lib.objective import losses, transforms
from qrpo_lib.objective.quantile import quantile_reward
from qrpo_lib.objective.transforms import Named


def log_mean_exp(ref_rewards: Tensor, *, beta: float) -> Tensor:
    """log Z-hat = log (1/n) sum_i exp(r_i / beta) (Eq. 7 with the mean over n references): (..., n) to (...,), float64.

    Raises ValueError for a beta that is not positive, n = 0, rewards that are not finite, and r / beta beyond float64.
    """
    losses.check_beta(beta)
    _check_references(ref_rewards)
    if not (ref_rewards.double() / beta).isfinite().all():
        raise ValueError(
            f"rewards over beta = {beta:g} are beyond what a number holds: scale the rewards, or take a larger beta."
        )
    return torch.logsumexp(ref_rewards.double() / beta, -1) - math.log(ref_rewards.shape[-1])


def jackknife(ref_rewards: Tensor, *, beta: float) -> Tensor:
    """log Z-hat without its bias of order 1/n: n log Z-hat - (n - 1) mean_i log Z-hat without r_i: (..., n) to (...,).

    Quenouille's jackknife. Raises ValueError as `log_mean_exp`, and for n = 1.
    """
    n = ref_rewards.shape[-1]
    if n < 2:
        raise ValueError("the jackknife leaves one reference reward out: it needs at least 2.")
    whole = log_mean_exp(ref_rewards, beta=beta)
    others = ~torch.eye(n, dtype=torch.bool, device=ref_rewards.device)
    without = ref_rewards[..., None, :].expand(*ref_rewards.shape[:-1], n, n)[..., others].unflatten(-1, (n, n - 1))
    return n * whole - (n - 1) * log_mean_exp(without, beta=beta).mean(-1)


def raw_target(rewards: Tensor, ref_rewards: Tensor, *, beta: float, corrected: bool = False) -> Tensor:
    """R - beta log Z-hat, the calibrated target of the raw reward (Eq. 5) with an estimated Z: (...,), float64.

    Parameters
    ----------
    rewards: (...,), in the unit of the references' rewards.
    ref_rewards: (..., n), the rewards of n reference completions of the same prompt.
    beta: strength of the KL regularisation, in units of the reward.
    corrected: whether log Z-hat is the `jackknife`d one, which needs n >= 2.

    Raises
    ------
    ValueError
        As `log_mean_exp` and `jackknife`, and for rewards that are not finite or not one for each row of references.
    """
    log_z = (jackknife if corrected else log_mean_exp)(ref_rewards, beta=beta)
    losses.check_tensors(rewards=rewards, log_z=log_z)
    return rewards.double() - beta * log_z


def discrete_log_partition(ref_rewards: Tensor, *, beta: float, transform: Named = "identity") -> Tensor:
    """log sum_k p_k exp(f(F_k) / beta) with p_k and F_k counted on a prompt's own references (App. E): (...,), float64.

    Where rewards have few values, as pass rates do. It is the mean of exp(f(R_q) / beta) over the references, each with
    its own quantile among all of them, so that the references' targets are those of a normalised policy.

    Parameters
    ----------
    ref_rewards: (..., n) in any unit.
    beta: strength of the KL regularisation, in units of the transformed reward.
    transform: what `transforms.get` takes; applied to quantiles clamped as it needs for n.

    Raises
    ------
    ValueError
        A beta that is not positive, an unknown transformation or one undefined for this n, rewards that are not finite.
    """
    losses.check_beta(beta)
    _check_references(ref_rewards)
    n = ref_rewards.shape[-1]
    f = transforms.get(transform)
    every = ref_rewards[..., None, :].expand(*ref_rewards.shape, n)
    quantiles = f.clamp(quantile_reward(ref_rewards, every), n).double()
    return torch.logsumexp(f(quantiles) / beta, -1) - math.log(n)


def discrete_target(rewards: Tensor, ref_rewards: Tensor, *, beta: float, transform: Named = "identity") -> Tensor:
    """f(R_q) - beta log Z with `discrete_log_partition`: what `losses.calibrated_target` is for continuous rewards.

    A reference completion's own target is at most beta log n; a completion below all references has the quantile 0.

    Parameters
    ----------
    rewards: (...,), in any unit.
    ref_rewards: (..., n), the rewards of n reference completions of the same prompt.
    beta: strength of the KL regularisation, in units of the transformed reward.
    transform: what `transforms.get` takes; applied to quantiles clamped as it needs for n.

    Returns
    -------
    (...,), float64.

    Raises
    ------
    ValueError
        As `discrete_log_partition`, and for a transformation without a signal at this n (`losses.check_signal`).
    """
    n = ref_rewards.shape[-1]
    f = transforms.get(transform)
    losses.check_signal(f, n)
    quantile = f.clamp(quantile_reward(rewards, ref_rewards), n).double()
    return f(quantile) - beta * discrete_log_partition(ref_rewards, beta=beta, transform=f)


def _check_references(ref_rewards: Tensor) -> None:
    if not ref_rewards.ndim or not ref_rewards.shape[-1]:
        raise ValueError("every prompt needs at least one reference reward: ref_rewards are (..., n) with n >= 1.")
    losses.check_tensors(ref_rewards=ref_rewards)
