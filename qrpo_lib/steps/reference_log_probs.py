"""The reference policy's log-probabilities of the pairs: computed once for all trainings on them.

The folder holds `train.npy` and `validation.npy`: float32 (sides, pairs), the chosen completions' first.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import folders, keys, paths, progress
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import training_pairs

if TYPE_CHECKING:
    import numpy as np

_SPLITS = ("train", "validation")
# By Accelerate's variable, what trains instead of plain processes: it decides how weights are rounded to bfloat16.
_ENGINES = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_FSDP": "FSDP"}


def step(profile: Profile) -> keys.Step:
    """What determines the log-probabilities: the pairs, the policy, and how its forward pass is computed."""
    settings = profile.training
    parameters: dict[str, Any] = {
        "seed": profile.seed,
        "ref_rewards": profile.reference_sampling.num_references,
        "threads": settings.threads,
    }
    names = ("setting", "pairs_per_prompt", "ties", "max_tokens", "micro_batch_size", "precision")
    parameters |= {name: getattr(settings, name) for name in names}
    engine = _engine_of(profile)
    if engine and settings.precision != "float32":
        parameters["engine"] = engine
    return keys.Step(
        "reference_log_probs",
        parameters,
        inputs=training_pairs.sources(profile),
        code=(training_pairs.of,),
        make=partial(_make, profile),
    )


def run(profile: Profile) -> Path:
    """The folder of the log-probabilities, made if it is not there; processes of one group share the work."""
    return folders.make(step(profile))


def added(profile: Profile, pairs: training_pairs.Splits) -> tuple[list[dict], list[dict]]:
    """The rows of both splits with the columns of their log-probabilities, as `trainer.fit_policy` takes them."""
    import numpy as np

    from qrpo_lib.training import samples

    folder = step(profile).folder
    columns = samples.reference_columns(_sides(profile))
    result = []
    for split, (rows, _) in zip(_SPLITS, pairs, strict=True):
        logps = np.load(folder / f"{split}.npy").astype(np.float64).T.tolist()
        result.append([row | dict(zip(columns, of_row, strict=True)) for row, of_row in zip(rows, logps, strict=True)])
    return result[0], result[1]


def _make(profile: Profile, folder: Path) -> None:
    import numpy as np
    import torch
    from transformers import AutoTokenizer

    settings = profile.training
    torch.set_num_threads(settings.threads)
    found = next((name for variable, name in _ENGINES.items() if os.environ.get(variable) == "true"), None)
    if found != _engine_of(profile):
        raise InputError(
            f"The reference's log-probabilities are for training with {_engine_of(profile) or 'plain processes'}, but "
            f"this process computes with {found or 'none of them'}: give both kinds of jobs the same environment."
        )
    policy = training_pairs.sources(profile)[0].folder
    tokenizer = AutoTokenizer.from_pretrained(policy)
    with progress.bar("log-probabilities of the reference") as report:
        for number, (split, pairs) in enumerate(zip(_SPLITS, training_pairs.of(profile), strict=True)):
            report(number, len(_SPLITS), split)
            logps = _of_rows(profile, policy, tokenizer, pairs.rows)
            if folders.is_main_process():
                np.save(folder / f"{split}.npy", logps)


def _of_rows(profile: Profile, policy: Path, tokenizer, rows: list[dict]) -> np.ndarray:
    """(sides, rows) in float32, from the cache where the same rows were computed with the same weights before."""
    import numpy as np

    from qrpo_lib.training import reference_logps, samples

    if not rows:
        return np.empty((len(_sides(profile)), 0), dtype=np.float32)
    computed = reference_logps.log_probs(
        policy,
        tokenizer,
        rows,
        micro_batch_size=profile.training.micro_batch_size,
        precision=profile.training.precision,
        cache=paths.cache_folder("reference_log_probs"),
    )
    return np.stack([computed[name] for name in samples.reference_columns(_sides(profile))])


def _sides(profile: Profile) -> tuple[str, ...]:
    from qrpo_lib.training import samples

    return samples.POINTWISE if profile.task.completions == "single" else samples.PAIR


def _engine_of(profile: Profile) -> str | None:
    """The engine that the jobs of a profile train with; in the notebook's own process there is none."""
    if profile.dispatch.where == "here":
        return None
    environment = profile.dispatch.of_kind("training").environment
    return next((name for variable, name in _ENGINES.items() if environment.get(variable) == "true"), None)
