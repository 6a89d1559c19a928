"""Looking at a policy: how its training went, and what it answers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from qrpo_lib import chat_template, evaluation, sampling, tasks
from qrpo_lib.profiles import Profile


def training_losses(folder: Path) -> pd.DataFrame | str:
    """Loss (nats a token) in the first and the last tenth of each stage of the policy's own training."""
    path = folder / "history.csv"
    if not path.exists():
        return "This policy was trained elsewhere."
    history = pd.read_csv(path)
    rows = []
    for stage, of_stage in history.groupby("stage", sort=False):
        tenth = max(1, len(of_stage) // 10)
        losses = of_stage["loss"]
        rows.append(
            {"stage": stage, "steps": len(of_stage), "first": losses[:tenth].mean(), "last": losses[-tenth:].mean()}
        )
    return pd.DataFrame(rows).round(3)


def sample_answers(profile: Profile, folder: Path, count: int) -> pd.DataFrame:
    """Answers of a saved policy to the first `count` held-out requests, as it samples them in evaluation."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    held_out = [p for p in tasks.of(profile.task).prompts(profile.seed) if p.split in evaluation.HELD_OUT][:count]
    sampled = sampling.sample(
        AutoModelForCausalLM.from_pretrained(folder),
        tokenizer,
        [chat_template.prompt_ids(tokenizer, prompt.text) for prompt in held_out],
        completions=1,
        max_new_tokens=profile.reference_sampling.max_new_tokens,
        **profile.evaluation_sampling,
        seed=profile.seed,
    )
    requests, answers = [prompt.text for prompt in held_out], [one.text for one in sampled]
    rewards = tasks.of(profile.task).reward().score(requests, answers)
    lengths = [len(one.token_ids) for one in sampled]
    return pd.DataFrame({"request": requests, "answer": answers, "tokens": lengths, "reward": rewards})
