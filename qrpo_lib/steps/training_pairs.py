"""The pairs that a profile trains on and validates with, built from the completions and, offline, the dataset's pairs.

They depend on no algorithm, beta or seed of training: built once by a process for all trainings on them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from qrpo_lib.objective import algorithms
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import keys
from qrpo_lib.steps import dataset_pairs, pairs, pointwise, reference_policy, reference_sampling, shifts

_BUILT: dict[tuple, Splits] = {}
_MOST_BUILT = 8
# Of the completions: texts are not read, nor the token ids of those whose rewards alone are used.
_CANDIDATE = ["prompt_id", "split", "prompt_ids", "token_ids", "reward"]


class Splits(NamedTuple):
    """Training pairs, from the train prompts, and validation pairs, from the selection prompts."""

    train: pairs.Pairs
    validation: pairs.Pairs


def sources(profile: Profile) -> tuple[keys.Step, ...]:
    """The steps that the pairs are built from."""
    steps = (reference_policy.step(profile), reference_sampling.step(profile))
    return (*steps, dataset_pairs.step(profile)) if _is_offline(profile) else steps


def of(profile: Profile) -> Splits:
    """The pairs, built once in a process for runs that differ in the loss alone."""
    settings = profile.training.model_dump(exclude=set(algorithms.ALGORITHMS))
    made = tuple(step.key for step in sources(profile))
    key = (*made, json.dumps(settings), profile.seed, profile.reference_sampling.num_references)
    if key not in _BUILT:
        while len(_BUILT) >= _MOST_BUILT:
            _BUILT.pop(next(iter(_BUILT)))
        policy, completions = (step.folder for step in sources(profile)[:2])
        _BUILT[key] = build(profile, policy, completions)
    return _BUILT[key]


def build(profile: Profile, policy: Path, completions: Path) -> Splits:
    """The pairs; `policy` and `completions` are the folders of the reference policy and of its completions."""
    settings = profile.training
    references = reference_sampling.reference_rewards(completions)
    if _is_offline(profile):
        from transformers import AutoTokenizer

        source = dataset_pairs.load(dataset_pairs.step(profile).folder)
        tokenizer = AutoTokenizer.from_pretrained(policy)
    else:
        source, tokenizer = reference_sampling.load(completions, _CANDIDATE, role="candidate"), None
    built = []
    for split in ("train", "selection"):
        of_split, unusable = source[source["split"] == split], {}
        if profile.task.completions == "single":
            built.append(pointwise.rows(profile, of_split, references, tokenizer))
            continue
        if tokenizer is not None:
            usable = dataset_pairs.with_token_ids(of_split, tokenizer)
            unusable = {"unusable_answers": (len(of_split) - len(usable)) // 2}
            of_split = usable
        rows, report = pairs.build_pairs(
            of_split,
            references,
            setting=settings.setting,
            seed=profile.seed,
            pairs_per_prompt=settings.pairs_per_prompt,
            ties=settings.ties,
            max_tokens=settings.max_tokens,
            num_ref_rewards=profile.reference_sampling.num_references,
        )
        built.append(pairs.Pairs(rows, report | unusable))
    return Splits(*built)


def _is_offline(profile: Profile) -> bool:
    return shifts.source(profile.training.setting) == "offline"
