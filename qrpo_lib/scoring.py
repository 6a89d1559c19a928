"""Scoring: rewards of many completions, shared by any number of processes; a killed one loses at most its shard."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from qrpo_lib import progress, runs, shards, tasks
from qrpo_lib.profiles import Profile

if TYPE_CHECKING:
    import pandas as pd

# Completions whose rewards are computed between two saves.
_IN_A_SHARD = 4096


def score(step: runs.Step, profile: Profile, texts: Callable[[], pd.DataFrame]) -> None:
    """Compute the rewards of `texts()`, a frame with columns `prompt` and `text`, shard by shard."""
    try:
        frame = texts()
    except FileNotFoundError:
        if step.folder.exists():  # another process has completed the step meanwhile and removed its shards
            return
        raise
    reward = cache(lambda: tasks.of(profile.task).reward())  # loaded only by a process that has something to score

    def rewards(number: int) -> bytes:
        some = frame.iloc[number * _IN_A_SHARD : (number + 1) * _IN_A_SHARD]
        scores = reward().score(some["prompt"].tolist(), some["text"].tolist())
        return scores.astype("<f4").tobytes()

    with progress.bar("scoring completions") as report:
        shards.make_all(step, _names(len(frame)), rewards, report)


def scored(step: runs.Step, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame of which `score` has computed the rewards, with its `reward`."""
    rewards = [np.frombuffer(shards.read(step, name), dtype="<f4") for name in _names(len(frame))]
    return frame.assign(reward=np.concatenate([*rewards, np.empty(0, dtype="<f4")]))


def _names(rows: int) -> list[str]:
    return [f"rewards-{number:04d}.f4" for number in range(-(-rows // _IN_A_SHARD))]
