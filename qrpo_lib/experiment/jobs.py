"""The steps of the pipeline as tasks of `qrpo_lib.cluster.dispatcher`: what a notebook or `qrpo reproduce` asks for.

folder = jobs.make(profile, jobs.training(profile, "qrpo", seed=0))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from qrpo_lib.cluster import dispatcher
from qrpo_lib.cluster.task import Task
from qrpo_lib.profiles.settings import Algorithm, Profile
from qrpo_lib.runs import folders
from qrpo_lib.steps import alpaca_answers as answers
from qrpo_lib.steps import (
    dataset_pairs,
    fitting,
    initial_policy,
    reference_evaluation,
    reference_log_probs,
    reference_policy,
    reference_sampling,
)
from qrpo_lib.tasks import registry as tasks

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

K = TypeVar("K")
# How a step is made that a profile alone determines, and with which of its resources. Tasks that train form a group.
_MAKERS = {
    "initial_policy": ("policy", initial_policy.run),
    "sft": ("sft", reference_policy.run),
    "reference_sampling": ("sampling", reference_sampling.run),
    "dataset_pairs": ("scoring", dataset_pairs.run),
    "reference_log_probs": ("reference_log_probs", reference_log_probs.run),
}
_GROUPS = ("sft", "reference_log_probs", "training")


def policy(profile: Profile) -> Task:
    """Step 1."""
    return _of_step(initial_policy.step(profile), profile)


def sampling(profile: Profile) -> Task:
    """Step 2."""
    return _of_step(reference_sampling.step(profile), profile)


def training(profile: Profile, algorithm: Algorithm, seed: int) -> Task:
    """Step 3."""
    step = fitting.step(profile, algorithm, seed)
    return Task(step, fitting.run, (profile, algorithm, seed), _needs(step, profile, seed), kind="training", group=True)


def alpaca_answers(profile: Profile, algorithm: Algorithm | None, seed: int, checkpoint: int) -> Task:
    """Answers of one policy to AlpacaEval's instructions; the policy is there, since it was selected."""
    arguments = (profile, algorithm, seed, checkpoint)
    return Task(answers.step(*arguments), answers.run, arguments, (), kind="evaluation")


def _of_step(step: folders.Step, profile: Profile) -> Task:
    kind, run = _MAKERS[step.name]
    return Task(step, run, (profile,), _needs(step, profile), kind=kind, group=kind in _GROUPS)


def _needs(step: folders.Step, profile: Profile, seed: int | None = None) -> tuple[Task, ...]:
    needs = [_of_step(source, profile) for source in step.inputs if source.name in _MAKERS]
    if seed is not None:  # the evaluation at step 0 is of the reference policy, once for all trainings with the seed
        start = reference_evaluation.step(profile, seed)
        needs.append(Task(start, reference_evaluation.run, (profile, seed), _needs(start, profile), kind="evaluation"))
    return tuple(needs)  # other inputs are small, and made by whoever needs them


def make_needs(profile: Profile, algorithm: Algorithm, seed: int) -> None:
    """Make again in this process what a training rests on and somebody has removed, though it is complete itself."""
    task = training(profile, algorithm, seed)
    if not all(step.is_complete() for step in tasks.inputs(profile.task)):
        tasks.prompts(profile.task, profile.seed)
    for need in dispatcher.in_order(task.needs).values():
        if not need.step.is_complete():
            need.make(*need.arguments)


def make(profile: Profile, task: Task) -> Path:
    """The folder of a task, made where the profile says if it is not there; a table shows its jobs meanwhile."""
    dispatcher.run([task], profile.dispatch)
    return task.step.folder


def make_all(profile: Profile, wanted: Mapping[K, Task]) -> dict[K, Path]:
    """The folders of several tasks, made at the same time where the profile allows it."""
    dispatcher.run(wanted.values(), profile.dispatch)
    return {label: task.step.folder for label, task in wanted.items()}
