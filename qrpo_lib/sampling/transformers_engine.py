"""Sampling with transformers in this process: prompts share their cache, sequences that ended leave the batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.runs import products

if TYPE_CHECKING:
    import torch

# Of each completion: token ids, finish reason, log-probability.
Sampled = tuple[list[int], str, float]
# Sequences that have ended are dropped from a batch once they are this share of it: dropping copies the cache.
_COMPACT_AT = 0.1


class TransformersEngine:
    """transformers in this process, on a GPU if there is one."""

    def __init__(self, policy, eos_token_id: int, max_model_len):
        self._policy, self._eos = policy, eos_token_id

    @products.fast()
    def sample(self, prompts, *, completions, batch_size, report, seed, **settings) -> list[list[Sampled]]:
        """For each prompt, token ids, finish reason and log-probability (nats) of each of its completions.

        Parameters
        ----------
        prompts: token ids, none empty.
        completions: of each prompt.
        batch_size: sequences at a time; all completions of a prompt are in one batch, however many they are.
        report: is told how many completions there are already; or None.
        seed: each batch has a seed of its own, from this and its number.
        settings: `max_new_tokens`, `temperature`, `top_p`, as of `Sampler.sample`.

        Raises
        ------
        RuntimeError
            The policy's logits are not finite.
        """
        import torch

        model = self._model()
        was_training = model.training
        model.eval()
        # Prompts of similar length share a batch, whole prompts only: their cache is computed once and repeated.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        prompts_at_once = max(1, batch_size // completions)
        sampled: list[list[Sampled]] = [[] for _ in prompts]
        with torch.inference_mode():
            for number, start in enumerate(range(0, len(order), prompts_at_once)):
                indices = order[start : start + prompts_at_once]
                generator = torch.Generator(device=model.device).manual_seed(seed * 1_000_003 + number)
                some = [prompts[i] for i in indices]
                rows = _sample_batch(model, self._eos, some, completions, generator=generator, **settings)
                for row, one in enumerate(rows):
                    sampled[indices[row // completions]].append(one)
                if report:
                    done = min(start + prompts_at_once, len(prompts))
                    report(done * completions, len(prompts) * completions, "completions")
        model.train(was_training)
        return sampled

    def _model(self):
        import torch
        from transformers import AutoModelForCausalLM

        if isinstance(self._policy, str | Path):
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._policy = AutoModelForCausalLM.from_pretrained(self._policy, dtype="auto").to(device)
        return self._policy

    def close(self) -> None:
        self._policy = None


def _sample_batch(model, eos, prompts, completions, *, max_new_tokens, temperature, top_p, generator) -> list[Sampled]:
    """Token ids, finish reason and log-probability of each completion, the completions of a prompt side by side."""
    import torch

    from qrpo_lib.sampling import growing_cache

    width = max(map(len, prompts))
    input_ids = torch.tensor([[eos] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    mask = (torch.arange(width, device=model.device) >= width - lengths[:, None]).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    cache = output.past_key_values
    cache.batch_repeat_interleave(completions)
    growing_cache.make_growing(cache)
    logits = output.logits[:, -1].repeat_interleave(completions, 0)
    mask = mask.repeat_interleave(completions, 0)
    position = lengths.repeat_interleave(completions, 0)

    rows = len(prompts) * completions
    tokens = torch.full((rows, max_new_tokens), eos, device=model.device)
    logps = torch.zeros(rows, dtype=torch.float64, device=model.device)
    counts = torch.zeros(rows, dtype=torch.long, device=model.device)
    ended = torch.zeros(rows, dtype=torch.bool, device=model.device)
    alive = torch.arange(rows, device=model.device)  # which row each line of the cache belongs to
    # All of a row's randomness beforehand: what it draws does not depend on when other rows end.
    uniform = torch.rand(rows, max_new_tokens, dtype=torch.float64, device=model.device, generator=generator)
    for step in range(max_new_tokens):
        logits = logits.float()
        drawn = _draw(logits, temperature, top_p, uniform[alive, step])
        running = ~ended[alive]
        index = alive[running]
        tokens[index, step] = drawn[running]
        logps[index] += logits.log_softmax(-1).gather(1, drawn[:, None])[running, 0].double()
        counts[index] += 1
        ended[index] = drawn[running] == eos
        still = ~ended[alive]
        if step + 1 == max_new_tokens or not still.any():
            break
        if (~still).float().mean() >= _COMPACT_AT:
            keep = still.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            alive, mask, position, drawn = alive[keep], mask[keep], position[keep], drawn[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        output = model(
            input_ids=drawn[:, None],
            attention_mask=mask,
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        position = position + 1
        logits = output.logits[:, -1]
    counts = counts.tolist()
    return [
        (tokens[row, : counts[row]].tolist(), "stop" if ended[row] else "length", float(logps[row]))
        for row in range(rows)
    ]


def _draw(logits: torch.Tensor, temperature: float, top_p: float, uniform: torch.Tensor) -> torch.Tensor:
    """One token for each row of float32 logits (rows, vocabulary), by inversion of its distribution function.

    `uniform` (rows,) in float64: independent, uniform on [0, 1). The result is (rows,). Raises RuntimeError for logits
    that are not numbers.
    """
    import torch

    probabilities, tokens = (logits / temperature).softmax(-1), None
    if top_p < 1:
        probabilities, tokens = probabilities.sort(-1, descending=True)
        # A token stays if those before it do not already hold top_p together; the first one always does.
        probabilities = probabilities.masked_fill(probabilities.cumsum(-1) - probabilities >= top_p, 0)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    if not total.isfinite().all():
        raise RuntimeError("The policy's logits are not finite: it has diverged, or its weights are damaged.")
    # The first token whose cumulative probability is larger, so none of probability 0; rounding must not reach the sum.
    at = torch.minimum(uniform[:, None] * total, total.nextafter(torch.zeros_like(total)))
    drawn = torch.searchsorted(cumulative, at, right=True)
    return (drawn if tokens is None else tokens.gather(-1, drawn))[:, 0]
