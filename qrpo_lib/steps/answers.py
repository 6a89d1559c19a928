"""A policy's answers to a few held-out requests, for people to read.

The folder holds `answers.parquet`: one row for each request, in the columns `COLUMNS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.models import chat_template
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import folders, keys
from qrpo_lib.sampling import engines, sampler
from qrpo_lib.steps import evaluation, initial_policy
from qrpo_lib.tasks import registry as tasks

if TYPE_CHECKING:
    import pandas as pd

ANSWERS = "answers.parquet"
COLUMNS = ("request", "answer", "tokens", "reward")


def step(profile: Profile, count: int) -> keys.Step:
    """What determines the initial policy's answers to the first `count` held-out requests."""
    task = tasks.of(profile.task)
    parameters = {
        "count": count,
        "task": task.parameters(),
        "prompts": profile.seed,
        "evaluation": profile.evaluation_sampling,
        "max_new_tokens": profile.reference_sampling.max_new_tokens,
    }
    inputs = (initial_policy.step(profile), *task.inputs())
    code = (sample, *engines.code("transformers"), task.prompts, *task.reward_code())
    return keys.Step("sample_answers", parameters, inputs=inputs, code=code)


def run(profile: Profile, count: int) -> Path:
    """The folder of the answers, made if it is not there."""
    policy = initial_policy.run(profile)

    def make(folder: Path) -> None:
        sample(profile, policy, count).to_parquet(folder / ANSWERS)

    return folders.complete(step(profile, count), make, seed=profile.seed)


def load(folder: Path) -> pd.DataFrame:
    """The answers as a data frame."""
    import pandas as pd

    return pd.read_parquet(folder / ANSWERS)


def sample(profile: Profile, policy: Path, count: int) -> pd.DataFrame:
    """Answers of a saved policy to the first `count` held-out requests, as it samples them in evaluation."""
    import pandas as pd
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(policy)
    held_out = [p for p in tasks.of(profile.task).prompts(profile.seed) if p.split in evaluation.HELD_OUT][:count]
    sampled = sampler.sample(
        policy,  # its folder: the engine puts it on the device
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
    return pd.DataFrame(dict(zip(COLUMNS, (requests, answers, lengths, rewards), strict=True)))
