"""Replication suite for Quantile Reward Policy Optimization (QRPO). See README.md for the map of folders.

The public names are loaded when they are first used, so that `import qrpo_lib` costs nothing.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qrpo_lib.objective import losses, transforms
    from qrpo_lib.objective.quantile import quantile_reward
    from qrpo_lib.results.length_control import length_controlled_reward
    from qrpo_lib.rewards import sandbox
    from qrpo_lib.rewards.sampled_references import SampledReferences
    from qrpo_lib.training.qrpo_config import QRPOConfig
    from qrpo_lib.training.qrpo_trainer import QRPOTrainer

__version__: str
__all__ = [
    "QRPOConfig",
    "QRPOTrainer",
    "SampledReferences",
    "length_controlled_reward",
    "losses",
    "quantile_reward",
    "sandbox",
    "transforms",
]

# Public name: its module, and the name in it where it is not the module itself.
_PUBLIC = {
    "QRPOConfig": "training.qrpo_config:QRPOConfig",
    "QRPOTrainer": "training.qrpo_trainer:QRPOTrainer",
    "SampledReferences": "rewards.sampled_references:SampledReferences",
    "length_controlled_reward": "results.length_control:length_controlled_reward",
    "losses": "objective.losses",
    "quantile_reward": "objective.quantile:quantile_reward",
    "sandbox": "rewards.sandbox",
    "transforms": "objective.transforms",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("qrpo-lib")
        except metadata.PackageNotFoundError:  # run from its source, not installed
            return "0+unknown"
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pkgutil.resolve_name(f"{__name__}.{_PUBLIC[name]}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
