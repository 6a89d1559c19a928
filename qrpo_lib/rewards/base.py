"""What every reward offers: `score(prompts, completions)`, texts in, float32 out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Reward(Protocol):
    """The interface of every reward."""

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Float32 rewards (n,) of n completions, each of the prompt at its place. Raises ValueError if n differs."""


def check_lengths(prompts: Sequence[str], completions: Sequence[str]) -> None:
    """Raise ValueError unless there is one prompt a completion."""
    if len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts for {len(completions)} completions: give one prompt a completion.")
