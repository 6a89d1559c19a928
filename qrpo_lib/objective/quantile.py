"""Quantile rewards from reference rewards: `quantile_reward(rewards, ref_rewards)`."""

from typing import Any

import numpy as np


def quantile_reward(rewards: Any, ref_rewards: Any) -> Any:
    """The share of reference rewards at or below each reward, the estimate of R_q (Eq. 9): ties count.

    rewards (...,) and ref_rewards (..., n), both NumPy (or lists) or both torch, whose leading dimensions broadcast to
    those of `rewards`; rewards in any unit, the result (...,) in {0, 1/n, ..., 1}. float64 for NumPy, float32 for torch
    unless the rewards are float64. Where the two differ in floating precision they are compared in the lower one, so
    that equal rewards stay equal. Raises ValueError for n = 0, shapes that do not fit, NaN or infinite rewards.
    """
    if hasattr(rewards, "requires_grad") and hasattr(ref_rewards, "requires_grad"):
        return _torch_quantile(rewards, ref_rewards)
    rewards, ref_rewards = np.asarray(rewards), np.asarray(ref_rewards)
    _check_shapes(rewards.shape, ref_rewards.shape)
    kinds = [array.dtype for array in (rewards, ref_rewards) if array.dtype.kind == "f"]
    if kinds:
        lower = min(kinds, key=lambda kind: kind.itemsize)
        rewards, ref_rewards = rewards.astype(lower, copy=False), ref_rewards.astype(lower, copy=False)
    _check_finite(np.isfinite(rewards).all(), np.isfinite(ref_rewards).all())
    at_or_below = ref_rewards <= rewards[..., None]
    return np.asarray(np.count_nonzero(at_or_below, axis=-1) / ref_rewards.shape[-1])[()]


def _torch_quantile(rewards, ref_rewards):
    import torch  # here, not above: the command line must start without torch

    _check_shapes(tuple(rewards.shape), tuple(ref_rewards.shape))
    kinds = [tensor.dtype for tensor in (rewards, ref_rewards) if tensor.is_floating_point()]
    if kinds:
        lower = min(kinds, key=lambda kind: torch.finfo(kind).bits)
        rewards, ref_rewards = rewards.to(lower), ref_rewards.to(lower)
    _check_finite(*(all(bool(end.isfinite()) for end in _ends(tensor)) for tensor in (rewards, ref_rewards)))
    result = torch.float64 if kinds and lower == torch.float64 else torch.float32
    at_or_below = ref_rewards <= rewards[..., None]
    return at_or_below.sum(-1, dtype=torch.int32).to(result) / ref_rewards.shape[-1]


def _ends(tensor):
    """Smallest and largest value, NaN if there is one: far cheaper on a large tensor than a mask of finite values."""
    return tensor.aminmax() if tensor.numel() else ()


def _check_shapes(shape, ref_shape) -> None:
    if not ref_shape or ref_shape[-1] == 0:
        raise ValueError(
            "every prompt needs at least one reference reward: ref_rewards has shape (..., n) with n >= 1."
        )
    try:
        fits = np.broadcast_shapes(shape, ref_shape[:-1]) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"rewards {tuple(shape)} do not fit reference rewards {tuple(ref_shape)}: use (...,) and (..., n)."
        )


def _check_finite(rewards_finite, ref_rewards_finite) -> None:
    if not (rewards_finite and ref_rewards_finite):
        which = "ref_rewards" if rewards_finite else "rewards"
        raise ValueError(
            f"{which} hold NaN or infinite values: a missing score is not a low one; drop those rows first."
        )
