"""How the suite trains, by fine-tuning and policy fitting alike: arguments, layout of rows over processes, the run."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, SFTConfig

from qrpo_lib.training import callbacks, causal_lm, parallel
from qrpo_lib.training.configuration import Optimization, Output
from qrpo_lib.training.token_trainer import TokenTrainer


class Fitted(NamedTuple):
    """A trained policy, in evaluation mode, and what was measured on the way (`trainer.fit_policy`)."""

    model: PreTrainedModel
    history: list[dict[str, float | int | str]]

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, precision: str) -> None:
        """Write the policy and its tokenizer: in bfloat16 where it was trained in that precision, else in float32."""
        causal_lm.cast(self.model, torch.bfloat16 if precision == "bfloat16" else torch.float32)
        self.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def run(trainer: TokenTrainer, settings: Optimization, output: Output) -> Fitted:
    """Train to the end, from the last checkpoint in the output's folder if there is one."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(callbacks.Reporter(output.progress))
    trainer.add_callback(callbacks.Checkpoints(trainer, settings, output.folder is not None, output.on_checkpoint))
    trainer.train(resume_from_checkpoint=callbacks.last_complete_checkpoint(Path(trainer.args.output_dir)))
    return Fitted(parallel.whole(causal_lm.restored(trainer.model)), _history(trainer.state.log_history))


def _history(logged: Sequence[dict[str, Any]]) -> list[dict[str, float | int | str]]:
    """What was logged, one row for each step and split, in that order."""
    rows = []
    for entry in logged:
        split = "validation" if "eval_loss" in entry else "train"
        values = {key.removeprefix("eval_"): value for key, value in entry.items() if key != "epoch"}
        if "loss" in values:  # the trainer's closing summary has none
            first = {"step": values.pop("step"), "split": split, "loss": values.pop("loss")}
            rows.append(first | dict(sorted(values.items())))  # a resumed trainer has read them from sorted JSON
    return sorted(rows, key=lambda row: (row["step"], row["split"]))


@contextlib.contextmanager
def folder_of(output: Output):
    """The folder for the trainer's state: the output's own, or one that is thrown away."""
    with contextlib.ExitStack() as stack:
        yield str(output.folder or stack.enter_context(tempfile.TemporaryDirectory()))


def arguments(
    config: type[SFTConfig | DPOConfig], settings: Optimization, output: Output, folder: str, **others: Any
) -> SFTConfig | DPOConfig:
    """TRL's arguments: AdamW, a cosine schedule with a tenth of warm-up, rows in the order in which they are laid out.

    Parameters
    ----------
    config: the class of arguments that the trainer takes.
    settings: batch size, learning rate, precision and seed.
    output: its `report_to` says which loggers get the metrics.
    folder: where the trainer keeps its state.
    others: further arguments of `config`.

    Raises
    ------
    ValueError
        The batch size is not a multiple of micro-batch size times processes.
    """
    batch_size, micro_batch_size = settings.batch_size, settings.micro_batch_size
    processes = parallel.state().num_processes
    if batch_size % (micro_batch_size * processes):
        raise ValueError(
            f"batch_size {batch_size} is not a multiple of micro_batch_size {micro_batch_size} x {processes} processes."
        )
    has_gpu = torch.cuda.is_available()
    with warnings.catch_warnings():  # TRL still says gradient_checkpointing, which newer transformers rename
        warnings.simplefilter("ignore", FutureWarning)
        return config(
            output_dir=folder,
            max_length=None,
            learning_rate=settings.learning_rate,
            per_device_train_batch_size=micro_batch_size,
            ddp_find_unused_parameters=False,
            gradient_accumulation_steps=batch_size // (micro_batch_size * processes),
            gradient_checkpointing=settings.gradient_checkpointing,
            # Nothing is drawn in a forward pass: dropout is off.
            gradient_checkpointing_kwargs={"use_reentrant": False, "preserve_rng_state": False},
            num_train_epochs=1,  # the rows are laid out in the order of all epochs
            train_sampling_strategy="sequential",
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            optim="adamw_torch_fused",
            weight_decay=0.0,
            seed=settings.seed,
            bf16=settings.precision == "bfloat16",
            use_cpu=not has_gpu,
            dataloader_pin_memory=has_gpu,
            remove_unused_columns=False,
            save_strategy="no",
            logging_steps=1,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            report_to=output.report_to,
            **others,
        )


def laid_out(rows: Sequence[dict], order, micro_batch_size: int) -> Dataset:
    """The rows in this order. Rows of weight 0 make the last batch divide among processes.

    Accelerate would repeat rows that count instead.
    """
    processes = parallel.state().num_processes
    missing = -len(order) % (micro_batch_size * processes) if processes > 1 else 0
    return Dataset.from_list([*rows, rows[0] | {"weight": 0.0}]).select([*order.tolist(), *[len(rows)] * missing])
