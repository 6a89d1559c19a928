"""Where a model is computed and in which precision: one process, several (DDP), DeepSpeed ZeRO-1 or FSDP2.

Which of these it is, Accelerate's environment variables say (`ACCELERATE_USE_DEEPSPEED`, `ACCELERATE_USE_FSDP`).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
from typing import NamedTuple

import torch
from accelerate import Accelerator, PartialState
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from qrpo_lib.runs import folders


class Forward(NamedTuple):
    """How a forward pass is computed: the weights' type, and whether autocast rounds what its products take.

    A reference is computed as the policy that is trained, so that their log-ratio at the start is 0 and not the
    difference of two roundings.
    """

    weights: torch.dtype
    autocast: bool

    def context(self, device: torch.device) -> contextlib.AbstractContextManager:
        """The context in which the forward pass runs."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.autocast)

    def of(self, model: PreTrainedModel) -> PreTrainedModel:
        """A model with these weights on this process's device: the model itself if it is that already, else a copy.

        Buffers keep their type: positions are encoded with frequencies that bfloat16 would shift by whole turns.
        """
        if all(weights.dtype == self.weights for weights in model.parameters()) and model.device == device():
            return model
        memo = {id(buffer): buffer.to(device(), copy=True) for buffer in model.buffers()}
        for weights in model.parameters():
            moved = weights.detach().to(device(), self.weights, copy=True)
            memo[id(weights)] = torch.nn.Parameter(moved, requires_grad=weights.requires_grad)
        return copy.deepcopy(model, memo)


def forward(precision: str) -> Forward:
    """How training in this precision computes its forward passes here.

    DeepSpeed and FSDP2 round the weights themselves to bfloat16 before they are used, and keep float32 ones for the
    optimizer; DeepSpeed does without autocast.
    """
    if precision == "float32":
        return Forward(torch.float32, autocast=False)
    if uses_deepspeed():
        return Forward(torch.bfloat16, autocast=False)
    return Forward(torch.bfloat16 if uses_fsdp() else torch.float32, autocast=True)


def state() -> PartialState:
    """The processes that train together, and this one's device."""
    return folders.group()


def device() -> torch.device:
    """The device of this process: its GPU, or the CPU."""
    return state().device


def uses_deepspeed() -> bool:
    """Whether DeepSpeed trains."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


def uses_fsdp() -> bool:
    """Whether FSDP trains."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def accumulate_in_float32(accelerator: Accelerator, max_grad_norm: float) -> None:
    """Gradients are summed over micro-batches and processes in float32, and clipped at this norm (0: not at all).

    DeepSpeed sums them in the weights' type otherwise, and Accelerate has it clip them at a norm of 1; FSDP2 reduces
    them in the type of the forward pass, and rounds what the model returns, here log-probabilities, to that type.
    """
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    if deepspeed is not None:
        config = deepspeed.deepspeed_config
        config["data_types"] = {"grad_accum_dtype": "fp32"} | (config.get("data_types") or {})
        config["gradient_clipping"] = max_grad_norm
        if "bf16" in config:  # a weight's bfloat16 gradient goes as soon as it has been added
            config["bf16"]["immediate_grad_update"] = True
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    if fsdp is not None and fsdp.mixed_precision_policy is not None:
        policy, wanted = fsdp.mixed_precision_policy, {"reduce_dtype": torch.float32, "output_dtype": None}
        known = {field.name for field in dataclasses.fields(policy)}  # FSDP1's returns what the model does
        fsdp.mixed_precision_policy = dataclasses.replace(
            policy, **{name: value for name, value in wanted.items() if name in known}
        )


def whole(model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model with all its weights in this process: itself, or a gathered copy of one that FSDP has sharded.

    Every process must call it. dtype: of the copy's weights; None keeps it.
    """
    parameters = dict(model.named_parameters())
    if not any(isinstance(weights, DTensor) for weights in parameters.values()):
        return model
    found = next(iter(parameters.values()))
    with no_init_weights(), torch.random.fork_rng():
        copied = AutoModelForCausalLM.from_config(model.config, dtype=dtype or found.dtype).to(found.device)
    copied.tie_weights()  # which transformers leaves to the initialisation
    targets = dict(copied.named_parameters())
    with torch.no_grad():
        for name, weights in parameters.items():
            targets[name].copy_(weights.full_tensor() if isinstance(weights, DTensor) else weights)
    return copied.eval()
