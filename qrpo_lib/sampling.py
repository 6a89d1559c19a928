"""Sampling: completions from a policy, with vLLM where it is installed and with transformers otherwise.

Both backends sample from the model's own distribution at the given temperature and top-p: nothing that a model's
generation configuration says (top-k, penalties) acts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from qrpo_lib.progress import Report

BACKENDS = ("vllm", "transformers")
# Sequences that have ended are dropped from a batch once they are this share of it: dropping copies the cache.
_COMPACT_AT = 0.25
_CPU_MEMORY_SHARE = 0.3


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    prompt_index, sample_index: of which prompt, and the how-manieth of its completions.
    token_ids: as sampled, the end-of-sequence token included if it was sampled.
    text: decoded, without special tokens.
    finish_reason: "stop" if the model ended the sequence, "length" if max_new_tokens did.
    logp: sum of the tokens' log-probabilities under the model, in nats, whatever the temperature and top-p.
    """

    prompt_index: int
    sample_index: int
    token_ids: list[int]
    text: str
    finish_reason: str
    logp: float


def resolve_backend(backend: str) -> str:
    """ "auto" as what it stands for on this machine, other names as they are. Imports nothing."""
    if backend == "auto":
        return "vllm" if importlib.util.find_spec("vllm") else "transformers"
    if backend not in BACKENDS:
        raise ValueError(f"There is no sampling backend {backend!r}: use auto, {' or '.join(BACKENDS)}.")
    if backend == "vllm" and not importlib.util.find_spec("vllm"):
        raise ValueError("The sampling backend is vllm, which is not installed: pip install 'qrpo-lib[vllm]'.")
    return backend


def sample(
    policy: str | Path | Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    completions: int,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    backend: str = "transformers",
    batch_size: int = 256,
    report: Report | None = None,
) -> list[Completion]:
    """`completions` completions of each prompt, ordered by prompt, then by sample.

    Parameters
    ----------
    policy: folder of a saved model; for the transformers backend also a model in memory.
    tokenizer: decodes, and tells the end-of-sequence token.
    prompts: token ids, chat template applied.
    batch_size: sequences at a time (transformers backend). A batch has its own seed, from `seed` and its number.
    seed: with the same batch size and backend, the same seed gives the same completions.

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
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    if resolve_backend(backend) == "vllm":
        return _sample_vllm(policy, prompts, completions=completions, **settings)
    return _sample_transformers(
        policy, tokenizer, prompts, completions=completions, batch_size=batch_size, report=report, **settings
    )


def _sample_transformers(policy, tokenizer, prompts, *, completions, batch_size, report, seed, **settings):
    import torch
    from transformers import AutoModelForCausalLM

    model = policy
    if isinstance(policy, str | Path):
        model = AutoModelForCausalLM.from_pretrained(policy, dtype="auto")
    was_training = model.training
    model.eval()
    # Prompts of similar length share a batch, whole prompts only: their cache is computed once and repeated.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    prompts_at_once = max(1, batch_size // completions)
    sampled: list[Completion] = []
    with torch.inference_mode():
        for number, start in enumerate(range(0, len(order), prompts_at_once)):
            indices = order[start : start + prompts_at_once]
            generator = torch.Generator(device=model.device).manual_seed(seed * 1_000_003 + number)
            rows = _sample_batch(
                model, tokenizer, [prompts[i] for i in indices], completions, generator=generator, **settings
            )
            for row, (token_ids, finish_reason, logp) in enumerate(rows):
                text = tokenizer.decode(token_ids, skip_special_tokens=True)
                position = indices[row // completions], row % completions
                sampled.append(Completion(*position, token_ids, text, finish_reason, logp))
            if report:
                report(len(sampled), len(prompts) * completions, "completions")
    model.train(was_training)
    return sorted(sampled, key=lambda completion: (completion.prompt_index, completion.sample_index))


def _sample_batch(
    model, tokenizer, prompts, completions, *, max_new_tokens, temperature, top_p, generator
) -> list[tuple[list[int], str, float]]:
    """Token ids, finish reason and log-probability of each completion, the completions of a prompt side by side."""
    import torch

    width = max(map(len, prompts))
    eos = tokenizer.eos_token_id
    input_ids = torch.tensor([[eos] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    mask = (torch.arange(width, device=model.device) >= width - lengths[:, None]).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    cache = output.past_key_values
    cache.batch_repeat_interleave(completions)
    logits = output.logits[:, -1].repeat_interleave(completions, 0)
    mask = mask.repeat_interleave(completions, 0)
    position = lengths.repeat_interleave(completions, 0)

    rows = len(prompts) * completions
    tokens = torch.full((rows, max_new_tokens), eos, device=model.device)
    logps = torch.zeros(rows, dtype=torch.float64, device=model.device)
    counts = torch.zeros(rows, dtype=torch.long, device=model.device)
    ended = torch.zeros(rows, dtype=torch.bool, device=model.device)
    alive = torch.arange(rows, device=model.device)  # which row each line of the cache belongs to
    for step in range(max_new_tokens):
        logits = logits.float()
        drawn = _draw(logits, temperature, top_p, generator)
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


def _draw(logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> torch.Tensor:
    """One token for each row of float32 logits (rows, vocabulary) to (rows,)."""
    import torch

    probabilities = (logits / temperature).softmax(-1)
    if top_p < 1:
        ordered, tokens = probabilities.sort(-1, descending=True)
        # A token stays if those before it do not already hold top_p together; the first one always does.
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0)
        return tokens.gather(-1, torch.multinomial(ordered, 1, generator=generator))[:, 0]
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


# --- vLLM ------------------------------------------------------------------------------------------------------------
# In a process of its own: vLLM writes to file descriptors that a notebook replaces, starts processes that import the
# main module again, and gives its memory back only at exit.


def _sample_vllm(policy: str | Path, prompts, **settings) -> list[Completion]:
    if not isinstance(policy, str | Path):
        raise ValueError("The vllm backend samples from a saved policy: pass its folder, not a model in memory.")
    with tempfile.TemporaryDirectory() as folder:
        job, result, log = (Path(folder) / name for name in ("job.json", "result.json", "log"))
        prompts = [[int(token) for token in prompt] for prompt in prompts]
        job.write_text(json.dumps({"policy": str(policy), "prompts": prompts, **settings}))
        with open(log, "w") as stream:
            command = [sys.executable, "-m", "qrpo_lib.sampling", str(job), str(result)]
            code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=_vllm_environment()).returncode
        if code:
            end = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"vLLM ended with exit code {code}. The end of its log:\n{end}")
        return [Completion(**row) for row in json.loads(result.read_text())]


def _vllm_environment() -> dict[str, str]:
    return os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def _vllm_worker(job: dict[str, Any]) -> Iterator[Completion]:
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform

    # On a CPU the share is of the machine's memory, which belongs to others too.
    memory = {"gpu_memory_utilization": _CPU_MEMORY_SHARE} if current_platform.is_cpu() else {}
    config = json.loads((Path(job["policy"]) / "config.json").read_text())
    engine = LLM(
        **memory,
        model=job["policy"],
        dtype=config["dtype"],  # "auto" would round float32 weights
        seed=job["seed"],  # a seed for each request is refused on CPU
        generation_config="vllm",  # not the model's own
        max_model_len=max(map(len, job["prompts"])) + job["max_new_tokens"],
        enforce_eager=True,
        disable_log_stats=True,
    )
    parameters = SamplingParams(
        n=job["completions"],
        temperature=job["temperature"],
        top_p=job["top_p"],
        top_k=0,
        min_p=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        max_tokens=job["max_new_tokens"],
        logprobs=0,
        skip_special_tokens=True,
    )
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in job["prompts"]], parameters, use_tqdm=False)
    for prompt_index, output in enumerate(outputs):
        for sample_index, one in enumerate(output.outputs):
            ids = list(one.token_ids)
            logp = sum(step[token].logprob for step, token in zip(one.logprobs, ids, strict=True))
            yield Completion(prompt_index, sample_index, ids, one.text, one.finish_reason, float(logp))


if __name__ == "__main__":
    completed = _vllm_worker(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps([asdict(completion) for completion in completed]))
