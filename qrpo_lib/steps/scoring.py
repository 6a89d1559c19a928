"""Scoring: rewards of many completions, shared by any number of processes; a killed one loses at most its shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import keys, progress, shards
from qrpo_lib.tasks import registry as tasks

if TYPE_CHECKING:
    import pandas as pd

# Completions whose rewards are computed between two saves.
_IN_A_SHARD = 4096


@dataclass(frozen=True)
class Texts:
    """What is scored: `rows` completions, of which `read(start, stop)` gives some, in columns `prompt` and `text`."""

    rows: int
    read: Callable[[int, int], pd.DataFrame]

    def __len__(self) -> int:
        return self.rows

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Texts:
        """The texts of a data frame with columns `prompt` and `text`."""
        return cls(len(frame), lambda start, stop: frame.iloc[start:stop])


def score(step: keys.Step, profile: Profile, texts: Texts) -> None:
    """Compute the rewards of the texts, shard by shard, together with other processes that call this."""
    reward = cache(lambda: tasks.of(profile.task).reward())  # loaded only by a process that has something to score

    def rewards(number: int) -> bytes:
        rows = texts.read(number * _IN_A_SHARD, min((number + 1) * _IN_A_SHARD, len(texts)))
        scores = reward().score(rows["prompt"].tolist(), rows["text"].tolist())
        return scores.astype("<f4").tobytes()

    with progress.bar("scoring completions") as report:
        try:
            shards.make_all(step, _names(len(texts)), rewards, report)
        except FileNotFoundError:
            if not step.folder.exists():  # else another process has completed the step and removed what was to be read
                raise


def rewards(step: keys.Step, rows: int) -> np.ndarray:
    """The rewards that `score` has computed of as many completions: (rows,) in float32."""
    read = [np.frombuffer(shards.read(step, name), dtype="<f4") for name in _names(rows)]
    return np.concatenate([*read, np.empty(0, dtype="<f4")])


def _names(rows: int) -> list[str]:
    return [f"rewards-{number:04d}.f4" for number in range(-(-rows // _IN_A_SHARD))]
