"""Replication suite for Quantile Reward Policy Optimization (QRPO). See README.md for the map of folders.

The public names are loaded when they are first used, so that `import qrpo_lib` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
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
_PUBLIC: dict[str, tuple[str, str | None]] = {
    "QRPOConfig": ("qrpo_lib.training.qrpo_config", "QRPOConfig"),
    "QRPOTrainer": ("qrpo_lib.training.qrpo_trainer", "QRPOTrainer"),
    "SampledReferences": ("qrpo_lib.rewards.sampled_references", "SampledReferences"),
    "length_controlled_reward": ("qrpo_lib.results.length_control", "length_controlled_reward"),
    "losses": ("qrpo_lib.objective.losses", None),
    "quantile_reward": ("qrpo_lib.objective.quantile", "quantile_reward"),
    "sandbox": ("qrpo_lib.rewards.sandbox", None),
    "transforms": ("qrpo_lib.objective.transforms", None),
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
    module, attribute = _PUBLIC[name]
    found = import_module(module)
    return found if attribute is None else getattr(found, attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
