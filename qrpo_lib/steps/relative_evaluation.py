"""What a policy trained by one of QRPO's relatives answers to held-out prompts, once training has ended.

    relative_evaluation.run(profile, method, seed, "reporting")

The folder holds `evaluation.parquet`: one row for each answer, as in `qrpo_lib.steps.evaluation`, and for the first
`LOG_RATIOS` answers to each reporting prompt `policy_logp` and `ref_logp`, log-probabilities of the answer under policy
and reference by the code that trains.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.profiles.relatives import Method
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import folders, keys
from qrpo_lib.steps import evaluation, reference_evaluation, reference_policy, relative_training
from qrpo_lib.tasks import registry as tasks

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

LOG_RATIOS = 6  # answers to a prompt: a policy's KL needs fewer than its reward


def step(profile: Profile, method: Method, seed: int, split: str) -> keys.Step:
    """What determines the answers of the trained policy to the prompts of a split.

    Parameters
    ----------
    profile: its settings.
    method: the relative of QRPO with its values.
    seed: of the training.
    split: "selection" or "reporting".
    """
    training = relative_training.step(profile, method, seed)
    arguments = (profile, method, seed, split)
    settings = profile.training
    computing = {name: getattr(settings, name) for name in ("micro_batch_size", "precision")}
    told = {"method": method.parameters, "seed": seed}
    return keys.Step(
        "relative_evaluation",
        told | computing | evaluation.parameters(profile, split),
        inputs=(training, reference_evaluation.step(profile, 0, split), *tasks.of(profile.task).inputs()),
        code=evaluation.code(profile),
        make=partial(_make, *arguments),
        seed=seed,
        shared=partial(_share, *arguments),
    )


def run(profile: Profile, method: Method, seed: int, split: str) -> Path:
    """The folder of the answers, made if it is not there; processes that call this share the work.

    Parameters
    ----------
    profile, method, seed, split: as in `step`.
    """
    return folders.make(step(profile, method, seed, split))


def load(folder: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """The recorded answers as a data frame, with these columns or all."""
    return evaluation.load(folder, columns)


def _share(profile: Profile, method: Method, seed: int, split: str) -> None:
    evaluation.share(step(profile, method, seed, split), _asked(profile, method, seed, split))


def _make(profile: Profile, method: Method, seed: int, split: str, folder: Path) -> None:
    import torch

    torch.set_num_threads(profile.training.threads)
    asked = _asked(profile, method, seed, split)
    answers = evaluation.recorded(step(profile, method, seed, split), asked)
    if split == "reporting":
        counted = answers["repeat"] < LOG_RATIOS
        reference = reference_policy.step(profile).folder
        for column, policy in (("policy_logp", *asked.policies.values()), ("ref_logp", reference)):
            answers.loc[counted, column] = _log_probs(profile, policy, answers[counted])
    answers.to_parquet(folder / evaluation.EVALUATION)


def _asked(profile: Profile, method: Method, seed: int, split: str) -> evaluation.Asked:
    training = relative_training.step(profile, method, seed)
    known = evaluation.load(reference_evaluation.step(profile, 0, split).folder, ["prompt_id", "text", "reward"])
    return evaluation.Asked(profile, seed, split, {1: relative_training.policy(training)}, known)


def _log_probs(profile: Profile, policy: Path, answers: pd.DataFrame) -> np.ndarray:
    """(answers,) in float64."""
    import numpy as np

    from qrpo_lib.models import chat_template
    from qrpo_lib.training import reference_logps

    tokenizer, settings = evaluation.tokenizer(profile), profile.training
    prompts = {one.id: one.text for one in tasks.of(profile.task).prompts(profile.seed)}
    ids = {name: chat_template.prompt_ids(tokenizer, prompts[name]) for name in answers["prompt_id"].unique()}
    rows = [
        {"prompt_ids": ids[name], "completion_ids": list(tokens)}
        for name, tokens in zip(answers["prompt_id"], answers["token_ids"], strict=True)
    ]
    computing = {"micro_batch_size": settings.micro_batch_size, "precision": settings.precision}
    return reference_logps.log_probs(policy, tokenizer, rows, **computing)["ref_logps"].astype(np.float64)
