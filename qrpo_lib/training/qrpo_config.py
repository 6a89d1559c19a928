"""The settings of `QRPOTrainer`, in TRL's conventions."""

from __future__ import annotations

import json
import math
import os
import warnings
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from inspect import signature
from numbers import Integral, Real
from typing import Any, get_args, get_type_hints

import torch
from torch.utils.checkpoint import checkpoint
from transformers.trainer_utils import SchedulerType
from transformers.training_args import trainer_log_levels
from trl import DPOConfig

from qrpo_lib.objective.algorithms import ALGORITHMS
from qrpo_lib.runs.errors import InputError
from qrpo_lib.runs.extras import MODULES, sentence
from qrpo_lib.training import samples

# Settings of TRL's DPOConfig, and of the Trainer, that nothing here heeds, or not rightly.
_NOT_HERE = (
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "torch_compile",
    "loss_weights",
    "ld_alpha",
    "f_divergence_type",
    "f_alpha_divergence_coef",
    "label_smoothing",
    "use_weighting",
    "discopop_tau",
    "activation_offloading",
    "sync_ref_model",
    "padding_free",
    "pad_token",  # padding is never read
    "use_liger_kernel",
    "router_aux_loss_coef",
    "fp16_full_eval",  # which leave the policy in that type
    "bf16_full_eval",
)
_OF_QRPO = {"transform": "identity", "partition": "exact", "error": "squared", "completions": "both"}
_GAMMA_RATIO = 0.5
# Packages of trackers that transformers does not list as available, or not wholly.
_PACKAGES = {"flyte": "flytekit", "azure_ml": "azureml", "dagshub": "mlflow"}
# Of types of settings, from the widest: what they are in words, and what is one.
_KINDS: dict[type, tuple[str, type]] = {
    bool: ("True or False", bool),
    float: ("a number", Real),
    int: ("an integer", Integral),
    type(None): ("left out", type(None)),
}
_STRATEGIES = ("random", "sequential", "group_by_length")


@dataclass
class QRPOConfig(DPOConfig):
    """Settings of a `QRPOTrainer`: those of `transformers.TrainingArguments` and `trl.DPOConfig`, and these.

    Parameters
    ----------
    loss_type: "qrpo", "dpo", "rebel" or "simpo".
    beta: strength of the KL regularisation. For QRPO in units of the transformed quantile (the paper: 3e-4 to 0.03),
        for REBEL in the unit of the reward, for DPO and SimPO without one.
    transform: QRPO's f of the quantile, a name or a dictionary: "identity", "log", "square", "sqrt", "normal",
        {"name": "scaled-normal", "mu": ..., "sigma": ...} (Table 4 of the paper).
    partition: QRPO's log Z: "exact" for continuous rewards, "asymptotic" as the paper's runs, "finite" for n reference
        rewards.
    error: QRPO's regression error, "squared" or "absolute".
    completions: which of a pair QRPO trains on: "both", "chosen" or "rejected".
    length_normalization: QRPO with beta / |y| for a completion of |y| tokens. Off, as in the paper.
    num_reference_rewards: how many of each row's reference rewards count, from the first (None: as the first row has).
    gamma_ratio: SimPO's margin over beta.

    Other defaults than TRL's are the protocol of the paper (App. L.8): one epoch, a cosine schedule with 10 % warm-up,
    no gradient clipping. Batches are drawn as the suite draws them (`batching.training_order`) unless another
    `train_sampling_strategy` than "random" is asked for. `bf16` and `gradient_checkpointing` are on where there is a
    GPU and off on a CPU, and dropout is always off. Settings of `DPOConfig` that change TRL's own losses are refused.
    Raises InputError for what cannot be used.
    """

    loss_type: str = field(default="qrpo", metadata={"help": "One of qrpo, dpo, rebel, simpo."})  # pyright: ignore
    # in this order: transformers' argument parser takes the second of three
    transform: dict[str, Any] | str | None = field(default="identity", metadata={"help": "QRPO's f of the quantile."})
    partition: str = field(default="exact", metadata={"help": "QRPO's log Z: exact, asymptotic or finite."})
    error: str = field(default="squared", metadata={"help": "QRPO's regression error: squared or absolute."})
    completions: str = field(default="both", metadata={"help": "Of a pair: both, chosen or rejected."})
    length_normalization: bool = field(default=False, metadata={"help": "QRPO with beta / |y|."})
    num_reference_rewards: int | None = field(default=None, metadata={"help": "How many reference rewards count."})
    gamma_ratio: float = field(default=_GAMMA_RATIO, metadata={"help": "SimPO's margin over beta."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Total number of training epochs."})
    lr_scheduler_type: SchedulerType | str = field(default="cosine", metadata={"help": "The learning rate schedule."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of warm-up; below 1 a share of all."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradients are clipped to this norm; 0: not clipped."})
    gradient_checkpointing: bool | None = field(default=None, metadata={"help": "On where there is a GPU."})  # pyright: ignore

    def __post_init__(self):
        self._check_kinds()
        self._check_ranges()
        if self.deepspeed and find_spec("deepspeed") is None:
            raise InputError(sentence("deepspeed"))
        if isinstance(self.loss_type, list) and len(self.loss_type) == 1:  # as TRL's DPOConfig has it
            self.loss_type = self.loss_type[0]
        loss_type = self.loss_type.lower() if isinstance(self.loss_type, str) else self.loss_type
        if not torch.accelerator.is_available():  # said so that processes without GPUs find each other
            self.use_cpu, self.dataloader_pin_memory = True, False
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = on_gpu and not self.fp16
        if self.gradient_checkpointing is None:
            self.gradient_checkpointing = on_gpu
        if isinstance(self.transform, str) and self.transform.startswith("{"):  # from a command line
            try:
                self.transform = json.loads(self.transform)
            except json.JSONDecodeError as error:
                raise InputError(f"transform is neither a name nor JSON ({error.msg}): {self.transform}") from None
        self.transform = "identity" if self.transform is None else self.transform
        self.precompute_ref_log_probs = True  # with this package's log-probabilities
        with warnings.catch_warnings():  # TRL says gradient_checkpointing, which newer transformers rename
            warnings.filterwarnings("ignore", ".*checkpointing.*", FutureWarning)
            try:
                super().__post_init__()
            except Exception as error:  # whatever transformers and accelerate say of a setting
                said = " ".join(str(error).split())
                kind = "" if isinstance(error, ValueError) else f"A setting cannot be used: {type(error).__name__} "
                raise InputError(kind + said) from error
        self.loss_type = loss_type
        self._check()

    def _check_kinds(self) -> None:
        """Raises InputError for a text where a number or a truth must be, as YAML reads 1e-5 and a shell False."""
        for name, hint in get_type_hints(QRPOConfig).items():
            kinds, value = set(get_args(hint) or (hint,)), getattr(self, name)
            if not kinds <= _KINDS.keys() or (value is None and type(None) in kinds):
                continue
            wanted, kind = next(_KINDS[kind] for kind in _KINDS if kind in kinds)
            if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
                raise InputError(f"{name} must be {wanted}, not {value!r}.")

    def _check_ranges(self) -> None:
        """Raises InputError for numbers out of range, and ones of which one asks for nothing without the other."""
        for name in ("learning_rate", "weight_decay", "num_train_epochs", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a number of at least 0, not {getattr(self, name)!r}.")
        counts = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        for name in (*counts, "num_reference_rewards", "precompute_ref_batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be an integer of at least 1, not {getattr(self, name)!r}.")
        for name in ("seed", "data_seed"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 2**32:
                raise InputError(f"{name} must be an integer from 0 to 2**32 - 1, not {getattr(self, name)!r}.")
        if self.dataloader_persistent_workers and not self.dataloader_num_workers:
            raise InputError("dataloader_persistent_workers does nothing: set dataloader_num_workers, or leave it out.")
        if self.num_train_epochs == 0 and self.max_steps <= 0:
            raise InputError("num_train_epochs is 0, and no max_steps is given: nothing would be trained.")
        if self.dataloader_num_workers < 0:
            raise InputError(f"dataloader_num_workers must be at least 0, not {self.dataloader_num_workers}.")
        folder = self.output_dir
        if folder is not None and not (
            isinstance(folder, str | os.PathLike) and str(folder) and "\0" not in str(folder)
        ):
            raise InputError(f"output_dir must be a folder, not {self.output_dir!r}.")

    def _check(self) -> None:
        if self.loss_type not in ALGORITHMS:
            raise InputError(f"There is no loss_type {self.loss_type!r}: use {', '.join(ALGORITHMS)}.")
        defaults = {one.name: one.default for one in fields(DPOConfig)}
        changed = [name for name in _NOT_HERE if getattr(self, name, defaults[name]) != defaults[name]]
        changed += ["fp16"] if self.fp16 else []
        changed += ["accelerator_config.split_batches"] if self.accelerator_config.split_batches else []
        parallel, cut = self.parallelism_config, ("tp_size", "cp_size", "sp_size")  # which cut up weights or rows
        if isinstance(parallel, dict) or any(getattr(parallel, name, 1) > 1 for name in cut):
            changed.append("parallelism_config")
        if changed:
            raise InputError(f"QRPOTrainer has no {', '.join(changed)}: leave it out.")
        if self.optim.endswith("layerwise"):
            raise InputError(f"QRPOTrainer has no {self.optim.value}: it steps before the gradient is whole.")
        if not self.disable_dropout:
            raise InputError("QRPOTrainer trains without dropout: leave disable_dropout out.")
        if not isinstance(self.model_init_kwargs, dict | None):
            raise InputError(f"model_init_kwargs must be a dictionary, or JSON of one, not {self.model_init_kwargs!r}.")
        if self.max_length is not None and self.max_length < 2:
            raise InputError(f"max_length must be at least 2, a token to read and one to write, not {self.max_length}.")
        self._check_trackers()
        unknown = (self.gradient_checkpointing_kwargs or {}).keys() - signature(checkpoint).parameters.keys()
        if unknown:
            raise InputError(f"gradient_checkpointing_kwargs has no {', '.join(sorted(unknown))}: leave it out.")
        for level in (self.log_level, self.log_level_replica):
            if level not in trainer_log_levels:
                raise InputError(f"There is no log_level {level!r}: use one of {', '.join(trainer_log_levels)}.")
        if self.train_sampling_strategy not in _STRATEGIES:
            known = ", ".join(_STRATEGIES)
            raise InputError(f"There is no train_sampling_strategy {self.train_sampling_strategy!r}: use {known}.")
        if self.truncation_mode != "keep_start":
            raise InputError("QRPOTrainer cuts completions at their end: leave truncation_mode out.")
        if self.loss_type != "simpo" and self.gamma_ratio != _GAMMA_RATIO:
            raise InputError(f"gamma_ratio is SimPO's alone: leave it out for loss_type={self.loss_type!r}.")
        if self.loss_type != "qrpo":
            given = [name for name, default in _OF_QRPO.items() if getattr(self, name) != default]
            given += ["length_normalization"] if self.length_normalization else []
            if given:
                raise InputError(f"{', '.join(given)} is QRPO's alone: leave it out for loss_type={self.loss_type!r}.")
        try:
            samples.check_loss(self.loss_type, self.loss_settings())
        except ValueError as error:
            raise InputError(str(error)) from None

    def _check_trackers(self) -> None:
        """Raises InputError for trackers of `report_to` that there are not, or whose package is not installed."""
        from transformers.integrations import get_available_reporting_integrations
        from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

        available = get_available_reporting_integrations()
        for name in self.report_to:
            if name not in INTEGRATION_TO_CALLBACK:
                raise InputError(f"There is no tracker {name!r}: use one of {', '.join(INTEGRATION_TO_CALLBACK)}.")
            package = _PACKAGES.get(name)
            if find_spec(package) is None if package else name not in available:
                how = "pip install 'qrpo-lib[trackers]'" if name in MODULES["trackers"] else "install it"
                raise InputError(f"report_to needs the package {package or name}, which is not installed: {how}.")

    def loss_settings(self) -> dict[str, Any]:
        """The keyword arguments of the loss on pairs (`qrpo_lib.losses`)."""
        if self.loss_type == "qrpo":
            normalised = {"length_normalization": True} if self.length_normalization else {}
            return {"beta": self.beta} | {name: getattr(self, name) for name in _OF_QRPO} | normalised
        return {"beta": self.beta} | ({"gamma_ratio": self.gamma_ratio} if self.loss_type == "simpo" else {})
