"""This suite's trainer against TRL's DPOTrainer on one GPU: pairs a second and peak memory, under ten minutes.

    python benchmarks/gpu.py [--layers 32] [--tokens 2048] [--steps 6] [--output figures/benchmarks]

A model of Llama-3.1-8B's widths with random weights, trained by DPO in bfloat16 with float32 weights and gradient
checkpointing, both trainers with the same settings and the same pairs, each in a process of its own. One GPU holds no
8B model with Adam: it gets as many of the 32 layers as fit, by the arithmetic of `qrpo plan`. Without a GPU it says so
and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer

from qrpo_lib.paper import style
from qrpo_lib.suite import plan_memory
from qrpo_lib.training import trainer as training
from qrpo_lib.training.configuration import Objective, Optimization, Output

TRAINERS = ("TRL", "this suite")
BETA, LEARNING_RATE = 0.1, 1e-6
SHAPE = plan_memory.LLAMA_8B
_VOCABULARY = 32  # of the tokenizer, which only names the padding
_ROOM = 0.8  # of the GPU's memory, for what the arithmetic plans


@dataclass(frozen=True)
class Case:
    """One pair a micro-batch and two micro-batches a step; a fifth of each sequence is the prompt."""

    layers: int
    tokens: int
    steps: int
    width: int = SHAPE.width
    inner: int = SHAPE.inner
    vocabulary: int = SHAPE.vocabulary


def layers_that_fit(bytes_of_gpu: float, tokens: int) -> int:
    """How many of the 32 layers one GPU holds with float32 weights, gradients and Adam, and autocast's copies."""
    for layers in range(SHAPE.layers, 0, -1):
        shape = plan_memory.Shape(SHAPE.width, SHAPE.inner, SHAPE.keys, layers, SHAPE.vocabulary)
        parameters = layers * shape.layer + 2 * shape.vocabulary * shape.width
        taken = plan_memory.activations(shape, 2 * tokens, checkpointing=True, size=4)
        if 18 * parameters + taken < _ROOM * bytes_of_gpu:
            return layers
    raise SystemExit("skipped: this GPU does not hold one layer of an 8B model with its embeddings.")


def make_model(case: Case) -> LlamaForCausalLM:
    """Random weights, the same each time."""
    torch.manual_seed(0)
    heads = case.width // 128
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=case.vocabulary,
                hidden_size=case.width,
                intermediate_size=case.inner,
                num_hidden_layers=case.layers,
                num_attention_heads=heads,
                num_key_value_heads=max(heads // 4, 1),
                max_position_embeddings=2 * case.tokens,
                bos_token_id=None,
                eos_token_id=1,
                pad_token_id=1,
            )
        )


def make_rows(case: Case) -> list[dict]:
    """Pairs of random tokens."""
    generator = np.random.default_rng(0)
    prompt = case.tokens // 5
    sizes = {"prompt_ids": prompt, "chosen_ids": case.tokens - prompt, "rejected_ids": case.tokens - prompt}
    most = min(case.vocabulary, 32_000)
    return [
        {name: generator.integers(2, most, size).tolist() for name, size in sizes.items()}
        for _ in range(2 * case.steps)
    ]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Nothing is tokenised."""
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(_VOCABULARY)}, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t1", pad_token="t1")


class Times(TrainerCallback):
    """When each step ended."""

    def __init__(self):
        self.ends: list[float] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "grad_norm" in logs:
            self.end()

    def end(self, *_) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


class TokenisedDPOTrainer(DPOTrainer):
    """TRL's trainer as it is, on rows that are tokenised already."""

    def _prepare_dataset(self, dataset, *args):
        return dataset


def train_with_trl(case: Case, times: Times) -> None:
    has_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        trainer = TokenisedDPOTrainer(
            make_model(case),
            args=DPOConfig(
                output_dir=folder, beta=BETA, learning_rate=LEARNING_RATE, num_train_epochs=1,
                per_device_train_batch_size=1, gradient_accumulation_steps=2, lr_scheduler_type="cosine",
                warmup_steps=0.1, max_grad_norm=0.0, optim="adamw_torch_fused", weight_decay=0.0, bf16=True,
                gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False},
                precompute_ref_log_probs=True, precompute_ref_batch_size=1, max_length=None,
                train_sampling_strategy="sequential", logging_steps=1, save_strategy="no", disable_tqdm=True,
                report_to="none", use_cpu=not has_gpu, dataloader_pin_memory=has_gpu,
            ),
            train_dataset=Dataset.from_list(make_rows(case)),
            processing_class=make_tokenizer(),
            callbacks=[times],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def train_with_ours(case: Case, times: Times) -> None:
    training.fit_policy(
        make_model(case),
        make_tokenizer(),
        make_rows(case),
        objective=Objective("dpo", {"beta": BETA}),
        settings=Optimization(LEARNING_RATE, 2, 1, checkpoints=1, precision="bfloat16", gradient_checkpointing=True),
        output=Output(progress=times.end),
    )


TRAIN = dict(zip(TRAINERS, (train_with_trl, train_with_ours), strict=True))


def measure(case: Case, trainer: str) -> dict[str, float]:
    """In this process: pairs a second, by the median step after the first, and the most GiB that were allocated."""
    times = Times()
    TRAIN[trainer](case, times)
    seconds = float(np.median(np.diff(times.ends)))
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")
    return {"pairs_per_second": 2 / seconds, "peak_gib": peak}


def in_own_process(case: Case, trainer: str) -> dict[str, float]:
    """As `measure`; a GPU's memory is all given back between two trainers."""
    command = [sys.executable, __file__, "--alone", trainer, json.dumps(asdict(case))]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def table(case: Case) -> pd.DataFrame:
    """A row for each trainer."""
    rows = [{"trainer": name, **asdict(case), **in_own_process(case, name)} for name in TRAINERS]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, help="default: as many as fit")
    parser.add_argument("--tokens", type=int, default=2048, help="of a sequence, prompt included")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("figures/benchmarks"))
    parser.add_argument("--alone", nargs=2, metavar=("TRAINER", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.alone:
        name, case = options.alone
        print(json.dumps(measure(Case(**json.loads(case)), name)))
        return
    if not torch.cuda.is_available():
        print("skipped: there is no GPU here, so nothing was measured.")
        return
    of_gpu = torch.cuda.get_device_properties(0)
    layers = options.layers or layers_that_fit(of_gpu.total_memory, options.tokens)
    data = table(Case(layers, options.tokens, options.steps))
    rows = [{name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
            for row in data.to_dict("records")]  # fmt: skip
    text = f"{style.markdown_table(rows)}\n\nMeasured on one {of_gpu.name}; torch {torch.__version__}."
    style.save_table("training-gpu", data, text, options.output)
    print(text)


if __name__ == "__main__":
    main()
