"""`QRPOTrainer`: QRPO, DPO, REBEL and SimPO in the conventions of TRL, on data, models and rewards of one's own.

    trainer = QRPOTrainer("my-model", QRPOConfig("out", beta=0.01), train_dataset="rows.jsonl")
    trainer.train()

The suite's own steps train with the same class, `PolicyTrainer`: here is what data of one's own need beside it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    get_scheduler,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, get_last_checkpoint
from transformers.training_args import ParallelMode
from trl.trainer.utils import create_model_from_path, use_adapter

from qrpo_lib.runs import products
from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import (
    causal_lm,
    guard,
    model_card,
    parallel,
    reference_logps,
    run_identity,
    samples,
    suite_trainer,
)
from qrpo_lib.training.configuration import Objective
from qrpo_lib.training.order import RandomBatches
from qrpo_lib.training.policy_trainer import PolicyTrainer
from qrpo_lib.training.prepared_data import ReferenceRewards, RowPreparation
from qrpo_lib.training.qrpo_config import QRPOConfig

_SPECIAL_TOKENS = ("eos_token_id", "pad_token_id", "bos_token_id")
Rows = Any  # a Dataset, a list of rows, a file or a hub id (`preference_rows.load`)


class QRPOTrainer(PolicyTrainer):
    """Fits a policy to preference pairs or, for QRPO, to single completions with rewards.

    Parameters
    ----------
    model: name of the hub, folder, or model object. A model object is trained in place.
    args: a `QRPOConfig`; without one, its defaults, in the folder MODEL-QRPO.
    train_dataset, eval_dataset: a dataset, a list of rows, a file (.jsonl, .json, .csv, .parquet) or a hub id, in TRL's
        standard or conversational form: pairs (`prompt, chosen, rejected`, and as far as the loss needs them
        `chosen_reward, rejected_reward, reference_rewards`) or single completions (`prompt, completion, reward,
        reference_rewards`). For evaluation also a dictionary of such.
    processing_class: the tokenizer (default: the model's own).
    ref_model: the reference policy, a model or its name (default: `model` as it is given, with `peft_config` the model
        without its adapter). Its log-probabilities are computed once, before training.
    reference_rewards: where the rows hold none: a file with `prompt` and `reference_rewards`, or
        `qrpo_lib.SampledReferences(reward_fn, n=...)`, which samples reference completions and scores them, and scores
        the rows' own completions where they have no reward.
    callbacks, optimizers, peft_config: as in TRL's `DPOTrainer`.

    The loss of a batch is the mean over its rows, weighted by their `weight`; how a batch is split into micro-batches
    and processes changes it by rounding alone. `output_dir` notes what the run is: another beta, other data or other
    weights are refused there, and `train(resume_from_checkpoint=True)` goes on with the same. Raises InputError before
    training for rows, settings or models that cannot be used (`guard`).
    """

    args: QRPOConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    _tag_names = ["trl", "qrpo"]  # noqa: RUF012, as TRL has it
    _name = "QRPO"
    floating_point_ops = Trainer.floating_point_ops  # which trackers show

    def __init__(
        self,
        model: str | Path | PreTrainedModel | Any,
        args: QRPOConfig | None = None,
        train_dataset: Rows = None,
        eval_dataset: Rows | dict[str, Rows] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        ref_model: str | Path | PreTrainedModel | None = None,
        reference_rewards: str | Path | ReferenceRewards | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any | None = None,
    ):
        args = QRPOConfig(f"{_name_of(model) or 'policy'}-QRPO") if args is None else args
        _check_kinds(args, train_dataset, processing_class, peft_config, callbacks)
        _check_evaluation(args, eval_dataset)
        if isinstance(model, str | Path):
            processing_class = processing_class or _tokenizer_of(model, _revision(args))
            model = _model_of(model, _loading(args))
        guard.check_kind(model)
        _check_optimizer(args, model, optimizers)
        base = causal_lm.without_adapter(model)
        run_identity.check_unmarked(model)
        processing_class = processing_class or _tokenizer_of(getattr(model.config, "_name_or_path", ""))
        self._reference_given, self._reference_loaded = ref_model, None
        reference = None if ref_model is None else lambda: self._given_reference(args)
        self._preparation = RowPreparation(args, base, processing_class, reference_rewards, reference)
        has_adapter = peft_config is not None or is_peft_model(model)
        self._given_log_probs = guard.plain_log_probs(model) if has_adapter and ref_model is None else None
        train, *others = self._preparation.datasets(
            [("train", train_dataset), *_named(eval_dataset)],
            lambda: self._check_before_work(args, model, peft_config),
        )
        try:
            super().__init__(
                model,
                args,
                train,
                processing_class,
                Objective(args.loss_type, self._preparation.loss_settings),
                eval_dataset=_in_form(eval_dataset, others),
                callbacks=callbacks,
                optimizers=optimizers,
                peft_config=peft_config,
            )
        except InputError:
            raise
        except (ValueError, NotImplementedError, ImportError) as error:  # what transformers and TRL refuse
            raise InputError(_said(error)) from error
        self._begin()

    # --- data and reference -----------------------------------------------------------------------------------------

    def _check_before_work(self, args: QRPOConfig, model: Any, peft_config: Any) -> None:
        """Raises InputError for what would show only once references are sampled."""
        if peft_config is None:
            _check_weights(model)
        if peft_config is None and not is_peft_model(model):
            _check_generation_config(model, self._preparation.tokenizer)
        if self._preparation.reference_rewards is not None:
            causal_lm.without_dropout(model)
            guard.check(model, self._preparation.longest)
        run_identity.check(args.output_dir, self._settings_of_run(args))
        try:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"output_dir {args.output_dir} cannot be made: {error.strerror}.") from None

    def _set_signature_columns_if_needed(self):
        of = self._preparation.of
        tokens = ["prompt_ids", *map(samples.ids_column, of), "weight"]
        self._signature_columns = [*tokens, *samples.reward_columns(of), *samples.reference_columns(of)]

    @products.fast()
    def _begin(self) -> None:
        """Before any step: dropout off, the guard, what the run is, and log pi_ref of all rows, computed once."""
        causal_lm.without_dropout(self.model)
        _check_weights(self.model)
        size = self.args.train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and len(self.train_dataset) < size:
            raise InputError(f"{len(self.train_dataset)} rows fill no batch of {size}: leave dataloader_drop_last out.")
        guard.check(self.model, self._preparation.longest)
        if not is_peft_model(self.model):
            _check_generation_config(self.model, self.processing_class)
        with self._reference() as reference:
            if self._reference_given is not None:
                self._preparation.check_reference(reference)
            if self._given_log_probs is not None:
                guard.check_reference(reference, self._given_log_probs)
            weights = run_identity.weights_sha256(reference)
            data = self._preparation.hashes["train"]
            self._identity = self._settings_of_run(self.args) | {"reference": weights, "data": data}
            if is_peft_model(self.model):
                self._identity |= _of_adapter(self.model)
            run_identity.check(self.args.output_dir, self._identity)
            self.train_dataset = self._with_reference(reference, self.train_dataset)
            self._rows = len(self.train_dataset)
            if not self.args.dataloader_drop_last:
                self.train_dataset = self._filled(self.train_dataset, self.args.train_batch_size)
            if isinstance(self.eval_dataset, dict):
                sets = self.eval_dataset.items()
                self.eval_dataset = {name: self._with_reference(reference, rows) for name, rows in sets}
            elif self.eval_dataset is not None:
                self.eval_dataset = self._with_reference(reference, self.eval_dataset)

    def _given_reference(self, args: QRPOConfig) -> Any:
        """The `ref_model`; by its name it is loaded once."""
        given = self._reference_given
        if self._reference_loaded is None:
            by_name = isinstance(given, str | Path)
            kept = ("dtype", "trust_remote_code", "attn_implementation", "device_map")
            loading = {name: value for name, value in _loading(args).items() if name in kept}
            self._reference_loaded = _model_of(given, loading) if by_name else given
            guard.check_kind(self._reference_loaded)
            causal_lm.without_dropout(self._reference_loaded)
        return self._reference_loaded

    @contextlib.contextmanager
    def _reference(self) -> Iterator[Any]:
        """The reference policy, in place for a forward pass."""
        if self.is_deepspeed_enabled and getattr(self.args.deepspeed_plugin, "zero_stage", 0) == 3:
            raise InputError("The reference cannot be computed under DeepSpeed ZeRO-3: use stage 1 or 2, or FSDP.")
        as_reference = contextlib.nullcontext()
        if self._reference_given is None:
            model = self.accelerator.unwrap_model(self.model)
            if is_peft_model(model):  # "ref": TRL's copy of an adapter that the model came with
                as_reference = use_adapter(model, "ref" if "ref" in model.peft_config else None)
        else:
            model = self._given_reference(self.args)
        model.to(self.accelerator.device)
        with as_reference, causal_lm.plain(causal_lm.without_adapter(model)):
            yield model
        self._reference_loaded = None

    def _with_reference(self, model: Any, dataset: Dataset) -> Dataset:
        """The rows with log pi_ref of their completions, where they do not hold it; processes share the work."""
        of = self._preparation.of
        if all(column in dataset.column_names for column in samples.reference_columns(of)):
            return dataset
        size = self.args.precompute_ref_batch_size or self.args.per_device_train_batch_size
        # as the policy is computed in training, so that their log-ratio at the start is 0
        forward = parallel.forward("bfloat16" if self.accelerator.mixed_precision == "bf16" else "float32")
        if forward.weights != torch.float32:
            model = forward.of(model)
        logps = reference_logps.compute(model, self._collate.pad_token_id, list(dataset), size, forward)
        for column, values in zip(samples.reference_columns(of), logps.tolist(), strict=True):
            dataset = dataset.add_column(column, values)
        return dataset

    def _filled(self, dataset: Dataset, size: int) -> Dataset:
        """The rows; where processes share them, with rows of weight 0: Accelerate would repeat some that count."""
        if self.args.world_size == 1:
            return dataset
        rows = [{"weight": 1.0} | row for row in dataset]
        return suite_trainer.laid_out(rows, np.arange(len(rows)), size)

    def _settings_of_run(self, args: QRPOConfig) -> dict[str, Any]:
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        names = ("num_train_epochs", "max_steps", "learning_rate", "warmup_steps", "weight_decay", "max_grad_norm")
        names += ("seed", "data_seed", "train_sampling_strategy", "bf16")
        found = {"loss_type": args.loss_type} | self._preparation.loss_settings
        found |= {"length_normalization": args.length_normalization, "batch size": batch}
        found |= {name: getattr(args, name) for name in names}
        return found | {"lr_scheduler_type": str(args.lr_scheduler_type), "optim": str(args.optim)}

    # --- training ---------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, *args, **kwargs):
        """Trains, as `transformers.Trainer.train`; a model object whose training is interrupted is no reference.

        Raises InputError for a checkpoint of another run.
        """
        run_identity.check(self.args.output_dir, self._identity)
        if resume_from_checkpoint is True and get_last_checkpoint(self.args.output_dir) is None:
            raise InputError(f"There is no checkpoint in {self.args.output_dir}: leave resume_from_checkpoint out.")
        if not isinstance(resume_from_checkpoint, str | Path | bool | None):
            raise InputError(f"resume_from_checkpoint must be a folder or True, not {resume_from_checkpoint!r}.")
        if isinstance(resume_from_checkpoint, str | Path):
            if not Path(resume_from_checkpoint).is_dir():
                raise InputError(f"There is no checkpoint {resume_from_checkpoint}.")
            run_identity.check(Path(resume_from_checkpoint).parent, self._identity)
        if self.is_world_process_zero():
            run_identity.begin(self.args.output_dir, self._identity)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _get_train_sampler(self, train_dataset=None):
        args = self.args
        if args.train_sampling_strategy not in ("random", "group_by_length") or self.train_dataset is None:
            return super()._get_train_sampler(train_dataset)
        lengths, rows = list(map(samples.length, self.train_dataset)), self._rows
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        seed = args.seed if args.data_seed is None else args.data_seed
        if args.train_sampling_strategy == "group_by_length":
            return LengthGroupedSampler(batch, lengths=lengths, generator=torch.Generator().manual_seed(seed))
        return RandomBatches(lengths[:rows], batch, seed, lambda: self.state.epoch, filler=len(lengths) - rows)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None):
        """As the Trainer's; each row counts once, however many processes share them."""
        found = self.eval_dataset if eval_dataset is None else eval_dataset
        found = self.eval_dataset[found] if isinstance(found, str) else found
        return super().get_eval_dataloader(found if found is None else self._filled(found, self.args.eval_batch_size))

    @products.fast()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"):
        """As `transformers.Trainer.evaluate`, also of rows that the trainer has not seen.

        Raises InputError for those once training has begun, if the policy as it was given is no longer there.
        """
        if eval_dataset is None and not self.eval_dataset:
            raise InputError("There are no rows to evaluate: pass some, or give the trainer an eval_dataset.")
        if not self._is_known(eval_dataset):
            reference_is_there = self._reference_given is not None or is_peft_model(self.model)
            if self.state.global_step > 0 and not reference_is_there:
                raise InputError(
                    "The reference, the model as it was given, has been trained meanwhile: pass these rows to the "
                    "trainer as eval_dataset, or a ref_model."
                )
            with self._reference() as reference:  # which references are sampled from, too
                prepared = self._preparation.datasets(_named(eval_dataset))
                if self._given_log_probs is not None:  # biases that an adapter trains stay when it is switched off
                    guard.check_reference(reference, self._given_log_probs)
                prepared = [self._with_reference(reference, rows) for rows in prepared]
            eval_dataset = _in_form(eval_dataset, prepared)
        return Trainer.evaluate(self, eval_dataset, ignore_keys, metric_key_prefix)

    def predict(self, *args, **kwargs):
        """Raises InputError: a policy predicts nothing of a row."""
        raise InputError("QRPOTrainer has nothing to predict: evaluate(rows) gives the loss and the metrics of rows.")

    def _is_known(self, given: Any) -> bool:
        """Whether rows to evaluate are those of the trainer, none or by their name, or such as it has prepared."""
        if isinstance(given, str) and isinstance(self.eval_dataset, dict):
            return given in self.eval_dataset
        if given is None or isinstance(given, str | Path):
            return given is None
        sets = list(given.values()) if isinstance(given, Mapping) else [given]
        wanted = {"prompt_ids", *samples.reference_columns(self._preparation.of)}
        return all(isinstance(one, Dataset) and wanted <= set(one.column_names) for one in sets)

    # --- what others see --------------------------------------------------------------------------------------------

    def init_hf_repo(self, token: str | None = None, **options):
        """As the Trainer's. Raises InputError where the hub cannot be reached."""
        try:
            super().init_hf_repo(token, **options)
        except Exception as error:  # of the network, of whichever client the hub's library has
            raise InputError(
                f"The model cannot be pushed to the hub ({_said(error)}): leave push_to_hub out, and call "
                "trainer.push_to_hub() once the hub can be reached."
            ) from error

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | Sequence[str] | None = None
    ):
        """Writes `README.md` into `output_dir`: what was trained, from what, on what, how."""
        if not self.is_world_process_zero():
            return
        facts = model_card.Facts(
            name=model_name or Path(self.args.output_dir).name,
            base=getattr(self.model.config, "_name_or_path", "") or None,
            dataset=dataset_name,
            tags=(*self._tag_names, *((tags,) if isinstance(tags, str) else tags or ())),
            rows=self._rows,
            pairs=self._preparation.of == samples.PAIR,
            adapter=is_peft_model(self.model),
            settings=self._settings_of_run(self.args),
            reference_rewards=self._preparation.references["train"],
            step=self.state.global_step,
            steps=self.state.max_steps,
        )
        model_card.write(Path(self.args.output_dir), facts)


# --- helpers --------------------------------------------------------------------------------------------------------


def _of_adapter(model: Any) -> dict[str, Any]:
    """What the adapter that is trained is like, by the names of its settings; where its base lies is no part of it."""
    found = model.peft_config[model.active_adapters[0]].to_dict()
    found = {name: sorted(value) if isinstance(value, set) else value for name, value in found.items()}
    kept = {name: value for name, value in found.items() if value is not None and name != "base_model_name_or_path"}
    return {f"adapter's {name}": json.loads(json.dumps(value, default=str)) for name, value in sorted(kept.items())}


def _check_kinds(args: Any, train_dataset: Any, processing_class: Any, peft_config: Any, callbacks: Any) -> None:
    """Raises InputError for arguments of another kind than they must be."""
    if not isinstance(args, QRPOConfig):
        raise InputError(f"args must be a QRPOConfig, not a {type(args).__name__}.")
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
    if peft_config is None:
        return
    if importlib.util.find_spec("peft") is None:
        raise InputError("peft_config needs the package peft: pip install 'qrpo-lib[peft]'.")
    from peft import PeftConfig

    if not isinstance(peft_config, PeftConfig):
        raise InputError(f"peft_config must be one of peft's, LoraConfig(...), not a {type(peft_config).__name__}.")


def _is_callback(one: Any) -> bool:
    return issubclass(one if isinstance(one, type) else type(one), TrainerCallback)


def _named(given: Any) -> list[tuple[str, Rows]]:
    """Rows for evaluation with what errors call them."""
    if given is None:
        return []
    return list(given.items()) if isinstance(given, Mapping) else [("eval", given)]


def _in_form(given: Any, prepared: Sequence[Dataset]) -> Any:
    """Datasets that were prepared, in the form in which they were given: none, one or several by name."""
    if isinstance(given, Mapping):
        return dict(zip(given, prepared, strict=True))
    return prepared[0] if prepared else None


def _name_of(model: Any) -> str:
    """The last part of a model's name or folder, of an object of that which it was loaded from."""
    given = model if isinstance(model, str | Path) else getattr(getattr(model, "config", None), "_name_or_path", "")
    return Path(given or "").name


def _check_evaluation(args: QRPOConfig, eval_dataset: Any) -> None:
    """Raises InputError where evaluations are asked for, and there is nothing to evaluate on."""
    asked = [name for name in ("eval_on_start", "load_best_model_at_end") if getattr(args, name)]
    asked += ["eval_strategy"] if args.eval_strategy != IntervalStrategy.NO else []
    asked += ["save_strategy"] if args.save_strategy == SaveStrategy.BEST else []
    if asked and eval_dataset is None:
        raise InputError(f"{asked[0]} asks for evaluations, and there are no rows for them: pass eval_dataset.")


def _check_optimizer(args: QRPOConfig, model: Any, given: tuple[Any, Any]) -> None:
    """Raises InputError for an optimizer or schedule that cannot be made: its package is missing, its settings wrong.

    Both are made here of one number, before any work; the Trainer would make its own first when training begins.
    """
    optimizer, schedule = given
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError("optimizers must be a torch optimizer that is made, and a schedule of it or None.")
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
        raise InputError(f"With these settings {what} cannot be made: {_said(error)}") from error


def _check_generation_config(model: Any, tokenizer: Any) -> None:
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
            f"The model could not be saved with its generation_config, which contradicts itself: {_said(error)}"
        ) from None


def _check_weights(model: torch.nn.Module) -> None:
    low = {str(p.dtype) for p in model.parameters() if p.requires_grad and p.dtype != torch.float32}
    if low:
        raise InputError(
            f"The weights to be trained are {', '.join(sorted(low))}: small updates are lost on them; call "
            "model.float(), and bf16=True still runs the forward pass in bfloat16."
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("No weight of the model is to be trained: all have requires_grad=False.")


def _loading(args: QRPOConfig) -> dict[str, Any]:
    given = args.model_init_kwargs
    # whole, where the Trainer moves it: without a map TRL would spread it over all GPUs
    defaults = {"trust_remote_code": args.trust_remote_code, "device_map": None}
    return defaults | (dict(given) if isinstance(given, dict) else {})


def _revision(args: QRPOConfig) -> dict[str, Any]:
    return {name: value for name, value in _loading(args).items() if name in ("revision", "trust_remote_code")}


def _model_of(name: str | Path, loading: Mapping[str, Any]) -> Any:
    """The model of a folder or a name of the hub. Raises InputError."""
    try:
        return create_model_from_path(str(name), **loading)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        why = _not_there(name) or f"is it there, and whole? ({_said(error)})"
        raise InputError(f"The model {name} cannot be loaded: {why}") from error


def _tokenizer_of(name: str | Path, loading: Mapping[str, Any] | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model. Raises InputError."""
    if not name:
        raise InputError("This model object does not say where its tokenizer is: pass processing_class.")
    try:
        return AutoTokenizer.from_pretrained(name, **(loading or {}))
    except (OSError, ValueError, ImportError, KeyError) as error:
        why = _not_there(name) or f"{_said(error)} Where it is somewhere else, pass processing_class."
        raise InputError(f"The tokenizer of {name} cannot be loaded: {why}") from error


def _not_there(name: str | Path) -> str | None:
    """What is wrong with the path of a folder that there is not, None for names that may be of the hub."""
    path = Path(name)
    is_path = isinstance(name, Path) or path.is_absolute() or str(name).startswith((".", "~")) or len(path.parts) > 2
    return "there is no such folder." if is_path and not path.is_dir() else None


def _said(error: Exception) -> str:
    """The message of somebody else's error, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:400] + " ..."
