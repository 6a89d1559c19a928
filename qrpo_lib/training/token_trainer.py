"""Base of all trainers here, on TRL's: tokens as they are, and the same gradient however a batch is split."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import Trainer

from qrpo_lib.training import parallel

# Of a batch: kept in main memory, where tokens are packed before the device gets them (`log_probs`).
_TOKENS = ("input_ids", "completion_mask")


class TokenTrainer:
    """What comes before a trainer of TRL's: batches of `samples.Collator`, scaling, precision, no output of its own."""

    loss_is_scaled_for_ga = True  # compute_loss divides by the items of the whole batch, not of the micro-batch

    def __init__(self, model, *args, **kwargs):
        # with pad = eos it would keep the embedding of every end-of-sequence token in a prompt from being trained
        model.get_input_embeddings().padding_idx = None
        super().__init__(model, *args, **kwargs)
        parallel.accumulate_in_float32(self.accelerator, self.args.max_grad_norm)

    def _send_telemetry(self):
        """Nothing leaves the machine unasked."""

    def create_model_card(self, *args, **kwargs):
        """Checkpoints are for resuming: no card."""

    def floating_point_ops(self, inputs):
        """None are counted."""
        return 0  # reported nowhere

    def _prepare_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All but the tokens on the device, each in its type: under DeepSpeed the Trainer would round to bfloat16."""
        device = self.args.device
        return {name: values.cpu() if name in _TOKENS else values.to(device) for name, values in inputs.items()}

    def _items(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the loss of a batch is a mean over: its rows, each by its weight."""
        return batch["weight"].sum()

    def _get_num_items_in_batch(self, batch_samples, device):
        items = sum(self._items(batch) for batch in batch_samples)
        return self.accelerator.gather(torch.as_tensor(items, device=device)).sum()

    def _scaled(self, total: Tensor, batch: Mapping[str, Tensor], items: Tensor | None) -> Tensor:
        """The sum over a micro-batch as its share of the batch's mean; alone, without items, as its own mean."""
        if items is None:
            return total / self._items(batch)
        return total / items * self.accelerator.num_processes  # DDP averages gradients over processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `transformers.Trainer.log`."""
        Trainer.log(self, logs, start_time)  # TRL's would add its own metrics, which are not computed here

    def log_validation(self) -> None:
        """Log the metrics of the current policy on the validation rows, if there are any."""
