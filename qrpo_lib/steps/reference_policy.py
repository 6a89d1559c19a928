"""The reference policy: what completions are sampled from, what training starts at and is compared with.

It is the initial policy, or in the settings that begin with `sft-` the initial policy fine-tuned on the dataset's
chosen completions (App. L.7, L.9). The folder of the fine-tuned one also holds `history.csv` and `sequences.json`.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

from qrpo_lib.models import chat_template
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import files, folders, keys, progress
from qrpo_lib.steps import initial_policy, shifts
from qrpo_lib.tasks import registry as tasks

_TRAINER = ".trainer"  # the trainer's checkpoints, as long as training goes on


def step(profile: Profile) -> keys.Step:
    """What determines the reference policy."""
    initial = initial_policy.step(profile)
    if not shifts.is_tuned_first(profile.training.setting):
        return initial
    task = tasks.of(profile.task)
    parameters = {
        "sft": profile.sft.model_dump(),
        "task": task.prompt_parameters(),
        "seed": profile.seed,
        "precision": profile.training.precision,
        "gradient_checkpointing": profile.training.gradient_checkpointing,
        "max_tokens": profile.training.max_tokens,
        "threads": profile.training.threads,
    }
    return keys.Step(
        "sft",
        parameters,
        inputs=(initial, *task.inputs()),
        code=(task.prompts, task.demonstrations),
        make=partial(_tune, profile),
        seed=profile.seed,
        resumable=True,
    )


def run(profile: Profile) -> Path:
    """The folder of the reference policy, made if it is not there."""
    return folders.make(step(profile))


def sequences(profile: Profile, tokenizer) -> tuple[list[list[int]], dict[str, int]]:
    """Prompt and chosen completion of every train prompt as token ids, and how many were left out for which reason."""
    train = {item.id: item.text for item in tasks.of(profile.task).prompts(profile.seed) if item.split == "train"}
    limit = profile.training.max_tokens
    token_ids, counts = [], {"too_long": 0, "end_of_sequence_written_out": 0}
    for item in tasks.of(profile.task).demonstrations(profile.seed):
        if item.prompt_id not in train:
            continue
        prompt = train[item.prompt_id]
        try:
            ids = chat_template.prompt_ids(tokenizer, prompt)
            ids += chat_template.completion_ids(tokenizer, prompt, item.chosen)
        except chat_template.UnusableAnswer:
            counts["end_of_sequence_written_out"] += 1
            continue
        if limit is not None and len(ids) > limit:
            counts["too_long"] += 1
        else:
            token_ids.append(ids)
    return token_ids, counts | {"sequences": len(token_ids)}


def _tune(profile: Profile, folder: Path) -> None:
    import pandas as pd
    import torch
    from transformers import AutoTokenizer

    from qrpo_lib.training import fine_tuning
    from qrpo_lib.training.configuration import Optimization, Output

    torch.set_num_threads(profile.training.threads)
    initial = initial_policy.step(profile).folder
    tokenizer = AutoTokenizer.from_pretrained(initial)
    data, counts = sequences(profile, tokenizer)
    with progress.bar("fine-tuning on the chosen completions") as report:
        optimization = Optimization(
            **profile.sft.model_dump(),
            seed=profile.seed,
            precision=profile.training.precision,
            gradient_checkpointing=profile.training.gradient_checkpointing,
        )
        fitted = fine_tuning.fine_tune(
            initial, tokenizer, data, optimization, output=Output(folder / _TRAINER, progress=report)
        )
    if not folders.is_main_process():
        return
    fitted.save(folder, tokenizer, profile.training.precision)
    pd.DataFrame(fitted.history).to_csv(folder / "history.csv", index=False, float_format="%.9g")
    files.write_atomically(folder / "sequences.json", json.dumps(counts).encode())
    shutil.rmtree(folder / _TRAINER)
