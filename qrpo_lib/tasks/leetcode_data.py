"""The paper's code dataset, LeetCode: filtered, split, with its own solutions (App. L.3, L.6); and its reward.

The folder holds `prompts.parquet`, with columns `prompt_id, split, prompt, chosen, problem` (`chosen` is the dataset's
answer, `problem` what the tests need, as JSON), and `counts.json`, as in `qrpo_lib.tasks.preference_data`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qrpo_lib.models import hub
from qrpo_lib.profiles.settings import LeetCodeTask
from qrpo_lib.runs import folders
from qrpo_lib.tasks import leetcode, preference_data

_OF_A_PROBLEM = ("task_id", "entry_point", "test")
_COLUMNS = (*_OF_A_PROBLEM, "difficulty", "query", "starter_code", "response", "input_output")


class LeetCode(preference_data.HubTask):
    """LeetCode problems as a task; the reward is the share of tests passed."""

    def data(self) -> folders.Step:
        """What determines the prepared dataset."""
        tests = {"min_tests": self.settings.min_tests, "max_tests": self.settings.max_tests}
        return folders.Step("leetcode_data", self.data_parameters() | tests, code=(_make,))

    def prepared(self) -> Path:
        """Its folder, made if it is not there."""
        return folders.complete(self.data(), lambda folder: _make(self.settings, folder))

    def parameters(self) -> dict[str, Any]:
        """The limits of a solution's run; the problems are an input."""
        settings = self.settings
        limits = {"sandbox": settings.sandbox.model_dump(), "max_tests": settings.max_tests}
        return {"name": settings.name, "extraction": settings.extraction} | limits

    def reward(self) -> LeetCodeReward:
        """The share of its problem's tests that an answer passes."""
        frame = preference_data.load(self.prepared())
        problems = dict(zip(frame["prompt"], map(json.loads, frame["problem"]), strict=True))
        return LeetCodeReward(problems, self.settings)


class LeetCodeReward:
    """The share of its problem's test cases that the code of an answer passes; 0 without code (App. L.4)."""

    def __init__(self, problems: dict[str, dict[str, str]], task: LeetCodeTask):
        self._problems = problems
        self._limits = task.sandbox.model_dump() | {"max_tests": task.max_tests}
        self._extraction = task.extraction

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Float32 rewards (n,)."""
        rows = [self._problems[prompt] for prompt in prompts]
        rates = leetcode.pass_rates(rows, completions, extraction=self._extraction, **self._limits)
        return np.array(rates, dtype=np.float32)

    def forms_differ(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Bool (n,): whether the authors' rule and the lenient one find different code in a completion."""
        pairs = [(self._problems[prompt], text) for prompt, text in zip(prompts, completions, strict=True)]
        rules = ("paper", "lenient")
        return np.array([len({leetcode.extract(*pair, rule) for rule in rules}) > 1 for pair in pairs], dtype=bool)


def _make(task: LeetCodeTask, folder: Path) -> None:
    import pandas as pd

    tokenizer = preference_data.tokenizer(task)
    frames, counts = [], {}
    for role, name in (("train", task.train_split), ("test", task.test_split)):
        rows = hub.dataset(task.dataset, task.revision, name)
        missing = [column for column in _COLUMNS if column not in rows.column_names]
        if missing:
            raise hub.HubError(f"{task.dataset} has no column {' and '.join(missing)}: check its revision.")
        kept, dropped = [], Counter({"too_long": 0})
        for row in rows.select_columns(list(_COLUMNS)):
            reason = leetcode.unfit(row, min_tests=task.min_tests, max_tests=task.max_tests)
            if reason:
                dropped["too_few_tests" if "fewer than" in reason else "tests_not_judged"] += 1
                continue
            prompt = leetcode.prompt(row)
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["response"]}]
            if preference_data.lengths(tokenizer, [turns])[0] > task.max_tokens:
                dropped["too_long"] += 1
                continue
            problem = json.dumps({column: row[column] for column in _OF_A_PROBLEM})
            texts = {"prompt": prompt, "chosen": row["response"], "problem": problem}
            kept.append({"prompt_id": row["task_id"], "difficulty": row["difficulty"], **texts})
        if not kept:
            raise hub.HubError(f"Of {len(rows)} rows of {task.dataset}, {name}, none can be used: {dict(dropped)}.")
        counts[role] = {"rows": len(rows), **dropped, "remain": len(kept)}
        frames.append(pd.DataFrame(kept))
    train, test = frames
    splits = ["train"] * len(train) + preference_data.held_out_splits(len(test), strata=list(test["difficulty"]))
    frame = pd.concat([train, test], ignore_index=True).assign(split=splits)
    frame[["prompt_id", "split", "prompt", "chosen", "problem"]].to_parquet(folder / preference_data.PROMPTS)
    folders.write_atomically(folder / preference_data.COUNTS, (json.dumps(counts, indent=2) + "\n").encode())
