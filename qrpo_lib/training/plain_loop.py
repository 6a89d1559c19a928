"""Policy fitting in a plain loop, for losses that the suite's trainer does not have: one process, float32, no resuming.

    policy, history = fit(model, steps, loss_of_step, optimization)

The optimiser, its schedule and the order of rows are the trainer's own (`suite_trainer`, `batching`): on QRPO's loss
this loop ends at the weights of `trainer.fit_policy`, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from qrpo_lib.runs import products
from qrpo_lib.training import batching, causal_lm, samples
from qrpo_lib.training.configuration import Optimization
from qrpo_lib.training.log_probs import completion_log_probs

Progress = Callable[[int, int, str], None]
_WARM_UP = 0.1  # of the steps


@products.fast()
def fit(
    model: PreTrainedModel,
    steps: int,
    loss_of_step: Callable[[int], tuple[Tensor, Mapping[str, float]]],
    settings: Optimization,
    report: Progress | None = None,
) -> list[dict[str, Any]]:
    """Train a model in place with Adam, a cosine schedule and 10 % warm-up; a row of history for each step.

    Parameters
    ----------
    model: in float32, without dropout (`prepared`).
    steps: how many there are; `loss_of_step` is called with each, from 0.
    loss_of_step: the mean loss of the step's batch under the model as it is, and what else to note of the step.
    settings: of which learning rate and precision count here.
    report: told after each step.

    Raises
    ------
    ValueError
        Another precision than float32.
    """
    if settings.precision != "float32":
        raise ValueError(f"the plain loop computes in float32, not in {settings.precision}.")
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(_WARM_UP * steps), steps)
    history = []
    for step in range(steps):
        loss, noted = loss_of_step(step)
        loss.backward()
        squares = torch.stack([weight.grad.square().sum() for weight in weights if weight.grad is not None])
        row = {"step": step + 1, "split": "train", "loss": loss.item()} | dict(noted)
        history.append(row | {"grad_norm": float(squares.sum().sqrt()), "learning_rate": schedule.get_last_lr()[0]})
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if report:
            report(step + 1, steps, f"loss {loss.item():.4g}")
    return history


def prepared(policy) -> PreTrainedModel:
    """The model of a folder, or the model itself, ready for training: in float32 and without dropout."""
    model = causal_lm.without_dropout(causal_lm.trainable(policy)).eval()
    model.get_input_embeddings().padding_idx = None  # with pad = eos that embedding would stay untrained
    return model


def batches(rows: Sequence[Mapping], settings: Optimization) -> list[list[Mapping]]:
    """The rows of each step, in the trainer's order; rows of one completion or two, or of a prompt alone."""
    lengths = [samples.length(row) if "prompt_ids" in row else 0 for row in rows]
    size = settings.batch_size
    order = batching.training_order(lengths, size, settings.epochs, settings.seed, settings.last_batch)
    return [[rows[i] for i in order[start : start + size]] for start in range(0, len(order), size)]


def log_probs(model: PreTrainedModel, collated: Mapping[str, Tensor], sides: int) -> tuple[Tensor, Tensor]:
    """log pi of a batch's completions and their lengths, both (rows, sides)."""
    logps, lengths = completion_log_probs(model, collated["input_ids"], collated["completion_mask"])
    return logps.view(sides, -1).T, lengths.view(sides, -1).T


def token_log_probs(model: PreTrainedModel, collated: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """log pi of each completion token, and 1 where there is one: both (sequences, tokens - 1).

    Right-padded sequences without an attention mask: padding comes where a causal model does not look.
    """
    ids, mask = collated["input_ids"], collated["completion_mask"][:, 1:]
    logps = model(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1)
    return logps.gather(-1, ids[:, 1:, None]).squeeze(-1) * mask, mask
