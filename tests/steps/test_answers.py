"""A policy's answers to a few requests."""

from pathlib import Path

from transformers import AutoTokenizer

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import answers


def test_sample_answers_are_drawn_where_the_engine_draws(monkeypatch):
    """The engine puts a saved policy on the GPU; a model in memory stays on the CPU that it was loaded on."""
    seen = []
    monkeypatch.setattr(answers.sampler, "sample", lambda policy, *_, **__: seen.append(policy) or [])
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda folder: None)
    monkeypatch.setattr(answers.chat_template, "prompt_ids", lambda *_: [1])
    answers.sample(profiles.load("tiny", "chat"), Path("saved"), 0)
    assert seen == [Path("saved")]
