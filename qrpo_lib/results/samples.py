"""Looking at a policy: how its training went, and what it answers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from qrpo_lib.experiment import jobs
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.steps import answers, initial_policy


def training_losses(folder: Path) -> pd.DataFrame | str:
    """Loss (nats a token) in the first and the last tenth of each stage of the policy's own training."""
    path = folder / "history.csv"
    if not path.exists():
        return "This policy was trained elsewhere."
    history = pd.read_csv(path)
    rows = []
    for stage, of_stage in history.groupby("stage", sort=False):
        tenth = max(1, len(of_stage) // 10)
        losses = of_stage["loss"]
        rows.append(
            {"stage": stage, "steps": len(of_stage), "first": losses[:tenth].mean(), "last": losses[-tenth:].mean()}
        )
    return pd.DataFrame(rows).round(3)


def sample_answers(profile: Profile, folder: Path, count: int) -> pd.DataFrame:
    """Answers of a saved policy to the first `count` held-out requests, as it samples them in evaluation.

    Where the profile's steps are made elsewhere, the initial policy answers there too.
    """
    if profile.dispatch.where != "here" and folder == initial_policy.step(profile).folder:
        return answers.load(jobs.make(profile, jobs.answers(profile, count)))
    return answers.sample(profile, folder, count)
