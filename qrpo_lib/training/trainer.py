"""Training: `fine_tune` (SFT) and `fit_policy` (QRPO, DPO, REBEL, SimPO), both on TRL's trainers.

Rows hold token ids exactly as sampled: nothing is re-tokenised, truncated or appended. A pair is one sample.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from qrpo_lib.training import batching, callbacks, causal_lm, reference_logps
from qrpo_lib.training import samples as pairs
from qrpo_lib.training.callbacks import OnCheckpoint, Progress
from qrpo_lib.training.log_probs import completion_log_probs

Online = Callable[[int, PreTrainedModel, list[Mapping]], Sequence[Mapping]]

PRECISIONS = ("float32", "bfloat16")
REFERENCES = ("computed", "live")


class Fitted(NamedTuple):
    """A trained policy, in evaluation mode, and what was measured on the way (`fit_policy`)."""

    model: PreTrainedModel
    history: list[dict[str, float | int | str]]

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, precision: str) -> None:
        """Write the policy and its tokenizer: in bfloat16 where it was trained in that precision, else in float32."""
        self.model.to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
        self.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


# --- entry points ---------------------------------------------------------------------------------------------------


def fit_policy(
    policy: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_rows: Sequence[Mapping],
    validation_rows: Sequence[Mapping] = (),
    *,
    algorithm: str,
    loss: Mapping[str, Any],
    learning_rate: float,
    batch_size: int,
    micro_batch_size: int,
    epochs: int = 1,
    last_batch: str = "keep",
    checkpoints: int = 5,
    checkpoint_every: int | None = None,
    seed: int = 0,
    precision: str = "float32",
    num_ref_rewards: int | None = None,
    reference: str = "computed",
    reference_cache: str | Path | None = None,
    online: Online | None = None,
    output_dir: str | Path | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    progress: Progress | None = None,
    report_to: str = "none",
) -> Fitted:
    """Fit the policy to preference pairs, or to single completions, with one of the four losses (protocol of App. L.8).

    Rows as in `qrpo_lib.training.samples`: token ids, rewards in any unit as far as the loss needs them, and reference
    rewards, of which the first `num_ref_rewards` are used (None: as many as the first row has). `algorithm` is "qrpo",
    "dpo", "rebel" or "simpo" and `loss` its keyword arguments in `qrpo_lib.losses`, such as
    `{"beta": 0.01, "transform": "log"}`; on pairs QRPO's are those of `losses.qrpo_pair`.

    The reference is the policy as given. With `reference="computed"` its log-probabilities are computed once, before
    training, where the rows do not hold them, and kept in the folder `reference_cache` if there is one; with "live" a
    frozen copy of the policy computes them in every step. The results differ by rounding.

    Adam without gradient clipping, cosine schedule, 10 % warm-up, `batch_size` rows a step over all processes together,
    computed `micro_batch_size` at a time in each: how a batch is split does not change its gradient.
    `precision="bfloat16"` runs the forward pass in bfloat16 and keeps weights, log-softmax and loss in float32:
    learning rates of 1e-6 are lost on bfloat16 weights.

    With `online`, training rows are what completions are to be sampled for, in any form: `online(step, model, rows)` is
    called before each step (from 0) in each process with the rows of its share of the batch and returns as many samples
    from the current policy, in the same order. It may not change the model, and for `output_dir` to resume exactly
    it must draw the same for the same step and model. The reference is then live.

    The rows of an epoch that fill no batch make a smaller one, or with `last_batch="drop"` none.

    A model object is trained in place, a path is loaded. At step 0 and at `checkpoints` equally spaced steps, or after
    each `checkpoint_every` steps and the last, the validation metrics are measured and `on_checkpoint(step, model)` is
    called, with the model in evaluation mode; the callback may sample from it and copy it, not change it. With
    `output_dir` the trainer's state is saved there at the checkpoints, and the same call continues from the last one
    and ends with the same weights. `report_to` names a tracker ("tensorboard", "trackio"), which writes below
    `output_dir`; `progress(step, steps, text)` is for a bar.

    The history is tidy: one row for each step and split ("train", "validation"), with `step`, `loss`,
    `chosen_log_ratio`, `rejected_log_ratio`, `implicit_reward_accuracy`, with rewards `chosen_quantile`,
    `rejected_quantile`, for QRPO `chosen_target`, `rejected_target` (calibrated targets), `share_above_threshold`, and
    for "train", where they are those of the policy before the step, `grad_norm`, `learning_rate`. Without pairs it is
    `log_ratio`, `quantile`, `target`.

    Raises ValueError before training begins for rows or settings that cannot be used, and names the row.
    """
    sizes = {"batch_size": batch_size, "micro_batch_size": micro_batch_size, "epochs": epochs}
    sizes |= {} if checkpoint_every is None else {"checkpoint_every": checkpoint_every}
    _check_settings(precision, reference, report_to, output_dir, checkpoints=checkpoints, **sizes)
    common = _common_settings(batch_size, micro_batch_size, seed, precision, report_to)
    first = next(iter(validation_rows if online else train_rows), {})
    pairs.check_loss(algorithm, loss, pairs.sides(first))
    model = causal_lm.without_dropout(causal_lm.loaded(policy))
    checking = {"algorithm": algorithm, "settings": loss, "num_ref_rewards": num_ref_rewards}
    checking["context"] = causal_lm.context(model)
    train = list(train_rows) if online else pairs.checked(train_rows, "train", **checking)
    validation = pairs.checked(validation_rows, "validation", **checking) if len(validation_rows) else []
    live = copy.deepcopy(model).requires_grad_(False) if reference == "live" or online else None
    if live is None:
        computing = {"micro_batch_size": micro_batch_size, "precision": precision, "cache": reference_cache}
        for rows in filter(None, (train, validation)):
            if not any(name in rows[0] for name in pairs.reference_columns(pairs.sides(rows[0]))):
                logps = reference_logps.log_probs(model, tokenizer, rows, **computing)
                for i, row in enumerate(rows):
                    row.update({name: float(values[i]) for name, values in logps.items()})
    lengths = [0 if online else pairs.length(row) for row in train]
    order = batching.training_order(lengths, batch_size, epochs, seed, last_batch)
    dataset = _laid_out(
        [{"row": i, "weight": 1.0} for i in range(len(train))] if online else train, order, micro_batch_size, weight=0.0
    )

    with contextlib.ExitStack() as stack:
        folder = Path(output_dir or stack.enter_context(tempfile.TemporaryDirectory()))
        trainer = PolicyFittingTrainer(
            model,
            tokenizer,
            _arguments(
                DPOConfig,
                output_dir=str(folder),
                learning_rate=learning_rate,
                max_grad_norm=0.0,  # measured, not clipped
                precompute_ref_log_probs=True,
                remove_unused_columns=False,
                **common,
            ),
            dataset,
            validation,
            algorithm=algorithm,
            settings=loss,
            reference=live,
            online=_Online(online, train, checking) if online else None,
        )
        trainer.add_callback(callbacks.Reporter(progress))
        trainer.add_callback(
            callbacks.Checkpoints(trainer, checkpoints, output_dir is not None, on_checkpoint, checkpoint_every)
        )
        trainer.train(resume_from_checkpoint=callbacks.last_complete_checkpoint(folder))
    return Fitted(causal_lm.restored(model), trainer.history())


def fine_tune(
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Sequence[int]],
    *,
    learning_rate: float,
    batch_size: int,
    micro_batch_size: int | None = None,
    epochs: int = 1,
    last_batch: str = "keep",
    max_grad_norm: float = 10.0,
    checkpoints: int = 5,
    seed: int = 0,
    precision: str = "float32",
    output_dir: str | Path | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    progress: Progress | None = None,
    report_to: str = "none",
) -> Fitted:
    """Supervised fine-tuning, or pre-training of a freshly initialised model: the loss is on every token but the first.

    `sequences` are token ids, prompt and completion in one, end-of-sequence token included where the model is to learn
    it. Adam, cosine schedule, 10 % warm-up, gradients clipped at `max_grad_norm` (App. L.7). Sequences of similar
    length share a batch. A model object is trained in place. `last_batch`, checkpoints and the rest as in `fit_policy`.
    History rows: `step`, `loss` (nats a token), `grad_norm`, `learning_rate`. Raises ValueError for a sequence of fewer
    than two tokens or longer than the context.
    """
    micro_batch_size = micro_batch_size or batch_size
    sizes = {"batch_size": batch_size, "micro_batch_size": micro_batch_size, "epochs": epochs}
    _check_settings(precision, "computed", report_to, output_dir, checkpoints=checkpoints, **sizes)
    common = _common_settings(batch_size, micro_batch_size, seed, precision, report_to)
    model = causal_lm.without_dropout(causal_lm.loaded(model))
    context = causal_lm.context(model)
    if not len(sequences):
        raise ValueError("there is nothing to fine-tune on: `sequences` is empty.")
    for i, ids in enumerate(sequences):
        if not 2 <= len(ids) <= context:
            raise ValueError(f"sequence {i} has {len(ids)} tokens: it must have at least 2 and at most {context}.")
    order = batching.length_grouped_order([len(ids) for ids in sequences], batch_size, epochs, seed, last_batch)
    rows = [{"input_ids": list(ids), "labels": list(ids)} for ids in sequences]

    with contextlib.ExitStack() as stack:
        folder = Path(output_dir or stack.enter_context(tempfile.TemporaryDirectory()))
        trainer = FineTuningTrainer(
            model,
            args=_arguments(
                SFTConfig,
                output_dir=str(folder),
                learning_rate=learning_rate,
                max_grad_norm=max_grad_norm,
                dataset_kwargs={"skip_prepare_dataset": True},
                **common,
            ),
            train_dataset=_laid_out(rows, order, micro_batch_size, labels=[-100] * len(rows[0]["labels"])),
            processing_class=tokenizer,
        )
        trainer.add_callback(callbacks.Reporter(progress))
        trainer.add_callback(callbacks.Checkpoints(trainer, checkpoints, output_dir is not None, on_checkpoint))
        trainer.train(resume_from_checkpoint=callbacks.last_complete_checkpoint(folder))
    return Fitted(causal_lm.restored(model), trainer.history())


# --- trainers -------------------------------------------------------------------------------------------------------


class _SuiteTrainer:
    """What both trainers share: the same gradient for any split of a batch, and silence."""

    loss_is_scaled_for_ga = True  # compute_loss divides by the items of the whole batch, not of the micro-batch

    def __init__(self, model, *args, **kwargs):
        # with pad = eos it would keep the embedding of every end-of-sequence token in a prompt from being trained
        model.get_input_embeddings().padding_idx = None
        super().__init__(model, *args, **kwargs)
        self.remove_callback(PrinterCallback)

    def _send_telemetry(self):
        """Nothing leaves the machine."""

    def create_model_card(self, *args, **kwargs):
        """Checkpoints are for resuming: no card."""

    def floating_point_ops(self, inputs):
        return 0  # reported nowhere

    def _get_num_items_in_batch(self, batch_samples, device):
        items = sum(self._items(batch) for batch in batch_samples)
        return self.accelerator.gather(torch.as_tensor(items, device=device)).sum()

    def _scaled(self, total: Tensor, items) -> Tensor:
        """The sum over a micro-batch as its share of the batch's mean; DDP averages gradients over processes."""
        return total / items * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        Trainer.log(self, logs, start_time)  # TRL's would add its own metrics, which are not computed here

    def log_validation(self) -> None:
        """Logs the metrics of the policy as it is on the validation rows, if there are any."""

    def history(self) -> list[dict[str, float | int | str]]:
        """What was logged, one row for each step and split, in that order."""
        rows = []
        for entry in self.state.log_history:
            split = "validation" if "eval_loss" in entry else "train"
            values = {key.removeprefix("eval_"): value for key, value in entry.items() if key != "epoch"}
            if "loss" in values:  # the trainer's closing summary has none
                first = {"step": values.pop("step"), "split": split, "loss": values.pop("loss")}
                rows.append(first | dict(sorted(values.items())))  # a resumed trainer has read them from sorted JSON
        return sorted(rows, key=lambda row: (row["step"], row["split"]))


class FineTuningTrainer(_SuiteTrainer, SFTTrainer):
    """TRL's SFT trainer with this module's log-probabilities: the mean over the batch's tokens. Use `fine_tune`."""

    def _items(self, batch):
        return (batch["labels"][:, 1:] != -100).sum()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        logps, _ = completion_log_probs(model, inputs["input_ids"], inputs["labels"] != -100)
        return self._scaled(-logps.sum(), num_items_in_batch)


class PolicyFittingTrainer(_SuiteTrainer, DPOTrainer):
    """TRL's DPO trainer with the four losses, on tokenised rows that carry rewards. Use `fit_policy`."""

    def __init__(
        self, model, tokenizer, args, train_dataset, validation_rows, *, algorithm, settings, reference, online
    ):
        self._algorithm, self._settings = algorithm, dict(settings)
        self._validation_rows, self._reference, self._online = validation_rows, reference, online
        self._collate = pairs.Collator(causal_lm.pad_token_id(tokenizer))
        self._sums: dict[str, Tensor] = {}  # of each metric since the last log: its weighted sum, the sum of weights
        super().__init__(
            model,
            args=args,
            train_dataset=train_dataset,
            processing_class=tokenizer,
            data_collator=self._collate if online is None else _row_numbers,
        )
        if reference is not None:
            reference.to(self.accelerator.device).eval()

    def _prepare_dataset(self, dataset, *args):
        return dataset  # tokenised as sampled; TRL would tokenise again and append an end-of-sequence token

    def _precompute_ref_logps(self, dataset, name, batch_size):
        return dataset  # the rows carry them, or the reference is live

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        if self._online is not None:
            asked = list(itertools.islice(epoch_iterator, num_batches))
            with causal_lm.plain(self.model):
                numbers = [number for batch in asked for number in batch["row"].tolist()]
                drawn = iter(self._online.samples(self.state.global_step, self.model, numbers))
            batches = [self._collate(list(itertools.islice(drawn, len(batch["row"])))) for batch in asked]
            epoch_iterator = (new | {"weight": old["weight"]} for new, old in zip(batches, asked, strict=True))
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _items(self, batch):
        return batch["weight"].sum()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return self._scaled((self._losses(model, inputs) * inputs["weight"]).sum(), num_items_in_batch)

    def _losses(self, model, batch: Mapping[str, Tensor]) -> Tensor:
        """Of each row, (rows,); what there is to log is added to the metrics."""
        tokens = batch["input_ids"], batch["completion_mask"]
        logps, lengths = completion_log_probs(model, *tokens)
        of = pairs.PAIR if len(logps) > len(batch["weight"]) else pairs.POINTWISE
        columns = dict(batch)
        columns |= {f"{side}logps": values for side, values in zip(of, logps.chunk(len(of)), strict=True)}
        columns |= {f"{side}lengths": values for side, values in zip(of, lengths.chunk(len(of)), strict=True)}
        if self._reference is not None:
            with torch.no_grad():
                reference, _ = completion_log_probs(self._reference, *tokens)
            columns |= dict(zip(pairs.reference_columns(of), reference.chunk(len(of)), strict=True))
        values = pairs.sample_loss(self._algorithm, columns, **self._settings)
        with torch.no_grad():
            metrics = {"loss": values} | pairs.sample_metrics(self._algorithm, columns, self._settings)
            for name, metric in metrics.items():
                sums = torch.stack([(metric.double() * batch["weight"]).sum(), batch["weight"].double().sum()])
                self._sums[name] = self._sums.get(name, 0) + sums
        return values

    def _drain_metrics(self) -> dict[str, float]:
        """The weighted mean of each metric over the samples, of all processes, since the last call."""
        sums, self._sums = self._sums, {}
        totals = self.accelerator.reduce(torch.stack(list(sums.values())), "sum").tolist()
        return {name: total / count for name, (total, count) in zip(sums, totals, strict=True)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs | self._drain_metrics() if "grad_norm" in logs else logs, start_time)

    def log_validation(self) -> None:
        rows = self._validation_rows
        if not rows:
            return
        training_sums, self._sums = self._sums, {}
        with torch.no_grad(), self.accelerator.autocast():
            for chunk in pairs.micro_batches(rows, self.args.per_device_train_batch_size):
                self._losses(self.model, self._prepare_inputs(self._collate([rows[i] for i in chunk])))
        metrics, self._sums = self._drain_metrics(), training_sums
        super().log({f"eval_{name}": value for name, value in metrics.items()})


class _Online:
    """Draws the samples of a step from the current policy, and checks them as rows are checked."""

    def __init__(self, sample: Online, rows: list[Mapping], checking: dict[str, Any]):
        self.sample, self.rows, self.checking = sample, rows, checking

    def samples(self, step: int, model: PreTrainedModel, numbers: list[int]) -> list[dict]:
        drawn = self.sample(step, model, [self.rows[number] for number in numbers])
        if len(drawn) != len(numbers):
            raise ValueError(f"online must return a sample for each of the {len(numbers)} rows, not {len(drawn)}.")
        return pairs.checked(drawn, f"step {step}, online", **self.checking)


def _row_numbers(rows: Sequence[Mapping]) -> dict[str, Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in ("row", "weight")}


# --- settings and checks ---------------------------------------------------------------------------------------


def _common_settings(batch_size, micro_batch_size, seed, precision, report_to) -> dict[str, Any]:
    processes = PartialState(cpu=not torch.cuda.is_available()).num_processes
    if batch_size % (micro_batch_size * processes):
        raise ValueError(
            f"batch_size {batch_size} is not a multiple of micro_batch_size {micro_batch_size} x {processes} processes."
        )
    return {
        "per_device_train_batch_size": micro_batch_size,
        "ddp_find_unused_parameters": False,
        "gradient_accumulation_steps": batch_size // (micro_batch_size * processes),
        "num_train_epochs": 1,  # the rows are laid out in the order of all epochs
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "seed": seed,
        "bf16": precision == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": report_to,
    }


def _arguments(config: type[SFTConfig | DPOConfig], **settings) -> SFTConfig | DPOConfig:
    with warnings.catch_warnings():  # TRL still says gradient_checkpointing, which newer transformers rename
        warnings.simplefilter("ignore", FutureWarning)
        return config(max_length=None, gradient_checkpointing=False, **settings)


def _laid_out(rows: list[dict], order, micro_batch_size: int, **filler) -> Dataset:
    """The rows in this order. Rows that do not count (`filler` says how) make the last batch divide among processes.

    Accelerate would repeat rows that count instead.
    """
    processes = PartialState().num_processes
    missing = -len(order) % (micro_batch_size * processes) if processes > 1 else 0
    return Dataset.from_list([*rows, rows[0] | filler]).select([*order, *[len(rows)] * missing])


def _check_settings(precision: str, reference="computed", report_to="none", output_dir=None, **sizes: int) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: use one of {', '.join(PRECISIONS)}.")
    if reference not in REFERENCES:
        raise ValueError(f"unknown reference {reference!r}: use one of {', '.join(REFERENCES)}.")
    if report_to != "none" and output_dir is None:
        raise ValueError(f"report_to={report_to!r} needs output_dir: what it writes would be thrown away at the end.")
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {size!r}.")
