"""Training by regression on a target for each completion: the pairs of QRPO, other targets, a plain loop.

The loss of a pair is QRPO's (Eq. 6): the mean over both completions of (target - beta log-ratio)^2.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib.objective.algorithms import ALGORITHMS
from qrpo_lib.profiles.relatives import Method
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import keys, progress
from qrpo_lib.steps import fitting, reference_log_probs, reference_policy, training_pairs

if TYPE_CHECKING:
    from qrpo_lib.training.configuration import Optimization


def step(profile: Profile, method: Method, seed: int) -> keys.Step:
    """What determines the policy: the pairs, the method's values, how it is trained."""
    parameters = {"method": method.parameters, "seed": seed, "training": shared_settings(profile)}
    made = _make_with_value if method.name == "dro" else _make
    return keys.Step(
        "relative_training",
        parameters,
        inputs=fitting.inputs(profile),
        make=partial(made, profile, method, seed),
        seed=seed,
    )


def shared_settings(profile: Profile) -> dict[str, Any]:
    """The settings of training that all methods have."""
    settings = profile.training.model_dump()
    return {name: value for name, value in settings.items() if name not in ALGORITHMS}


def _make(profile: Profile, method: Method, seed: int, folder: Path) -> None:
    import torch

    from qrpo_lib.steps import relative_targets
    from qrpo_lib.training import plain_loop

    setup = Setup(profile, method, seed)
    rows = relative_targets.with_targets(setup.pairs(), method)
    of_steps = plain_loop.batches(rows, setup.settings)

    def loss_of_step(number: int):
        logps, ref_logps = setup.log_probs(of_steps[number])
        targets, betas = (torch.tensor([row[name] for row in of_steps[number]]) for name in ("targets", "betas"))
        losses = (targets - betas * (logps - ref_logps)).square()  # each completion has a beta of its own
        return losses.mean(), {"log_ratio": (logps - ref_logps).mean().item()}

    setup.train(loss_of_step, len(of_steps), folder)


def _make_with_value(profile: Profile, method: Method, seed: int, folder: Path) -> None:
    import torch

    from qrpo_lib.objective import relatives
    from qrpo_lib.steps import relative_targets, value_regression
    from qrpo_lib.training import plain_loop

    setup = Setup(profile, method, seed)
    rows = relative_targets.with_targets(setup.pairs(), method)
    rows = [row | {"number": number} for number, row in enumerate(rows)]
    of_prompts = value_regression.features(setup.model, [row["prompt_ids"] for row in rows])
    residuals = torch.tensor([row["targets"] for row in rows], dtype=torch.float64)  # R, until a log-ratio is known
    of_steps = plain_loop.batches(rows, setup.settings)

    def loss_of_step(number: int):
        batch = of_steps[number]
        places = torch.tensor([row["number"] for row in batch])
        logps, ref_logps = setup.log_probs(batch)
        rewards = torch.tensor([row["targets"] for row in batch], dtype=torch.float64)
        residuals[places] = rewards - method.beta * (logps - ref_logps).detach().double()
        values = value_regression.values(of_prompts, residuals)[places]
        losses = relatives.dro(logps, ref_logps, rewards, values[:, None].expand(rewards.shape), beta=method.beta)
        return losses.mean(), {"log_ratio": (logps - ref_logps).mean().item(), "value": values.mean().item()}

    setup.train(loss_of_step, len(of_steps), folder)


class Setup:
    """What trainings in the plain loop share: the model, its tokenizer, the pairs, and where results go."""

    def __init__(self, profile: Profile, method: Method, seed: int):
        import torch
        from transformers import AutoTokenizer

        from qrpo_lib.training import causal_lm, plain_loop, samples

        torch.set_num_threads(profile.training.threads)
        self.profile, self.method, self.seed = profile, method, seed
        self.policy = reference_policy.step(profile).folder
        self.tokenizer = AutoTokenizer.from_pretrained(self.policy)
        self.model = plain_loop.prepared(self.policy)
        self.collate = samples.Collator(causal_lm.pad_token_id(self.tokenizer))

    @property
    def settings(self) -> Optimization:
        """How the policy is fitted."""
        return fitting.optimization(self.profile.training, self.method.learning_rate, self.seed)

    def pairs(self) -> list[dict]:
        """The training pairs with their log pi_ref."""
        return reference_log_probs.added(self.profile, training_pairs.of(self.profile))[0]

    def log_probs(self, batch: list[dict]):
        """log pi and log pi_ref of the completions of a batch of pairs, both (rows, sides)."""
        import torch

        from qrpo_lib.training import plain_loop, samples

        sides = samples.sides(batch[0])
        logps, _ = plain_loop.log_probs(self.model, self.collate(batch), len(sides))
        references = samples.reference_columns(sides)
        return logps, torch.tensor([[row[name] for name in references] for row in batch])

    def train(self, loss_of_step, steps: int, folder: Path) -> None:
        """Train the model and write policy and history."""
        from qrpo_lib.training import plain_loop

        with progress.bar(f"training {self.method.name}, seed {self.seed}") as report:
            history = plain_loop.fit(self.model, steps, loss_of_step, self.settings, report)
        self.save(history, folder)

    def save(self, history: list[dict], folder: Path) -> None:
        """Write the policy, its tokenizer and the history."""
        import pandas as pd

        self.model.save_pretrained(folder / fitting.POLICY)
        self.tokenizer.save_pretrained(folder / fitting.POLICY)
        pd.DataFrame(history).to_csv(folder / fitting.HISTORY, index=False)
