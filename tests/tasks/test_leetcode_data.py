"""LeetCode from the dataset to rewards, on problems of our own in the dataset's columns."""

import json

import datasets
import pytest
from hub_copies import chat_model

from qrpo_lib.models import hub
from qrpo_lib.profiles.settings import LeetCodeTask, Sandbox
from qrpo_lib.steps import shifts
from qrpo_lib.tasks import hub_task
from qrpo_lib.tasks import registry as tasks

DATASET = "newfacade/LeetCodeDataset"
DIFFICULTIES = ["Easy", "Medium", "Hard"]


def problem(i, tests=20, words=1):
    solution = f"class Solution:\n    def add(self, a: int) -> int:\n        return a + {i}\n"
    asserts = "".join(f"    assert candidate(a = {a}) == {a + i}\n" for a in range(tests))
    starter = "class Solution:\n    def add(self, a: int) -> int:\n        "
    return {
        "task_id": f"add-{i}",
        "question_id": i,
        "difficulty": DIFFICULTIES[i % 3],
        "tags": ["Math"],
        "problem_description": f"Add {i}.",
        "starter_code": starter,
        "estimated_date": "2024-01-01",
        "prompt": "import math\n",
        "completion": solution,
        "entry_point": "Solution().add",
        "test": f"def check(candidate):\n{asserts}",
        "input_output": [{"input": f"a = {a}", "output": str(a + i)} for a in range(tests)],
        "query": f"### Question:\nAdd {i}.\n\n### Format: Use this.\n```python\n{starter}```\n\n### Answer: (here)\n\n",
        "response": f"{'Add. ' * words}\n\n```python\n{solution}```",
    }


@pytest.fixture
def task(tmp_path, monkeypatch, runs_folder):
    monkeypatch.setenv("QRPO_DATA", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    chat_model(tmp_path / "owner" / "model")
    (tmp_path / DATASET).mkdir(parents=True)
    rows = {"train": [problem(0), problem(1, tests=19), problem(2, words=2000), problem(3)]}
    rows["test"] = [problem(i) for i in range(10, 28)]
    for split, of_split in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in of_split)
        (tmp_path / DATASET / f"LeetCodeDataset-v0.3.1-{split}.jsonl").write_text(text)
    return LeetCodeTask(
        name="leetcode",
        dataset=DATASET,
        train_split="train",
        test_split="test",
        tokenizer="owner/model",
        max_tokens=2000,
        min_tests=20,
        max_tests=5,
        sandbox=Sandbox(seconds_per_test=1.0, memory_mb=256),
    )


def test_what_is_left_out_and_the_halves(task):
    folder = tasks.of(task).prepared()
    counts = json.loads((folder / hub_task.COUNTS).read_text())
    assert counts["train"] == {"rows": 4, "too_few_tests": 1, "too_long": 1, "remain": 2}
    assert counts["test"] == {"rows": 18, "too_long": 0, "remain": 18}
    frame = hub_task.load(folder)
    assert list(frame["prompt_id"][frame["split"] == "train"]) == ["add-0", "add-3"]
    held_out = frame[frame["split"] != "train"]
    difficulty = [DIFFICULTIES[int(name.split("-")[1]) % 3] for name in held_out["prompt_id"]]
    shares = held_out.groupby([difficulty, "split"]).size()
    assert shares.to_dict() == {(d, split): 3 for d in DIFFICULTIES for split in ("reporting", "selection")}


def test_prompts_answers_and_rewards_belong_together(task):
    prompts, answers = tasks.of(task).prompts(0), tasks.of(task).demonstrations(0)
    assert [prompt.id for prompt in prompts] == [one.prompt_id for one in answers]
    assert all(one.rejected is None for one in answers)
    texts = [prompt.text for prompt in prompts]
    assert all("class TreeNode" in text for text in texts)
    reward = tasks.of(task).reward()
    assert reward.score(texts, [one.chosen for one in answers]).tolist() == [1.0] * len(texts)
    shifted = [answers[1].chosen, answers[0].chosen, "no code"]
    assert reward.score(texts[:3], shifted).tolist() == [0.0] * 3


def test_the_profiles_limit_of_tests_holds(task):
    """Of the twenty tests the first five are run, with a = 0, ..., 4."""
    reward = tasks.of(task).reward()
    text = next(prompt.text for prompt in tasks.of(task).prompts(0) if prompt.id == "add-3")
    small = "```python\nclass Solution:\n    def add(self, a): return a + 3 if a < {limit} else -1\n```"
    assert reward.score([text] * 2, [small.format(limit=5), small.format(limit=4)]).tolist() == pytest.approx(
        [1.0, 0.8]
    )


def test_other_columns_are_refused(task, tmp_path):
    for path in (tmp_path / DATASET).iterdir():
        path.write_text(json.dumps({"task_id": "a"}) + "\n")
    with pytest.raises(hub.HubError, match="has no column entry_point and test"):
        tasks.of(task).prepared()


def test_solutions_are_no_pairs(task):
    assert task.completions == "solution"
    assert shifts.source("sft-off-policy-random") == "off-policy-random"
