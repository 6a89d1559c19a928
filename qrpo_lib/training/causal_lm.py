"""The model that is trained or scored: loading and checking it, switching dropout off, undoing what trainers add."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.utils import disable_dropout_in_model

_LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
_PATCHED = ("forward", "_original_forward")  # put on the instance by TRL and Accelerate


def trainable(policy: str | Path | PreTrainedModel) -> PreTrainedModel:
    """The model of a folder, in float32, or the model itself. Raises ValueError for one that cannot be trained here."""
    policy = loaded(policy, torch.float32)
    if any(parameter.dtype != torch.float32 for parameter in policy.parameters()):
        raise ValueError("the weights must be float32: small updates are lost on lower precision; call model.float().")
    return policy


def loaded(policy: str | Path | PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a folder in this type, or the model itself. Raises ValueError for one that cannot be scored here."""
    if isinstance(policy, str | Path):
        policy = AutoModelForCausalLM.from_pretrained(policy, dtype=dtype)
    if any(getattr(policy.config, name, None) is not None for name in _LOGIT_TRANSFORMS):
        raise ValueError(f"{type(policy).__name__} transforms its logits after the head, which is not supported.")
    return policy


def without_adapter(model: torch.nn.Module) -> Any:
    """The model that adapters are inside of, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model, its weights rounded to this type, but not the buffers: frequencies of positions stay float32."""
    for weights in model.parameters():
        weights.data = weights.data.to(dtype)
    return model


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """The model, every dropout rate set to 0."""
    disable_dropout_in_model(model)
    for module in model.modules():  # attention keeps its rate as a number, which TRL's function leaves
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def context(model: PreTrainedModel) -> float:
    """How many tokens the model takes."""
    return getattr(model.config, "max_position_embeddings", None) or math.inf


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that batches are padded with: the end-of-sequence token, as padding is never read."""
    token = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if token is None:
        raise ValueError("the tokenizer has neither a padding nor an end-of-sequence token: set tokenizer.pad_token.")
    return token


@contextlib.contextmanager
def plain(model: PreTrainedModel) -> Iterator[None]:
    """Context with the model in evaluation mode, without the forward methods that TRL and Accelerate put on it.

    They break copies of the model. Training mode and methods come back at the end.
    """
    patched = {name: vars(model).pop(name) for name in _PATCHED if name in vars(model)}
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        model.train(was_training)
        vars(model).update(patched)


def restored(model: PreTrainedModel) -> PreTrainedModel:
    """The model as it was before a trainer took it, in evaluation mode."""
    for name in _PATCHED:
        vars(model).pop(name, None)
    return model.eval()
