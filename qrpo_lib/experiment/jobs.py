"""The steps of the pipeline as tasks of `qrpo_lib.cluster`: what a notebook or `qrpo reproduce` asks for.

folder = jobs.make(profile, jobs.training(profile, "qrpo", seed=0))
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from qrpo_lib.cluster import dispatch
from qrpo_lib.cluster.task import ScheduledTask
from qrpo_lib.experiment.grid import Run, Steps
from qrpo_lib.profiles.processes import TRAIN_TOGETHER
from qrpo_lib.profiles.relatives import Method
from qrpo_lib.profiles.settings import Algorithm, Profile
from qrpo_lib.runs import keys
from qrpo_lib.steps import alpaca_answers as alpaca
from qrpo_lib.steps import answers as sample_answers
from qrpo_lib.steps import (
    checkpoint_evaluation,
    dataset_pairs,
    fitting,
    initial_policy,
    reference_evaluation,
    reference_log_probs,
    reference_policy,
    reference_sampling,
    relative_evaluation,
    relative_training,
    rounds,
)
from qrpo_lib.steps import log_ratios as log_ratio_step
from qrpo_lib.tasks import registry as tasks

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

# How a step is made that a profile alone determines, and with which of its resources.
_MAKERS = {
    "initial_policy": ("policy", initial_policy.run),
    "sft": ("sft", reference_policy.run),
    "reference_sampling": ("sampling", reference_sampling.run),
    "dataset_pairs": ("scoring", dataset_pairs.run),
    "reference_log_probs": ("reference_log_probs", reference_log_probs.run),
}


def policy(profile: Profile) -> ScheduledTask:
    """The initial policy."""
    return _of_step(initial_policy.step(profile), profile)


def sampling(profile: Profile) -> ScheduledTask:
    """The reference policy's completions."""
    return _of_step(reference_sampling.step(profile), profile)


def reference_answers(profile: Profile, seed: int, split: str) -> ScheduledTask:
    """The reference policy's answers to the prompts of a split: step 0 of every training with that seed."""
    arguments = (profile, seed, split)
    step = reference_evaluation.step(*arguments)
    return _task(step, reference_evaluation.run, arguments, _needs(step, profile), "evaluation", profile)


def training(profile: Profile, algorithm: Algorithm, seed: int) -> ScheduledTask:
    """One trained policy with its checkpoints."""
    step = fitting.step(profile, algorithm, seed)
    return _task(step, fitting.run, (profile, algorithm, seed), _needs(step, profile), "training", profile)


def evaluation(profile: Profile, algorithm: Algorithm, seed: int) -> ScheduledTask:
    """What the checkpoints of a training answer to the selection prompts."""
    arguments = (profile, algorithm, seed)
    needs = (training(*arguments), reference_answers(profile, seed, "selection"))
    step = checkpoint_evaluation.step(*arguments)
    return _task(step, checkpoint_evaluation.run, arguments, needs, "evaluation", profile)


def evaluations(profile: Profile, runs: Iterable[Run]) -> list[ScheduledTask]:
    """`evaluation` of a profile's runs, which need the same tasks where setting and seed are the same."""
    steps, needs, tasks_of_runs = Steps(profile), {}, []
    for run in runs:
        settings, shared = run.settings(profile), (run.setting, run.seed)
        training_step, _ = steps[run].inputs[:2]
        if shared not in needs:
            before = reference_answers(settings, run.seed, "selection")
            needs[shared] = _needs(training_step, settings), before
        of_training, before = needs[shared]
        arguments = (settings, run.algorithm, run.seed)
        trained = _task(training_step, fitting.run, arguments, of_training, "training", settings)
        needed = (trained, before)
        tasks_of_runs.append(_task(steps[run], checkpoint_evaluation.run, arguments, needed, "evaluation", settings))
    return tasks_of_runs


def report(profile: Profile, algorithm: Algorithm, seed: int, checkpoint: int) -> ScheduledTask:
    """What one checkpoint of a training answers to the reporting prompts.

    Parameters
    ----------
    profile: its settings.
    algorithm, seed: of the training.
    checkpoint: after how many steps of the training; at 0 it is the reference policy, which answers once for all
        algorithms.
    """
    before = reference_answers(profile, seed, "reporting")
    if checkpoint == 0:
        return before
    arguments = (profile, algorithm, seed, checkpoint)
    needs = (training(profile, algorithm, seed), before)
    step = checkpoint_evaluation.report_step(*arguments)
    return _task(step, checkpoint_evaluation.report, arguments, needs, "evaluation", profile)


def log_ratios(profile: Profile, algorithm: Algorithm, seed: int, checkpoint: int, split: str) -> ScheduledTask:
    """Log-probabilities of a checkpoint's answers to the prompts of a split, under the policy and the reference policy.

    Parameters
    ----------
    profile: its settings.
    algorithm, seed: of the training.
    checkpoint: after how many steps of the training.
    split: "selection" or "reporting".
    """
    arguments = (profile, algorithm, seed, checkpoint, split)
    answered = evaluation(profile, algorithm, seed)
    needs = (answered if split == "selection" else report(profile, algorithm, seed, checkpoint),)
    return _task(log_ratio_step.step(*arguments), log_ratio_step.run, arguments, needs, "evaluation", profile)


def iterative(profile: Profile, plan: rounds.Plan, seed: int) -> ScheduledTask:
    """All rounds of a plan; the task's step is the last round."""
    step = rounds.step(profile, plan, seed, plan.rounds)
    return _task(step, rounds.run, (profile, plan, seed), _needs(step, profile), "iterative", profile)


def relative(profile: Profile, method: Method, seed: int, split: str) -> ScheduledTask:
    """What a policy trained by one of QRPO's relatives answers to the prompts of a split; the training is needed first.

    Parameters
    ----------
    profile: its settings.
    method: the relative with its values.
    seed: of the training.
    split: "selection" or "reporting".
    """
    trained = relative_training.step(profile, method, seed)
    arguments = (profile, method, seed)
    needed = _task(trained, relative_training.run, arguments, _needs(trained, profile), "training", profile)
    if trained.name == "relative_training":  # in a plain loop, by one process
        needed = replace(needed, group=False)
    needs = (needed, reference_answers(profile, 0, split))
    step = relative_evaluation.step(*arguments, split)
    return _task(step, relative_evaluation.run, (*arguments, split), needs, "evaluation", profile)


def answers(profile: Profile, count: int) -> ScheduledTask:
    """The initial policy's answers to a few held-out requests, for people to read."""
    step = sample_answers.step(profile, count)
    return _task(step, sample_answers.run, (profile, count), _needs(step, profile), "evaluation", profile)


def alpaca_answers(profile: Profile, algorithm: Algorithm | None, seed: int, checkpoint: int) -> ScheduledTask:
    """Answers of one policy to AlpacaEval's instructions. It needs no task: the policy is there, since it was selected.

    Parameters
    ----------
    profile: its settings.
    algorithm, seed: of the training; None for the reference policy.
    checkpoint: after how many steps of the training; at 0 it is the reference policy.
    """
    arguments = (profile, algorithm, seed, checkpoint)
    return _task(alpaca.step(*arguments), alpaca.run, arguments, (), "evaluation", profile)


def _of_step(step: keys.Step, profile: Profile) -> ScheduledTask:
    kind, _ = _MAKERS[step.name]
    return _task(step, _make, (step.name, profile), _needs(step, profile), kind, profile)


def _make(name: str, profile: Profile) -> Path:
    """Make a step that a profile alone determines, of the user's data only if the policy would see all of them."""
    if name != "initial_policy":
        tasks.check_template(profile, initial_policy.run(profile))
    return _MAKERS[name][1](profile)


def _needs(step: keys.Step, profile: Profile) -> tuple[ScheduledTask, ...]:
    # Other inputs are small, and made by whoever needs them.
    return tuple(_of_step(source, profile) for source in step.inputs if source.name in _MAKERS)


def _task(step, run, arguments, needs, kind: str, profile: Profile) -> ScheduledTask:
    return ScheduledTask.of(
        step, run, arguments, needs, kind=kind, group=kind in TRAIN_TOGETHER, cores=profile.training.threads
    )


def make_data(profile: Profile) -> None:
    """Prepare the prompts again if somebody has removed them, even if everything made from them is complete."""
    task = tasks.of(profile.task)
    if not all(step.is_complete() for step in task.inputs()):
        task.prompts(profile.seed)


def make(profile: Profile, *wanted: ScheduledTask) -> Path:
    """Make missing tasks where the profile says, beside a table of jobs; returns the folder of the last one."""
    dispatch.make(wanted, profile.dispatch)
    return wanted[-1].step.folder
