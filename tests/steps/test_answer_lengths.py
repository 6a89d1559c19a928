"""Lengths of answers as the authors count them, against counts by hand."""

import pandas as pd
import pytest
from hub_copies import loaded_profile

from qrpo_lib.steps import answer_lengths
from qrpo_lib.tasks import registry as tasks


@pytest.fixture
def profile(runs_folder, tmp_path, monkeypatch):
    """Lengths counted as the paper's, by a tokenizer of words; a conversation is cut at 16 tokens."""
    return loaded_profile(
        tmp_path, monkeypatch, lambda text: text.replace("max_tokens = 16", 'max_tokens = 16\nlengths = "paper"')
    )


def test_prompt_and_completion_are_counted_together_and_cut(profile):
    prompts = {one.id: one.text for one in tasks.of(profile.task).prompts(0)}
    name, text = next(iter(prompts.items()))
    assert len(text.split()) == 4
    frame = pd.DataFrame(
        {"prompt_id": name, "text": ["yes", " yes no ", "yes " * 30, "yes"], "length": [1, 2, 30, 99], "reward": 0.5}
    )
    counted = answer_lengths.counted(profile, frame)
    # <|user|> and 4 words, <|assistant|>, the answer, </s>
    assert counted["length"].tolist() == [8, 9, 16, 8]
    assert counted["reward"].tolist() == frame["reward"].tolist()
    plain = profile.model_copy(update={"task": profile.task.model_copy(update={"lengths": "completion"})})
    assert answer_lengths.counted(plain, frame)["length"].tolist() == [1, 2, 30, 99]
