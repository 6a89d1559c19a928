"""What a profile's reward is like, for what is shown of it; needs neither results nor a model."""

from __future__ import annotations

from qrpo_lib.profiles.own_data import OWN_TASKS
from qrpo_lib.profiles.settings import Profile


def has_lc_reward(profile: Profile) -> bool:
    """Whether a length-controlled reward makes sense: for chat, as in the paper, not for test-case pass rates."""
    return profile.task.completions != "solution"


def is_own_data(profile: Profile) -> bool:
    """Whether the data are the user's: what is measured on them stands beside none of the paper's numbers."""
    return profile.task.name in OWN_TASKS


def shown_data(profile: Profile) -> str:
    """How tables name the data."""
    return profile.task.shown if is_own_data(profile) else profile.task.name


def prefers_length(profile: Profile) -> bool:
    """Whether the task's reward was made to prefer long answers."""
    return getattr(profile.task, "length_bonus", 0.0) > 0


def has_annotator(profile: Profile) -> bool:
    """Whether preferences between the dataset's pairs are an annotator's, not the reward's own."""
    return getattr(profile.task, "annotator", None) is not None


def sees_length(profile: Profile) -> bool:
    """Whether that annotator prefers long answers."""
    return has_annotator(profile) and profile.task.annotator.length_weight > 0


def has_stated_properties(profile: Profile) -> bool:
    """Whether the arm's data should have the properties of docs/miniature.md: its main chat arm, nothing changed."""
    plain = profile.task.name == "sketches" and not prefers_length(profile) and not has_annotator(profile)
    return plain and profile.experiment.shows == "all"
