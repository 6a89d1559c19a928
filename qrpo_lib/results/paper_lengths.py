"""Recorded answers with their lengths counted as the profile says (`qrpo_lib.steps.answer_lengths`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qrpo_lib.experiment import read
from qrpo_lib.experiment.grid import Run
from qrpo_lib.models import hub
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import files, paths
from qrpo_lib.steps.answer_lengths import are_papers as are_used
from qrpo_lib.steps.answer_lengths import counted as counted

if TYPE_CHECKING:
    import pandas as pd


def evaluations(profile: Profile, runs: Sequence[Run], text: bool = False) -> pd.DataFrame:
    """`read.evaluations` with lengths counted as the profile says; texts are read of one run at a time."""
    import pandas as pd

    if not are_used(profile):
        return read.evaluations(profile, runs, text)
    there = [run for run in dict.fromkeys(runs) if run.step(profile).folder.is_dir()]
    if not there:
        return read.evaluations(profile, runs, text)  # which says why
    parts = []
    for run in there:
        rows = read.evaluations(profile, [run], text=True)
        lengths = _remembered(profile, run, rows)
        parts.append((rows if text else rows.drop(columns="text")).assign(length=lengths))
    return pd.concat(parts, ignore_index=True)


def reports(
    profile: Profile, wanted: Mapping[Run, Collection[int]], text: bool = False, log_ratios: bool = False
) -> pd.DataFrame:
    """`read.answers` to the reporting prompts with lengths counted as the profile says.

    Parameters
    ----------
    profile: whose runs they are.
    wanted: of each run the steps after which its policy answered.
    text: whether the texts stay in the table.
    log_ratios: with `logp` and `ref_logp` of `qrpo_lib.steps.log_ratios`, in nats.
    """
    if not are_used(profile):
        return read.answers(profile, wanted, text=text, log_ratios=log_ratios)
    rows = counted(profile, read.answers(profile, wanted, text=True, log_ratios=log_ratios))
    return rows if text else rows.drop(columns="text")


def _remembered(profile: Profile, run: Run, rows: pd.DataFrame) -> np.ndarray:
    """The lengths of a run's completions, counted once for all notebooks."""
    counting = hub.identity(profile.task.tokenizer, profile.task.tokenizer_revision, tokenizer_only=True)
    by = hashlib.sha256(json.dumps([counting, profile.task.max_tokens], sort_keys=True).encode()).hexdigest()[:12]
    path = paths.cache_folder("paper_lengths") / f"{run.step(profile).folder_name}-{by}.i4"
    content = files.read_sealed(path)
    if content is None:
        content = counted(profile, rows)["length"].to_numpy().astype("<i4").tobytes()
        files.write_sealed(path, content)
    return np.frombuffer(content, dtype="<i4").astype(np.int64)
