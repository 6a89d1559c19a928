"""Rows of single completions: rewards given or computed, what is left out."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from small_llama import EOS, made_up_tokenizer

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import fitting, pointwise


@pytest.fixture
def profile(monkeypatch):
    monkeypatch.setattr(pointwise.tasks, "of", lambda task: SimpleNamespace(given_rewards=lambda: {"b": 7.0}))
    return SimpleNamespace(
        task=None,
        training=SimpleNamespace(max_tokens=4),
        reference_sampling=SimpleNamespace(num_references=2),
    )


def test_rows_and_what_is_left_out(profile):
    plain = "\ue001"
    frame = pd.DataFrame(
        [
            {"prompt_id": "a", "prompt": plain + "t5", "text": "", "reward": 1.0},
            {"prompt_id": "b", "prompt": plain + "t6", "text": "", "reward": 2.0},
            {"prompt_id": "c", "prompt": plain + "t7", "text": "", "reward": float("nan")},
            {"prompt_id": "d", "prompt": plain + "t8", "text": "", "reward": 1.0},
        ]
    )
    references = {"a": [0.0, 1.0], "b": [0.5, 0.5], "c": [0.0, 1.0], "d": [0.0, float("nan")]}
    rows, report = pointwise.rows(profile, frame, references, made_up_tokenizer())
    assert [(row["prompt_id"], row["reward"], row["ref_rewards"]) for row in rows] == [
        ("a", 1.0, [0.0, 1.0]),
        ("b", 7.0, [0.5, 0.5]),
    ]
    assert all(row["completion_ids"] == [EOS] for row in rows)
    assert report["unscored"] == 1
    assert report["too_few_reference_rewards"] == 1
    assert report["completions"] == 2


@pytest.mark.slow
def test_a_profile_of_single_completions_trains(tmp_path, smallest_policy, monkeypatch):
    """To the end at the smallest size, with rows and a reward in files: the training starts at the reference."""
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / smallest_policy.name).symlink_to(smallest_policy)
    monkeypatch.setenv("QRPO_RUNS", str(runs))
    rows = [{"prompt": f"Say {i}", "completion": "well " * (1 + i % 3) + str(i)} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "my.py").write_text("def reward(prompts, completions):\n    return [len(c) for c in completions]\n")
    reward = profiles.PythonReward(kind="python", function=f"{tmp_path}/my.py:reward")
    task = profiles.PointwiseTask(name="pointwise", dataset=str(tmp_path / "rows.jsonl"), reward=reward)
    smallest = profiles.load(Path(__file__).parents[1] / "data" / "smallest.toml")
    profile = smallest.with_training(setting="offline").model_copy(update={"task": task})
    made = fitting.run(profile, "qrpo", 0)
    report = json.loads((made / fitting.PAIRS).read_text())
    assert report["train"]["completions"] == 16
    history = fitting.load_history(made)
    start = history[(history["step"] == 0) & (history["split"] == "validation")].iloc[0]
    assert start["log_ratio"] == pytest.approx(0, abs=1e-4)
