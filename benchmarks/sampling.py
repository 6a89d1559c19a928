"""Sampling side by side: this suite's engine, transformers' `generate` with its two caches, and vLLM where installed.

    python benchmarks/sampling.py [--quick] [--threads 1] [--policy FOLDER ...] [--output figures/benchmarks]

Writes a table with its numbers as CSV. All sample from the same model, at temperature 1 and without top-k or top-p, the
same number of completions of the same prompts, all in one batch. Without `--policy` the model is a Llama of 0.97 M
parameters with random weights, whose completions almost all have the greatest length; a policy that ends its answers,
such as one of `runs/initial_policy-*`, shows what it is worth that sequences which ended leave the batch here.

The contenders take turns, one call of each, `--repeats` times after a first one that does not count; the figures are
medians, of wall time and of the process's CPU time (of vLLM, whose engine is a process of its own, wall time alone).
Tokens are those of the completions, up to the end-of-sequence token.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from qrpo_lib.paper import style
from qrpo_lib.runs import products
from qrpo_lib.sampling.sampler import Sampler

OURS = "this suite"
PROMPT_TOKENS = (8, 24)


class Work(NamedTuple):
    """What is sampled: a saved policy, prompts as token ids, completions of each, their greatest length."""

    policy: Path
    prompts: list[list[int]]
    completions: int
    max_new_tokens: int


class Measured(NamedTuple):
    tokens: int
    wall: float
    processor: float


def random_policy(folder: Path, vocabulary: int = 640) -> Path:
    """A saved Llama of 0.97 M parameters with random weights, and a tokenizer."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4}
    tokens = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **tokens, **sizes)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w1").save_pretrained(folder)
    return folder


def work(policy: Path, quick: bool, completions: int, max_new_tokens: int) -> Work:
    """Prompts of random tokens, as many as fit a call of the tiny profile's evaluation."""
    generator = np.random.default_rng(0)
    vocabulary = len(AutoTokenizer.from_pretrained(policy))
    lengths = generator.integers(*PROMPT_TOKENS, 12 if quick else 144)
    prompts = [generator.integers(2, vocabulary, size).tolist() for size in lengths]
    return Work(policy, prompts, completions, max_new_tokens)


# --- contenders -----------------------------------------------------------------------------------------------------


def by_engine(work: Work, backend: str) -> Callable[[], int]:
    """This suite's sampler; the call returns the tokens that it drew."""
    tokenizer = AutoTokenizer.from_pretrained(work.policy)
    longest = max(map(len, work.prompts)) + work.max_new_tokens
    sampler = Sampler(work.policy, tokenizer, backend=backend, max_model_len=longest)

    def call() -> int:
        sampled = sampler.sample(
            work.prompts,
            completions=work.completions,
            max_new_tokens=work.max_new_tokens,
            seed=0,
            batch_size=len(work.prompts) * work.completions,
        )
        return sum(len(one.token_ids) for one in sampled)

    return call


def by_generate(work: Work, cache: str) -> Callable[[], int]:
    """transformers' `generate` on left-padded prompts, with its "dynamic" or "static" cache."""
    model = AutoModelForCausalLM.from_pretrained(work.policy).eval()
    end = AutoTokenizer.from_pretrained(work.policy).eos_token_id
    width = max(map(len, work.prompts))
    ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in work.prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in work.prompts])
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "eos_token_id": end}
    settings |= {"max_new_tokens": work.max_new_tokens, "num_return_sequences": work.completions, "pad_token_id": end}
    if cache == "static":
        settings["cache_implementation"] = "static"

    def call() -> int:
        with torch.inference_mode():
            drawn = model.generate(ids, attention_mask=mask, **settings)[:, width:]
        # up to the first end-of-sequence token, which counts
        ended = (drawn == end).int().cumsum(1) - (drawn == end).int()
        return int((ended == 0).sum())

    return call


def contenders(work: Work) -> dict[str, Callable[[], int]]:
    made = {
        OURS: by_engine(work, "transformers"),
        "generate, dynamic cache": by_generate(work, "dynamic"),
        "generate, static cache": by_generate(work, "static"),
    }
    if importlib.util.find_spec("vllm"):
        made["vLLM"] = by_engine(work, "vllm")
    return made


# --- measurement ----------------------------------------------------------------------------------------------------


def measured(call: Callable[[], int]) -> Measured:
    wall, processor = time.perf_counter(), time.process_time()
    tokens = call()
    return Measured(tokens, time.perf_counter() - wall, time.process_time() - processor)


def compare(work: Work, repeats: int) -> pd.DataFrame:
    """A row for each contender, medians over the repeats; ratios are medians of those of neighbours in time."""
    calls = contenders(work)
    runs: dict[str, list[Measured]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            run = measured(call)
            if repeat:
                runs[name].append(run)
    costs = {name: np.array([(run.wall, run.processor) for run in of_name]) for name, of_name in runs.items()}
    costs = {name: costs[name] / [[run.tokens] for run in of_name] for name, of_name in runs.items()}
    rows = []
    for name, of_name in runs.items():
        wall, processor = np.median(costs[name] / costs[OURS], axis=0)
        known = name != "vLLM"
        rows.append(
            {
                "policy": work.policy.name,
                "sequences": len(work.prompts) * work.completions,
                "engine": name,
                "tokens": int(np.median([run.tokens for run in of_name])),
                "tokens_per_second": 1 / np.median(costs[name][:, 0]),
                "tokens_per_processor_second": 1 / np.median(costs[name][:, 1]) if known else np.nan,
                "suite_times_as_fast": wall,
                "suite_times_as_fast_in_processor_time": processor if known else np.nan,
                "repeats": repeats,
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def table(data: pd.DataFrame) -> str:
    def shown(value: float, form: str) -> str:
        return "" if np.isnan(value) else format(value, form)

    return style.markdown_table(
        [
            {
                "policy": row.policy,
                "sequences": row.sequences,
                "engine": row.engine,
                "tokens": row.tokens,
                "tokens/s": shown(row.tokens_per_second, ",.0f"),
                "tokens/processor s": shown(row.tokens_per_processor_second, ",.0f"),
                "time, times ours": shown(row.suite_times_as_fast, ".2f"),
                "processor time, times ours": shown(row.suite_times_as_fast_in_processor_time, ".2f"),
                "repeats": row.repeats,
            }
            for row in data.itertuples()
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few prompts, one repeat: shows that everything runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--completions", type=int, default=3, help="of each prompt (default: 3)")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--policy", type=Path, nargs="*", default=[], help="folders of saved policies")
    parser.add_argument("--output", type=Path, default=Path("figures/benchmarks"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        policies = options.policy or [random_policy(Path(folder) / "random-0.97M")]
        settings = options.quick, options.completions, options.max_new_tokens
        repeats = 1 if options.quick else options.repeats
        data = pd.concat([compare(work(policy, *settings), repeats) for policy in policies])
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    about = f"{options.threads} thread(s), {versions}; products by {products.chosen()} (`qrpo_lib.runs.products`)."
    style.save_table("sampling-speed", data, f"{table(data)}\n\n{about}", options.output)


if __name__ == "__main__":
    main()
