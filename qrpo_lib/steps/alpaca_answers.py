"""Answers to AlpacaEval's instructions: of one checkpoint, sampled as the policy is in evaluation (App. L.6, L.10).

AlpacaEval 2 has 805 instructions. They are in `alpaca_eval_gpt4_baseline.json` of the dataset tatsu-lab/alpaca_eval,
with the answers of the baseline that the package `alpaca_eval` compares with. The file is read from the copy in
$QRPO_DATA or downloaded at the profile's commit; the package itself brings no data.

The step's folder holds `answers.json`, entries with `instruction` and `output` in AlpacaEval's order.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from qrpo_lib.models import chat_template, hub
from qrpo_lib.profiles.settings import Algorithm, Profile
from qrpo_lib.runs import files, folders, keys, progress
from qrpo_lib.runs.errors import InputError
from qrpo_lib.sampling import engines, sampler
from qrpo_lib.steps import checkpoint_evaluation, fitting, reference_policy

OUTPUTS = "answers.json"
BASELINE_FILE = "alpaca_eval_gpt4_baseline.json"


def instructions(profile: Profile) -> list[str]:
    """The instructions, in AlpacaEval's order. Raises `hub.HubError` if they cannot be had or are not as many."""
    return [entry["instruction"] for entry in baseline(profile)]


def baseline(profile: Profile) -> list[dict[str, Any]]:
    """The baseline's entries, with keys `instruction, output, generator` at least, one for each instruction."""
    settings = profile.alpaca_eval
    if settings is None:
        raise InputError(f"The profile {profile.name} has no table [alpaca_eval], which says where its data are from.")
    path = _baseline_file(settings.dataset, settings.revision)
    entries = files.read_json(path, f"Put the file of {settings.dataset} there.", list)
    wanted = ("instruction", "output", "generator")
    if not all(isinstance(entry, dict) and set(wanted) <= set(entry) for entry in entries):
        raise hub.HubError(f"{path} is not AlpacaEval's: an entry has no {' or '.join(wanted)}.")
    different = {entry["instruction"] for entry in entries}
    if len(different) != settings.instructions or len(entries) != settings.instructions:
        raise hub.HubError(
            f"{path} has {len(different)} different instructions in {len(entries)} entries; the profile says "
            f"{settings.instructions} (alpaca_eval.instructions)."
        )
    generators = sorted({entry["generator"] for entry in entries})
    if generators != [settings.baseline]:
        raise hub.HubError(f"The answers in {path} are of {', '.join(generators)}, not of {settings.baseline}.")
    return entries


def step(profile: Profile, algorithm: Algorithm | None, seed: int, checkpoint: int) -> keys.Step:
    """What determines the answers of a policy in the profile's setting.

    Parameters
    ----------
    profile: its settings.
    algorithm: of the training that made it, which `profile.training` and `seed` describe; None for the policy that
        trainings start from.
    seed: of that training.
    checkpoint: after how many steps of the training; at 0 it is the policy that the training started from.
    """
    made_by = _made_by(profile, algorithm, seed, checkpoint)
    settings, backend = profile.reference_sampling, engines.meant(profile.reference_sampling.backend)
    parameters = {
        "checkpoint": checkpoint,
        "instructions": hub.identity(profile.alpaca_eval.dataset, profile.alpaca_eval.revision),
        "seed": profile.seed,
        "backend": backend,
        "max_new_tokens": settings.max_new_tokens,
        "batch_size": settings.batch_size,
        **profile.evaluation_sampling,
    }
    return keys.Step(
        "alpaca_answers",
        parameters,
        inputs=(made_by,),
        code=engines.code(backend),
        make=partial(_make, profile, made_by, checkpoint),
        seed=profile.seed,
    )


def run(profile: Profile, algorithm: Algorithm | None, seed: int, checkpoint: int) -> Path:
    """The folder of the answers, made if it is not there.

    Parameters
    ----------
    profile, algorithm, seed, checkpoint: as in `step`.
    """
    return folders.make(step(profile, algorithm, seed, checkpoint))


def _made_by(profile: Profile, algorithm: Algorithm | None, seed: int, checkpoint: int) -> keys.Step:
    if algorithm is None or checkpoint == 0:
        return reference_policy.step(profile)
    return fitting.step(profile, algorithm, seed)


def load(folder: Path) -> list[dict[str, str]]:
    """Instructions with the policy's answers, in AlpacaEval's order: keys `instruction, output`."""
    return files.read_json(folder / OUTPUTS, f"Remove the folder {folder} and run the same command again.", list)


def weights(folder: Path, checkpoint: int) -> Path:
    """The folder with a checkpoint's policy, of a run folder. Raises InputError if it was not kept."""
    return folder if checkpoint == 0 else checkpoint_evaluation.policy(folder, checkpoint)


def _make(profile: Profile, made_by: keys.Step, checkpoint: int, folder: Path) -> None:
    from transformers import AutoTokenizer

    settings = profile.reference_sampling
    policy, asked = weights(made_by.folder, checkpoint), instructions(profile)
    tokenizer = AutoTokenizer.from_pretrained(reference_policy.step(profile).folder)
    ids = [chat_template.prompt_ids(tokenizer, text) for text in asked]
    longest = max(map(len, ids)) + settings.max_new_tokens
    with (
        sampler.Sampler(policy, tokenizer, backend=settings.backend, max_model_len=longest) as engine,
        progress.bar("answering AlpacaEval's instructions") as report,
    ):
        answers = engine.sample(
            ids,
            completions=1,
            max_new_tokens=settings.max_new_tokens,
            seed=profile.seed,
            batch_size=settings.batch_size,
            report=report,
            **profile.evaluation_sampling,
        )
    entries = [
        {"instruction": asked[one.prompt_index], "output": one.text.strip()}
        for one in sorted(answers, key=lambda one: one.prompt_index)
    ]
    content = json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
    files.write_atomically(folder / OUTPUTS, content.encode())


def _baseline_file(dataset: str, revision: str | None) -> Path:
    folder = hub.local_copy(dataset)
    if folder:
        if not (folder / BASELINE_FILE).is_file():
            raise hub.HubError(f"The local copy {folder} of {dataset} has no {BASELINE_FILE}.")
        return folder / BASELINE_FILE
    from huggingface_hub import hf_hub_download

    hub.check_revision(dataset, revision, "dataset")
    try:
        return Path(hf_hub_download(dataset, BASELINE_FILE, repo_type="dataset", revision=revision))
    except (OSError, ValueError) as error:
        raise hub.HubError(
            f"{BASELINE_FILE} of {dataset} could not be downloaded ({str(error).splitlines()[0]}): put a copy of the "
            f"dataset into $QRPO_DATA/{dataset}."
        ) from None
