"""Policy-gradient losses on the current policy's own completions: GRPO and RLOO, to stand beside online QRPO.

Pure functions on tensors, one loss for each completion, no reduction, for one update from each batch (the policy that
is updated is the one that sampled, so that nothing is clipped). The completions of a prompt are one group. Shapes that
would be broadcast and values that are not finite raise ValueError.

Where they end differs (tests/objective/test_online.py): RLOO at pi_ref e^(R/beta), as QRPO of the raw reward; GRPO,
whose penalty's gradient is not the KL's, at beta pi_ref/(beta + lambda - A), A a completion's mean advantage there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qrpo_lib.objective import losses

_SMALL = 1e-4  # added to the standard deviation of a group, as GRPO's implementations do


def rloo_advantages(rewards: Tensor) -> Tensor:
    """Each reward less the mean of the others of its group (Ahmadian et al. 2024): (..., k) to (..., k)."""
    rewards = _checked(rewards)
    k = rewards.shape[-1]
    return (rewards - rewards.mean(-1, keepdim=True)) * k / (k - 1)


def grpo_advantages(rewards: Tensor) -> Tensor:
    """Rewards less their group's mean, over its standard deviation (Shao et al. 2024): (..., k) to (..., k)."""
    rewards = _checked(rewards)
    return (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + _SMALL)


def rloo(logps: Tensor, ref_logps: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    """-A log pi, A the advantage of R - beta log-ratio, the KL penalty in the reward: (..., k).

    Parameters
    ----------
    logps, ref_logps: (..., k) log-probabilities of a prompt's k completions under the policy, whose own they are, and
        under the reference policy.
    rewards: (..., k) in the unit of beta.
    beta: strength of the KL regularisation.
    """
    losses.check_beta(beta)
    losses.check_tensors(logps=logps, ref_logps=ref_logps, rewards=rewards)
    penalised = rewards.to(logps) - beta * (logps - ref_logps).detach()
    return -rloo_advantages(penalised) * logps


def grpo(token_logps: Tensor, ref_token_logps: Tensor, mask: Tensor, rewards: Tensor, *, beta: float) -> Tensor:
    """Mean over a completion's tokens of -A pi/pi_old + beta (e^-d - 1 + d), d the token's log-ratio: (..., k).

    Parameters
    ----------
    token_logps, ref_token_logps: (..., k, tokens) of each token under the policy, whose own completions they are, and
        under the reference policy.
    mask: (..., k, tokens), 1 where there is a token of the completion.
    rewards: (..., k) in any unit: advantages are in standard deviations of the group.
    beta: strength of the KL regularisation, in the unit of the advantages.
    """
    losses.check_beta(beta)
    mask = mask.to(token_logps)
    losses.check_tensors(token_logps=token_logps, ref_token_logps=ref_token_logps, mask=mask)
    losses.check_tensors(completions=mask.sum(-1), rewards=rewards.to(mask))
    difference = ref_token_logps - token_logps
    penalty = torch.expm1(difference) - difference
    advantages = grpo_advantages(rewards.double()).to(token_logps)[..., None]
    ratio = torch.exp(token_logps - token_logps.detach())
    return ((beta * penalty - advantages * ratio) * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def _checked(rewards: Tensor) -> Tensor:
    """The rewards of groups as floating-point numbers."""
    if not rewards.ndim or rewards.shape[-1] < 2:
        raise ValueError("a group has at least 2 completions: each is compared with the others of its prompt.")
    losses.check_tensors(rewards=rewards)
    return rewards if rewards.is_floating_point() else rewards.double()
