"""Log-probabilities of recorded answers under the policy that gave them and under the reference policy.

Both by the code that trains, in its precision, so that their difference is not one of two engines. Made for what is
reported with a log-ratio or a KL alone. The folder holds `log_ratios.parquet`: `prompt_id, repeat, logp, ref_logp`, in
nats, one row for each answer in the order of the evaluation.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.profiles.settings import Algorithm, Profile
from qrpo_lib.runs import folders, keys, progress
from qrpo_lib.steps import checkpoint_evaluation, evaluation, fitting, reference_policy

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

LOG_RATIOS = "log_ratios.parquet"
_NAMES = ("prompt_id", "repeat")


def step(profile: Profile, algorithm: Algorithm, seed: int, checkpoint: int, split: str) -> keys.Step:
    """What determines the log-probabilities of a checkpoint's answers to the prompts of a split.

    Parameters
    ----------
    profile: its settings.
    algorithm, seed: of the training.
    checkpoint: after how many steps of the training.
    split: "selection" or "reporting".
    """
    settings = profile.training
    computing = {name: getattr(settings, name) for name in ("micro_batch_size", "precision", "threads")}
    training = fitting.step(profile, algorithm, seed)
    told = training.parameters | {"checkpoint": checkpoint, "split": split}
    answered = _answered(profile, algorithm, seed, checkpoint, split)
    return keys.Step(
        "log_ratios",
        told | computing,
        inputs=(answered, training, reference_policy.step(profile)),
        make=partial(_make, profile, algorithm, seed, checkpoint, split),
        seed=seed,
    )


def run(profile: Profile, algorithm: Algorithm, seed: int, checkpoint: int, split: str) -> Path:
    """The folder of the log-probabilities, made if it is not there.

    Parameters
    ----------
    profile, algorithm, seed, checkpoint, split: as in `step`.

    Raises
    ------
    InputError
        The training no longer holds the policy of that checkpoint.
    """
    return folders.make(step(profile, algorithm, seed, checkpoint, split))


def load(folder: Path) -> pd.DataFrame:
    """The log-probabilities as a data frame."""
    import pandas as pd

    return pd.read_parquet(folder / LOG_RATIOS)


def _answered(profile: Profile, algorithm: Algorithm, seed: int, checkpoint: int, split: str) -> keys.Step:
    if split == "selection":
        return checkpoint_evaluation.step(profile, algorithm, seed)
    return checkpoint_evaluation.report_step(profile, algorithm, seed, checkpoint)


def _make(profile: Profile, algorithm: Algorithm, seed: int, checkpoint: int, split: str, folder: Path) -> None:
    import torch

    torch.set_num_threads(profile.training.threads)
    answers = evaluation.load(_answered(profile, algorithm, seed, checkpoint, split).folder)
    answers = answers[answers["step"] == checkpoint].reset_index(drop=True)
    policy = checkpoint_evaluation.policy(fitting.step(profile, algorithm, seed).folder, checkpoint)
    columns = {"logp": policy, "ref_logp": reference_policy.step(profile).folder}
    with progress.bar("log-probabilities of the answers") as report:
        for number, (name, of) in enumerate(columns.items()):
            report(number, len(columns), name)
            answers[name] = _log_probs(profile, of, answers)
    answers[[*_NAMES, *columns]].to_parquet(folder / LOG_RATIOS)


def _log_probs(profile: Profile, policy: Path, answers: pd.DataFrame) -> np.ndarray:
    """(answers,) in float64; the same answer twice is computed once."""
    import numpy as np

    from qrpo_lib.models import chat_template
    from qrpo_lib.tasks import registry as tasks
    from qrpo_lib.training import reference_logps

    tokenizer, settings = evaluation.tokenizer(profile), profile.training
    prompts = {one.id: one.text for one in tasks.of(profile.task).prompts(profile.seed)}
    ids = {name: chat_template.prompt_ids(tokenizer, prompts[name]) for name in answers["prompt_id"].unique()}
    answered = list(zip(answers["prompt_id"], map(tuple, answers["token_ids"]), strict=True))
    different = {answer: number for number, answer in enumerate(dict.fromkeys(answered))}
    rows = [{"prompt_ids": ids[name], "completion_ids": list(tokens)} for name, tokens in different]
    computing = {"micro_batch_size": settings.micro_batch_size, "precision": settings.precision}
    logps = reference_logps.log_probs(policy, tokenizer, rows, **computing)["ref_logps"].astype(np.float64)
    return logps[[different[answer] for answer in answered]]
