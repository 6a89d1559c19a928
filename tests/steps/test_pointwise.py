"""Rows of single completions: rewards given or computed, what is left out."""

from types import SimpleNamespace

import pandas as pd
import pytest
from small_llama import EOS, made_up_tokenizer

from qrpo_lib.steps import pointwise


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
