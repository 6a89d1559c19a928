"""Policy fitting with QRPO, DPO, REBEL or SimPO as the suite does it: `fit_policy`, on `PolicyTrainer`.

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
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig

from qrpo_lib.runs import products
from qrpo_lib.training import batching, causal_lm, guard, parallel, reference_logps, run_identity, suite_trainer
from qrpo_lib.training import samples as pairs
from qrpo_lib.training.configuration import REFERENCES, Objective, Optimization, Output
from qrpo_lib.training.policy_trainer import PolicyTrainer
from qrpo_lib.training.suite_trainer import Fitted

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
    output folder of another run, a model that would be trained wrongly (`guard`), and a model object that an
    interrupted call left half-trained.
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
        checked = _checking(objective, model)
        train = list(train_rows) if online else checked(train_rows, "train")
        validation = checked(validation_rows, "validation") if len(validation_rows) else []
        guard.check(model, max(map(pairs.length, [*([] if online else train), *validation]), default=None))
        if output.folder is not None:
            run_identity.claim(folder, _identity(objective, settings, model, [] if online else train))
        live = _frozen(model, settings.precision) if reference == "live" or online else None
        if live is None:
            _add_reference_logps(model, tokenizer, (train, validation), settings, reference_cache)
        rows = [{"row": i, "weight": 1.0} for i in range(len(train))] if online else train
        trainer = PolicyTrainer(
            model,
            arguments,
            _in_order(rows, settings),
            tokenizer,
            objective,
            reference=live,
            online=partial(_drawn, online, train, checked) if online else None,
            validation_rows=validation,
        )
        return suite_trainer.run(trainer, settings, output)


def _identity(objective: Objective, settings: Optimization, model: PreTrainedModel, rows: list[dict]) -> dict:
    """What a run in a folder is: its settings and, as hashes, the reference's weights and the rows."""
    found = {"algorithm": objective.algorithm} | json.loads(json.dumps(objective.loss, default=repr))
    names = ("learning_rate", "batch_size", "epochs", "last_batch", "seed", "precision")
    found |= {name: getattr(settings, name) for name in names}
    found["reference"] = run_identity.weights_sha256(model)
    return found | {"data": run_identity.rows_sha256(rows)}


def _in_order(rows: list[dict], settings: Optimization) -> Dataset:
    """The rows of all epochs as they are trained on; online, where lengths are not known yet, in random order alone."""
    lengths = [pairs.length(row) if "prompt_ids" in row else 0 for row in rows]
    size, last_batch = settings.batch_size, settings.last_batch
    order = batching.training_order(lengths, size, settings.epochs, settings.seed, last_batch)
    return suite_trainer.laid_out(rows, order, settings.micro_batch_size)


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


def _checking(objective: Objective, model: PreTrainedModel) -> Callable[[Sequence[Mapping], str], list[dict]]:
    """`samples.checked` of rows and what errors call them."""
    return partial(
        pairs.checked,
        algorithm=objective.algorithm,
        settings=objective.loss,
        num_ref_rewards=objective.num_ref_rewards,
        context=causal_lm.context(model),
    )


def _drawn(
    online: Online, rows: list[Mapping], checked: Callable, step: int, model: PreTrainedModel, numbers: list[int]
) -> list[dict]:
    """The samples of a step for the rows of these numbers, checked as rows are checked."""
    drawn = online(step, model, [rows[number] for number in numbers])
    if len(drawn) != len(numbers):
        raise ValueError(f"online must return a sample for each of the {len(numbers)} rows, not {len(drawn)}.")
    return checked(drawn, f"step {step}, online")
