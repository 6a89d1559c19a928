"""The rewards that a chat task can name in a profile, and the code of each."""

from __future__ import annotations

from typing import Any

from qrpo_lib.models import hub
from qrpo_lib.profiles.own_data import PythonReward
from qrpo_lib.profiles.settings import Relevance, RewardModel

IS_INFRASTRUCTURE = True  # a registry: what it gives counts, not what it could give


def of(settings: RewardModel | Relevance | PythonReward) -> Any:
    """The reward that a profile names. Raises `hub.HubError` if its model cannot be had."""
    from qrpo_lib.rewards import models

    if settings.kind == "python":
        from qrpo_lib.rewards import python_function

        return python_function.FunctionReward(settings.function)
    if settings.kind == "relevance":
        return models.RelevanceReward()
    return models.ChatReward(
        hub.model(settings.model, settings.revision),
        kind=settings.kind,
        max_tokens=settings.max_tokens,
        batch_size=settings.batch_size,
        dtype=settings.dtype,
    )


def code(settings: RewardModel | Relevance | PythonReward) -> tuple[Any, ...]:
    """The entry points of its code."""
    if settings.kind == "python":
        return ("rewards.python_function:FunctionReward",)
    return ("rewards.models:RelevanceReward",) if settings.kind == "relevance" else ("rewards.models:ChatReward",)


def parameters(settings: RewardModel | Relevance | PythonReward) -> dict[str, Any]:
    """What of the settings determines its scores: a model by its content, a function by its source."""
    if settings.kind == "python":
        from qrpo_lib.rewards import python_function

        name = settings.function.rpartition(":")[2]
        return {"kind": "python", "function": name, "source": python_function.source(settings.function)}
    determining = settings.model_dump()
    if settings.kind != "relevance":
        del determining["revision"], determining["batch_size"]
        determining["model"] = hub.identity(settings.model, settings.revision)
    return determining


def check_available(settings: RewardModel | Relevance | PythonReward) -> None:
    """Raise `hub.HubError` if its model is neither here nor named with its commit; InputError without its function."""
    if settings.kind == "python":
        from qrpo_lib.rewards import python_function

        python_function.check(settings.function)
    elif settings.kind != "relevance":
        hub.check(settings.model, settings.revision, "model")
