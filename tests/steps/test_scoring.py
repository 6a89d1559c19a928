"""Rewards of many texts, shard by shard: in order, kept if the process is killed, computed once."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from qrpo_lib.runs import keys
from qrpo_lib.steps import scoring

STEP = keys.Step("scored", {})


@pytest.fixture
def scored(monkeypatch, runs_folder):
    """A function that scores texts by their number of letters; and what was scored at once each time."""
    batches, profile = [], SimpleNamespace(task=None)

    class Letters:
        def score(self, prompts, completions):
            if "killed" in completions:
                raise KeyboardInterrupt
            batches.append(list(zip(prompts, completions, strict=True)))
            return np.array([len(text) for text in completions], dtype=np.float32)

    monkeypatch.setattr(scoring, "_IN_A_SHARD", 4)
    monkeypatch.setattr(scoring.tasks, "of", lambda task: SimpleNamespace(reward=Letters))

    def score(texts):
        frame = pd.DataFrame({"prompt": [f"p{number}" for number in range(len(texts))], "text": texts})
        scoring.score(STEP, profile, scoring.Texts.of(frame))
        return scoring.rewards(STEP, len(texts))

    return score, batches


def test_each_text_has_its_reward_whatever_the_shards(scored):
    score, batches = scored
    texts = ["x" * (number * 7 % 10) for number in range(10)]
    rewards = score(texts)
    assert rewards.dtype == np.float32
    assert rewards.tolist() == [len(text) for text in texts]
    assert [pair for batch in batches for pair in batch] == [(f"p{i}", text) for i, text in enumerate(texts)]
    assert score(texts).tolist() == rewards.tolist()
    assert [len(batch) for batch in batches] == [4, 4, 2]  # nothing was computed again


def test_a_killed_process_loses_its_shard_alone(scored):
    score, batches = scored
    texts = ["a"] * 6
    with pytest.raises(KeyboardInterrupt):
        score([*texts[:5], "killed"])
    assert score(texts).tolist() == [1.0] * 6
    assert [len(batch) for batch in batches] == [4, 2]


def test_without_texts_no_reward_is_loaded(scored, monkeypatch):
    score, _ = scored
    monkeypatch.setattr(scoring.tasks, "of", lambda task: pytest.fail("a reward was loaded"))
    assert score([]).tolist() == []
