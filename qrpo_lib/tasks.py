"""The tasks that a profile can name. `of(settings)` is the task: prompts, completions of its own, reward (`task_base`).

The key of a step counts the code of the task in use alone, since it lists that task's methods among its entry points.
"""

from __future__ import annotations

from functools import cache

from qrpo_lib import hub, profiles
from qrpo_lib.profiles import Profile
from qrpo_lib.task_base import Task

IS_INFRASTRUCTURE = True  # a registry: what it gives counts, not what it could give


@cache
def of(settings: profiles.Task) -> Task:
    """The task that the settings describe: one object a process, so that a reward remembers what it has judged."""
    return _class_of(settings)(settings)


def _class_of(settings: profiles.Task) -> type[Task]:
    if isinstance(settings, profiles.TopicsTask):
        from qrpo_lib.topics import Topics

        return Topics
    if isinstance(settings, profiles.WrittenTask):
        from qrpo_lib.written_prompts import WrittenPrompts

        return WrittenPrompts
    if isinstance(settings, profiles.ChatDataTask):
        from qrpo_lib.chat_data import ChatData

        return ChatData
    if isinstance(settings, profiles.ExpressionsTask):
        from qrpo_lib.expressions import Expressions

        return Expressions
    if isinstance(settings, profiles.ProblemsTask):
        from qrpo_lib.problems import OwnProblems

        return OwnProblems
    from qrpo_lib.leetcode_data import LeetCode

    return LeetCode


def check_available(profile: Profile) -> None:
    """Raise `hub.HubError` if something of the hub is neither here nor named with its commit. Asks no server."""
    of(profile.task).check_available()
    if profile.policy.source == "hub":
        hub.check(profile.policy.model, profile.policy.revision, "model")
