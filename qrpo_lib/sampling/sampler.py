"""Sampling: completions from a policy, with vLLM where it is installed and with transformers otherwise.

Both backends sample from the model's own distribution at the given temperature and top-p: nothing that a model's
generation configuration says (top-k, penalties) acts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib.sampling import engines
from qrpo_lib.sampling.completion import Completion

if TYPE_CHECKING:
    from qrpo_lib.runs.progress import Report


def sample(policy: str | Path | Any, tokenizer: Any, prompts: Sequence[Sequence[int]], **settings) -> list[Completion]:
    """Completions of each prompt: a `Sampler` for one call.

    Parameters
    ----------
    policy: folder of a saved model; for the transformers backend also a model in memory.
    tokenizer: decodes, and tells the end-of-sequence token.
    prompts: token ids, chat template applied.
    settings: those of the sampler (`backend`, `max_model_len`) and of its `sample`.

    Raises
    ------
    ValueError
        As `Sampler.sample`.
    """
    of_sampler = {name: settings.pop(name) for name in ("backend", "max_model_len") if name in settings}
    with Sampler(policy, tokenizer, **of_sampler) as sampler:
        return sampler.sample(prompts, **settings)


class Sampler:
    """A policy that completions are sampled from, loaded once for any number of calls; a context manager.

    Parameters
    ----------
    policy: folder of a saved model; for the transformers backend also a model in memory.
    tokenizer: decodes, and tells the end-of-sequence token.
    backend: "transformers", "vllm", or "auto".
    max_model_len: for vLLM, the longest prompt with its completion, in tokens (default: what the first call needs).
    """

    def __init__(
        self,
        policy: str | Path | Any,
        tokenizer: Any,
        *,
        backend: str = "transformers",
        max_model_len: int | None = None,
    ):
        self._tokenizer, self.backend = tokenizer, engines.resolve(backend)
        if self.backend == "vllm" and not isinstance(policy, str | Path):
            raise ValueError("The vllm backend samples from a saved policy: pass its folder, not a model in memory.")
        self._engine = engines.of(self.backend)(policy, tokenizer.eos_token_id, max_model_len)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        completions: int,
        max_new_tokens: int,
        seed: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int = 256,
        report: Report | None = None,
    ) -> list[Completion]:
        """`completions` completions of each prompt, ordered by prompt, then by sample.

        Parameters
        ----------
        prompts: token ids, chat template applied.
        completions: of each prompt.
        max_new_tokens: of a completion, the end-of-sequence token included.
        seed: with the same backend, settings and prompts, the same seed gives the same completions, whatever this
            sampler did before. (On a GPU, up to the rounding of kernels that are not deterministic.)
        temperature, top_p: what the model's distribution is changed by; at 1 it is the model's own.
        batch_size: sequences at a time (transformers backend). A batch has its own seed, from `seed` and its number.
        report: is told how many completions there are already.

        Raises
        ------
        ValueError
            An empty prompt, or a setting out of range.
        """
        if any(not len(prompt) for prompt in prompts):
            raise ValueError("A prompt to sample from is empty: it needs at least one token.")
        if completions < 1 or max_new_tokens < 1 or batch_size < 1:
            raise ValueError("completions, max_new_tokens and batch_size must be at least 1.")
        if not temperature > 0 or not 0 < top_p <= 1:
            raise ValueError(f"temperature must be positive and top_p in (0, 1], not {temperature} and {top_p}.")
        prompts = [[int(token) for token in prompt] for prompt in prompts]
        settings = {"completions": completions, "max_new_tokens": max_new_tokens, "temperature": temperature}
        settings |= {"top_p": top_p, "seed": seed, "batch_size": batch_size}
        sampled = self._engine.sample(prompts, report=report, **settings) if prompts else []
        return [
            Completion(prompt_index, sample_index, ids, self._tokenizer.decode(ids, skip_special_tokens=True), *rest)
            for prompt_index, of_prompt in enumerate(sampled)
            for sample_index, (ids, *rest) in enumerate(of_prompt)
        ]

    def close(self) -> None:
        """Give back the memory that the policy takes."""
        self._engine.close()

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_) -> None:
        self.close()
