"""The names of the algorithms that a policy is fitted with, in one place, and the code of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

IS_INFRASTRUCTURE = True  # a registry: what it gives counts, not what it could give

Algorithm = Literal["qrpo", "dpo", "rebel", "simpo"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


def loss(algorithm: Algorithm, *, pairs: bool) -> Callable:
    """The algorithm's loss function in `qrpo_lib.losses`: for pairs of completions, or for single ones (QRPO alone)."""
    from qrpo_lib.objective import losses

    if algorithm == "qrpo":
        return losses.qrpo_pair if pairs else losses.qrpo
    return {"dpo": losses.dpo, "rebel": losses.rebel, "simpo": losses.simpo}[algorithm]


def target(algorithm: Algorithm) -> Callable | None:
    """The function for the algorithm's calibrated target, which metrics show; None for one without such a target."""
    from qrpo_lib.objective import losses

    return losses.calibrated_target if algorithm == "qrpo" else None


def code(algorithm: Algorithm) -> tuple[Any, ...]:
    """The entry points of its loss and target (`qrpo_lib.runs.code_version`); naming them imports nothing."""
    if algorithm == "qrpo":
        return ("losses:qrpo", "losses:qrpo_pair", "losses:calibrated_target")
    return (f"losses:{algorithm}",)
