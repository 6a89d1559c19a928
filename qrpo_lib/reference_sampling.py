"""Step 2, reference sampling: completions of every prompt from the initial policy at temperature 1, with their rewards.

The folder holds `completions.parquet`: the first `completions` samples of a prompt are candidates for pairs (`role`
"candidate"), the others give its reference rewards (`role` "reference").
"""

from __future__ import annotations

from pathlib import Path

from qrpo_lib import initial_policy, progress, runs, sampling, tasks
from qrpo_lib.profiles import Profile

COMPLETIONS = "completions.parquet"
# Prompts sampled between two saves: what a killed run loses at most.
_PROMPTS_IN_A_SHARD = 64


def step(profile: Profile) -> runs.Step:
    """What determines the reference completions."""
    settings = profile.reference_sampling
    backend = sampling.resolve_backend(settings.backend)
    parameters = {
        "task": profile.task.model_dump(),
        "seed": profile.seed,
        "sampling": settings.model_dump() | {"backend": backend},
    }
    code = ("reference_sampling", "topics") if profile.task.name == "topics" else ("reference_sampling", "rewards")
    return runs.Step("reference_sampling", parameters, inputs=(initial_policy.step(profile),), code=code)


def run(profile: Profile) -> Path:
    """The folder of the reference completions, made if it is not there."""
    policy = initial_policy.run(profile)
    return runs.complete(
        step(profile), lambda folder: _make(profile, policy, folder), seed=profile.seed, resumable=True
    )


def load(folder: Path):
    """The reference completions as a data frame.

    Columns `prompt_id, split, prompt, prompt_ids, sample_index, role, token_ids, text, finish_reason, logp, reward`.
    """
    import pandas as pd

    return pd.read_parquet(folder / COMPLETIONS)


def _make(profile: Profile, policy: Path, folder: Path) -> None:
    import pandas as pd
    import torch
    from transformers import AutoTokenizer

    settings = profile.reference_sampling
    torch.set_num_threads(settings.threads)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    prompts = tasks.prompts(profile.task, profile.seed)
    starts = range(0, len(prompts), _PROMPTS_IN_A_SHARD)
    shards = [folder / f"shard-{number:04d}.parquet" for number in range(len(starts))]
    with progress.bar("sampling reference completions") as report:
        for number, (start, shard) in enumerate(zip(starts, shards, strict=True)):
            report(number, len(shards), "shards")
            if not shard.exists():
                some = prompts[start : start + _PROMPTS_IN_A_SHARD]
                frame = _sample_shard(profile, policy, tokenizer, some, seed=profile.seed * 100_003 + number)
                runs.write_atomically(shard, frame.to_parquet())
        report(len(shards), len(shards), "shards")
    completions = pd.concat([pd.read_parquet(shard) for shard in shards], ignore_index=True)
    with progress.bar("scoring completions") as report:
        report(0, 1, f"{len(completions)} completions")
        reward = tasks.reward(profile.task)
        completions["reward"] = reward.score(completions["prompt"].tolist(), completions["text"].tolist())
    completions.to_parquet(folder / COMPLETIONS)
    for shard in shards:
        shard.unlink()


def _sample_shard(profile: Profile, policy: Path, tokenizer, prompts: list[tasks.Prompt], seed: int):
    import pandas as pd

    settings = profile.reference_sampling
    ids = [tasks.prompt_ids(tokenizer, prompt.text) for prompt in prompts]
    sampled = sampling.sample(
        policy,
        tokenizer,
        ids,
        completions=settings.completions + settings.ref_rewards,
        max_new_tokens=settings.max_new_tokens,
        seed=seed,
        backend=settings.backend,
        batch_size=settings.batch_size,
    )
    return pd.DataFrame(
        {
            "prompt_id": prompts[one.prompt_index].id,
            "split": prompts[one.prompt_index].split,
            "prompt": prompts[one.prompt_index].text,
            "prompt_ids": ids[one.prompt_index],
            "sample_index": one.sample_index,
            "role": "candidate" if one.sample_index < settings.completions else "reference",
            "token_ids": one.token_ids,
            "text": one.text,
            "finish_reason": one.finish_reason,
            "logp": one.logp,
        }
        for one in sampled
    )
