"""Step 3, training: one policy fitted with one algorithm and seed, evaluated online at the start and at checkpoints.

The folder holds the final policy (`policy/`), `history.csv` (losses and metrics, one row for each step and split) and
`evaluation.parquet` (every completion of every checkpoint, see `RECORDED`) and `pairs.json` (how many pairs there
were, and what was left out and why).
"""

from __future__ import annotations

import io
import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.objective import algorithms
from qrpo_lib.profiles.settings import Algorithm, Profile, Training
from qrpo_lib.runs import files, folders, keys, progress
from qrpo_lib.steps import evaluation, reference_evaluation, reference_log_probs, reference_policy, training_pairs

if TYPE_CHECKING:
    from qrpo_lib.training.configuration import Optimization

PAIRS, HISTORY, EVALUATION = "pairs.json", "history.csv", reference_evaluation.EVALUATION
# Columns of the recorded completions: every statistic of the results is computed from these.
RECORDED = reference_evaluation.RECORDED
_REPORTED_PRECISION = "%.9g"
# The trainer's checkpoints as long as training goes on, and the name they get before they are removed.
_TRAINER, _FINISHED = ".trainer", ".finished"


def inputs(profile: Profile, seed: int) -> tuple[keys.Step, ...]:
    """The steps that a training rests on; the losses' settings have no part in them."""
    shared = (*training_pairs.sources(profile), reference_log_probs.step(profile))
    return (*shared, reference_evaluation.step(profile, seed))


def step(
    profile: Profile, algorithm: Algorithm, seed: int, known_inputs: tuple[keys.Step, ...] | None = None
) -> keys.Step:
    """What determines the trained policy: of the losses' settings, only this algorithm's.

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
        "evaluation": evaluation.parameters(profile),
    }
    return keys.Step(
        "training",
        parameters,
        inputs=inputs(profile, seed) if known_inputs is None else known_inputs,
        code=(*algorithms.code(algorithm), *evaluation.code(profile)),
        make=partial(_make, profile, algorithm, seed),
        seed=seed,
        resumable=True,
    )


def run(profile: Profile, algorithm: Algorithm, seed: int) -> Path:
    """The folder of the trained policy, made if it is not there."""
    return folders.make(step(profile, algorithm, seed))


def prepare(profile: Profile) -> None:
    """Make everything that training shares between algorithms, betas and seeds."""
    reference_log_probs.run(profile)


def shared_key(profile: Profile) -> tuple[str, ...]:
    """Equal for profiles of which `prepare` makes the same."""
    return (reference_log_probs.step(profile).key,)


def load_history(folder: Path):
    """Losses and metrics of training, one row for each step and split, as a data frame."""
    import pandas as pd

    return pd.read_csv(folder / HISTORY)


def load_evaluation(folder: Path, columns: list[str] | None = None):
    """The recorded completions of all checkpoints as a data frame, with these columns or all of `RECORDED`."""
    import pandas as pd

    return pd.read_parquet(folder / EVALUATION, columns=columns)


def optimization(settings: Training, learning_rate: float, seed: int) -> Optimization:
    """How a policy is fitted, from the settings of a profile."""
    from qrpo_lib.training.configuration import Optimization

    names = ("batch_size", "micro_batch_size", "epochs", "last_batch", "checkpoints", "checkpoint_every")
    names += ("precision", "gradient_checkpointing")
    return Optimization(learning_rate, seed=seed, **{name: getattr(settings, name) for name in names})


def _make(profile: Profile, algorithm: Algorithm, seed: int, folder: Path) -> None:
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
    evaluate = _Evaluating(profile, policy, tokenizer, seed, folder)
    with progress.bar(f"training {algorithm}, seed {seed}") as report:
        fitted = trainer.fit_policy(
            policy,
            tokenizer,
            train,
            validation,
            objective=Objective(algorithm, loss, num_ref_rewards),
            settings=optimization(settings, learning_rate, seed),
            output=Output(folder / _TRAINER, on_checkpoint=evaluate, progress=report),
        )
    if not folders.is_main_process():
        return
    fitted.save(folder / "policy", tokenizer, settings.precision)
    _write(profile, fitted.history, reference_evaluation.step(profile, seed).folder, folder)
    report = {"setting": settings.setting, "train": pairs.train.report, "validation": pairs.validation.report}
    files.write_atomically(folder / PAIRS, (json.dumps(report, indent=2) + "\n").encode())
    # In this order: a run killed here must not find the trainer's last checkpoint without all the evaluations.
    (folder / _TRAINER).rename(folder / _FINISHED)
    shutil.rmtree(folder / _FINISHED)
    for path in folder.glob("evaluation-*.parquet"):
        path.unlink()


class _Evaluating:
    """Evaluates the policy at a checkpoint and keeps that at once.

    A killed training goes on from its last checkpoint and does not come back to earlier ones.
    """

    def __init__(self, profile: Profile, policy: Path, tokenizer, seed: int, folder: Path):
        self.profile, self.policy, self.tokenizer = profile, policy, tokenizer
        self.seed, self.folder = seed, folder
        self.reference = None

    def __call__(self, step: int, model) -> None:
        from transformers import AutoModelForCausalLM

        path = self.folder / _piece(step)
        if step == 0 or files.read_sealed(path) is not None:
            return
        if self.reference is None:
            self.reference = AutoModelForCausalLM.from_pretrained(self.policy).eval()
        # The same seed at every checkpoint: the difference between two of them has less noise.
        online = evaluation.online_rewards(
            self.profile,
            model,
            self.tokenizer,
            seed=self.seed,
            reference=self.reference,
            known=self._recorded_before(step),
        )
        if folders.is_main_process():  # processes that train together evaluate together
            files.write_sealed(path, online.assign(step=step).to_parquet())

    def _recorded_before(self, step: int):
        """What is recorded of the reference policy and at the checkpoints before this step, as one frame so ordered."""
        import pandas as pd

        earlier = [path for path in sorted(self.folder.glob("evaluation-*.parquet")) if path.name < _piece(step)]
        pieces = [pd.read_parquet(io.BytesIO(content)) for path in earlier if (content := files.read_sealed(path))]
        start = reference_evaluation.step(self.profile, self.seed).folder
        return pd.concat([reference_evaluation.load(start), *pieces], ignore_index=True)


def _write(profile: Profile, history: list[dict], start: Path, folder: Path) -> None:
    """The history, and the completions of all checkpoints in one file."""
    import pandas as pd

    from qrpo_lib.training import callbacks

    frame = pd.DataFrame(history)
    settings, steps = profile.training, int(frame["step"].max())
    reached = callbacks.checkpoint_steps(steps, settings.checkpoints, settings.checkpoint_every)
    parts = _evaluations(folder, reached)
    frame.to_csv(folder / HISTORY, index=False, float_format=_REPORTED_PRECISION)
    online = pd.concat([reference_evaluation.load(start), *parts], ignore_index=True)
    online[list(RECORDED)].to_parquet(folder / EVALUATION)


def _drop_damaged(folder: Path) -> None:
    """Remove evaluations that are not what was written, and the checkpoint behind them: training goes back for them."""
    if folders.is_main_process():
        damaged = [path for path in folder.glob("evaluation-*.parquet") if files.read_sealed(path) is None]
        for path in damaged:
            path.unlink()
        if damaged:
            shutil.rmtree(folder / _TRAINER, ignore_errors=True)
    if "WORLD_SIZE" in os.environ:  # processes that train together must find the same
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def _evaluations(folder: Path, steps: set[int]):
    """The evaluations at these steps, as frames in their order. Raises UnreadableFileError if one is not there."""
    import pandas as pd

    frames = []
    for step in sorted(steps):
        path = folder / _piece(step)
        content = files.read_sealed(path)
        if content is None:
            shutil.rmtree(folder / _TRAINER, ignore_errors=True)
            raise files.unreadable(path, "it is missing or damaged", "Run the same command again: it is made anew.")
        frames.append(pd.read_parquet(io.BytesIO(content)))
    return frames


def _piece(step: int) -> str:
    """The name of the file with the evaluation at one checkpoint, until training ends."""
    return f"evaluation-{step:06d}.parquet"
