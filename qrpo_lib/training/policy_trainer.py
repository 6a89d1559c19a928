"""The trainer of policies, on TRL's DPO trainer: `fit_policy` uses it, and `QRPOTrainer` is it for data of one's own.

It computes all that a run is made of: losses and metrics of tokenised rows (`samples`), their scaling over
micro-batches and processes, log-ratios to a reference, given with the rows or live, samples drawn online, evaluation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer
from trl import DPOConfig, DPOTrainer

from qrpo_lib.runs import products
from qrpo_lib.training import causal_lm, parallel, run_identity, samples
from qrpo_lib.training.configuration import Objective
from qrpo_lib.training.log_probs import completion_log_probs
from qrpo_lib.training.token_trainer import TokenTrainer

Draw = Callable[[int, PreTrainedModel, list[int]], Sequence[Mapping]]


class PolicyTrainer(TokenTrainer, DPOTrainer):
    """Fits a policy to tokenised rows with one of the four losses.

    Parameters
    ----------
    model: trained in place, without dropout.
    args: TRL's, with `precompute_ref_log_probs`, so that its trainer makes no reference; the loss is the objective's.
    train_dataset: rows with reference log-probabilities, unless the reference is live; online, `row` (a number) and
        `weight` of each.
    tokenizer: says which token pads.
    objective: the loss.
    reference: of a live reference the model, frozen; None where the rows hold its log-probabilities.
    online: called before each step with its number, the policy and the numbers of its rows; gives a row for each.
    validation_rows: for `log_validation`.
    callbacks, others: as `DPOTrainer` takes them.
    """

    def __init__(
        self,
        model: Any,
        args: DPOConfig,
        train_dataset: Any,
        tokenizer: PreTrainedTokenizerBase,
        objective: Objective,
        *,
        reference: PreTrainedModel | None = None,
        online: Draw | None = None,
        validation_rows: Sequence[Mapping] = (),
        callbacks: Sequence[TrainerCallback] | None = None,
        **others: Any,
    ):
        self._objective, self._live_reference, self._online = objective, reference, online
        self._validation_rows = validation_rows
        self._collate = samples.Collator(causal_lm.pad_token_id(tokenizer))
        # of each metric since it was last logged: its weighted sum, the sum of weights
        self._sums: dict[str, dict[str, Tensor]] = {"train": {}, "eval": {}}
        self._hides_fsdp = False
        try:
            super().__init__(
                model,
                args=args,
                train_dataset=train_dataset,
                processing_class=tokenizer,
                data_collator=self._collate if online is None else _row_numbers,
                callbacks=[_HidingFSDP(self), *(callbacks or ())],
                **others,
            )
        finally:
            causal_lm.restored(causal_lm.without_adapter(model))  # without TRL's head, which is not used
        self.remove_callback(_HidingFSDP)
        self._hides_fsdp = False

    @property
    def is_fsdp_enabled(self) -> bool:
        """Not while TRL's trainer is made: under FSDP it would load a reference of its own from the model's path."""
        return self._is_fsdp_enabled and not self._hides_fsdp

    @is_fsdp_enabled.setter
    def is_fsdp_enabled(self, value: bool) -> None:
        self._is_fsdp_enabled = value

    def _prepare_dataset(self, dataset, *_):
        return dataset  # tokenised as sampled; TRL would tokenise again and append an end-of-sequence token

    def _precompute_ref_logps(self, dataset, *_):
        return dataset  # the rows carry them, or get them from this package, or the reference is live

    # --- training ---------------------------------------------------------------------------------------------------

    @products.fast()
    def train(self, resume_from_checkpoint: Any = None, *args, **kwargs):
        """As `transformers.Trainer.train`; a model object whose training is interrupted is marked: no reference."""
        with run_identity.half_trained(self.accelerator.unwrap_model(self.model)):
            result = super().train(resume_from_checkpoint, *args, **kwargs)
        # with its layers in training mode, which gradient checkpointing leaves, it would generate something else
        self.model.eval()
        return result

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of a step; online, of samples that are drawn now in place of the rows' numbers."""
        if self._online is not None:
            asked = list(itertools.islice(epoch_iterator, num_batches))
            with causal_lm.plain(self.model):
                numbers = [number for batch in asked for number in batch["row"].tolist()]
                drawn = iter(self._online(self.state.global_step, self.model, numbers))
            batches = [self._collate(list(itertools.islice(drawn, len(batch["row"])))) for batch in asked]
            epoch_iterator = (new | {"weight": old["weight"]} for new, old in zip(batches, asked, strict=True))
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This micro-batch's part of the mean loss of the whole batch, each row by its weight."""
        total = (self._losses(model, inputs) * inputs["weight"]).sum()
        loss = self._scaled(total, inputs, num_items_in_batch)
        return (loss, {}) if return_outputs else loss

    def _losses(self, model, batch: Mapping[str, Tensor]) -> Tensor:
        """Of each row, (rows,); what there is to log is added to the metrics."""
        self._turn_randomness_off()
        tokens = batch["input_ids"], batch["completion_mask"]
        logps, lengths = completion_log_probs(model, *tokens)
        of = samples.PAIR if len(logps) > len(batch["weight"]) else samples.POINTWISE
        columns = dict(batch)
        columns |= {f"{side}logps": values for side, values in zip(of, logps.chunk(len(of)), strict=True)}
        columns |= {f"{side}lengths": values for side, values in zip(of, lengths.chunk(len(of)), strict=True)}
        if self._live_reference is not None:
            with torch.no_grad():
                reference, _ = completion_log_probs(self._live_reference, *tokens)
            columns |= dict(zip(samples.reference_columns(of), reference.chunk(len(of)), strict=True))
        objective, sums = self._objective, self._sums["train" if torch.is_grad_enabled() else "eval"]
        losses = samples.sample_loss(objective.algorithm, columns, **objective.loss)
        with torch.no_grad():
            metrics = samples.sample_metrics(objective.algorithm, columns, objective.loss)
            weight = batch["weight"].double()
            for name, values in ({"loss": losses} | metrics).items():
                sums[name] = sums.get(name, 0) + torch.stack([(values.double() * weight).sum(), weight.sum()])
        return losses

    def _turn_randomness_off(self) -> None:
        """Evaluation mode, but for the flag by which layers know that they are to be computed again in backward."""
        self.model.eval()
        if self.args.gradient_checkpointing and torch.is_grad_enabled():
            for module in self.model.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = True

    # --- metrics ----------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the rows' metrics since the last time, over all processes."""
        super().log(logs | self._drained("train") if "loss" in logs else logs, start_time)

    def _drained(self, mode: str) -> dict[str, float]:
        """The weighted mean of each metric over the rows, of all processes, since the last call."""
        sums, self._sums[mode] = self._sums[mode], {}
        if not sums:
            return {}
        totals = self.accelerator.reduce(torch.stack(list(sums.values())), "sum").tolist()
        return {name: total / count for name, (total, count) in zip(sums, totals, strict=True)}

    def log_validation(self) -> None:
        """Log the mean loss and metrics of the validation rows, whatever a checkpoint's callback does next."""
        if not self._validation_rows:
            return
        with torch.no_grad(), self.accelerator.autocast():
            for batch in _share(self._validation_rows, self.args.per_device_train_batch_size):
                self._losses(self.model, self._prepare_inputs(self._collate(batch)))
        self.log({f"eval_{name}": value for name, value in self._drained("eval").items()})

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss of a batch; there is nothing else to predict."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        """As the Trainer's, with the mean of each metric over the rows, weighted."""
        self._sums["eval"] = {}
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in self._drained("eval").items()})
        return output


class _HidingFSDP(TrainerCallback):
    """Tells the trainer where transformers' part of making it ends and TRL's begins."""

    def __init__(self, trainer: PolicyTrainer):
        self.trainer = trainer

    def on_init_end(self, args, state, control, **kwargs):
        self.trainer._hides_fsdp = True


def _share(rows: Sequence[Mapping], size: int) -> list[list[Mapping]]:
    """This process's micro-batches of the validation rows: as many in each process, filled up with weights of 0."""
    state = parallel.state()
    chunks = [[rows[i] for i in chunk] for chunk in samples.micro_batches(rows, size)]
    filler = [row | {"weight": 0.0} for row in chunks[-1]]
    chunks += [filler] * (-len(chunks) % state.num_processes)
    return chunks[state.process_index :: state.num_processes]


def _row_numbers(rows: Sequence[Mapping]) -> dict[str, Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in ("row", "weight")}
