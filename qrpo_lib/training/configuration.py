"""How a policy is trained: the objective, the optimization, and where its state and its results go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

Progress = Callable[[int, int, str], None]
OnCheckpoint = Callable[[int, PreTrainedModel], None]

PRECISIONS = ("float32", "bfloat16")
REFERENCES = ("computed", "live")


@dataclass(frozen=True)
class Objective:
    """What the policy is fitted with.

    algorithm: "qrpo", "dpo", "rebel" or "simpo".
    loss: the keyword arguments of its function in `qrpo_lib.objective.losses`, such as `{"beta": 0.01,
        "transform": "log"}`; on pairs QRPO's are those of `losses.qrpo_pair`.
    num_ref_rewards: how many reference rewards of a row are used, the first ones (None: as many as the first row has).
    """

    algorithm: str
    loss: Mapping[str, Any]
    num_ref_rewards: int | None = None


@dataclass(frozen=True)
class Optimization:
    """Adam with a cosine schedule and 10 % warm-up (App. L.8).

    batch_size: rows a step, over all processes together.
    micro_batch_size: how many of them are computed at a time in each process (None: all); how a batch is split does
        not change its gradient.
    last_batch: what becomes of the rows of an epoch that fill no batch: "keep" makes a smaller one, "drop" none.
    checkpoints: how many equally spaced steps, the last one among them, are evaluated and can be resumed from.
    checkpoint_every: instead, after how many steps each, and after the last.
    precision: "bfloat16" computes forward passes in bfloat16 and keeps the trained weights, log-softmax and loss in
        float32, since learning rates of 1e-6 are lost on bfloat16 weights (`qrpo_lib.training.parallel.Forward`).
    gradient_checkpointing: the backward pass computes each layer again, so that only the layers' inputs are kept. The
        same gradient for a third more work; without it two pairs of 2,048 tokens in an 8B model keep about 50 GiB.
    """

    learning_rate: float
    batch_size: int
    micro_batch_size: int | None = None
    epochs: int = 1
    last_batch: str = "keep"
    checkpoints: int = 5
    checkpoint_every: int | None = None
    seed: int = 0
    precision: str = "float32"
    gradient_checkpointing: bool = False

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}: use one of {', '.join(PRECISIONS)}.")
        if self.micro_batch_size is None:
            object.__setattr__(self, "micro_batch_size", self.batch_size)
        every = [] if self.checkpoint_every is None else ["checkpoint_every"]
        for name in ("checkpoints", "batch_size", "micro_batch_size", "epochs", *every):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {size!r}.")


@dataclass(frozen=True)
class Output:
    """Where a training keeps its state, and whom it tells how far it is.

    folder: where the trainer's state is saved at the checkpoints; the same call continues from the last one and ends
        with the same weights. None saves nothing.
    on_checkpoint: called as `on_checkpoint(step, model)` at step 0 and at the checkpoints, in every process, with the
        whole model in evaluation mode; it may sample from it and copy it, not change it.
    progress: called as `progress(step, steps, text)` after each step.
    report_to: a tracker ("tensorboard", "trackio"), which writes below `folder`.
    """

    folder: str | Path | None = None
    on_checkpoint: OnCheckpoint | None = None
    progress: Progress | None = None
    report_to: str = "none"

    def __post_init__(self):
        if self.report_to != "none" and self.folder is None:
            raise ValueError(f"report_to={self.report_to!r} needs a folder: what it writes would be thrown away.")
