"""Iterative and online QRPO: rounds that sample from, and refer to, the last policy; data from the current policy.

    plan = rounds.Plan(rounds=2, reward="fixed")         # two rounds at twice the profile's beta
    folders = rounds.run(profile, plan, seed=0)          # one a round
    rounds.load(folders[-1])                             # online rewards and log-ratios of the last policy

`k` rounds share the train prompts, one part each, so that every plan draws as many completions, makes as many pairs
and takes as many steps as one stage. A round's folder holds its policy (`policy/`), `completions.parquet` (what it was
trained on, unless online), `history.csv` and `evaluation.parquet`.
"""

from __future__ import annotations

import io
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qrpo_lib.models import chat_template
from qrpo_lib.objective import algorithms
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import files, folders, keys, paths, progress
from qrpo_lib.sampling import engines, sampler
from qrpo_lib.steps import fitting, reference_policy, reference_sampling
from qrpo_lib.steps.pairs import best_and_worst
from qrpo_lib.tasks import registry as tasks

if TYPE_CHECKING:
    import pandas as pd

EVALUATED = "reporting"
_COMPLETIONS, _EVALUATION, _HISTORY = "completions.parquet", "evaluation.parquet", "history.csv"
_TRAINER = ".trainer"


@dataclass(frozen=True)
class Plan:
    """How the samples are spent. The strength of each round is `rounds` times the profile's beta.

    reward: the quantile under the initial policy in every round ("fixed": then k rounds at k beta have the optimum of
        one at beta), or under the round's own reference ("renewed": as QRPO would run it; the rounds go further).
    online: each step trains on completions of the policy as it is then, not of the round's reference.
    """

    rounds: int = 1
    reward: Literal["fixed", "renewed"] = "fixed"
    online: bool = False

    def __post_init__(self):
        if self.rounds < 1 or self.reward not in ("fixed", "renewed"):
            raise ValueError(f'a plan has at least 1 round and the reward "fixed" or "renewed", not {self}.')

    @property
    def label(self) -> str:
        """How tables and figures name it."""
        data = "online" if self.online else "offline"
        return f"1 stage, {data}" if self.rounds == 1 else f"{self.rounds} rounds, {data}, {self.reward} reward"


def plans(rounds: int) -> list[Plan]:
    """What the notebook compares: one stage, rounds with either reward, one stage online."""
    return [Plan(), Plan(rounds, "fixed"), Plan(rounds, "renewed"), Plan(online=True)]


def step(profile: Profile, plan: Plan, seed: int, number: int) -> keys.Step:
    """What determines the result of one round.

    Parameters
    ----------
    profile: its settings.
    plan: how the samples are spent.
    seed: of the sampling and the trainings.
    number: of the round, from 1.
    """
    settings = profile.training
    parameters = {
        "plan": asdict(plan),
        "round": number,
        "seed": seed,
        "loss": settings.qrpo.model_dump(),
        "training": {name: value for name, value in settings.model_dump().items() if not isinstance(value, dict)},
        "repeats": profile.evaluation.of_split(EVALUATED),
    }
    inputs = (reference_policy.step(profile), reference_sampling.step(profile))
    if number > 1:
        inputs += (step(profile, plan, seed, number - 1),)
    # The second engine where the policy is in memory.
    task, used = tasks.of(profile.task), (engines.meant(profile.reference_sampling.backend), "transformers")
    code = (*algorithms.code("qrpo"), *(entry for engine in used for entry in engines.code(engine)))
    code += (task.prompts, *task.reward_code())
    make = _Round(profile, plan, seed, number).make
    return keys.Step("iterative", parameters, inputs, code, make=make, seed=seed, resumable=True)


def run(profile: Profile, plan: Plan, seed: int) -> list[Path]:
    """The folders of all rounds, made if they are not there."""
    if plan.reward == "fixed" and plan.rounds > 1 and profile.training.qrpo.partition != "exact":
        raise ValueError('rounds with a fixed reward need partition = "exact": only its Z is known for later rounds.')
    return [folders.make(step(profile, plan, seed, number)) for number in range(1, plan.rounds + 1)]


def load(folder: Path) -> pd.DataFrame:
    """One row for each completion that the round's policy wrote for a reporting prompt.

    Columns `prompt_id, reward, length, log_ratio`, the last against the initial policy: its mean estimates the KL.
    """
    import pandas as pd

    return pd.read_parquet(folder / _EVALUATION)


@dataclass(frozen=True)
class _Round:
    profile: Profile
    plan: Plan
    seed: int
    number: int

    @cached_property
    def initial(self) -> Path:
        """The initial policy, which the rewards and the KL refer to."""
        return reference_policy.step(self.profile).folder

    @cached_property
    def reference(self) -> Path:
        """The policy that this round starts from: the last round's."""
        if self.number == 1:
            return self.initial
        return step(self.profile, self.plan, self.seed, self.number - 1).folder / "policy"

    def make(self, folder: Path) -> None:
        import pandas as pd
        import torch
        from transformers import AutoTokenizer

        from qrpo_lib.training import trainer
        from qrpo_lib.training.configuration import Objective, Output

        settings, plan = self.profile.training, self.plan
        torch.set_num_threads(settings.threads)
        tokenizer = AutoTokenizer.from_pretrained(self.reference)
        frame = self._completions(tokenizer, folder)
        loss = settings.qrpo.model_dump()
        learning_rate, num_ref_rewards = loss.pop("learning_rate"), loss.pop("num_ref_rewards")
        loss["beta"] *= plan.rounds
        if plan.reward == "fixed":
            from qrpo_lib.objective import transforms  # here: scipy takes long to import

            loss["transform"] = transforms.of_round(loss["transform"], self.number)
        with progress.bar(f"{plan.label}, seed {self.seed}, round {self.number}") as report:
            fitted = trainer.fit_policy(
                self.reference,
                tokenizer,
                self._rows(frame),
                objective=Objective("qrpo", loss, num_ref_rewards),
                settings=fitting.optimization(settings, learning_rate, self.seed),
                reference_cache=paths.cache_folder("reference_log_probs"),
                online=self._online(tokenizer) if plan.online else None,
                output=Output(folder / _TRAINER, progress=report),
            )
        fitted.save(folder / "policy", tokenizer, settings.precision)
        pd.DataFrame(fitted.history).to_csv(folder / _HISTORY, index=False)
        files.write_atomically(folder / _EVALUATION, self._evaluation(fitted.model, tokenizer).to_parquet())
        frame.to_parquet(folder / _COMPLETIONS)
        shutil.rmtree(folder / _TRAINER)

    def _rows(self, completions: pd.DataFrame) -> list[dict[str, Any]]:
        """What is trained on: a pair of each prompt, or for online training the prompts alone."""
        references = completions[completions["role"] == "reference"].groupby("prompt_id")["reward"].apply(list)
        if self.plan.online:
            texts = completions.groupby("prompt_id", sort=False)["prompt"].first()
            return [{"prompt": text, "ref_rewards": references[prompt_id]} for prompt_id, text in texts.items()]
        candidates = completions[completions["role"] == "candidate"].groupby("prompt_id", sort=False)
        return [
            best_and_worst(list(rows["prompt_ids"].iloc[0]), rows["token_ids"], rows["reward"], references[prompt_id])
            for prompt_id, rows in candidates
        ]

    def _completions(self, tokenizer, folder: Path) -> pd.DataFrame:
        """Candidates and references of this round's part of the train prompts, as `reference_sampling` has them."""
        import pandas as pd

        piece = folder / _TRAINER / _COMPLETIONS  # sealed, for an attempt that goes on from here
        content = files.read_sealed(piece)
        if content is not None:
            return pd.read_parquet(io.BytesIO(content))
        # Of the initial policy: candidates of round 1, rewards of references.
        frame = reference_sampling.load(reference_sampling.step(self.profile).folder)
        prompts = frame.loc[frame["split"] == "train", "prompt_id"].unique()
        frame = frame[frame["prompt_id"].isin(prompts[self.number - 1 :: self.plan.rounds])]
        if self.number > 1:  # the initial policy is the reference of round 1, and its completions are there
            renewed = ["candidate"] if self.plan.reward == "fixed" else ["candidate", "reference"]
            renewed = [role for role in renewed if not (role == "candidate" and self.plan.online)]
            kept = frame[~frame["role"].isin(renewed)]
            frame = pd.concat([kept, *(self._sampled(tokenizer, frame, role) for role in renewed)], ignore_index=True)
        files.write_sealed(piece, frame.to_parquet())
        return frame

    def _sampled(self, tokenizer, frame: pd.DataFrame, role: str) -> pd.DataFrame:
        """`frame`'s rows of that role, completions and rewards replaced by new ones of the round's reference."""
        rows = frame[frame["role"] == role].sort_values(["prompt_id", "sample_index"], ignore_index=True)
        prompts = rows.groupby("prompt_id")["prompt_ids"].first()
        drawn = sampler.sample(
            self.reference,
            tokenizer,
            [list(ids) for ids in prompts],
            completions=len(rows) // len(prompts),
            seed=self._sampling_seed(0 if role == "candidate" else 1),
            backend=self.profile.reference_sampling.backend,
            **self._sampling(),
        )
        scores = (
            tasks.of(self.profile.task)
            .reward()
            .score(rows["prompt"].tolist(), [completion.text for completion in drawn])
        )
        return rows.assign(
            token_ids=[completion.token_ids for completion in drawn],
            text=[completion.text for completion in drawn],
            finish_reason=[completion.finish_reason for completion in drawn],
            logp=[completion.logp for completion in drawn],
            reward=scores,
        )

    def _online(self, tokenizer):
        """The callback of `trainer.fit_policy` that draws a step's pairs from the policy as it is."""
        from accelerate import PartialState

        score = tasks.of(self.profile.task).reward().score
        count = self.profile.reference_sampling.completions

        def sample(step: int, model, rows) -> list[dict]:
            prompts = [chat_template.prompt_ids(tokenizer, row["prompt"]) for row in rows]
            process = PartialState().process_index
            seed = self._sampling_seed(2 + step) + 7_919 * process
            drawn = sampler.sample(model, tokenizer, prompts, completions=count, seed=seed, **self._sampling())
            rewards = score(
                [rows[completion.prompt_index]["prompt"] for completion in drawn],
                [completion.text for completion in drawn],
            )
            ids = [completion.token_ids for completion in drawn]
            parts = [slice(i * count, (i + 1) * count) for i in range(len(rows))]
            return [
                best_and_worst(prompts[i], ids[parts[i]], rewards[parts[i]], row["ref_rewards"])
                for i, row in enumerate(rows)
            ]

        return sample

    def _sampling_seed(self, what: int) -> int:
        return (self.seed * 1_009 + self.number) * 100_003 + what

    def _sampling(self) -> dict[str, int]:
        settings = self.profile.reference_sampling
        return {"max_new_tokens": settings.max_new_tokens, "batch_size": settings.batch_size}

    def _evaluation(self, model, tokenizer) -> pd.DataFrame:
        import pandas as pd

        from qrpo_lib.training import reference_logps

        repeats = self.profile.evaluation.of_split(EVALUATED)
        every = tasks.of(self.profile.task).prompts(self.profile.seed)
        prompts = [prompt for prompt in every if prompt.split == EVALUATED]
        ids = [chat_template.prompt_ids(tokenizer, prompt.text) for prompt in prompts]
        # temperature 1 and top-p 1, as the KL is defined; the same seed in every plan and round, for less noise
        drawn = sampler.sample(model, tokenizer, ids, completions=repeats, seed=self.seed, **self._sampling())
        rows = [
            {"prompt_ids": ids[completion.prompt_index], "completion_ids": completion.token_ids} for completion in drawn
        ]
        computing = {"micro_batch_size": 64, "precision": self.profile.training.precision}
        logps = [reference_logps.log_probs(policy, tokenizer, rows, **computing) for policy in (model, self.initial)]
        answered = [prompts[completion.prompt_index] for completion in drawn]
        score = tasks.of(self.profile.task).reward().score
        return pd.DataFrame(
            {
                "prompt_id": [prompt.id for prompt in answered],
                "reward": score([prompt.text for prompt in answered], [completion.text for completion in drawn]),
                "length": [len(completion.token_ids) for completion in drawn],
                "log_ratio": logps[0]["ref_logps"].astype("float64") - logps[1]["ref_logps"],
            }
        )
