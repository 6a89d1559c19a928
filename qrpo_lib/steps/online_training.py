"""Online training: each step on completions of the policy as it is then, by QRPO, GRPO or RLOO, in the plain loop.

All three sample with the suite's sampler, as many completions of each prompt, and take the same steps with the same
optimiser. GRPO's and RLOO's losses are ours (`qrpo_lib.objective.online`, tested against TRL's trainers): TRL's RLOO
trainer takes no sampler, and the three must differ in the loss alone. One update is made from each batch, so that
nothing is clipped.

QRPO may also be trained on a mix: of each prompt some completions online, some of the reference policy's candidates,
and the dataset's pair. Its references are the reference policy's, or renewed: the other completions that the current
policy has just written for the prompt.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

from qrpo_lib.profiles.relatives import Method
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import keys
from qrpo_lib.sampling import engines
from qrpo_lib.steps import dataset_pairs, reference_policy, reference_sampling, regression_training
from qrpo_lib.steps.regression_training import Setup
from qrpo_lib.tasks import registry as tasks

# Of the completions of a prompt that are trained on: the share that is online, and the dataset's pair.
_ONLINE_SHARE = {"online": (1, 1), "off-policy": (0, 1), "half": (1, 2), "thirds": (1, 3)}


def step(profile: Profile, method: Method, seed: int) -> keys.Step:
    """What determines the policy: prompts, references, what is sampled and how, the method's values."""
    task, sampling = tasks.of(profile.task), profile.reference_sampling
    parameters = {
        "method": method.parameters,
        "seed": seed,
        "training": regression_training.shared_settings(profile),
        "max_new_tokens": sampling.max_new_tokens,
        "batch_size": sampling.batch_size,
    }
    inputs = (reference_policy.step(profile), reference_sampling.step(profile))
    if method.data == "thirds":
        inputs = (*inputs, dataset_pairs.step(profile))
    return keys.Step(
        "relative_training",
        parameters,
        inputs=inputs,
        code=(*engines.code("transformers"), *task.reward_code()),
        make=partial(_make, profile, method, seed),
        seed=seed,
    )


def sampled(method: Method) -> int:
    """Completions of each prompt that are sampled for it: online ones, candidates, and fixed references."""
    of_data = {"thirds": 2 * (method.completions // 3)}.get(method.data or "online", method.completions)
    return of_data + (method.num_ref_rewards or 0)


def _make(profile: Profile, method: Method, seed: int, folder: Path) -> None:
    from qrpo_lib.training import plain_loop

    setup = Setup(profile, method, seed)
    reference = copy.deepcopy(setup.model).requires_grad_(False)
    groups = _Groups(setup)
    of_steps = plain_loop.batches(groups.prompts, setup.settings)
    loss = {"online-qrpo": _qrpo_loss, "grpo": _grpo_loss, "rloo": _rloo_loss}[method.name]

    def loss_of_step(number: int):
        rows = groups.completed(number, of_steps[number])
        losses, log_ratio = loss(setup, reference, rows)
        reward = sum(row["reward"] for row in rows) / len(rows)
        return losses.mean(), {"log_ratio": log_ratio.mean().item(), "reward": reward}

    setup.train(loss_of_step, len(of_steps), folder)


class _Groups:
    """Completions of each prompt: drawn from the policy as it is, and those that were there before training."""

    def __init__(self, setup: Setup):
        self.setup, method = setup, setup.method
        online, of = _ONLINE_SHARE[method.data or "online"]
        self.online = method.completions * online // of
        self.score = tasks.of(setup.profile.task).reward().score
        frame = reference_sampling.load(reference_sampling.step(setup.profile).folder)
        frame = frame[frame["split"] == "train"]
        references = frame[frame["role"] == "reference"].groupby("prompt_id")["reward"].apply(list)
        before = self._before(frame, method.completions - self.online)
        firsts = frame.drop_duplicates("prompt_id").sort_values("prompt_id")
        self.prompts = [
            {
                "prompt": row.prompt,
                "of_prompt": [int(token) for token in row.prompt_ids],
                "ref_rewards": references[row.prompt_id],
                "before": before.get(row.prompt_id, []),
            }
            for row in firsts.itertuples()
        ]

    def _before(self, frame, count: int) -> dict[str, list[dict[str, Any]]]:
        """Of each prompt the completions that are not online: so many, the dataset's pair among them for thirds."""
        if not count:
            return {}
        method, profile = self.setup.method, self.setup.profile
        found: dict[str, list[dict[str, Any]]] = {}
        offline = 0
        if method.data == "thirds":
            pairs = dataset_pairs.load(dataset_pairs.step(profile).folder)
            usable = dataset_pairs.with_token_ids(pairs[pairs["split"] == "train"], self.setup.tokenizer)
            offline = method.completions // 3
            for prompt_id, rows in usable.groupby("prompt_id"):
                found[prompt_id] = _as_rows(rows)[:offline]
        for prompt_id, rows in frame[frame["role"] == "candidate"].groupby("prompt_id"):
            there = found.setdefault(prompt_id, [])  # candidates take the place of an answer that cannot be written
            there += _as_rows(rows)[: count - len(there)]
        return found

    def completed(self, step: int, prompts: list[dict]) -> list[dict[str, Any]]:
        """A row for each completion of these prompts, those of a prompt side by side, with reward and references."""
        drawn = self._drawn(step, prompts)
        rows = []
        for number, prompt in enumerate(prompts):
            own = drawn[number * self.online : (number + 1) * self.online]
            group = [*own, *prompt["before"]]
            for place, row in enumerate(group):
                references = prompt["ref_rewards"]
                if self.setup.method.references == "renewed":
                    references = [other["reward"] for i, other in enumerate(group) if i != place]
                rows.append(row | {"prompt_ids": prompt["of_prompt"], "ref_rewards": references})
        return rows

    def _drawn(self, step: int, prompts: list[dict]) -> list[dict[str, Any]]:
        from qrpo_lib.sampling import sampler
        from qrpo_lib.training import causal_lm

        if not self.online:
            return []
        setup, sampling = self.setup, self.setup.profile.reference_sampling
        with causal_lm.plain(setup.model):
            completions = sampler.sample(
                setup.model,
                setup.tokenizer,
                [prompt["of_prompt"] for prompt in prompts],
                completions=self.online,
                max_new_tokens=sampling.max_new_tokens,
                seed=(setup.seed + 1) * 100_003 + step,
                batch_size=sampling.batch_size,
            )
        rewards = self.score(
            [prompts[one.prompt_index]["prompt"] for one in completions], [o.text for o in completions]
        )
        return [
            {"completion_ids": one.token_ids, "reward": float(reward)}
            for one, reward in zip(completions, rewards, strict=True)
        ]


def _as_rows(frame) -> list[dict[str, Any]]:
    of_completions = zip(frame["token_ids"], frame["reward"], strict=True)
    return [{"completion_ids": [int(i) for i in ids], "reward": float(reward)} for ids, reward in of_completions]


def _log_probs(setup: Setup, reference, rows: list[dict]):
    import torch

    from qrpo_lib.training import plain_loop

    collated = setup.collate(rows)
    logps, lengths = plain_loop.log_probs(setup.model, collated, 1)
    with torch.no_grad():
        ref_logps, _ = plain_loop.log_probs(reference, collated, 1)
    return logps[:, 0], ref_logps[:, 0], lengths[:, 0]


def _qrpo_loss(setup: Setup, reference, rows: list[dict]):
    import torch

    from qrpo_lib.objective import relatives
    from qrpo_lib.steps import relative_targets

    method = setup.method
    logps, ref_logps, lengths = _log_probs(setup, reference, rows)
    count = method.num_ref_rewards or method.completions - 1
    references = relative_targets.references_of(rows, count)
    rewards = torch.tensor([row["reward"] for row in rows], dtype=torch.float64)
    targets, _ = relative_targets.of_method(method, rewards, lengths, references)
    return relatives.regression(logps, ref_logps, targets, beta=method.beta), (logps - ref_logps).detach()


def _rloo_loss(setup: Setup, reference, rows: list[dict]):
    from qrpo_lib.objective import online

    groups = (-1, setup.method.completions)
    logps, ref_logps, _ = _log_probs(setup, reference, rows)
    losses = online.rloo(logps.view(groups), ref_logps.view(groups), _rewards(rows, groups), beta=setup.method.beta)
    return losses, (logps - ref_logps).detach()


def _grpo_loss(setup: Setup, reference, rows: list[dict]):
    import torch

    from qrpo_lib.objective import online
    from qrpo_lib.training import plain_loop

    collated, groups = setup.collate(rows), (-1, setup.method.completions)
    logps, mask = plain_loop.token_log_probs(setup.model, collated)
    with torch.no_grad():
        ref_logps, _ = plain_loop.token_log_probs(reference, collated)
    in_groups = [values.unflatten(0, groups) for values in (logps, ref_logps, mask)]
    losses = online.grpo(*in_groups, _rewards(rows, groups), beta=setup.method.beta)
    return losses, (logps - ref_logps).detach().sum(-1)


def _rewards(rows: list[dict], groups: tuple[int, int]):
    import torch

    return torch.tensor([row["reward"] for row in rows]).view(groups)
