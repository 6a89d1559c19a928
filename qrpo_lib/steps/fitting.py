"""Step 3, training: one policy fitted with one algorithm and seed.

The folder holds the final policy (`policy/`), those of the checkpoints before it (`checkpoints/STEP/`, weights alone),
`history.csv` (losses and metrics, one row for each step and split) and `pairs.json` (how many pairs there were, and
what was left out and why). What the checkpoints answer is a step of its own (`qrpo_lib.steps.checkpoint_evaluation`);
once that is there, checkpoints that nothing reads are removed (`qrpo_lib.experiment.kept`).
"""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.objective import algorithms
from qrpo_lib.profiles.settings import Algorithm, Profile, Training
from qrpo_lib.runs import files, folders, keys, progress
from qrpo_lib.steps import reference_log_probs, reference_policy, training_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qrpo_lib.training.configuration import Optimization

PAIRS, HISTORY, POLICY, CHECKPOINTS = "pairs.json", "history.csv", "policy", "checkpoints"
_REPORTED_PRECISION = "%.9g"
# The trainer's checkpoints as long as training goes on, and the name they get before they are removed.
_TRAINER, _FINISHED = ".trainer", ".finished"


def inputs(profile: Profile) -> tuple[keys.Step, ...]:
    """The steps whose results a training reads, whatever the losses' settings and the seed."""
    return (*training_pairs.sources(profile), reference_log_probs.step(profile))


def step(
    profile: Profile, algorithm: Algorithm, seed: int, known_inputs: tuple[keys.Step, ...] | None = None
) -> keys.Step:
    """What determines the trained policy: of the losses' settings, only this algorithm's.

    Parameters
    ----------
    profile: its settings; `profile.training` says how the policy is fitted, and on which samples.
    algorithm: "qrpo", "dpo", "rebel" or "simpo".
    seed: of the training, which orders its samples.
    known_inputs: what `inputs` gives, where many steps that share it are made.
    """
    settings = profile.training.model_dump()
    loss = settings[algorithm]
    shared = {key: value for key, value in settings.items() if key not in algorithms.ALGORITHMS}
    parameters = {
        "algorithm": algorithm,
        "seed": seed,
        "loss": loss,
        "training": shared,
    }
    return keys.Step(
        "training",
        parameters,
        inputs=inputs(profile) if known_inputs is None else known_inputs,
        code=algorithms.code(algorithm),
        make=partial(_make, profile, algorithm, seed),
        seed=seed,
        resumable=True,
    )


def run(profile: Profile, algorithm: Algorithm, seed: int) -> Path:
    """The folder of the trained policy, made if it is not there."""
    return folders.make(step(profile, algorithm, seed))


def load_history(folder: Path):
    """Losses and metrics of training, one row for each step and split, as a data frame."""
    import pandas as pd

    return pd.read_csv(folder / HISTORY)


def last_step(folder: Path) -> int:
    """After how many steps the training of this folder ended."""
    return int(load_history(folder)["step"].max())


def checkpoints(folder: Path) -> dict[int, Path]:
    """The policies that a training's folder holds, by the steps after which they were saved, in order."""
    saved = {int(path.name): path for path in (folder / CHECKPOINTS).glob("*")}
    return dict(sorted((saved | {last_step(folder): folder / POLICY}).items()))


def reached(profile: Profile, steps: int) -> list[int]:
    """The steps after which a training of so many steps saved its policy, in order; the last is at its end."""
    from qrpo_lib.training import callbacks

    settings = profile.training
    return sorted(callbacks.checkpoint_steps(steps, settings.checkpoints, settings.checkpoint_every))


def optimization(settings: Training, learning_rate: float, seed: int) -> Optimization:
    """How a policy is fitted, from the settings of a profile."""
    from qrpo_lib.training.configuration import Optimization

    names = ("batch_size", "micro_batch_size", "epochs", "last_batch", "checkpoints", "checkpoint_every")
    names += ("precision", "gradient_checkpointing")
    return Optimization(learning_rate, seed=seed, **{name: getattr(settings, name) for name in names})


def _make(profile: Profile, algorithm: Algorithm, seed: int, folder: Path) -> None:
    import pandas as pd
    import torch
    from transformers import AutoTokenizer

    from qrpo_lib.training import trainer
    from qrpo_lib.training.configuration import Objective, Output

    settings = profile.training
    torch.set_num_threads(settings.threads)
    policy = reference_policy.step(profile).folder
    tokenizer = AutoTokenizer.from_pretrained(policy)
    pairs = training_pairs.of(profile)
    train, validation = reference_log_probs.added(profile, pairs)
    loss = getattr(settings, algorithm).model_dump()
    if profile.task.completions == "single":
        del loss["completions"]  # which of a pair
    learning_rate, num_ref_rewards = loss.pop("learning_rate"), loss.pop("num_ref_rewards", None)
    shutil.rmtree(folder / _FINISHED, ignore_errors=True)
    _drop_damaged(folder)
    with progress.bar(f"training {algorithm}, seed {seed}") as report:
        fitted = trainer.fit_policy(
            policy,
            tokenizer,
            train,
            validation,
            objective=Objective(algorithm, loss, num_ref_rewards),
            settings=optimization(settings, learning_rate, seed),
            output=Output(folder / _TRAINER, on_checkpoint=partial(_save, folder, settings.precision), progress=report),
        )
    if not folders.is_main_process():
        return
    history = pd.DataFrame(fitted.history)
    before = reached(profile, int(history["step"].max()))[:-1]
    _check_saved(folder, before)
    fitted.save(folder / POLICY, tokenizer, settings.precision)
    history.to_csv(folder / HISTORY, index=False, float_format=_REPORTED_PRECISION)
    report = {"setting": settings.setting, "train": pairs.train.report, "validation": pairs.validation.report}
    files.write_atomically(folder / PAIRS, (json.dumps(report, indent=2) + "\n").encode())
    # In this order: a run killed here must not find the trainer's last checkpoint without all the policies.
    (folder / _TRAINER).rename(folder / _FINISHED)
    shutil.rmtree(folder / _FINISHED)
    for path in (folder / CHECKPOINTS).glob("*"):
        if int(path.name) in before:
            files.unseal_folder(path)
        else:  # the last one, which is in `policy/`
            shutil.rmtree(path)


def _save(folder: Path, precision: str, step: int, model: PreTrainedModel) -> None:
    """Save the policy of a checkpoint, in the type that the trained policy is saved in (`suite_trainer.Fitted`).

    Before the trainer saves its own state: a killed training comes back to a checkpoint without its policy.
    """
    import torch

    from qrpo_lib.training import parallel

    if step == 0 or not folders.is_main_process():
        return
    saved = folder / CHECKPOINTS / str(step)
    shutil.rmtree(saved, ignore_errors=True)
    weights = torch.bfloat16 if precision == "bfloat16" else torch.float32
    parallel.Forward(weights, autocast=False).of(model).save_pretrained(saved)
    files.seal_folder(saved)


def _drop_damaged(folder: Path) -> None:
    """Remove policies that are not what was written, and the trainer's state if it is behind one of them."""
    from qrpo_lib.training import callbacks

    if folders.is_main_process():
        damaged = [path for path in (folder / CHECKPOINTS).glob("*") if not files.is_sealed(path)]
        for path in damaged:
            shutil.rmtree(path)
        state = callbacks.last_complete_checkpoint(folder / _TRAINER)
        if state and any(int(path.name) <= int(state.rpartition("-")[2]) for path in damaged):
            shutil.rmtree(folder / _TRAINER)
    if "WORLD_SIZE" in os.environ:  # processes that train together must find the same
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def _check_saved(folder: Path, steps: list[int]) -> None:
    """Raises UnreadableFileError if the policy after one of these steps is not there as it was written."""
    for step in steps:
        path = folder / CHECKPOINTS / str(step)
        if not files.is_sealed(path):
            shutil.rmtree(folder / _TRAINER, ignore_errors=True)
            raise files.unreadable(path, "it is missing or damaged", "Run the same command again: it is made anew.")
