"""Preferences: pairs of a chosen and a rejected completion in the paper's settings (App. L.7).

| setting | the pairs of a prompt |
|---|---|
| `offline` | the dataset's own, with the dataset's own labels |
| `off-policy-best` | the best and the worst of its sampled candidates |
| `off-policy-random` | `pairs_per_prompt` disjoint pairs of random candidates, ranked (chat: 1 of 6, code: 10 of 20) |

Each also as `sft-…`: the policy is first fine-tuned on the dataset's chosen completions, and that one is the reference
that completions are sampled from and training starts at (`qrpo_lib.steps.reference_policy`). The paper calls the model
whose completions are taken "the model before training"; its code samples from both, with and without fine-tuning.

What happens to the unusable, counted in the report beside the rows:
- `unscored` completions, whose reward is not finite, are as if they had not been sampled;
- a prompt with `too_few_completions` for all its pairs, or `too_few_reference_rewards`, or which alone fills the
  `max_tokens` (`prompt_too_long`), is left out whole;
- a pair of equal rewards has no preference (`ties`): left out, or kept in random order, as the paper keeps it. Offline
  pairs are labelled by the dataset and never tie; `contradicted` counts those that the reward ranks the other way;
- `cut` counts completions cut at `max_tokens` with their prompt, as the paper does in training.
"""

from __future__ import annotations

import operator
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qrpo_lib.steps.shifts import source

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_REASONS = ("unscored", "too_few_completions", "too_few_reference_rewards", "prompt_too_long", "ties", "cut")


class Pairs(NamedTuple):
    """Rows of `schema()` in the order of the prompts' ids, and how many there are of what."""

    rows: list[dict[str, Any]]
    report: dict[str, int]


@cache
def schema() -> pa.Schema:
    """The columns of a row, whatever its source: what `trainer.fit_policy` takes."""
    import pyarrow as pa

    return pa.schema(
        [
            ("prompt_id", pa.string()),
            ("prompt_ids", pa.list_(pa.int64())),
            ("chosen_ids", pa.list_(pa.int64())),
            ("rejected_ids", pa.list_(pa.int64())),
            ("chosen_reward", pa.float64()),
            ("rejected_reward", pa.float64()),
            ("ref_rewards", pa.list_(pa.float64())),
        ]
    )


def build_pairs(
    completions: pd.DataFrame,
    ref_rewards: Mapping[str, Sequence[float]],
    *,
    setting: str,
    seed: int,
    pairs_per_prompt: int = 1,
    ties: str = "drop",
    max_tokens: int | None = None,
    num_ref_rewards: int = 1,
) -> Pairs:
    """The pairs of one split.

    Parameters
    ----------
    completions: in columns `prompt_id`, `prompt_ids`, `token_ids`, `reward`: the candidates, or for an offline setting
        the dataset's pairs, one row for each side, told apart by `side`, "chosen" or "rejected".
    ref_rewards: of each prompt, rewards of reference completions; other completions than the candidates, so that the
        quantile of a candidate is not biased by counting itself. Those that are not finite do not count.
    setting: which completions make a pair, one of the table above.
    seed: of the random choices. A prompt's depend on the seed and its id alone.
    pairs_per_prompt: how many "off-policy-random" draws; in any setting a prompt needs twice as many completions.
    ties: "drop" or "keep".
    max_tokens: completions are cut so that a prompt with its completion has no more tokens. None: never.
    num_ref_rewards: how many finite reference rewards a prompt needs.

    Raises
    ------
    ValueError
        An unknown setting.
    """
    origin = source(setting)
    report = Counter(dict.fromkeys([*_REASONS, *(["contradicted"] if origin == "offline" else [])], 0))
    rows: list[dict[str, Any]] = []
    for prompt_id, of_prompt in completions.groupby("prompt_id", sort=True):
        references = [float(r) for r in ref_rewards.get(prompt_id, ()) if np.isfinite(r)]
        scored = of_prompt[np.isfinite(of_prompt["reward"])]
        prompt_ids = list(of_prompt["prompt_ids"].iloc[0])
        room = None if max_tokens is None else max_tokens - len(prompt_ids)
        report.update(prompts=1, unscored=len(of_prompt) - len(scored))
        unusable = {
            "too_few_completions": len(scored) < 2 * pairs_per_prompt,
            "too_few_reference_rewards": len(references) < num_ref_rewards,
            "prompt_too_long": room is not None and room < 1,
        }
        if any(unusable.values()):
            report[next(reason for reason, holds in unusable.items() if holds)] += 1
            continue
        generator = np.random.default_rng([seed, zlib.crc32(str(prompt_id).encode())])
        for chosen, rejected in _ranked(scored, origin, pairs_per_prompt, generator):
            if origin == "offline":
                report["contradicted"] += bool(chosen["reward"] < rejected["reward"])
            elif chosen["reward"] == rejected["reward"]:
                report["ties"] += 1
                if ties == "drop":
                    continue
            report["cut"] += sum(room is not None and len(side["token_ids"]) > room for side in (chosen, rejected))
            rows.append({"prompt_id": str(prompt_id)} | _row(prompt_ids, chosen, rejected, references, room))
    report["pairs"] = len(rows)
    return Pairs(_as_in_a_file(rows), dict(report))


def _row(prompt_ids: list[int], chosen: Any, rejected: Any, ref_rewards: Sequence[float], room: int | None = None):
    """A pair as `trainer.fit_policy` takes it; completions, with `token_ids` and `reward`, are cut at `room` tokens."""
    return {
        "prompt_ids": prompt_ids,
        "chosen_ids": list(chosen["token_ids"])[:room],
        "rejected_ids": list(rejected["token_ids"])[:room],
        "chosen_reward": float(chosen["reward"]),
        "rejected_reward": float(rejected["reward"]),
        "ref_rewards": list(ref_rewards),
    }


def _as_in_a_file(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the types that the schema gives them."""
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=schema()).to_pylist()


def _ranked(
    scored: pd.DataFrame, origin: str, pairs_per_prompt: int, generator: np.random.Generator
) -> Iterator[tuple[pd.Series, pd.Series]]:
    """(chosen, rejected) of each pair of one prompt; equal rewards in random order."""
    if origin == "offline":
        by_side = scored.set_index("side")
        yield by_side.loc["chosen"], by_side.loc["rejected"]
        return
    # In random order, then sorted by reward with a stable sort: ties stay in random order.
    shuffled = scored.iloc[generator.permutation(len(scored))]
    if origin == "off-policy-best":
        groups = [shuffled]
    else:
        groups = [shuffled.iloc[2 * i : 2 * i + 2] for i in range(pairs_per_prompt)]
    for group in groups:
        ordered = group.sort_values("reward", kind="stable")
        yield ordered.iloc[-1], ordered.iloc[0]


def best_and_worst(prompt_ids: list[int], completions, rewards, ref_rewards) -> dict[str, Any]:
    """The pair of a prompt's candidates with the highest and the lowest reward, as a row for `trainer.fit_policy`.

    Equal rewards stay: QRPO fits each completion to its own quantile, and needs no preference.

    Parameters
    ----------
    prompt_ids: token ids of the prompt.
    completions: token ids of each candidate.
    rewards: one for each candidate, in any unit.
    ref_rewards: of the prompt's reference completions.
    """
    candidates = [{"token_ids": ids, "reward": float(reward)} for ids, reward in zip(completions, rewards, strict=True)]
    best, worst = (extreme(candidates, key=operator.itemgetter("reward")) for extreme in (max, min))
    return _row(prompt_ids, best, worst, ref_rewards)
