"""Preference pairs as training takes them: checked rows, batches of tensors, the loss and the metrics of each pair.

A row is a mapping with `prompt_ids`, `chosen_ids`, `rejected_ids` (token ids exactly as sampled), `chosen_reward`,
`rejected_reward`, `ref_rewards` (a list) and the reference log-probabilities `ref_chosen_logps`, `ref_rejected_logps`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from trl.trainer.dpo_trainer import DataCollatorForPreference

from qrpo_lib import losses
from qrpo_lib.quantile import quantile_reward

ALGORITHMS = ("qrpo", "dpo", "rebel", "simpo")
TOKENS = ("prompt_ids", "chosen_ids", "rejected_ids")
REWARDS = ("chosen_reward", "rejected_reward", "ref_rewards")
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")

_NEEDED_REWARDS = {"qrpo": REWARDS, "rebel": REWARDS[:2], "dpo": (), "simpo": ()}
_SIDES = ("chosen", "rejected")


class Collator(DataCollatorForPreference):
    """Right-padded tokens, all chosen before all rejected, with the columns that TRL's collator drops."""

    def torch_call(self, examples):
        batch = super().torch_call(examples)
        for column in REWARDS:
            if column in examples[0]:  # float64: rounding could make two rewards equal and so change a quantile
                batch[column] = torch.tensor([example[column] for example in examples], dtype=torch.float64)
        return batch


def pair_loss(algorithm: str, pairs: Mapping[str, Tensor], **settings) -> Tensor:
    """The algorithm's loss of each pair, to (pairs,); `settings` go to its function in `qrpo_lib.losses`.

    `pairs` holds columns (pairs,): `chosen_logps`, `rejected_logps`, `ref_chosen_logps`, `ref_rejected_logps`,
    `chosen_reward`, `rejected_reward`, `chosen_lengths`, `rejected_lengths`, and `ref_rewards` (pairs, n), of which an
    algorithm needs only its own. QRPO's loss is the mean of its pointwise losses on both completions.
    """
    chosen, rejected = pairs["chosen_logps"], pairs["rejected_logps"]
    if algorithm == "simpo":
        return losses.simpo(chosen, rejected, pairs["chosen_lengths"], pairs["rejected_lengths"], **settings)
    ref_chosen, ref_rejected = pairs["ref_chosen_logps"], pairs["ref_rejected_logps"]
    if algorithm == "dpo":
        return losses.dpo(chosen, rejected, ref_chosen, ref_rejected, **settings)
    chosen_reward, rejected_reward = pairs["chosen_reward"], pairs["rejected_reward"]
    if algorithm == "rebel":
        return losses.rebel(chosen, rejected, ref_chosen, ref_rejected, chosen_reward, rejected_reward, **settings)
    of_chosen = losses.qrpo(chosen, ref_chosen, chosen_reward, pairs["ref_rewards"], **settings)
    of_rejected = losses.qrpo(rejected, ref_rejected, rejected_reward, pairs["ref_rewards"], **settings)
    return (of_chosen + of_rejected) / 2


def pair_metrics(algorithm: str, pairs: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """What training logs of each pair beside its loss: columns as in `pair_loss` to (pairs,) each.

    Log-ratios in nats; `implicit_reward_accuracy` is 1 where the chosen completion has the higher implicit reward (the
    log-ratio; for SimPO the mean token log-probability), 1/2 for a tie; quantile rewards where there are reference
    rewards; for QRPO the calibrated targets and the share of the two completions above the threshold (App. A).
    """
    chosen = pairs["chosen_logps"] - pairs["ref_chosen_logps"]
    rejected = pairs["rejected_logps"] - pairs["ref_rejected_logps"]
    margin = chosen - rejected
    if algorithm == "simpo":
        margin = pairs["chosen_logps"] / pairs["chosen_lengths"] - pairs["rejected_logps"] / pairs["rejected_lengths"]
    metrics = {
        "chosen_log_ratio": chosen,
        "rejected_log_ratio": rejected,
        "implicit_reward_accuracy": (margin.sign() + 1) / 2,
    }
    if all(column in pairs for column in REWARDS):
        for side in _SIDES:
            metrics[f"{side}_quantile"] = quantile_reward(pairs[f"{side}_reward"], pairs["ref_rewards"])
    if algorithm == "qrpo":
        settings = {name: value for name, value in settings.items() if name != "error"}
        targets = [
            losses.calibrated_target(pairs[f"{side}_reward"], pairs["ref_rewards"], **settings) for side in _SIDES
        ]
        metrics |= {f"{side}_target": target for side, target in zip(_SIDES, targets, strict=True)}
        metrics["share_above_threshold"] = ((targets[0] > 0).double() + (targets[1] > 0).double()) / 2
    return metrics


def length(row: Mapping) -> int:
    """Tokens of the row's longer sequence, prompt included."""
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def check_loss(algorithm: str, settings: Mapping[str, Any]) -> None:
    """Raises ValueError for an unknown algorithm, or settings that its function in `qrpo_lib.losses` does not take."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"unknown algorithm {algorithm!r}: use one of {', '.join(ALGORITHMS)}.")
    parameters = inspect.signature(getattr(losses, algorithm)).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    unknown = sorted(set(settings) - set(known))
    if unknown or "beta" not in settings:
        what = f"does not take {', '.join(unknown)}" if unknown else "needs beta"
        raise ValueError(f"the {algorithm} loss {what}: its settings are {', '.join(known)}.")
    # a made-up pair through the loss itself, so that whatever it refuses is refused before work
    names = [f"{side}_{what}" for side in _SIDES for what in ("logps", "reward", "lengths")]
    made_up = dict.fromkeys([*names, *REFERENCE], torch.ones(1)) | {"ref_rewards": torch.ones(1, 2)}
    pair_loss(algorithm, made_up, **settings)


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

    None for `num_ref_rewards` means as many as the first row has. Rewards that the algorithm does not need are taken
    along, for the metrics, if the first row has them, and reference log-probabilities likewise. `context` is the number
    of tokens that the model takes. Raises ValueError naming the first row that cannot be used.
    """
    if not len(rows):
        raise ValueError(f"there are no {split} rows.")
    first = dict(rows[0])
    columns = [name for name in REWARDS if name in _NEEDED_REWARDS[algorithm] or name in first]
    columns += [name for name in REFERENCE if all(reference in first for reference in REFERENCE)]
    if num_ref_rewards is None and first.get("ref_rewards") is not None:
        num_ref_rewards = len(first["ref_rewards"])
    result = []
    for i, row in enumerate(rows):
        try:
            result.append(_checked_tokens(row, context) | _checked_numbers(row, columns, num_ref_rewards))
            if algorithm == "qrpo" and i == 0:  # a transformation can be undefined for this number of references
                losses.calibrated_target(
                    torch.zeros(1),
                    torch.zeros(1, num_ref_rewards),
                    **{name: value for name, value in settings.items() if name != "error"},
                )
        except ValueError as error:
            raise ValueError(f"{split} row {i}: {error}") from None
    return result


def _checked_tokens(row: Mapping, context: float) -> dict[str, list[int]]:
    for name in TOKENS:
        if row.get(name) is None:
            raise ValueError(f"{name} is missing.")
    prompt = row["prompt_ids"]
    if not len(prompt):
        raise ValueError("prompt_ids is empty: the first completion token needs a context.")
    if len(prompt) >= context:
        raise ValueError(f"the prompt fills the context ({len(prompt)} of {context} tokens): no completion fits.")
    for name in TOKENS[1:]:
        total = len(prompt) + len(row[name])
        if not len(row[name]):
            raise ValueError(f"{name} is empty: even the shortest completion holds its end-of-sequence token.")
        if total > context:
            raise ValueError(f"the prompt with {name} has {total} tokens, the context {context}: drop the row.")
    return {name: [int(token) for token in row[name]] for name in TOKENS}


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
