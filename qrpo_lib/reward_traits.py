"""What a profile's reward is like, for what is shown of it; needs neither results nor a model."""

from __future__ import annotations

from qrpo_lib.profiles import Profile


def has_lc_reward(profile: Profile) -> bool:
    """Whether a length-controlled reward makes sense: for chat, as in the paper, not for test-case pass rates."""
    return profile.task.completions != "solution"


def prefers_length(profile: Profile) -> bool:
    """Whether the task's reward was made to prefer long answers."""
    return getattr(profile.task, "length_bonus", 0.0) > 0
