"""Training: `fine_tune` (SFT) and `fit_policy` (QRPO, DPO, REBEL, SimPO), both on TRL's trainers.

Rows hold token ids exactly as sampled: nothing is re-tokenised, truncated or appended. A pair is one sample.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.utils import disable_dropout_in_model

from qrpo_lib import pairs
from qrpo_lib.log_probs import completion_log_probs

Progress = Callable[[int, int, str], None]
OnCheckpoint = Callable[[int, PreTrainedModel], None]

PRECISIONS = ("float32", "bfloat16")

_LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
_POOL = 50  # batches whose sequences are sorted by length together in fine-tuning


class Fitted(NamedTuple):
    """A trained policy, in evaluation mode, and what was measured on the way (`fit_policy`)."""

    model: PreTrainedModel
    history: list[dict[str, float | int | str]]


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
    checkpoints: int = 5,
    seed: int = 0,
    precision: str = "float32",
    num_ref_rewards: int | None = None,
    output_dir: str | Path | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    progress: Progress | None = None,
    report_to: str = "none",
) -> Fitted:
    """Fit the policy to preference pairs with one of the four losses (protocol of App. L.8).

    Rows as in `qrpo_lib.pairs`: token ids, rewards in any unit as far as the loss needs them, and reference rewards, of
    which the first `num_ref_rewards` are used (None: as many as the first row has). The reference log-probabilities
    from `reference_log_probs` are computed here where the rows lack them.

    `algorithm` is "qrpo", "dpo", "rebel" or "simpo" and `loss` its keyword arguments in `qrpo_lib.losses`, such as
    `{"beta": 0.01, "transform": "log"}`. Adam without gradient clipping, cosine schedule, 10 % warm-up, `batch_size`
    pairs a step over all processes together, computed `micro_batch_size` at a time in each: how a batch is split does
    not change its gradient. `precision="bfloat16"` runs the forward pass in bfloat16 and keeps weights, log-softmax and
    loss in float32: learning rates of 1e-6 are lost on bfloat16 weights.

    A model object is trained in place, a path is loaded. At step 0 and at `checkpoints` equally spaced steps the
    validation metrics are measured and `on_checkpoint(step, model)` is called, with the model in evaluation mode; the
    callback may sample from it and copy it, not change it. With `output_dir` the trainer's state is saved there at the
    checkpoints, and the same call continues from the last one and ends with the same weights.

    The history is tidy: one row for each step and split ("train", "validation"), with `step`, `loss`,
    `chosen_log_ratio`, `rejected_log_ratio`, `implicit_reward_accuracy`, with rewards `chosen_quantile`,
    `rejected_quantile`, for QRPO `chosen_target`, `rejected_target` (calibrated targets), `share_above_threshold`, and
    for "train", where they are those of the policy before the step, `grad_norm`, `learning_rate`.

    Raises ValueError before training begins for rows or settings that cannot be used, and names the row.
    """
    pairs.check_loss(algorithm, loss)
    sizes = {"batch_size": batch_size, "micro_batch_size": micro_batch_size, "epochs": epochs}
    _check_settings(precision, checkpoints=checkpoints, **sizes)
    common = _common_settings(batch_size, micro_batch_size, seed, precision, report_to)
    model = _without_dropout(_loaded(policy))
    limits = {"num_ref_rewards": num_ref_rewards, "context": _context(model)}
    rows = {"train": train_rows} | ({"validation": validation_rows} if len(validation_rows) else {})
    for split, given in rows.items():
        rows[split] = pairs.checked(given, split, algorithm=algorithm, settings=loss, **limits)
    for split in rows.values():
        if pairs.REFERENCE[0] not in split[0]:
            logps = reference_log_probs(model, tokenizer, split, micro_batch_size=micro_batch_size, precision=precision)
            for i, row in enumerate(split):
                row.update({name: float(values[i]) for name, values in logps.items()})
    order = _training_order([pairs.length(row) for row in rows["train"]], batch_size, epochs, seed)

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
                **common,
            ),
            Dataset.from_list(rows["train"]).select(order),
            rows.get("validation", []),
            algorithm=algorithm,
            settings=loss,
        )
        trainer.add_callback(_Reporter(progress))
        trainer.add_callback(_Checkpoints(trainer, checkpoints, output_dir is not None, on_checkpoint))
        trainer.train(resume_from_checkpoint=_last_complete_checkpoint(folder))
    return Fitted(_restore(model), trainer.history())


def fine_tune(
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Sequence[int]],
    *,
    learning_rate: float,
    batch_size: int,
    micro_batch_size: int | None = None,
    epochs: int = 1,
    max_grad_norm: float = 10.0,
    seed: int = 0,
    precision: str = "float32",
    progress: Progress | None = None,
    report_to: str = "none",
) -> Fitted:
    """Supervised fine-tuning, or pre-training of a freshly initialised model: the loss is on every token but the first.

    `sequences` are token ids, prompt and completion in one, end-of-sequence token included where the model is to learn
    it. Adam, cosine schedule, 10 % warm-up, gradients clipped at `max_grad_norm` (App. L.7). Sequences of similar
    length share a batch. A model object is trained in place. History rows: `step`, `loss` (nats a token), `grad_norm`,
    `learning_rate`. Raises ValueError for a sequence of fewer than two tokens or longer than the context.
    """
    micro_batch_size = micro_batch_size or batch_size
    _check_settings(precision, batch_size=batch_size, micro_batch_size=micro_batch_size, epochs=epochs)
    common = _common_settings(batch_size, micro_batch_size, seed, precision, report_to)
    model = _loaded(model)
    context = _context(model)
    if not len(sequences):
        raise ValueError("there is nothing to fine-tune on: `sequences` is empty.")
    for i, ids in enumerate(sequences):
        if not 2 <= len(ids) <= context:
            raise ValueError(f"sequence {i} has {len(ids)} tokens: it must have at least 2 and at most {context}.")
    order = _length_grouped_order([len(ids) for ids in sequences], batch_size, epochs, seed)

    with tempfile.TemporaryDirectory() as folder:
        trainer = FineTuningTrainer(
            model,
            args=_arguments(
                SFTConfig,
                output_dir=folder,
                learning_rate=learning_rate,
                max_grad_norm=max_grad_norm,
                dataset_kwargs={"skip_prepare_dataset": True},
                **common,
            ),
            train_dataset=Dataset.from_dict({"input_ids": [list(ids) for ids in sequences]}).select(order),
            processing_class=tokenizer,
            callbacks=[_Reporter(progress)],
        )
        trainer.train()
    return Fitted(_restore(model), trainer.history())


def reference_log_probs(
    policy: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping],
    *,
    micro_batch_size: int,
    precision: str = "float32",
) -> dict[str, np.ndarray]:
    """log pi_ref of both completions of each row: float32 arrays (rows,) `ref_chosen_logps` and `ref_rejected_logps`.

    The same code and precision as in training. Store them with the rows: they depend on the policy, the tokens and the
    precision, not on the algorithm.
    """
    model = _without_dropout(_loaded(policy)).eval()
    collate = pairs.Collator(_pad_token_id(tokenizer))
    device = next(model.parameters()).device
    logps = np.empty((2, len(rows)), dtype=np.float32)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for chunk in _by_length(rows, micro_batch_size):
            batch = collate([{name: list(rows[i][name]) for name in pairs.TOKENS} for i in chunk])
            values, _ = completion_log_probs(model, batch["input_ids"].to(device), batch["completion_mask"].to(device))
            logps[:, chunk] = values.view(2, -1).cpu()
    return dict(zip(pairs.REFERENCE, logps, strict=True))


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

    def history(self) -> list[dict[str, float | int | str]]:
        """What was logged, one row for each step and split, in that order."""
        rows = []
        for entry in self.state.log_history:
            split = "validation" if "eval_loss" in entry else "train"
            values = {key.removeprefix("eval_"): value for key, value in entry.items() if key != "epoch"}
            if "loss" in values:  # the trainer's closing summary has none
                rows.append({"step": values.pop("step"), "split": split} | values)
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

    def __init__(self, model, tokenizer, args, train_dataset, validation_rows, *, algorithm, settings):
        self._algorithm, self._settings = algorithm, dict(settings)
        self._validation_rows = validation_rows
        self._sums: dict[str, Tensor] = {}  # of each metric since the last log: its sum, its number of pairs
        super().__init__(
            model,
            args=args,
            train_dataset=train_dataset,
            processing_class=tokenizer,
            data_collator=pairs.Collator(_pad_token_id(tokenizer)),
        )

    def _prepare_dataset(self, dataset, *args):
        return dataset  # tokenised as sampled; TRL would tokenise again and append an end-of-sequence token

    def _precompute_ref_logps(self, dataset, name, batch_size):
        return dataset  # the rows carry them

    def _set_signature_columns_if_needed(self):
        self._signature_columns = [*pairs.TOKENS, *pairs.REWARDS, *pairs.REFERENCE]

    def _items(self, batch):
        return len(batch["input_ids"]) // 2

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return self._scaled(self._pair_losses(model, inputs).sum(), num_items_in_batch)

    def _pair_losses(self, model, batch: Mapping[str, Tensor]) -> Tensor:
        """(pairs,); what there is to log is added to the metrics."""
        logps, lengths = completion_log_probs(model, batch["input_ids"], batch["completion_mask"])
        columns = dict(batch)
        columns["chosen_logps"], columns["rejected_logps"] = logps.chunk(2)
        columns["chosen_lengths"], columns["rejected_lengths"] = lengths.chunk(2)
        values = pairs.pair_loss(self._algorithm, columns, **self._settings)
        with torch.no_grad():
            metrics = {"loss": values} | pairs.pair_metrics(self._algorithm, columns, self._settings)
            for name, metric in metrics.items():
                sums = torch.stack([metric.double().sum(), torch.ones_like(metric, dtype=torch.double).sum()])
                self._sums[name] = self._sums.get(name, 0) + sums
        return values

    def _drain_metrics(self) -> dict[str, float]:
        """The mean of each metric over the pairs, of all processes, since the last call."""
        sums, self._sums = self._sums, {}
        totals = self.accelerator.reduce(torch.stack(list(sums.values())), "sum").tolist()
        return {name: total / count for name, (total, count) in zip(sums, totals, strict=True)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs | self._drain_metrics() if "grad_norm" in logs else logs, start_time)

    def log_validation(self) -> None:
        """Logs the metrics of the policy as it is on the validation rows."""
        training_sums, self._sums = self._sums, {}
        with torch.no_grad(), self.accelerator.autocast():
            for chunk in _by_length(self._validation_rows, self.args.per_device_train_batch_size):
                batch = self.data_collator([self._validation_rows[i] for i in chunk])
                self._pair_losses(self.model, self._prepare_inputs(batch))
        metrics, self._sums = self._drain_metrics(), training_sums
        super().log({f"eval_{name}": value for name, value in metrics.items()})


class _Checkpoints(TrainerCallback):
    """Step 0 and equally spaced steps: validation metrics, the caller's callback, the state that resuming needs."""

    def __init__(self, trainer: PolicyFittingTrainer, count: int, save: bool, on_checkpoint: OnCheckpoint | None):
        self.trainer, self.count, self.save, self.on_checkpoint = trainer, count, save, on_checkpoint

    def on_train_begin(self, args, state, control, **kwargs):
        self.steps = {round(i * state.max_steps / self.count) for i in range(1, self.count + 1)}
        if state.global_step == 0:  # not when training continues
            self._reach(0)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in self.steps:
            self._reach(state.global_step)
            control.should_save = self.save
            control.should_log = True  # logging the validation metrics has cleared it
        return control

    def _reach(self, step: int) -> None:
        model = self.trainer.model.eval()
        with _plain(model), torch.no_grad():
            if self.trainer._validation_rows:
                self.trainer.log_validation()
            if self.on_checkpoint:
                self.on_checkpoint(step, model)
        model.train()


class _Reporter(TrainerCallback):
    """Tells the caller how far training is."""

    def __init__(self, progress: Progress | None):
        self.progress = progress

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.progress and "grad_norm" in logs:
            self.progress(state.global_step, state.max_steps, f"loss {logs['loss']:.4g}")


# --- models ---------------------------------------------------------------------------------------------------------


def _loaded(policy: str | Path | PreTrainedModel) -> PreTrainedModel:
    if isinstance(policy, str | Path):
        policy = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    if any(parameter.dtype != torch.float32 for parameter in policy.parameters()):
        raise ValueError("the weights must be float32: small updates are lost on lower precision; call model.float().")
    if any(getattr(policy.config, name, None) is not None for name in _LOGIT_TRANSFORMS):
        raise ValueError(f"{type(policy).__name__} transforms its logits after the head, which is not supported.")
    return policy


def _without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    disable_dropout_in_model(model)
    for module in model.modules():  # attention keeps its rate as a number, which TRL's function leaves
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def _context(model: PreTrainedModel) -> float:
    return getattr(model.config, "max_position_embeddings", None) or math.inf


@contextlib.contextmanager
def _plain(model: PreTrainedModel) -> Iterator[None]:
    """Without the forward methods that TRL and Accelerate put on the instance, which break copies of the model."""
    patched = {name: vars(model).pop(name) for name in ("forward", "_original_forward") if name in vars(model)}
    try:
        yield
    finally:
        vars(model).update(patched)


def _restore(model: PreTrainedModel) -> PreTrainedModel:
    for name in ("forward", "_original_forward"):
        vars(model).pop(name, None)
    return model.eval()


# --- settings, order and checks ---------------------------------------------------------------------------------------


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
        "save_total_limit": 1,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": report_to,
    }


def _arguments(config: type[SFTConfig | DPOConfig], **settings) -> SFTConfig | DPOConfig:
    with warnings.catch_warnings():  # TRL still says gradient_checkpointing, which newer transformers rename
        warnings.simplefilter("ignore", FutureWarning)
        return config(max_length=None, gradient_checkpointing=False, **settings)


def _epoch_permutations(rows: int, epochs: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.permutation(rows) for _ in range(epochs)])


def _sorted_in_blocks(order: np.ndarray, lengths, size: int) -> np.ndarray:
    """The order with each block of `size` sorted by length, longest first."""
    lengths = np.asarray(lengths)
    blocks = [order[start : start + size] for start in range(0, len(order), size)]
    return np.concatenate([block[np.argsort(-lengths[block], kind="stable")] for block in blocks])


def _training_order(lengths, batch_size: int, epochs: int, seed: int) -> np.ndarray:
    """Random batches; inside a batch the rows are sorted by length, so that micro-batches need little padding."""
    return _sorted_in_blocks(_epoch_permutations(len(lengths), epochs, seed), lengths, batch_size)


def _length_grouped_order(lengths, batch_size: int, epochs: int, seed: int) -> np.ndarray:
    """Batches of similar lengths, cut from random pools of `_POOL` batches, in random order; a short one comes last."""
    order = _sorted_in_blocks(_epoch_permutations(len(lengths), epochs, seed), lengths, _POOL * batch_size)
    whole = len(order) // batch_size
    batches = order[: whole * batch_size].reshape(whole, batch_size)
    return np.concatenate([np.random.default_rng(seed).permutation(batches).ravel(), order[whole * batch_size :]])


def _by_length(rows: Sequence[Mapping], size: int) -> Iterator[np.ndarray]:
    """Indices of all rows in micro-batches of similar length, longest first: too little memory shows at once."""
    order = _sorted_in_blocks(np.arange(len(rows)), [pairs.length(row) for row in rows], max(len(rows), 1))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    token = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if token is None:
        raise ValueError("the tokenizer has neither a padding nor an end-of-sequence token: set tokenizer.pad_token.")
    return token


def _last_complete_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint that was saved to its end: the trainer's state is written last."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        with contextlib.suppress(OSError, ValueError):
            json.loads((checkpoint / "trainer_state.json").read_text())
            return str(checkpoint)
        shutil.rmtree(checkpoint)
    return None


def _check_settings(precision: str, **sizes: int) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: use one of {', '.join(PRECISIONS)}.")
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {size!r}.")
