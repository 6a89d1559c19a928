"""The algorithms that a policy is fitted with, and the code of each: their names are written here once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

IS_INFRASTRUCTURE = True  # a registry: what it gives counts, not what it could give

Algorithm = Literal["qrpo", "dpo", "rebel", "simpo"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


def loss(algorithm: Algorithm, *, pairs: bool) -> Callable:
    """Its function in `qrpo_lib.losses`: of pairs of completions, or of single ones (QRPO alone)."""
    from qrpo_lib import losses

    if algorithm == "qrpo":
        return losses.qrpo_pair if pairs else losses.qrpo
    return {"dpo": losses.dpo, "rebel": losses.rebel, "simpo": losses.simpo}[algorithm]


def target(algorithm: Algorithm) -> Callable | None:
    """What an algorithm with a calibrated target for each completion computes it with, for the metrics; else None."""
    from qrpo_lib import losses

    return losses.calibrated_target if algorithm == "qrpo" else None


def code(algorithm: Algorithm) -> tuple[Any, ...]:
    """The entry points of its loss and target (`qrpo_lib.code_version`); naming them imports nothing."""
    if algorithm == "qrpo":
        return ("losses:qrpo", "losses:qrpo_pair", "losses:calibrated_target")
    return (f"losses:{algorithm}",)
