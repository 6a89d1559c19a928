"""`QRPOTrainer`: QRPO, DPO, REBEL and SimPO in the conventions of TRL, on data, models and rewards of one's own.

    trainer = QRPOTrainer("my-model", QRPOConfig("out", beta=0.01), train_dataset="rows.jsonl")
    trainer.train()

The suite's own steps train with the same class, `PolicyTrainer`: here is what data of one's own need beside it.
"""

from __future__ import annotations

import contextlib
import json
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
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import get_last_checkpoint
from trl.trainer.utils import create_model_from_path, use_adapter

from qrpo_lib.runs import products
from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import (
    causal_lm,
    guard,
    model_card,
    parallel,
    reference_logps,
    run_checks,
    run_identity,
    samples,
    suite_trainer,
)
from qrpo_lib.training.configuration import Objective
from qrpo_lib.training.order import RandomBatches
from qrpo_lib.training.policy_trainer import PolicyTrainer
from qrpo_lib.training.prepared_data import ReferenceRewards, RowPreparation
from qrpo_lib.training.qrpo_config import QRPOConfig

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
        run_checks.check_kinds(model, args, train_dataset, processing_class, callbacks)
        run_checks.check_adapter(model, peft_config)
        run_checks.check_evaluation(args, eval_dataset, callbacks)
        if isinstance(model, str | Path):
            processing_class = processing_class or _tokenizer_of(model, _revision(args))
            model = _model_of(model, _loading(args))
        guard.check_kind(model)
        run_checks.check_optimizer(args, model, optimizers, new_weights=peft_config is not None)
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
            lambda: self._check_before_work(args, model, peft_config, eval_dataset),
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
            raise InputError(run_checks.said(error)) from error
        self._begin()

    # --- data and reference -----------------------------------------------------------------------------------------

    def _check_before_work(self, args: QRPOConfig, model: Any, peft_config: Any, eval_dataset: Any) -> None:
        """Raises InputError for what would show only once references are sampled, or the first epoch is over."""
        if args.metric_for_best_model is not None and eval_dataset is not None:
            prefixes = [f"eval_{name}_" for name in eval_dataset] if isinstance(eval_dataset, Mapping) else ["eval_"]
            run_checks.check_metric(args.metric_for_best_model, prefixes, self._metrics(args.loss_type))
        if peft_config is None:
            run_checks.check_weights(model)
        if peft_config is None and not is_peft_model(model):
            run_checks.check_generation_config(model, self._preparation.tokenizer)
        if self._preparation.reference_rewards is not None:
            causal_lm.without_dropout(model)
            guard.check(model, self._preparation.longest)
        run_identity.check(args.output_dir, self._settings_of_run(args))
        try:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"output_dir {args.output_dir} cannot be made: {error.strerror}.") from None

    def _metrics(self, algorithm: str) -> list[str]:
        """What an evaluation measures of rows that hold all that they can."""
        of = self._preparation.of
        names = [f"{side}{what}" for side in of for what in ("logps", "reward", "lengths")]
        columns = dict.fromkeys([*names, *samples.reference_columns(of)], torch.ones(1))
        columns["ref_rewards"] = torch.ones(1, 3)
        return ["loss", *samples.sample_metrics(algorithm, columns, self._preparation.loss_settings)]

    def _set_signature_columns_if_needed(self):
        of = self._preparation.of
        tokens = ["prompt_ids", *map(samples.ids_column, of), "weight"]
        self._signature_columns = [*tokens, *samples.reward_columns(of), *samples.reference_columns(of)]

    @products.fast()
    def _begin(self) -> None:
        """Before any step: dropout off, the guard, what the run is, and log pi_ref of all rows, computed once."""
        causal_lm.without_dropout(self.model)
        run_checks.check_weights(self.model)
        size = self.args.train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and len(self.train_dataset) < size:
            raise InputError(f"{len(self.train_dataset)} rows fill no batch of {size}: leave dataloader_drop_last out.")
        guard.check(self.model, self._preparation.longest)
        if not is_peft_model(self.model):
            run_checks.check_generation_config(self.model, self.processing_class)
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

        Goes on from `args.resume_from_checkpoint`, unless told otherwise. Raises InputError for a checkpoint of another
        run, or one that is not whole.
        """
        run_identity.check(self.args.output_dir, self._identity)
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        if not isinstance(resume_from_checkpoint, str | Path | bool | None):
            raise InputError(f"resume_from_checkpoint must be a folder or True, not {resume_from_checkpoint!r}.")
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)
            if folder is None:
                raise InputError(f"There is no checkpoint in {self.args.output_dir}: leave resume_from_checkpoint out.")
        if isinstance(folder, str | Path):
            if folder == "" or not Path(folder).is_dir():
                raise InputError(f"There is no checkpoint {folder or 'without a name'}.")
            run_identity.check(Path(folder).parent, self._identity)
            run_checks.check_checkpoint(Path(folder))
        if self.is_world_process_zero():
            run_identity.begin(self.args.output_dir, self._identity)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _init_training_state(self, max_steps, updates_of_epoch, num_train_epochs, *args):
        """As the Trainer's, which would make one more step where a run has ended within an epoch."""
        begun = super()._init_training_state(max_steps, updates_of_epoch, num_train_epochs, *args)
        return (num_train_epochs, 0) if self.state.global_step >= max_steps else begun

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
                f"The model cannot be pushed to the hub ({run_checks.said(error)}): leave push_to_hub out, and call "
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
        why = _not_there(name) or f"is it there, and whole? ({run_checks.said(error)})"
        if (Path(name) / "adapter_config.json").is_file():
            why = (
                "it is an adapter alone. Pass the object peft.AutoPeftModelForCausalLM.from_pretrained(FOLDER, "
                "is_trainable=True)."
            )
        raise InputError(f"The model {name} cannot be loaded: {why}") from error


def _tokenizer_of(name: str | Path, loading: Mapping[str, Any] | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model. Raises InputError."""
    if not name:
        raise InputError("This model object does not say where its tokenizer is: pass processing_class.")
    try:
        return AutoTokenizer.from_pretrained(name, **(loading or {}))
    except (OSError, ValueError, ImportError, KeyError) as error:
        why = _not_there(name) or f"{run_checks.said(error)} Where it is somewhere else, pass processing_class."
        raise InputError(f"The tokenizer of {name} cannot be loaded: {why}") from error


def _not_there(name: str | Path) -> str | None:
    """What is wrong with the path of a folder that there is not, None for names that may be of the hub."""
    path = Path(name)
    is_path = isinstance(name, Path) or path.is_absolute() or str(name).startswith((".", "~")) or len(path.parts) > 2
    return "there is no such folder." if is_path and not path.is_dir() else None
