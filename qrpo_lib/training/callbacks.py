"""What happens while a trainer runs: progress, equally spaced checkpoints, the one that training resumes from."""

from __future__ import annotations

import shutil
from pathlib import Path

from accelerate import PartialState
from transformers import Trainer, TrainerCallback

from qrpo_lib.runs import files
from qrpo_lib.training import causal_lm, parallel
from qrpo_lib.training.configuration import OnCheckpoint, Optimization, Progress


class Checkpoints(TrainerCallback):
    """Step 0 and the checkpoints' steps: validation metrics, the caller's callback, the state that resuming needs."""

    def __init__(self, trainer: Trainer, settings: Optimization, save: bool, on_checkpoint: OnCheckpoint | None):
        self.trainer, self.settings, self.save, self.on_checkpoint = trainer, settings, save, on_checkpoint
        self.forward = parallel.forward(settings.precision)

    def on_train_begin(self, args, state, control, **kwargs):
        """Reach step 0, unless training continues."""
        self.steps = checkpoint_steps(state.max_steps, self.settings.checkpoints, self.settings.checkpoint_every)
        if state.global_step == 0:  # not when training continues
            self._reach(0)

    def on_step_end(self, args, state, control, **kwargs):
        """Reach the checkpoints' steps, and have the trainer save its state."""
        if state.global_step in self.steps:
            self._reach(state.global_step)
            control.should_save = self.save
            control.should_log = True  # logging the validation metrics has cleared it
        return control

    def on_save(self, args, state, control, **kwargs):
        """Seal the state that was saved, and only then remove older ones."""
        PartialState().wait_for_everyone()  # each process has written its part
        if state.is_world_process_zero:
            saved = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            files.seal_folder(saved)
            for older in set(saved.parent.glob("checkpoint-*")) - {saved}:  # only now: until here it was the last one
                shutil.rmtree(older)

    def _reach(self, step: int) -> None:
        with causal_lm.plain(self.trainer.model):
            self.trainer.log_validation()
            if self.on_checkpoint:
                self.on_checkpoint(step, parallel.whole(self.trainer.model, self.forward.weights))


def checkpoint_steps(steps: int, count: int, every: int | None = None) -> set[int]:
    """Of so many steps of training, those at which the policy is evaluated, step 0 aside, the last among them.

    `count` equally spaced ones, or one after each `every` steps.
    """
    if every is not None:
        return {*range(every, steps, every), steps}
    return {round(i * steps / count) for i in range(1, count + 1)} - {0}


class Reporter(TrainerCallback):
    """Tells the caller how far training is."""

    def __init__(self, progress: Progress | None):
        self.progress = progress

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Tell the caller the step and the loss."""
        if self.progress and "grad_norm" in logs:
            self.progress(state.global_step, state.max_steps, f"loss {logs['loss']:.4g}")


def last_complete_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint that was saved to its end and is still what was written."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        if files.is_sealed(checkpoint):
            return str(checkpoint)
        shutil.rmtree(checkpoint, ignore_errors=True)  # another process may be at it too
    return None
