"""QRPO with beta divided by the length of the completion: an option of `QRPOTrainer`, no part of the paper."""

from __future__ import annotations

import torch
from torch import Tensor

from qrpo_lib.objective import losses, transforms
from qrpo_lib.objective.quantile import quantile_reward
from qrpo_lib.objective.transforms import Named


def qrpo(
    logps: Tensor,
    ref_logps: Tensor,
    lengths: Tensor,
    rewards: Tensor,
    ref_rewards: Tensor,
    *,
    beta: float,
    transform: Named = "identity",
    partition: str = "exact",
    error: str = "squared",
) -> Tensor:
    """`losses.qrpo` of each completion at its own beta / |y|: beta weighs the mean log-ratio of its tokens: (...,).

    The partition function is that of beta / |y|: a completion's target is what `losses.qrpo` fits at that beta. No
    constant of the prompt is left out, so completions of different lengths have different targets. Together these are a
    policy's, whose probabilities sum to 1, where rewards are independent of length, and in general not otherwise:
    log sum pi_ref e^(target |y| / beta) is then not 0.

    Parameters
    ----------
    logps, ref_logps: (...,) log-probabilities of the completions under the policy and under the reference policy.
    lengths: (...,) completion tokens, the end-of-sequence token included.
    rewards: (...,) in any unit.
    ref_rewards: (..., n), the rewards of n reference completions of the same prompt.
    beta, transform, partition: as in `calibrated_target`, whose errors this raises too.
    error: "squared", or "absolute" for the absolute value in place of the square.
    """
    losses.check_choice("error", error, losses.ERRORS)
    losses.check_tensors(logps=logps, ref_logps=ref_logps, lengths=lengths, rewards=rewards)
    target = calibrated_target(rewards, lengths, ref_rewards, beta=beta, transform=transform, partition=partition)
    residual = target.to(logps) - beta / lengths.to(logps) * (logps - ref_logps)
    return residual.square() if error == "squared" else residual.abs()


def calibrated_target(
    rewards: Tensor,
    lengths: Tensor,
    ref_rewards: Tensor,
    *,
    beta: float,
    transform: Named = "identity",
    partition: str = "exact",
) -> Tensor:
    """`losses.calibrated_target` at beta / |y| of each completion: (...,), float64.

    Parameters
    ----------
    rewards: (...,), in any unit.
    lengths: (...,) completion tokens, at least 1, the end-of-sequence token included.
    ref_rewards: (..., n), the rewards of n reference completions of the same prompt.
    beta: strength of the KL regularisation of a completion of one token, in units of the transformed reward.
    transform, partition: as in `losses.calibrated_target`.

    Raises
    ------
    ValueError
        As `losses.calibrated_target`, and for a length below 1.
    """
    losses.check_beta(beta)
    losses.check_tensors(rewards=rewards, lengths=lengths)
    if not bool((lengths >= 1).all()):
        raise ValueError("a completion has at least one token: its length must be at least 1.")
    n = ref_rewards.shape[-1]
    f = transforms.get(transform)
    losses.check_signal(f, n)
    quantile = f(f.clamp(quantile_reward(rewards, ref_rewards), n))
    betas = beta / lengths.detach().cpu().double().numpy()
    log_partition = torch.as_tensor(losses.log_partition(f, betas, n, partition), device=rewards.device)
    return quantile.double() - torch.as_tensor(betas, device=rewards.device) * log_partition
