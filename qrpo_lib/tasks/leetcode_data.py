"""The paper's code dataset, LeetCode: filtered, split, with its own solutions (App. L.3, L.6); and its reward.

Beside `prompt_id, split, prompt` the prepared rows (`qrpo_lib.tasks.hub_task`) have `chosen`, the dataset's answer, and
`problem`, what the tests need, as JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache, partial
from typing import Any

from qrpo_lib.profiles.settings import LeetCodeTask
from qrpo_lib.rewards.tests import TestsReward
from qrpo_lib.runs import keys, progress
from qrpo_lib.tasks import hub_task, leetcode

_OF_A_PROBLEM = ("task_id", "entry_point", "test")
_COLUMNS = (*_OF_A_PROBLEM, "difficulty", "query", "starter_code", "response", "input_output")


class LeetCode(hub_task.HubTask):
    """LeetCode problems as a task; the reward is the share of tests passed."""

    def data(self) -> keys.Step:
        """What determines the prepared dataset."""
        tests = {"min_tests": self.settings.min_tests, "max_tests": self.settings.max_tests}
        make, code = partial(hub_task.prepare, self.settings, _PREPARATION), ("leetcode_data:_PREPARATION",)
        return keys.Step("leetcode_data", self.data_parameters() | tests, code=code, make=make, alone=True)

    def parameters(self) -> dict[str, Any]:
        """The limits of a solution's run; the problems are an input."""
        settings = self.settings
        limits = {"sandbox": settings.sandbox.model_dump(), "max_tests": settings.max_tests}
        return {"name": settings.name, "extraction": settings.extraction} | limits

    def reward(self) -> TestsReward:
        """The share of its problem's test cases that an answer's code passes; 0 without code (App. L.4)."""
        frame = hub_task.load(self.prepared())
        problems = dict(zip(frame["prompt"], frame["problem"], strict=True))
        return TestsReward(
            cache(lambda prompt: leetcode.tests(json.loads(problems[prompt]))),
            lambda prompt: leetcode.INITIALISATION,
            extraction=self.settings.extraction,
            max_tests=self.settings.max_tests,
            **self.settings.sandbox.model_dump(),
        )


def _usable(
    rows: Any, role: str, settings: LeetCodeTask, tokenizer: Any, report: progress.Report
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The problems with enough tests that can be judged, of which prompt and answer are not too long."""
    kept, dropped = [], Counter({"too_long": 0})
    for number, row in enumerate(rows):
        report(number, len(rows), "rows")
        reason = leetcode.unfit(row, min_tests=settings.min_tests, max_tests=settings.max_tests)
        if reason:
            dropped["too_few_tests" if "fewer than" in reason else "tests_not_judged"] += 1
            continue
        prompt = leetcode.prompt(row)
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["response"]}]
        if hub_task.lengths(tokenizer, [turns])[0] > settings.max_tokens:
            dropped["too_long"] += 1
            continue
        problem = json.dumps({column: row[column] for column in _OF_A_PROBLEM})
        texts = {"prompt": prompt, "chosen": row["response"], "problem": problem}
        kept.append({"prompt_id": row["task_id"], "difficulty": row["difficulty"], **texts})
    return kept, dict(dropped)


_PREPARATION = hub_task.Preparation(_usable, read=_COLUMNS, kept=("chosen", "problem"), strata="difficulty")
