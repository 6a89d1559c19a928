"""Log-probabilities of completions under a causal language model, computed on the tokens that need them only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from torch import Tensor


def completion_log_probs(model: torch.nn.Module, input_ids: Tensor, completion_mask: Tensor) -> tuple[Tensor, Tensor]:
    """log pi(y|x) in float32 and |y| of right-padded sequences: (sequences, tokens) twice to (sequences,) twice.

    The output head is applied to the positions that predict a completion token, no others, and log-softmax is taken in
    float32. `model` may be wrapped (DDP, FSDP, autocast). There is no attention mask: padding on the right comes after
    every token that counts, where a causal model does not look.
    """
    mask = completion_mask[:, 1:].bool()
    with _head_scoring(model, mask, input_ids[:, 1:][mask]):
        token_logps = model(input_ids=input_ids, use_cache=False).logits
    sums = token_logps.new_zeros(mask.shape).masked_scatter(mask, token_logps).sum(1)
    return sums, mask.sum(1)


@contextlib.contextmanager
def _head_scoring(model: torch.nn.Module, mask: Tensor, targets: Tensor) -> Iterator[None]:
    """The model's head returns the log-probabilities of `targets` at the positions in `mask` in place of logits.

    Replacing the head's forward, not the model's, leaves every wrapper of the model (DDP, FSDP, autocast) at work.
    """
    head = extract_model_from_parallel(model).get_output_embeddings()

    def forward(hidden: Tensor) -> Tensor:
        logits = F.linear(hidden[:, :-1][mask], head.weight, head.bias)
        return -F.cross_entropy(logits.float(), targets, reduction="none")

    head.forward = forward
    try:
        yield
    finally:
        del head.forward
