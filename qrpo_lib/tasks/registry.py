"""The tasks that a profile can name. `of(settings)` is the task: prompts, its own completions, reward (`tasks.base`).

The key of a step counts the code of the task in use alone, since it lists that task's methods among its entry points.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from pathlib import Path

from qrpo_lib.models import hub
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.own_data import OWN_TASKS
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs.errors import about
from qrpo_lib.tasks.base import Task

IS_INFRASTRUCTURE = True  # a registry: what it gives counts, not what it could give


# Of each kind of settings the class of the task, which is imported when it is asked for.
_CLASSES = {
    profiles.TopicsTask: "qrpo_lib.tasks.topics:Topics",
    profiles.SketchesTask: "qrpo_lib.tasks.sketches:Sketches",
    profiles.WrittenTask: "qrpo_lib.tasks.written_prompts:WrittenPrompts",
    profiles.ChatDataTask: "qrpo_lib.tasks.preference_data:ChatData",
    profiles.DatasetTask: "qrpo_lib.tasks.own_data:OwnData",
    profiles.PointwiseTask: "qrpo_lib.tasks.own_data:OwnData",
    profiles.ExpressionsTask: "qrpo_lib.tasks.expressions:Expressions",
    profiles.ProblemsTask: "qrpo_lib.tasks.problems:OwnProblems",
    profiles.LeetCodeTask: "qrpo_lib.tasks.leetcode_data:LeetCode",
}


@cache
def of(settings: profiles.Task) -> Task:
    """The task that the settings describe: one object a process, so that a reward remembers what it has judged."""
    return pkgutil.resolve_name(_CLASSES[type(settings)])(settings)


def check_available(profile: Profile) -> None:
    """Raise `hub.HubError` if something of the hub is neither here nor named with its commit. Asks no server."""
    of(profile.task).check_available()
    if profile.policy.source == "hub":
        hub.check(profile.policy.model, profile.policy.revision, "model")
    released = profile.reference_sampling.released
    for tuned in (False, True) if released else ():
        if released.of(tuned):
            hub.check(*released.of(tuned), "dataset")
    if profile.alpaca_eval and profile.task.completions != "solution":
        hub.check(profile.alpaca_eval.dataset, profile.alpaca_eval.revision, "dataset")


def check_template(profile: Profile, policy: Path) -> None:
    """Raise TemplateError if the policy's chat template leaves out part of the user's rows, such as a system message.

    A task of the suite has no conversations but a request and its answer.
    """
    from transformers import AutoTokenizer

    from qrpo_lib.training import conversations, preference_rows, samples

    if profile.task.name not in OWN_TASKS:
        return
    tokenizer, tried = AutoTokenizer.from_pretrained(policy), set()
    for row in of(profile.task).rows:
        sides, texts = (
            (samples.POINTWISE, [row.chosen]) if row.rejected is None else (samples.PAIR, [row.chosen, row.rejected])
        )
        answers = [[{"role": "assistant", "content": text}] for text in texts]
        given = {"prompt": conversations.decoded(row.prompt)} | dict(
            zip(preference_rows.TEXTS[sides], answers, strict=True)
        )
        with about(f"{profile.task.shown}, {row.id}"):
            preference_rows.check_template(tokenizer, given, sides, tried)
