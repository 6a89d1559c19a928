"""Supervised fine-tuning (SFT) and pre-training: `fine_tune`, on TRL's SFT trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from qrpo_lib.runs import products
from qrpo_lib.training import batching, causal_lm, samples, suite_trainer
from qrpo_lib.training.configuration import Optimization, Output
from qrpo_lib.training.log_probs import completion_log_probs
from qrpo_lib.training.suite_trainer import Fitted
from qrpo_lib.training.token_trainer import TokenTrainer


@products.fast()
def fine_tune(
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Sequence[int]],
    settings: Optimization,
    *,
    max_grad_norm: float = 10.0,
    output: Output | None = None,
) -> Fitted:
    """Supervised fine-tuning, or pre-training of a freshly initialised model: the loss is on every token but the first.

    Parameters
    ----------
    model: trained in place, or the folder of one, which is loaded.
    tokenizer: says which token pads.
    sequences: token ids, prompt and completion in one, end-of-sequence token included where the model is to learn it.
        Any number of them on any number of processes; those of similar length share a batch.
    settings: batch size, epochs, learning rate, seed, precision.
    max_grad_norm: gradients are clipped at it; the default is that of the paper's SFT (App. L.7).
    output: where the trainer keeps its state, to resume from, and whom it tells how far it is; nothing by default.

    Returns
    -------
    The model and its history: rows of `step`, `loss` (nats a token), `grad_norm`, `learning_rate`.

    Raises
    ------
    ValueError
        A sequence of fewer than two tokens, or longer than the context.
    """
    output = output or Output()
    model = causal_lm.without_dropout(causal_lm.trainable(model))
    context = causal_lm.context(model)
    if not len(sequences):
        raise ValueError("there is nothing to fine-tune on: `sequences` is empty.")
    for i, ids in enumerate(sequences):
        if not 2 <= len(ids) <= context:
            raise ValueError(f"sequence {i} has {len(ids)} tokens: it must have at least 2 and at most {context}.")
    order = batching.length_grouped_order(
        [len(ids) for ids in sequences], settings.batch_size, settings.epochs, settings.seed, settings.last_batch
    )
    pad = causal_lm.pad_token_id(tokenizer)
    model.config.get_text_config().pad_token_id = model.generation_config.pad_token_id = pad
    rows = [{"prompt_ids": list(ids[:1]), "completion_ids": list(ids[1:]), "weight": 1.0} for ids in sequences]
    with suite_trainer.folder_of(output) as folder:
        skip = {"max_grad_norm": max_grad_norm, "dataset_kwargs": {"skip_prepare_dataset": True}}
        trainer = FineTuningTrainer(
            model,
            args=suite_trainer.arguments(SFTConfig, settings, output, folder, **skip),
            train_dataset=suite_trainer.laid_out(rows, order, settings.micro_batch_size),
            processing_class=tokenizer,
            data_collator=samples.Collator(pad),
        )
        return suite_trainer.run(trainer, settings, output)


class FineTuningTrainer(TokenTrainer, SFTTrainer):
    """TRL's SFT trainer with this package's log-probabilities: the mean over the batch's tokens. Use `fine_tune`."""

    def _items(self, batch):
        return (batch["completion_mask"].sum(1) * batch["weight"]).sum()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This micro-batch's part of the mean of -log pi over the tokens of the whole batch."""
        logps, _ = completion_log_probs(model, inputs["input_ids"], inputs["completion_mask"])
        return self._scaled(-(logps * inputs["weight"]).sum(), inputs, num_items_in_batch)
