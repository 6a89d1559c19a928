"""Policy fitting with QRPO, DPO, REBEL or SimPO: `fit_policy`, on TRL's DPO trainer.

Rows hold token ids exactly as sampled: nothing is re-tokenised, truncated or appended. A pair is one sample.

The history is tidy: one row for each step and split ("train", "validation"), with `step`, `loss`, `chosen_log_ratio`,
`rejected_log_ratio`, `implicit_reward_accuracy`, with rewards `chosen_quantile`, `rejected_quantile`, for QRPO
`chosen_target`, `rejected_target` (calibrated targets), `share_above_threshold`, and for "train", where they are those
of the policy before the step, `grad_norm`, `learning_rate`. Without pairs it is `log_ratio`, `quantile`, `target`.

With the reference "computed" its log-probabilities are computed once, before training, where the rows do not hold
them, and kept in the folder `reference_cache`; with "live" a frozen copy of the policy computes them in every step.
Results differ by rounding.

Training may be online, the reference being live then: `online(step, model, rows)` is called before each step (from 0)
in each process with the rows of its share of the batch, in any form, and returns as many samples from the current
policy, in the same order. It may not change the model, and for resuming to be exact it must draw the same for the same
step and model.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import DPOConfig, DPOTrainer

from qrpo_lib.runs import products
from qrpo_lib.training import batching, causal_lm, parallel, reference_logps, run_identity, suite_trainer
from qrpo_lib.training import samples as pairs
from qrpo_lib.training.configuration import REFERENCES, Objective, Optimization, Output
from qrpo_lib.training.log_probs import completion_log_probs
from qrpo_lib.training.suite_trainer import Fitted, SuiteTrainer

Online = Callable[[int, PreTrainedModel, list[Mapping]], Sequence[Mapping]]


@products.fast()
def fit_policy(
    policy: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_rows: Sequence[Mapping],
    validation_rows: Sequence[Mapping] = (),
    *,
    objective: Objective,
    settings: Optimization,
    reference: str = "computed",
    reference_cache: str | Path | None = None,
    online: Online | None = None,
    output: Output | None = None,
) -> Fitted:
    """Fit the policy to preference pairs, or to single completions, with one of the four losses (protocol of App. L.8).

    Parameters
    ----------
    policy: trained in place, or the folder of one, which is loaded. As given it is the reference.
    tokenizer: says which token pads.
    train_rows, validation_rows: as in `qrpo_lib.training.samples`: token ids, rewards in any unit, reference rewards.
    objective, settings, output: as in `qrpo_lib.training.configuration`.
    reference, reference_cache, online: where the reference's log-probabilities and the samples are from (see above).

    Raises ValueError before training, for rows or settings that cannot be used, naming the row; InputError for an
    output folder of another run, and for a model object that an interrupted call left half-trained.
    """
    if reference not in REFERENCES:
        raise ValueError(f"unknown reference {reference!r}: use one of {', '.join(REFERENCES)}.")
    output = output or Output()
    with suite_trainer.folder_of(output) as folder:
        unclipped = {"max_grad_norm": 0.0, "precompute_ref_log_probs": True}
        arguments = suite_trainer.arguments(DPOConfig, settings, output, folder, **unclipped)
        first = next(iter(validation_rows if online else train_rows), {})
        pairs.check_loss(objective.algorithm, objective.loss, pairs.sides(first))
        model = causal_lm.without_dropout(causal_lm.trainable(policy))
        run_identity.check_unmarked(model)
        checking = _Checking(objective, causal_lm.context(model))
        train = list(train_rows) if online else checking.checked(train_rows, "train")
        validation = checking.checked(validation_rows, "validation") if len(validation_rows) else []
        if output.folder is not None:
            run_identity.claim(folder, _identity(objective, settings, model, [] if online else train))
        live = None
        if reference == "live" or online:
            live = _frozen(model, settings.precision)
        else:
            _add_reference_logps(model, tokenizer, (train, validation), settings, reference_cache)
        order = _order([0 if online else pairs.length(row) for row in train], settings)
        rows = [{"row": i, "weight": 1.0} for i in range(len(train))] if online else train
        trainer = PolicyFittingTrainer(
            model,
            tokenizer,
            arguments,
            suite_trainer.laid_out(rows, order, settings.micro_batch_size),
            validation,
            objective=objective,
            reference=live,
            online=_Online(online, train, checking) if online else None,
        )
        with run_identity.half_trained(model):
            return suite_trainer.run(trainer, settings, output)


def _identity(objective: Objective, settings: Optimization, model: PreTrainedModel, rows: list[dict]) -> dict:
    """What a run in a folder is: its settings and, as hashes, the reference's weights and the rows."""
    found = {"algorithm": objective.algorithm} | json.loads(json.dumps(objective.loss, default=repr))
    names = ("learning_rate", "batch_size", "epochs", "last_batch", "seed", "precision")
    found |= {name: getattr(settings, name) for name in names}
    found["reference"] = run_identity.weights_sha256(model)
    return found | {"data": run_identity.rows_sha256(rows)}


def _order(lengths: list[int], settings: Optimization):
    """In which order the rows of these lengths are trained on, as `batching.training_order`."""
    size, last_batch = settings.batch_size, settings.last_batch
    return batching.training_order(lengths, size, settings.epochs, settings.seed, last_batch)


def _frozen(model: PreTrainedModel, precision: str) -> PreTrainedModel:
    """A copy of the policy that stays the reference, as forward passes are computed."""
    copied = parallel.forward(precision).of(model)
    if copied is model:
        copied = copy.deepcopy(model)
    return copied.requires_grad_(False).eval()


def _add_reference_logps(model, tokenizer, splits, settings: Optimization, cache: str | Path | None) -> None:
    """Compute the reference's log-probabilities for the rows that do not hold them."""
    for rows in filter(None, splits):
        if not any(name in rows[0] for name in pairs.reference_columns(pairs.sides(rows[0]))):
            logps = reference_logps.log_probs(
                model,
                tokenizer,
                rows,
                micro_batch_size=settings.micro_batch_size,
                precision=settings.precision,
                cache=cache,
            )
            for i, row in enumerate(rows):
                row.update({name: float(values[i]) for name, values in logps.items()})


class PolicyFittingTrainer(SuiteTrainer, DPOTrainer):
    """TRL's DPO trainer with the four losses, on tokenised rows that carry rewards. Use `fit_policy`."""

    def __init__(self, model, tokenizer, args, train_dataset, validation_rows, *, objective, reference, online):
        self._algorithm, self._settings = objective.algorithm, dict(objective.loss)
        self._validation_rows, self._reference, self._online = validation_rows, reference, online
        self._collate = pairs.Collator(causal_lm.pad_token_id(tokenizer))
        self._hides_fsdp = False
        self._sums: dict[str, Tensor] = {}  # of each metric since the last log: its weighted sum, the sum of weights
        super().__init__(
            model,
            args=args,
            train_dataset=train_dataset,
            processing_class=tokenizer,
            data_collator=self._collate if online is None else _row_numbers,
            callbacks=[_HidingFSDP(self)],
        )
        self._hides_fsdp = False

    @property
    def is_fsdp_enabled(self) -> bool:
        """Not while TRL's trainer is made: under FSDP it would load a reference of its own from the model's path."""
        return self._is_fsdp_enabled and not self._hides_fsdp

    @is_fsdp_enabled.setter
    def is_fsdp_enabled(self, value: bool) -> None:
        self._is_fsdp_enabled = value

    def _prepare_dataset(self, dataset, *args):
        return dataset  # tokenised as sampled; TRL would tokenise again and append an end-of-sequence token

    def _precompute_ref_logps(self, dataset, name, batch_size):
        return dataset  # the rows carry them, or the reference is live

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of a step; online, of samples that are drawn now in place of the rows' numbers."""
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
        """This micro-batch's part of the mean loss of the whole batch, each row by its weight."""
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
        """Log with the means of the metrics since the last log."""
        super().log(logs | self._drain_metrics() if "grad_norm" in logs else logs, start_time)

    def log_validation(self) -> None:
        """Log the mean loss and metrics of the validation rows."""
        rows = self._validation_rows
        if not rows:
            return
        training_sums, self._sums = self._sums, {}
        with torch.no_grad(), self.accelerator.autocast():
            for batch in _share(rows, self.args.per_device_train_batch_size):
                self._losses(self.model, self._prepare_inputs(self._collate(batch)))
        metrics, self._sums = self._drain_metrics(), training_sums
        super().log({f"eval_{name}": value for name, value in metrics.items()})


class _HidingFSDP(TrainerCallback):
    """Tells the trainer where transformers' part of making it ends and TRL's begins."""

    def __init__(self, trainer: PolicyFittingTrainer):
        self.trainer = trainer

    def on_init_end(self, args, state, control, **kwargs):
        self.trainer._hides_fsdp = True


def _share(rows: Sequence[Mapping], size: int) -> list[list[Mapping]]:
    """This process's micro-batches of the validation rows: as many in each process, filled up with weights of 0."""
    state = parallel.state()
    chunks = [[rows[i] for i in chunk] for chunk in pairs.micro_batches(rows, size)]
    filler = [row | {"weight": 0.0} for row in chunks[-1]]
    chunks += [filler] * (-len(chunks) % state.num_processes)
    return chunks[state.process_index :: state.num_processes]


@dataclass(frozen=True)
class _Checking:
    """What rows are checked against."""

    objective: Objective
    context: float

    def checked(self, rows: Sequence[Mapping], split: str) -> list[dict]:
        objective = self.objective
        return pairs.checked(
            rows,
            split,
            algorithm=objective.algorithm,
            settings=objective.loss,
            num_ref_rewards=objective.num_ref_rewards,
            context=self.context,
        )


@dataclass(frozen=True)
class _Online:
    """Draws the samples of a step from the current policy, and checks them as rows are checked."""

    sample: Online
    rows: list[Mapping]
    checking: _Checking

    def samples(self, step: int, model: PreTrainedModel, numbers: list[int]) -> list[dict]:
        drawn = self.sample(step, model, [self.rows[number] for number in numbers])
        if len(drawn) != len(numbers):
            raise ValueError(f"online must return a sample for each of the {len(numbers)} rows, not {len(drawn)}.")
        return self.checking.checked(drawn, f"step {step}, online")


def _row_numbers(rows: Sequence[Mapping]) -> dict[str, Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in ("row", "weight")}
