"""Rows with the target of each completion, for methods that regress beta times the log-ratio on a target of their own.

The pairs are those that QRPO, DPO and the others are trained on, with the same tokens and log pi_ref; what is added to
a row is `targets` and `betas`, of its chosen and its rejected completion, in one unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qrpo_lib.objective import length_normalised, losses, partitions
from qrpo_lib.profiles.relatives import Method


def with_targets(rows: Sequence[Mapping], method: Method) -> list[dict[str, Any]]:
    """The pairs with `targets` and `betas`. Raises ValueError for a method without targets, or too few references."""
    rewards = torch.tensor([[row["chosen_reward"], row["rejected_reward"]] for row in rows], dtype=torch.float64)
    lengths = torch.tensor([[len(row["chosen_ids"]), len(row["rejected_ids"])] for row in rows])
    references = references_of(rows, method.num_ref_rewards)[:, None].expand(*rewards.shape, -1)
    targets, betas = of_method(method, rewards, lengths, references)
    columns = zip(rows, targets.tolist(), betas.expand(rewards.shape).tolist(), strict=True)
    return [dict(row) | {"targets": of_row, "betas": strengths} for row, of_row, strengths in columns]


def references_of(rows: Sequence[Mapping], count: int | None) -> Tensor:
    """The first `count` reference rewards of each row, none for a method without references: (rows, count) float64."""
    count = count or 0
    short = [i for i, row in enumerate(rows) if len(row["ref_rewards"]) < count]
    if short:
        raise ValueError(f"row {short[0]} has {len(rows[short[0]]['ref_rewards'])} reference rewards, not {count}.")
    return torch.tensor([list(row["ref_rewards"])[:count] for row in rows], dtype=torch.float64)


def of_method(method: Method, rewards: Tensor, lengths: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """What a method regresses each completion's beta times the log-ratio on, and that beta.

    Parameters
    ----------
    method: one with a target for each completion; its name says which, its values how.
    rewards: (...,) float64.
    lengths: (...,) completion tokens, the end-of-sequence token included; for the method by length alone.
    references: (..., n) rewards of reference completions; n is 0 for a method without any.

    Returns
    -------
    Targets (...,) in units of the reward, of its quantile or of f of that, as the method's are, and betas (...,) in the
    same units. DRO's target is the reward: its value is learned, and taken off in training.

    Raises
    ------
    ValueError
        The method is no regression on a target of each completion.
    """
    beta, same = method.beta, torch.full(rewards.shape, method.beta, dtype=torch.float64)
    if method.name == "dro":
        return rewards, same  # its value is learned, and taken off in training
    if method.name == "raw-reward":
        return partitions.raw_target(rewards, references, beta=beta, corrected=bool(method.corrected)), same
    if method.name == "a-star-po":
        value_beta = method.value_factor * beta
        return rewards - value_beta * partitions.log_mean_exp(references, beta=value_beta), same
    if method.name == "best-of-n":
        return losses.calibrated_target(rewards, references, beta=beta, transform="log"), same
    if method.name == "qrpo-by-length":
        strength = beta * lengths.double().mean().item()  # at the mean length the beta of the others
        return (
            length_normalised.calibrated_target(rewards, lengths, references, beta=strength),
            strength / lengths.double(),
        )
    if method.name in ("qrpo", "online-qrpo") and method.partition == "discrete":
        return partitions.discrete_target(rewards, references, beta=beta), same
    if method.name in ("qrpo", "online-qrpo"):
        partition = method.partition or "exact"
        return losses.calibrated_target(rewards, references, beta=beta, partition=partition).double(), same
    raise ValueError(f"{method.name} is no regression on a target of each completion.")
