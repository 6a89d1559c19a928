"""What all settings have in common: their types, and how a setting that came later stays out of keys."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

IS_INFRASTRUCTURE = True  # values are parameters of the steps

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
Fraction = Annotated[float, Field(gt=0, le=1)]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
# NumPy takes no larger seed.
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Settings(BaseModel):
    """A table of a profile: an unknown key, a value of another type, or NaN is refused, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def added(default: Any, **limits: Any) -> Any:
    """A setting that came later, whose default is what was done before.

    A dump leaves it out at its default, so that the keys of results made before it hold.
    """
    return Field(default, exclude_if=lambda value: value == default, **limits)
