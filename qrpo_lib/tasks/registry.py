"""The tasks that a profile can name. `of(settings)` is the task: prompts, its own completions, reward (`tasks.base`).

The key of a step counts the code of the task in use alone, since it lists that task's methods among its entry points.
"""

from __future__ import annotations

from functools import cache

from qrpo_lib.models import hub
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.tasks.base import Task

IS_INFRASTRUCTURE = True  # a registry: what it gives counts, not what it could give


@cache
def of(settings: profiles.Task) -> Task:
    """The task that the settings describe: one object a process, so that a reward remembers what it has judged."""
    return _class_of(settings)(settings)


def _class_of(settings: profiles.Task) -> type[Task]:
    if isinstance(settings, profiles.TopicsTask):
        from qrpo_lib.tasks.topics import Topics

        return Topics
    if isinstance(settings, profiles.SketchesTask):
        from qrpo_lib.tasks.sketches import Sketches

        return Sketches
    if isinstance(settings, profiles.WrittenTask):
        from qrpo_lib.tasks.written_prompts import WrittenPrompts

        return WrittenPrompts
    if isinstance(settings, profiles.ChatDataTask):
        from qrpo_lib.tasks.preference_data import ChatData

        return ChatData
    if isinstance(settings, profiles.DatasetTask | profiles.PointwiseTask):
        from qrpo_lib.tasks.own_data import OwnData

        return OwnData
    if isinstance(settings, profiles.ExpressionsTask):
        from qrpo_lib.tasks.expressions import Expressions

        return Expressions
    if isinstance(settings, profiles.ProblemsTask):
        from qrpo_lib.tasks.problems import OwnProblems

        return OwnProblems
    from qrpo_lib.tasks.leetcode_data import LeetCode

    return LeetCode


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
