"""Log-probabilities of completions under a causal language model, computed on the tokens that need them only.

Three savings, none of which changes a result by more than rounding. Tokens that several sequences share as their
prompt, such as the two completions of a pair, pass through the model once, and padding not at all: the sequences are
packed into one, and only attention sees them apart (`_attention`), those of similar length together. The output head
is applied only where a completion token is predicted. And logits are made in tiles (`_TokenLogProbs`), of which no more
are kept for the backward pass than a fixed budget holds, so that memory does not grow with sequence length times
vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel, send_to_device
from torch import Tensor
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from qrpo_lib.runs import products

# Rotary positions, attention through transformers' interface, and nothing else that mixes tokens. Each is in the tests.
_PACKABLE = ("llama", "mistral", "qwen2", "qwen3")
# Logits that exist at a time. On a CPU they should stay in its cache, a GPU needs large products to be busy.
_TILE = {"cpu": 2**20, "cuda": 2**25}
# Bytes of logits that a backward pass finds made, rather than making them again.
_KEPT = {"cpu": 2**28, "cuda": 2**31}
# Attention of sequences of at least this share of the longest one is computed together. On a GPU all in one: there
# padding costs less than further kernels.
_SIMILAR = {"cpu": 0.75}
# On a CPU, up to so many tokens plain products are faster than the fused kernel, and their scores are small.
_PLAIN = 64


def completion_log_probs(model: torch.nn.Module, input_ids: Tensor, completion_mask: Tensor) -> tuple[Tensor, Tensor]:
    """log pi(y|x) in float32 and |y| of right-padded sequences: (sequences, tokens) twice to (sequences,) twice.

    Log-softmax is taken in float32. `model` may be wrapped (DDP, FSDP, autocast). Of a type that is not known to allow
    it (`_packs`), it gets the padded sequences as they are, without an attention mask: padding on the right comes after
    every token that counts, where a causal model does not look.
    """
    device = next(model.parameters()).device
    layout = _layout(extract_model_from_parallel(model).config, input_ids.cpu(), completion_mask.cpu(), device)
    layout = send_to_device(layout, device)
    with _head_scoring(model, layout.predicting, layout.targets):
        token_logps = model(**layout.arguments, use_cache=False).logits
    sums = token_logps.new_zeros(layout.mask.shape).masked_scatter(layout.mask, token_logps).sum(1)
    return sums, layout.lengths


class _Layout(NamedTuple):
    """What the device gets of padded sequences, made in main memory: nothing waits for a GPU to say how many there are.

    arguments: the model's.
    predicting, targets: (scored,) the places among the model's that predict the completions' tokens, and these tokens.
    mask: (sequences, tokens - 1), which tokens but the first are of completions; lengths: (sequences,), how many.
    """

    arguments: dict
    predicting: Tensor
    targets: Tensor
    mask: Tensor
    lengths: Tensor


def _layout(config, input_ids: Tensor, completion_mask: Tensor, device: torch.device) -> _Layout:
    mask = completion_mask[:, 1:].bool()
    if _packs(config, input_ids.shape[1]):
        arguments, predicting = _packed(input_ids, mask, _SIMILAR.get(device.type, 0.0))
    else:
        arguments, predicting = {"input_ids": input_ids}, F.pad(mask, (0, 1)).flatten().nonzero().squeeze(1)
    return _Layout(arguments, predicting, input_ids[:, 1:][mask], mask, mask.sum(1))


# --- shared prompts, no padding -------------------------------------------------------------------------------------


class _Packing(NamedTuple):
    """Where the tokens of padded sequences are in a packed one, and back; the sequences are in groups, each padded."""

    unpack: Tensor  # (padded,): the place of each token of all groups in the packed sequence, anything for padding
    pack: Tensor  # (packed,): the index of each packed token in `unpack`
    groups: list[tuple[int, int]]  # of each group: sequences, tokens with padding


def _packs(config, width: int) -> bool:
    """Whether a model passes packed sequences through `_attention`, and no sliding window cuts into their attention."""
    window = getattr(config, "sliding_window", None)
    sdpa = config._attn_implementation == "sdpa"
    return sdpa and config.model_type in _PACKABLE and (window is None or width <= window)


def _packed(input_ids: Tensor, mask: Tensor, similar: float) -> tuple[dict, Tensor]:
    """The model's arguments, and (scored,) the packed places that predict the tokens in `mask` (sequences, tokens - 1).

    What comes after the last token that predicts is left out, and so is a prompt that an earlier sequence has too.
    `similar`: the share of the longest length with which a sequence is in the same group (`_grouped`).
    """
    ids, predicts = input_ids.numpy(), mask.numpy()
    places = np.zeros_like(ids)
    keep = np.zeros(ids.shape, dtype=bool)
    ends = np.zeros(len(ids), dtype=int)
    first_with: dict[bytes, int] = {}
    total = 0
    for row in range(len(ids)):
        (where,) = predicts[row].nonzero()
        if not len(where):
            continue
        prompt, end = where[0] + 1, where[-1] + 1
        first = first_with.setdefault(ids[row, :prompt].tobytes(), row)
        start = 0 if first == row else prompt
        places[row, :start] = places[first, :start]
        places[row, start:end] = np.arange(total, total + end - start)
        keep[row, start:end] = True
        ends[row] = end
        total += end - start
    unpack, groups, begins = _grouped(places, ends, similar)
    rows, positions = keep.nonzero()
    arrays = ids[keep], positions, unpack, begins[rows] + positions, places[:, :-1][predicts]
    tokens, positions, unpack, pack, predicting = map(torch.from_numpy, arrays)
    return {
        "input_ids": tokens[None],
        "position_ids": positions[None],
        "attention_mask": tokens.new_ones(1, 1, 1, 1),  # of four dimensions: the model makes none of its own
        "packing": _Packing(unpack, pack, groups),
    }, predicting


def _grouped(
    places: np.ndarray, ends: np.ndarray, similar: float
) -> tuple[np.ndarray, list[tuple[int, int]], np.ndarray]:
    """Sequences in groups of similar length, longest first, each padded to its longest; empty ones are left out.

    `places` (sequences, tokens) with `ends` (sequences,) tokens that count. The places of all groups, flattened one
    after the other; (sequences, tokens) of each group; and where each sequence begins in the first.
    """
    order = np.argsort(-ends, kind="stable")
    order = order[: np.count_nonzero(ends)]
    begins = np.zeros(len(ends), dtype=int)
    parts, groups, total = [np.zeros(0, dtype=places.dtype)], [], 0
    while len(order):
        width = int(ends[order[0]])
        size = int(np.count_nonzero(ends[order] >= similar * width))
        group, order = order[:size], order[size:]
        begins[group] = total + width * np.arange(size)
        parts.append(places[group, :width].ravel())
        groups.append((size, width))
        total += size * width
    return np.concatenate(parts), groups, begins


def _attention(module, query, key, value, attention_mask, packing: _Packing | None = None, **settings):
    """transformers' "sdpa" attention, which for packed sequences sees them as they were, padded and causal."""
    if packing is None:
        return _fused(module, query, key, value, attention_mask, **settings)
    sizes = [sequences * tokens for sequences, tokens in packing.groups]
    padded = [_rows(states[0].transpose(0, 1), packing.unpack).split(sizes) for states in (query, key, value)]
    outputs = []
    for group, *states in zip(packing.groups, *padded, strict=True):
        states = [values.unflatten(0, group).transpose(1, 2) for values in states]
        if group[1] <= _PLAIN and query.device.type == "cpu" and query.dtype == torch.float32:
            output = _plain(*states, settings.get("scaling"))
        else:
            output, _ = _fused(module, *states, None, **settings)
        outputs.append(output.flatten(0, 1))
    return _rows(torch.cat(outputs), packing.pack)[None], None


def _plain(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Causal attention by products of matrices: (rows, heads, tokens, size) each to (rows, tokens, heads, size)."""
    rows, heads, tokens, size = query.shape
    # queries share keys and values with others of their group of heads
    query, key, value = (repeat_kv(states, heads // states.shape[1]).flatten(0, 1) for states in (query, key, value))
    later = query.new_full((tokens, tokens), -torch.inf).triu(1)
    scores = torch.baddbmm(later, query, key.transpose(1, 2), alpha=size**-0.5 if scaling is None else scaling)
    return torch.bmm(scores.softmax(-1), value).unflatten(0, (rows, heads)).transpose(1, 2)


def _fused(module, query, key, value, attention_mask, **settings):
    """transformers' "sdpa" attention; the many small products of its kernel for CPUs stay with torch's own library."""
    if query.device.type != "cpu" or not products.switched():
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    if torch.is_grad_enabled():
        return _AsTorchComes.apply(module, attention_mask, settings, query, key, value), None
    with products.as_torch_comes():
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)


class _AsTorchComes(torch.autograd.Function):
    """Attention outside `products.fast`, forwards and backwards."""

    @staticmethod
    def forward(ctx, module, attention_mask, settings, *states):
        ctx.states = [values.detach().requires_grad_() for values in states]
        with products.as_torch_comes(), torch.enable_grad():
            ctx.output, _ = sdpa_attention_forward(module, *ctx.states, attention_mask, **settings)
        return ctx.output.detach()

    @staticmethod
    def backward(ctx, gradient):
        with products.as_torch_comes():
            return None, None, None, *torch.autograd.grad(ctx.output, ctx.states, gradient, retain_graph=True)


# Without `packing` it is the original: every other model in this process is as it was.
ALL_ATTENTION_FUNCTIONS["sdpa"] = _attention


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]`; the gradient of an embedding is the fastest of its kind on CPUs, and deterministic on GPUs."""
    return F.embedding(index, values.flatten(1)).unflatten(-1, values.shape[1:])


# --- head -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _head_scoring(model: torch.nn.Module, predicting: Tensor, targets: Tensor) -> Iterator[None]:
    """The model's head returns the log-probabilities of `targets` at the places `predicting` in place of logits.

    Replacing the head's forward, not the model's, leaves every wrapper of the model (DDP, FSDP, autocast) at work.
    """
    head = extract_model_from_parallel(model).get_output_embeddings()

    def forward(hidden: Tensor) -> Tensor:
        states = _rows(hidden.flatten(0, 1), predicting)
        return _TokenLogProbs.apply(states, head.weight, head.bias, targets, torch.is_grad_enabled())

    head.forward = forward
    try:
        yield
    finally:
        del head.forward


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(hidden W^T + b) at the targets, tile after tile of the vocabulary.

    hidden (tokens, width), weight (vocabulary, width), bias (vocabulary,) or None, targets (tokens,) to (tokens,). The
    products run in autocast's precision, all else in float32 (float64 if hidden is). `keep`: for a backward pass, which
    takes the first tiles as they are, as many as `_KEPT` holds, and computes the others again.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, keep=False):
        device = hidden.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            exact = torch.promote_types(hidden.dtype, torch.float32)
            states = hidden.to(low)
            log_sum = torch.full(targets.shape, -torch.inf, dtype=exact, device=hidden.device)
            scores = torch.zeros_like(log_sum)
            ctx.tiles, room = [], _KEPT.get(device, _KEPT["cuda"]) if keep else 0
            for part in _parts(states, weight):
                logits = _logits(states, weight, bias, part, exact)
                log_sum = torch.logaddexp(log_sum, logits.logsumexp(1))
                inside, column = _columns(targets, part)
                scores = torch.where(inside, logits.gather(1, column).squeeze(1), scores)
                room -= logits.nbytes
                if room >= 0:
                    ctx.tiles.append(logits)
        ctx.save_for_backward(states, weight, bias, targets, log_sum)
        ctx.hidden_dtype = hidden.dtype
        return scores - log_sum

    @staticmethod
    def backward(ctx, gradient):
        states, weight, bias, targets, log_sum = ctx.saved_tensors
        exact = log_sum.dtype
        of_hidden = torch.zeros(states.shape, dtype=exact, device=states.device)
        of_weight = torch.empty_like(weight)
        of_bias = None if bias is None else torch.empty_like(bias)
        tiles, ctx.tiles = iter(ctx.tiles), []  # they are changed in place: a second backward pass computes all again
        with torch.autocast(states.device.type, enabled=False):
            for part in _parts(states, weight):
                # of the logits: gradient * (1[target] - probability)
                logits = next(tiles, None)
                if logits is None:
                    logits = _logits(states, weight, bias, part, exact)
                of_logits = logits.sub_(log_sum[:, None]).exp_().mul_(-gradient[:, None])
                inside, column = _columns(targets, part)
                of_logits.scatter_add_(1, column, torch.where(inside, gradient, 0)[:, None])
                # summed over parts of the vocabulary in float32: rounding each part to bfloat16 would add up
                of_hidden.addmm_(of_logits, weight[part].to(exact))
                of_weight[part] = of_logits.to(states.dtype).T @ states
                if bias is not None:
                    of_bias[part] = of_logits.sum(0)
        return of_hidden.to(ctx.hidden_dtype), of_weight, of_bias, None, None


def _parts(states: Tensor, weight: Tensor) -> Iterator[slice]:
    """The vocabulary in parts of as many entries as a tile holds for this number of tokens."""
    size = max(_TILE.get(states.device.type, _TILE["cuda"]) // max(len(states), 1), 128)
    for start in range(0, len(weight), size):
        yield slice(start, min(start + size, len(weight)))


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, part: slice, dtype: torch.dtype) -> Tensor:
    low = states.dtype
    return F.linear(states, weight[part].to(low), None if bias is None else bias[part].to(low)).to(dtype)


def _columns(targets: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """(tokens,) whether the target is in this part of the vocabulary, and (tokens, 1) its column there, or any."""
    inside = (targets >= part.start) & (targets < part.stop)
    return inside, torch.where(inside, targets - part.start, 0)[:, None]
