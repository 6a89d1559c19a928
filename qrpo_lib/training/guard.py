"""A check before training: are log-probabilities of this model computed rightly here? Tried on a few short sequences.

Three comparisons: this package's log-probabilities against those from the logits of a plain forward pass, a sequence
alone against the same one in a batch, and the beginning of a sequence against the whole. A model that fails one is
refused in a sentence that says which; none is trained wrongly in silence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import causal_lm
from qrpo_lib.training.log_probs import completion_log_probs

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}  # nats a token; of lower precisions:
_ROUGH = 0.05
_LENGTHS = (11, 7, 9)  # tokens of the sequences
_PROMPT = 4
_LONG_ROPE = ("longrope", "dynamic")


class UnsupportedModelError(InputError):
    """A model whose log-probabilities are not computed rightly here, or that cannot be trained."""


def check_kind(model: Any) -> None:
    """Raises UnsupportedModelError for anything but a causal language model with its weights in memory."""
    base = causal_lm.without_adapter(model)
    if not isinstance(base, PreTrainedModel) or base.get_output_embeddings() is None:
        raise UnsupportedModelError(
            f"A {type(base).__name__} is no causal language model of transformers: load it with AutoModelForCausalLM."
        )
    if any(weights.is_meta for weights in model.parameters()):
        raise UnsupportedModelError(f"Weights of {_name(model)} are offloaded or not loaded: load it into memory.")


def check(model: torch.nn.Module, longest: int | None = None) -> None:
    """Raises UnsupportedModelError for a model that this package would train or score wrongly.

    `longest`: the most tokens of a row. The model is as it was afterwards.
    """
    _check_configuration(model, longest)
    try:
        with causal_lm.plain(causal_lm.without_adapter(model)):
            _compare(model)
    except UnsupportedModelError:
        raise
    except (TypeError, AttributeError, RuntimeError, ValueError, IndexError, KeyError, NotImplementedError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnsupportedModelError(
            f"{_name(model)} cannot be used here: it fails on token ids alone, without a mask ({said})."
        ) from error


def _check_configuration(model: torch.nn.Module, longest: int | None) -> None:
    config: Any = model.config
    text = config.get_text_config()
    name = _name(model)
    adapters = getattr(model, "peft_config", None) or {}
    virtual = [str(one.peft_type) for one in adapters.values() if getattr(one, "is_prompt_learning", False)]
    if virtual:
        raise UnsupportedModelError(f"Adapters of virtual tokens ({virtual[0]}) are not supported: use LoRA.")
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} is an encoder-decoder: only causal (decoder-only) models are supported.")
    places = {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()}
    if len(places) > 1:
        raise UnsupportedModelError(
            f"Parts of {name} are in different places ({', '.join(sorted(places))}): load it whole, without a "
            "device_map; several GPUs take a process each (accelerate launch)."
        )
    if getattr(text, "output_router_logits", False) and getattr(text, "router_aux_loss_coef", 0):
        raise UnsupportedModelError(
            f"{name} asks for an auxiliary loss of its router (output_router_logits), which none of the losses here "
            "adds: set model.config.output_router_logits = False."
        )
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kinds = [rope, *rope.values()] if isinstance(rope, dict) else []
    kind = next((one for one in kinds if isinstance(one, dict) and one.get("rope_type") in _LONG_ROPE), None)
    if kind is not None and longest is not None:
        original = kind.get("original_max_position_embeddings") or getattr(
            text, "original_max_position_embeddings", None
        )
        original = original or getattr(text, "max_position_embeddings", None)
        if original and longest > original:
            raise UnsupportedModelError(
                f"The rotary positions of {name} ({kind['rope_type']}) depend on the longest row of a batch beyond "
                f"{original} tokens, and a row has {longest}: set max_length to {original}."
            )


def plain_log_probs(model: torch.nn.Module) -> Tensor | None:
    """Log-probabilities of the tried sequences by the model's own logits: (sequences,); None if it has no logits.

    For `check_reference`.
    """
    ids, _ = _sequences(model)
    try:
        with causal_lm.plain(causal_lm.without_adapter(model)):
            return torch.stack([_plain(model, ids[i, :n]).sum() for i, n in enumerate(_LENGTHS)]).cpu()
    except (TypeError, AttributeError, RuntimeError, ValueError, IndexError, KeyError, NotImplementedError):
        return None  # which `check` says in words


def check_reference(reference: torch.nn.Module, given: Tensor) -> None:
    """Raises UnsupportedModelError unless the reference is the policy as it was given (`plain_log_probs`)."""
    found = plain_log_probs(reference)
    if found is not None:
        _agree(
            reference.get_input_embeddings().weight.dtype,
            found,
            given,
            "The reference, the model without the adapter that is trained, is not the model that was given: their "
            "log-probabilities differ by {} nats. Some initialisations of an adapter change the model under it (PiSSA, "
            "OLoRA): use another, or pass the model, loaded once more, as ref_model. A model may come with one adapter "
            'alone, named "default".',
        )


def _sequences(model: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """Token ids, padded on the right, and which of them are of completions: (sequences, tokens) each."""
    vocabulary = int(model.get_output_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    # ids in the middle: special tokens stand at either end
    low, high = min(4, vocabulary - 1), max(vocabulary * 3 // 4, min(5, vocabulary))
    rows = [torch.randint(low, high, (length,), generator=generator) for length in _LENGTHS]
    ids = torch.full((len(rows), max(_LENGTHS)), low)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, _PROMPT : len(row)] = 1
    device = model.get_input_embeddings().weight.device
    return ids.to(device), mask.to(device)


def _compare(model: torch.nn.Module) -> None:
    ids, mask = _sequences(model)
    weights = model.get_input_embeddings().weight.dtype
    together, _ = completion_log_probs(model, ids, mask)
    single = [(ids[i : i + 1, :n], mask[i : i + 1, :n]) for i, n in enumerate(_LENGTHS)]
    alone = torch.cat([completion_log_probs(model, *one)[0] for one in single])
    plain = [_plain(model, ids[i, :n]) for i, n in enumerate(_LENGTHS)]
    name = _name(model)
    if not all(bool(one.isfinite().all()) for one in plain):
        raise UnsupportedModelError(f"{name} gives log-probabilities that are not finite: are its weights whole?")
    _agree(
        weights,
        alone,
        torch.stack([one[_PROMPT - 1 :].sum() for one in plain]),
        f"Log-probabilities of {name} as computed here differ from those of its own logits by {{}} nats: it changes "
        "its logits after the output head, or its head is not a plain linear layer. It is not supported.",
    )
    _agree(
        weights,
        together,
        alone,
        f"{name} gives a sequence in a batch other log-probabilities than alone, by {{}} nats: its rows are not "
        "independent of each other or of padding. It is not supported.",
    )
    half = _LENGTHS[0] // 2
    _agree(
        weights,
        _plain(model, ids[0, : half + 1]).sum()[None],
        plain[0][:half].sum()[None],
        f"{name} gives the beginning of a sequence other log-probabilities than the whole, by {{}} nats: it is not "
        "causal. It is not supported.",
    )


def _plain(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """log p of each token after the first, (tokens - 1,), from the logits of one sequence."""
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
    exact = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(exact).log_softmax(-1).gather(1, ids[1:, None]).squeeze(1)


def _agree(weights: torch.dtype, ours: Tensor, expected: Tensor, sentence: str) -> None:
    tolerance = _TOLERANCE.get(weights, _ROUGH) * max(_LENGTHS)
    scale = 1 + expected.abs().max().item() / 50
    difference = (ours.double() - expected.double()).abs().max().item()
    if not difference <= tolerance * scale:
        raise UnsupportedModelError(sentence.format(f"{difference:.2g}"))


def _name(model: torch.nn.Module) -> str:
    base = causal_lm.without_adapter(model)
    return f"{type(base).__name__} ({base.config.model_type})"
