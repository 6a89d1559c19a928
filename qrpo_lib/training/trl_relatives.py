"""KTO and IPO by TRL's own trainers and losses, on token ids exactly as they were sampled.

What is replaced is the preparation of data alone: TRL would tokenise texts again. Optimiser, schedule, order of rows
and dropout are the suite's (`suite_trainer.arguments`, `batching`). IPO's beta is TRL's, whose log-ratios are means
over the tokens of a completion: the paper's tau, for sums, is smaller by about the number of tokens.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from qrpo_lib.runs import products
from qrpo_lib.training import causal_lm, plain_loop, suite_trainer
from qrpo_lib.training.configuration import Optimization, Output

METHODS = ("kto", "ipo")


@products.fast()
def fit(
    method: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping],
    beta: float,
    settings: Optimization,
) -> list[dict[str, Any]]:
    """Train a model in place; a row of history for each step.

    Parameters
    ----------
    method: "kto" or "ipo".
    model: in float32, without dropout; as given it is the reference.
    tokenizer: the model's.
    rows: pairs, as in `samples`; for KTO with `chosen_label` and `rejected_label`, whether each is desirable.
    beta: TRL's.
    settings: as the pairs' trainers take them; a pair counts as one sample.

    Raises
    ------
    ValueError
        Another method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: use one of {', '.join(METHODS)}.")
    reference = copy.deepcopy(model).requires_grad_(False)
    of_steps = plain_loop.batches(rows, settings)
    pairs = [row for batch in of_steps for row in batch]
    made, config, data = _Ipo, DPOConfig, [_tokens(row, "chosen", "rejected") for row in pairs]
    others: dict[str, Any] = {"beta": beta, "max_grad_norm": 0.0}
    if method == "ipo":
        others["loss_type"] = ["ipo"]
    else:
        made, config, data = _Kto, KTOConfig, [row for batch in of_steps for row in _labelled(batch)]
        settings = _of_completions(settings)
    with tempfile.TemporaryDirectory() as folder:
        arguments = suite_trainer.arguments(config, settings, Output(), folder, **others)
        trainer = made(
            model,
            reference,
            args=arguments,
            train_dataset=Dataset.from_list(data),
            processing_class=copy.deepcopy(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    causal_lm.restored(trainer.model)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{"step": entry["step"], "split": "train", "loss": entry["loss"]} for entry in logged]


class _AsSampled:
    """Rows are tokens already; nothing leaves the machine, and nothing is written."""

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def _send_telemetry(self):
        """Nothing leaves the machine."""

    def create_model_card(self, *args, **kwargs):
        """What is trained here is kept by its step: no card."""

    def log(self, logs, start_time=None):
        Trainer.log(self, logs, start_time)


class _Ipo(_AsSampled, DPOTrainer):
    """TRL's DPO trainer, whose loss is IPO's."""


class _Kto(_AsSampled, KTOTrainer):
    """TRL's KTO trainer."""


def _tokens(row: Mapping, *sides: str) -> dict[str, list[int]]:
    return {name: list(row[name]) for name in ("prompt_ids", *(f"{side}_ids" for side in sides))}


def _labelled(batch: Sequence[Mapping]) -> list[dict[str, Any]]:
    """The completions of a batch of pairs, the chosen ones first, each with another prompt's for KTO's estimate of the
    KL: TRL's mismatched pairs are of the completion before, and one of the same prompt would be no mismatch."""
    found = [
        {
            "prompt_ids": list(row["prompt_ids"]),
            "completion_ids": list(row[f"{side}_ids"]),
            "label": bool(row[f"{side}_label"]),
        }
        for side in ("chosen", "rejected")
        for row in batch
    ]
    before = [found[-1], *found[:-1]]
    return [row | {"KL_completion_ids": other["completion_ids"]} for row, other in zip(found, before, strict=True)]


def _of_completions(settings: Optimization) -> Optimization:
    """The same steps, counted in completions, of which a pair has two."""
    return replace(settings, batch_size=2 * settings.batch_size, micro_batch_size=2 * settings.batch_size)
