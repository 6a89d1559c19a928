"""What `QRPOTrainer` is given, looked through before any work: each fault in one sentence that says what to do."""

from __future__ import annotations

import importlib.util
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from safetensors import SafetensorError, safe_open
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, Trainer, TrainerCallback, get_scheduler
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.training_args import ParallelMode

from qrpo_lib.runs import files
from qrpo_lib.runs.errors import InputError
from qrpo_lib.training.qrpo_config import QRPOConfig

_SPECIAL_TOKENS = ("eos_token_id", "pad_token_id", "bos_token_id")


def check_kinds(model: Any, args: Any, train_dataset: Any, processing_class: Any, callbacks: Any) -> None:
    """Look through the arguments of a `QRPOTrainer`.

    Parameters
    ----------
    model, args, train_dataset, processing_class, callbacks: as they were given.

    Raises
    ------
    InputError
        One is of another kind than it must be.
    """
    if not isinstance(args, QRPOConfig):
        raise InputError(f"args must be a QRPOConfig, not a {type(args).__name__}.")
    if isinstance(model, str) and not model.strip():
        raise InputError("model names no folder or model of the hub: it is an empty text.")
    if args.fsdp and args.parallel_mode != ParallelMode.DISTRIBUTED:
        raise InputError("fsdp shares a model among processes: start them with accelerate launch, or leave fsdp out.")
    if callbacks is not None and not (isinstance(callbacks, list | tuple) and all(map(_is_callback, callbacks))):
        raise InputError("callbacks must be a list of transformers.TrainerCallback.")
    if Path(args.output_dir).is_file():
        raise InputError(f"output_dir must be a folder, and {args.output_dir} is a file.")
    if train_dataset is None:
        raise InputError("train_dataset is missing: a dataset, a list of rows, a file or a hub id.")
    if processing_class is not None and not isinstance(processing_class, PreTrainedTokenizerBase):
        hint = ", its .tokenizer" if hasattr(processing_class, "tokenizer") else ""
        raise InputError(f"processing_class must be a tokenizer{hint}, not a {type(processing_class).__name__}.")


def check_adapter(model: Any, peft_config: Any) -> None:
    """Raises InputError for an adapter that cannot be made, or that is not trained as it means to be."""
    if peft_config is None:
        if isinstance(model, torch.nn.Module) and is_peft_model(model) and "default" not in model.peft_config:
            raise InputError(
                f"The model's adapter is called {', '.join(model.peft_config)}: load or make it without an "
                'adapter_name, so that it is called "default".'
            )
        return
    if importlib.util.find_spec("peft") is None:
        raise InputError("peft_config needs the package peft: pip install 'qrpo-lib[peft]'.")
    from peft import PeftConfig

    if not isinstance(peft_config, PeftConfig):
        raise InputError(f"peft_config must be one of peft's, LoraConfig(...), not a {type(peft_config).__name__}.")
    if str(getattr(peft_config, "peft_type", "")).endswith("ADALORA"):
        raise InputError("AdaLoRA allocates ranks in a training loop of its own, which this is not: use LoraConfig.")


def _is_callback(one: Any) -> bool:
    return issubclass(one if isinstance(one, type) else type(one), TrainerCallback)


def check_evaluation(args: QRPOConfig, eval_dataset: Any, callbacks: Sequence[Any] | None) -> None:
    """Raises InputError where evaluations are asked for, and there is nothing to evaluate on, or by."""
    asked = [name for name in ("eval_on_start", "load_best_model_at_end") if getattr(args, name)]
    asked += ["eval_strategy"] if args.eval_strategy != IntervalStrategy.NO else []
    asked += ["save_strategy"] if args.save_strategy == SaveStrategy.BEST else []
    if asked and (eval_dataset is None or (isinstance(eval_dataset, Mapping) and not eval_dataset)):
        raise InputError(f"{asked[0]} asks for evaluations, and there are no rows for them: pass eval_dataset.")
    stops_early = any(isinstance(one, EarlyStoppingCallback) or one is EarlyStoppingCallback for one in callbacks or ())
    if stops_early and (args.metric_for_best_model is None or args.eval_strategy == IntervalStrategy.NO):
        raise InputError("EarlyStoppingCallback needs metric_for_best_model, such as eval_loss, and an eval_strategy.")


def check_metric(asked: str, prefixes: Sequence[str], metrics: Sequence[str]) -> None:
    """Raises InputError for a metric_for_best_model that no evaluation has."""
    known = [prefix + name for prefix in prefixes for name in metrics]
    if asked not in known and f"eval_{asked}" not in known:
        raise InputError(f"There is no metric_for_best_model {asked!r}: use one of {', '.join(known)}.")


def _check_given_optimizer(model: Any, given: Any, new_weights: bool) -> None:
    """Raises InputError for `optimizers` that are none, or that would change no weight that is trained."""
    optimizer, schedule = given if isinstance(given, tuple | list) and len(given) == 2 else ("", None)
    if optimizer is None and schedule is None:
        return
    of_it = schedule is None or getattr(schedule, "optimizer", None) is optimizer
    if not (isinstance(optimizer, torch.optim.Optimizer) and of_it):
        raise InputError("optimizers must be a torch optimizer that is made, and a schedule of it or None.")
    held = {id(weights) for group in optimizer.param_groups for weights in group["params"]}
    trained = {id(weights) for weights in model.parameters() if weights.requires_grad}
    if new_weights or not held & trained:
        hint = "make it of them"
        if new_weights:
            hint = "make the adapter before it, peft.get_peft_model(model, config), and leave peft_config out"
        raise InputError(f"The optimizer of optimizers holds no weights that are trained: {hint}.")


def check_optimizer(args: QRPOConfig, model: Any, given: tuple[Any, Any], *, new_weights: bool) -> None:
    """Make optimizer and schedule of one number, before any work: the Trainer makes its own first when training begins.

    Parameters
    ----------
    args: the settings.
    model: that is trained.
    given: `optimizers` of the trainer.
    new_weights: whether the weights that are trained are yet to be made, of an adapter.

    Raises
    ------
    InputError
        One cannot be made, as its package is missing or its settings are wrong, or is of no weight that is trained.
    """
    _check_given_optimizer(model, given, new_weights)
    optimizer, schedule = given
    number = torch.nn.Parameter(torch.zeros(1))
    stand_in: Any = torch.optim.SGD([number], lr=args.learning_rate)
    what = f"the optimizer {args.optim.value} (optim_args={args.optim_args})"
    try:
        if optimizer is None:
            kind, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
            is_class = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
            if is_class and not {"params", "model"} & settings.keys():
                stand_in = kind([number], **settings)
        what = f"the schedule {args.lr_scheduler_type.value} (lr_scheduler_kwargs={args.lr_scheduler_kwargs})"
        if schedule is None:
            # Where the number of steps is not known yet, one at which warming up ends before the training does.
            steps = args.max_steps if args.max_steps > 0 else max(1000, 2 * math.ceil(args.warmup_steps))
            options = {"scheduler_specific_kwargs": args.lr_scheduler_kwargs}
            made = get_scheduler(args.lr_scheduler_type, stand_in, args.get_warmup_steps(steps), steps, **options)
            for factor in getattr(made, "lr_lambdas", ()):
                factor(steps)
    except ZeroDivisionError as error:
        raise InputError(
            f"With warmup_steps={args.warmup_steps} and max_steps={args.max_steps} {what} has no step left after its "
            "warm-up: give fewer warmup_steps."
        ) from error
    except Exception as error:  # whatever packages and their settings come up with
        raise InputError(f"With these settings {what} cannot be made: {said(error)}") from error


def check_generation_config(model: Any, tokenizer: Any) -> None:
    """Raises InputError for settings with which transformers would not save the model once it is trained.

    It saves what it has read as it is, whatever that says, unless training gives it other special tokens.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    tokens = [(getattr(config, name, None), getattr(tokenizer, name, None)) for name in _SPECIAL_TOKENS]
    stays = all(new is None or new == old or (isinstance(old, list) and new in old) for old, new in tokens)
    if stays and getattr(config, "_original_object_hash", None) == hash(config):
        return
    try:
        config.validate(strict=True)
    except ValueError as error:
        raise InputError(
            f"The model could not be saved with its generation_config, which contradicts itself: {said(error)}"
        ) from None


def check_weights(model: torch.nn.Module) -> None:
    other = {str(p.dtype) for p in model.parameters() if p.requires_grad and p.dtype != torch.float32}
    if other:
        raise InputError(
            f"The weights to be trained are {', '.join(sorted(other))}, and must be torch.float32 (small updates are "
            "lost on fewer bits): call model.float(); bf16=True still runs the forward pass in bfloat16."
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(
            "No weight of the model is to be trained: all have requires_grad=False. Call model.requires_grad_(); an "
            "adapter is loaded with is_trainable=True."
        )


def check_checkpoint(folder: Path) -> None:
    """Raises InputError for a folder that is no whole checkpoint, as of a process that was killed while it wrote."""
    remedy = f"Remove the folder {folder}, or name another checkpoint."
    if not (folder / TRAINER_STATE_NAME).is_file():
        raise InputError(f"{folder} is no whole checkpoint, without {TRAINER_STATE_NAME}. {remedy}")
    files.read_json(folder / TRAINER_STATE_NAME, remedy)
    weights = list(folder.rglob("*.safetensors"))
    in_parts = any(path.is_dir() for path in folder.iterdir())  # of DeepSpeed, FSDP
    if not (weights or in_parts or list(folder.glob("*model*.bin"))):
        raise InputError(f"{folder} is no whole checkpoint, without weights. {remedy}")
    torn = [path for path in (*folder.glob("*.pt"), *folder.glob("*.pth")) if not zipfile.is_zipfile(path)]
    for path in weights:
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError):
            torn.append(path)
    if torn:
        raise InputError(f"{torn[0]} is cut off. {remedy}")


def said(error: Exception) -> str:
    """The message of somebody else's error, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:400] + " ..."
