"""The six distribution-shift settings: their pairs, and whether the policy is tuned first (App. L.7)."""

from __future__ import annotations

SOURCES = ("offline", "off-policy-best", "off-policy-random")


def is_tuned_first(setting: str) -> bool:
    """Whether the policy is fine-tuned on the chosen completions before anything else."""
    return setting.startswith("sft-")


def source(setting: str) -> str:
    """Where the pairs of a setting come from: one of `SOURCES`. Raises ValueError for an unknown setting."""
    origin = setting.removeprefix("sft-")
    if origin not in SOURCES:
        raise ValueError(f"There is no setting {setting!r}: use {', '.join(SOURCES)}, or one of them after 'sft-'.")
    return origin
