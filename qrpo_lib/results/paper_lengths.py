"""Lengths as the authors count them: tokens of prompt and completion together, by the reward model's tokenizer, cut.

Their online evaluation records them (`run_online_eval.py`, `reward_tokens_len`), and the limit of 1,000 tokens, the
length-controlled reward and Figure 4 use them. A profile asks for them with `task.lengths = "paper"`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from qrpo_lib.experiment import read
from qrpo_lib.experiment.grid import Run
from qrpo_lib.models import hub
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import files, paths
from qrpo_lib.tasks import hub_task
from qrpo_lib.tasks import registry as tasks

if TYPE_CHECKING:
    import pandas as pd

_AT_ONCE = 4096


def are_used(profile: Profile) -> bool:
    """Whether the profile counts lengths so; completions must then be read with their texts."""
    return getattr(profile.task, "lengths", "completion") == "paper"


def counted(profile: Profile, completions: pd.DataFrame) -> pd.DataFrame:
    """The completions, columns `prompt_id, text, length`, with their `length` counted as the profile says."""
    if not are_used(profile):
        return completions
    prompts = {one.id: one.text for one in tasks.of(profile.task).prompts(profile.seed)}
    pairs = list(zip(completions["prompt_id"], completions["text"], strict=True))
    different = list(dict.fromkeys(pairs))  # step 0 is the same for every run
    tokenizer, lengths = _tokenizer(profile.task), []
    for start in range(0, len(different), _AT_ONCE):
        conversations = [
            [{"role": "user", "content": prompts[name]}, {"role": "assistant", "content": text.strip()}]
            for name, text in different[start : start + _AT_ONCE]
        ]
        lengths += [min(one, profile.task.max_tokens) for one in hub_task.lengths(tokenizer, conversations)]
    of = dict(zip(different, lengths, strict=True))
    return completions.assign(length=[of[pair] for pair in pairs])


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


@cache
def _tokenizer(task: Any) -> Any:
    return hub_task.tokenizer(task)
