"""The online evaluation of the reference policy: step 0 of every training that starts from it, made once for all.

The folder holds `evaluation.parquet`: one row for each completion, in the columns `RECORDED`, and its `token_ids`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import folders, keys
from qrpo_lib.steps import evaluation, reference_policy
from qrpo_lib.tasks import registry as tasks

EVALUATION = "evaluation.parquet"
RECORDED = (
    "prompt_id",
    "split",
    "step",
    "repeat",
    "length",
    "finish_reason",
    "reward",
    "logp",
    "ref_logp",
    "text",
)


def step(profile: Profile, seed: int) -> keys.Step:
    """What determines the completions: the reference policy, the prompts, how it is sampled, and the seed."""
    settings, task = profile.reference_sampling, tasks.of(profile.task)
    parameters = {
        "seed": seed,
        "task": task.parameters(),
        "prompts": profile.seed,
        "evaluation": evaluation.parameters(profile),
        "max_new_tokens": settings.max_new_tokens,
        "batch_size": settings.batch_size,
    }
    inputs, code = (reference_policy.step(profile), *task.inputs()), evaluation.code(profile)
    return keys.Step("reference_evaluation", parameters, inputs, code, make=partial(_make, profile, seed), seed=seed)


def run(profile: Profile, seed: int) -> Path:
    """The folder of the evaluation, made if it is not there."""
    return folders.make(step(profile, seed))


def load(folder: Path):
    """The recorded completions as a data frame."""
    import pandas as pd

    return pd.read_parquet(folder / EVALUATION)


def _make(profile: Profile, seed: int, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from qrpo_lib.training import parallel

    torch.set_num_threads(profile.training.threads)
    policy = reference_policy.step(profile).folder
    model = AutoModelForCausalLM.from_pretrained(policy).eval().to(parallel.device())
    online = evaluation.online_rewards(profile, model, AutoTokenizer.from_pretrained(policy), seed)
    online.assign(step=0)[[*RECORDED, "token_ids"]].to_parquet(folder / EVALUATION)
