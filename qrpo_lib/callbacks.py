"""What happens while a trainer runs: progress, equally spaced checkpoints, the one that training resumes from."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel, Trainer, TrainerCallback

from qrpo_lib import causal_lm

Progress = Callable[[int, int, str], None]
OnCheckpoint = Callable[[int, PreTrainedModel], None]


class Checkpoints(TrainerCallback):
    """Step 0 and equally spaced steps: validation metrics, the caller's callback, the state that resuming needs."""

    def __init__(self, trainer: Trainer, count: int, save: bool, on_checkpoint: OnCheckpoint | None):
        self.trainer, self.count, self.save, self.on_checkpoint = trainer, count, save, on_checkpoint

    def on_train_begin(self, args, state, control, **kwargs):
        self.steps = {round(i * state.max_steps / self.count) for i in range(1, self.count + 1)}
        if state.global_step == 0:  # not when training continues
            self._reach(0)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in self.steps:
            self._reach(state.global_step)
            control.should_save = self.save
            control.should_log = True  # logging the validation metrics has cleared it
        return control

    def _reach(self, step: int) -> None:
        with causal_lm.plain(self.trainer.model):
            self.trainer.log_validation()
            if self.on_checkpoint:
                self.on_checkpoint(step, self.trainer.model)


class Reporter(TrainerCallback):
    """Tells the caller how far training is."""

    def __init__(self, progress: Progress | None):
        self.progress = progress

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.progress and "grad_norm" in logs:
            self.progress(state.global_step, state.max_steps, f"loss {logs['loss']:.4g}")


def last_complete_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint that was saved to its end: the trainer's state is written last."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        with contextlib.suppress(OSError, ValueError):
            json.loads((checkpoint / "trainer_state.json").read_text())
            return str(checkpoint)
        shutil.rmtree(checkpoint, ignore_errors=True)  # another process may be at it too
    return None
