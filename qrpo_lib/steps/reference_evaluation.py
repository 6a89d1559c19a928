"""The reference policy's answers to held-out prompts: step 0 of every training that starts from it, made once for all.

The folder holds `evaluation.parquet`: one row for each answer (`qrpo_lib.steps.evaluation`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import folders, keys
from qrpo_lib.steps import evaluation, reference_policy
from qrpo_lib.tasks import registry as tasks

if TYPE_CHECKING:
    import pandas as pd


def step(profile: Profile, seed: int, split: str) -> keys.Step:
    """What determines the answers to the prompts of a split: the reference policy, how it is sampled, and the seed."""
    return keys.Step(
        "reference_evaluation",
        {"seed": seed} | evaluation.parameters(profile, split),
        inputs=(reference_policy.step(profile), *tasks.of(profile.task).inputs()),
        code=evaluation.code(profile),
        make=partial(_make, profile, seed, split),
        seed=seed,
        shared=partial(_share, profile, seed, split),
    )


def run(profile: Profile, seed: int, split: str) -> Path:
    """The folder of the answers, made if it is not there; processes that call this share the work."""
    return folders.make(step(profile, seed, split))


def load(folder: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """The recorded answers as a data frame, with these columns or all. The policy is its own reference."""
    frame = evaluation.load(folder, columns)
    return frame.assign(ref_logp=frame["logp"]) if "logp" in frame else frame


def _share(profile: Profile, seed: int, split: str) -> None:
    evaluation.share(step(profile, seed, split), _asked(profile, seed, split))


def _make(profile: Profile, seed: int, split: str, folder: Path) -> None:
    made = evaluation.recorded(step(profile, seed, split), _asked(profile, seed, split))
    made.to_parquet(folder / evaluation.EVALUATION)


def _asked(profile: Profile, seed: int, split: str) -> evaluation.Asked:
    return evaluation.Asked(profile, seed, split, {0: reference_policy.step(profile).folder})
