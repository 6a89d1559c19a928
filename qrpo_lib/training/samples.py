"""Samples as training takes them: checked rows, batches of tensors, the loss and the metrics of each sample.

A row is a mapping with `prompt_ids` and either a pair or, for QRPO, a single completion ("pointwise"):

    pair       chosen_ids, rejected_ids, chosen_reward, rejected_reward, ref_rewards, ref_{chosen,rejected}_logps
    pointwise  completion_ids, reward, ref_rewards, ref_logps

Ids are token ids exactly as sampled, `ref_rewards` is a list, `ref_logps` are log-probabilities under the reference.
Both may have a `weight` > 0, default 1: the loss of a batch is the weighted mean over its rows. Columns of one
completion are named by its side: "chosen_", "rejected_", or "" for the pointwise one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qrpo_lib.objective import algorithms, length_normalised
from qrpo_lib.objective.quantile import quantile_reward
from qrpo_lib.training import batching

PAIR, POINTWISE = ("chosen_", "rejected_"), ("",)

_REWARDS_NEEDED = {"qrpo": "both", "rebel": "own", "dpo": "none", "simpo": "none"}
_TARGET_SETTINGS = ("beta", "transform", "partition")


def sides(row: Mapping) -> tuple[str, ...]:
    """The sides of a row's completions: PAIR or POINTWISE."""
    return POINTWISE if "completion_ids" in row else PAIR


def ids_column(side: str) -> str:
    """The column of a side's token ids."""
    return f"{side or 'completion_'}ids"


def reference_columns(of: tuple[str, ...]) -> list[str]:
    """The columns of the reference log-probabilities."""
    return [f"ref_{side}logps" for side in of]


def reward_columns(of: tuple[str, ...]) -> list[str]:
    """The columns of the rewards, that of the reference rewards last."""
    return [*(f"{side}reward" for side in of), "ref_rewards"]


@dataclass
class Collator:
    """Rows, pairs or pointwise, to a batch: right-padded tokens, all completions of the first side before the second's.

    `input_ids` and `completion_mask` (sides x rows, tokens); `weight` (rows,); rewards (rows,) and (rows, n) in
    float64; reference log-probabilities (rows,).
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, Tensor]:
        of = sides(rows[0])
        sequences = [(row["prompt_ids"], row[ids_column(side)]) for side in of for row in rows]
        width = max(len(prompt) + len(completion) for prompt, completion in sequences)
        padding = [width - len(prompt) - len(completion) for prompt, completion in sequences]
        ids = [[*p, *c, *[self.pad_token_id] * rest] for (p, c), rest in zip(sequences, padding, strict=True)]
        mask = [[0] * len(p) + [1] * len(c) + [0] * rest for (p, c), rest in zip(sequences, padding, strict=True)]
        batch = {
            "input_ids": torch.tensor(ids),
            "completion_mask": torch.tensor(mask),
            "weight": torch.tensor([row.get("weight", 1.0) for row in rows]),
        }
        for column in reward_columns(of):
            if column in rows[0]:  # float64: rounding could make two rewards equal and so change a quantile
                batch[column] = torch.tensor([row[column] for row in rows], dtype=torch.float64)
        for column in reference_columns(of):
            if column in rows[0]:
                batch[column] = torch.tensor([row[column] for row in rows])
        return batch


def sample_loss(
    algorithm: str, columns: Mapping[str, Tensor], length_normalization: bool = False, **settings
) -> Tensor:
    """The algorithm's loss of each sample, to (rows,); QRPO takes pairs and pointwise samples.

    Parameters
    ----------
    algorithm: one of `algorithms.ALGORITHMS`.
    columns: all (rows,) but `ref_rewards` (rows, n): for each side `logps`, `ref_..logps`, `reward` and `lengths`, of
        which an algorithm needs only its own.
    length_normalization: QRPO with beta / |y| for a completion of |y| tokens (`length_normalised`).
    settings: of its function in `qrpo_lib.losses`.
    """
    if length_normalization:
        return _length_normalised(columns, **settings)
    logps = [columns[f"{side}logps"] for side in _sides_of(columns)]
    loss = algorithms.loss(algorithm, pairs=len(logps) == 2)
    if algorithm == "simpo":
        return loss(*logps, *(columns[f"{side}lengths"] for side in PAIR), **settings)
    arguments = logps + [columns[name] for name in reference_columns(_sides_of(columns))]
    if algorithm == "dpo":
        return loss(*arguments, **settings)
    rewards = reward_columns(_sides_of(columns))
    if algorithm == "rebel":
        return loss(*arguments, *(columns[name] for name in rewards[:-1]), **settings)
    return loss(*arguments, *(columns[name] for name in rewards), **settings)


def _length_normalised(columns: Mapping[str, Tensor], completions: str = "both", **settings) -> Tensor:
    """QRPO's loss of each sample with beta / |y|: of pairs the mean of both sides, or one of them."""
    of = _sides_of(columns)
    sides = {"both": of, "chosen": of[:1], "rejected": of[1:]}[completions]
    names = [(f"{side}logps", f"ref_{side}logps", f"{side}lengths", f"{side}reward", "ref_rewards") for side in sides]
    losses = [length_normalised.qrpo(*(columns[name] for name in of_side), **settings) for of_side in names]
    return torch.stack(losses).mean(0)


def sample_metrics(algorithm: str, columns: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """What training logs of each sample beside its loss: columns as in `sample_loss` to (rows,) each.

    Log-ratios in nats; `implicit_reward_accuracy` of pairs is 1 where the chosen completion has the higher implicit
    reward (the log-ratio; for SimPO the mean token log-probability), 1/2 for a tie; quantile rewards where there are
    reference rewards; for QRPO the calibrated targets and the share of the completions above the threshold (App. A),
    which are at beta: none with `length_normalization`.
    """
    of = _sides_of(columns)
    metrics = {f"{side}log_ratio": columns[f"{side}logps"] - columns[f"ref_{side}logps"] for side in of}
    if of == PAIR:
        implicit = [metrics[f"{side}log_ratio"] for side in of]
        if algorithm == "simpo":
            implicit = [columns[f"{side}logps"] / columns[f"{side}lengths"] for side in of]
        metrics["implicit_reward_accuracy"] = ((implicit[0] - implicit[1]).sign() + 1) / 2
    if all(column in columns for column in reward_columns(of)):
        for side in of:
            metrics[f"{side}quantile"] = quantile_reward(columns[f"{side}reward"], columns["ref_rewards"])
    calibrated_target = algorithms.target(algorithm)
    if calibrated_target and not settings.get("length_normalization"):
        chosen = {name: settings[name] for name in _TARGET_SETTINGS if name in settings}
        targets = [calibrated_target(columns[f"{s}reward"], columns["ref_rewards"], **chosen) for s in of]
        metrics |= {f"{side}target": target for side, target in zip(of, targets, strict=True)}
        metrics["share_above_threshold"] = torch.stack([target > 0 for target in targets]).double().mean(0)
    return metrics


def length(row: Mapping) -> int:
    """Tokens of the row's longest sequence, prompt included."""
    return len(row["prompt_ids"]) + max(len(row[ids_column(side)]) for side in sides(row))


def micro_batches(rows: Sequence[Mapping], size: int) -> Iterator[np.ndarray]:
    """Indices of all rows, `size` at a time, those of one prompt side by side: for what has no order of its own."""
    return batching.by_prompt([row["prompt_ids"] for row in rows], list(map(length, rows)), size)


def check_loss(algorithm: str, settings: Mapping[str, Any], of: tuple[str, ...] = PAIR) -> None:
    """Raises ValueError for an unknown algorithm, one that needs pairs and has none, settings that its loss lacks."""
    if algorithm not in algorithms.ALGORITHMS:
        raise ValueError(f"unknown algorithm {algorithm!r}: use one of {', '.join(algorithms.ALGORITHMS)}.")
    if algorithm != "qrpo" and of == POINTWISE:
        raise ValueError(f"{algorithm} needs pairs, chosen_ids and rejected_ids: only qrpo takes single completions.")
    parameters = inspect.signature(algorithms.loss(algorithm, pairs=of == PAIR)).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    known += ["length_normalization"] if algorithm == "qrpo" else []
    unknown = sorted(set(settings) - set(known))
    if unknown or "beta" not in settings:
        what = f"does not take {', '.join(unknown)}" if unknown else "needs beta"
        raise ValueError(f"the {algorithm} loss {what}: its settings are {', '.join(known)}.")
    # a made-up sample through the loss itself, so that whatever it refuses is refused before work
    names = [f"{side}{what}" for side in of for what in ("logps", "reward", "lengths")]
    made_up = dict.fromkeys([*names, *reference_columns(of)], torch.ones(1)) | {"ref_rewards": torch.ones(1, 3)}
    sample_loss(algorithm, made_up, **settings)


def checked(
    rows: Sequence[Mapping],
    split: str,
    *,
    algorithm: str,
    settings: Mapping[str, Any],
    num_ref_rewards: int | None,
    context: float,
) -> list[dict]:
    """The columns that training uses, as plain numbers, with the first `num_ref_rewards` reference rewards of each row.

    Rewards that the algorithm does not need are taken along, for the metrics, if the first row has them, and reference
    log-probabilities likewise.

    Parameters
    ----------
    rows: as given.
    split: what errors call them.
    algorithm, settings: the loss and its settings.
    num_ref_rewards: None for as many as the first row has.
    context: the number of tokens that the model takes.

    Raises
    ------
    ValueError
        There are no rows, or one cannot be used: the first is named.
    """
    if not len(rows):
        raise ValueError(f"there are no {split} rows.")
    first = dict(rows[0])
    of = sides(first)
    check_loss(algorithm, settings, of)
    rewards, references = reward_columns(of), reference_columns(of)
    needed = {"both": rewards, "own": rewards[:-1], "none": []}[_REWARDS_NEEDED[algorithm]]
    columns = [name for name in rewards if name in needed or name in first]
    columns += references if all(name in first for name in references) else []
    if num_ref_rewards is None and first.get("ref_rewards") is not None:
        num_ref_rewards = len(first["ref_rewards"])
    result = []
    for i, row in enumerate(rows):
        try:
            result.append(_checked_tokens(row, of, context) | _checked_numbers(row, columns, num_ref_rewards))
            result[-1]["weight"] = float(row.get("weight", 1.0))
            if not 0 < result[-1]["weight"] < float("inf"):
                raise ValueError(f"weight must be a positive number, got {row['weight']}: drop the row instead.")
            calibrated_target = algorithms.target(algorithm)
            if calibrated_target and i == 0:  # a transformation can be undefined for this number of references
                chosen = {name: settings[name] for name in _TARGET_SETTINGS if name in settings}
                calibrated_target(torch.zeros(1), torch.zeros(1, num_ref_rewards), **chosen)
        except ValueError as error:
            raise ValueError(f"{split} row {i}: {error}") from None
    return result


def _sides_of(columns: Mapping[str, Tensor]) -> tuple[str, ...]:
    return PAIR if "chosen_logps" in columns else POINTWISE


def _checked_tokens(row: Mapping, of: tuple[str, ...], context: float) -> dict[str, list[int]]:
    names = ["prompt_ids", *map(ids_column, of)]
    for name in names:
        if row.get(name) is None:
            raise ValueError(f"{name} is missing.")
    prompt = row["prompt_ids"]
    if not len(prompt):
        raise ValueError("prompt_ids is empty: the first completion token needs a context.")
    if len(prompt) >= context:
        raise ValueError(f"the prompt fills the context ({len(prompt)} of {context} tokens): no completion fits.")
    for name in names[1:]:
        total = len(prompt) + len(row[name])
        if not len(row[name]):
            raise ValueError(f"{name} is empty: even the shortest completion holds its end-of-sequence token.")
        if total > context:
            raise ValueError(f"the prompt with {name} has {total} tokens, the context {context}: drop the row.")
    return {name: [int(token) for token in row[name]] for name in names}


def _checked_numbers(row: Mapping, columns: list[str], num_ref_rewards: int | None) -> dict[str, Any]:
    result = {}
    for name in columns:
        if row.get(name) is None:
            raise ValueError(f"{name} is missing.")
        numbers = np.asarray(row[name], dtype=float)
        if name == "ref_rewards":
            wanted = max(num_ref_rewards, 1)
            if len(numbers) < wanted:
                raise ValueError(f"it has {len(numbers)} reference rewards, but {wanted} are asked for.")
            numbers = numbers[:wanted]
        if not np.isfinite(numbers).all():
            raise ValueError(f"{name} is not finite: a missing score is not a low one; drop the row.")
        result[name] = numbers.tolist()
    return result
