"""The smallest profile that has every kind of step, and the work of each kind, for the fault campaign."""

import os
from pathlib import Path

SMALLEST = Path(__file__).parents[1] / "data" / "smallest.toml"
PROFILE = f"""
extends = "{SMALLEST}"

[policy]
pretraining_documents = 64
instruction_examples = 64
code_documents = 32
code_examples = 32

[arms.chat.task]
train_prompts = 16
selection_prompts = 4
reporting_prompts = 4

[experiment]
algorithms = ["dpo", "qrpo"]

[arms.chat.experiment]
settings = ["off-policy-best"]
scaling = []

[arms.chat.experiment.transformations]
setting = "off-policy-best"
transforms = ["identity", "sqrt"]
betas = [0.3]
"""


def write_profile(folder: Path) -> Path:
    """The profile as a file in the folder."""
    path = folder / "miniature.toml"
    path.write_text(PROFILE)
    return path


def profile(setting: str | None = None):
    """The profile whose file `$MINIATURE` names."""
    from qrpo_lib.profiles import settings as profiles

    return profiles.load(os.environ["MINIATURE"], "chat").with_training(setting=setting)


def work(kind: str):
    """A step of this kind: the step itself, and a function that makes it and what it rests on."""
    from qrpo_lib.steps import (
        checkpoint_evaluation,
        dataset_pairs,
        fitting,
        initial_policy,
        log_ratios,
        reference_evaluation,
        reference_log_probs,
        reference_policy,
        reference_sampling,
        rounds,
    )

    chat, tuned = profile(), profile(setting="sft-offline")
    plan = rounds.Plan(rounds=2, reward="renewed")
    return {
        "initial_policy": (initial_policy.step(chat), lambda: initial_policy.run(chat)),
        "sft": (reference_policy.step(tuned), lambda: reference_policy.run(tuned)),
        "dataset_pairs": (dataset_pairs.step(tuned), lambda: dataset_pairs.run(tuned)),
        "reference_sampling": (reference_sampling.step(chat), lambda: reference_sampling.run(chat)),
        "reference_evaluation": _of(reference_evaluation, chat, 0, "reporting"),
        "reference_log_probs": (reference_log_probs.step(chat), lambda: reference_log_probs.run(chat)),
        "training": _of(fitting, chat, "qrpo", 0),
        "evaluation": _of(checkpoint_evaluation, chat, "qrpo", 0),
        "log_ratios": _of(log_ratios, chat, "qrpo", 0, 2, "reporting"),
        "iterative": (rounds.step(chat, plan, 0, 2), lambda: rounds.run(chat, plan, 0)),
    }[kind]


def _of(module, *arguments):
    return module.step(*arguments), lambda: module.run(*arguments)


KINDS = (
    "initial_policy",
    "sft",
    "dataset_pairs",
    "reference_sampling",
    "reference_evaluation",
    "reference_log_probs",
    "training",
    "evaluation",
    "log_ratios",
    "iterative",
)
