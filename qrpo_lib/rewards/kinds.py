"""The rewards that a chat task can name in a profile, and the code of each."""

from __future__ import annotations

from typing import Any

from qrpo_lib.models import hub
from qrpo_lib.profiles.settings import Relevance, RewardModel

IS_INFRASTRUCTURE = True  # a registry: what it gives counts, not what it could give


def of(settings: RewardModel | Relevance) -> Any:
    """The reward that a profile names. Raises `hub.HubError` if its model cannot be had."""
    from qrpo_lib.rewards import models

    if settings.kind == "relevance":
        return models.RelevanceReward()
    return models.ChatReward(
        hub.model(settings.model, settings.revision),
        kind=settings.kind,
        max_tokens=settings.max_tokens,
        batch_size=settings.batch_size,
        dtype=settings.dtype,
    )


def code(settings: RewardModel | Relevance) -> tuple[Any, ...]:
    """The entry points of its code."""
    return ("rewards.models:RelevanceReward",) if settings.kind == "relevance" else ("rewards.models:ChatReward",)


def parameters(settings: RewardModel | Relevance) -> dict[str, Any]:
    """What of the settings determines its scores: a model by its content."""
    found = settings.model_dump()
    if settings.kind != "relevance":
        del found["revision"], found["batch_size"]
        found["model"] = hub.identity(settings.model, settings.revision)
    return found


def check_available(settings: RewardModel | Relevance) -> None:
    """Raise `hub.HubError` if its model is neither here nor named with its commit."""
    if settings.kind != "relevance":
        hub.check(settings.model, settings.revision, "model")
