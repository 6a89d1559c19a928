"""The written prompts of the smol profile: complete, stratified and free of near-duplicates."""

import json
import re
from collections import Counter
from importlib.resources import files
from itertools import combinations

import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.tasks import registry as tasks

CATEGORIES = {
    "explanations",
    "advice",
    "how-to",
    "creative writing",
    "planning",
    "everyday facts",
    "comparisons",
    "emails and rewriting",
    "pros and cons",
    "simple science",
    "cooking",
    "travel",
    "technology",
}
PER_CATEGORY = {"train": 16, "selection": 4, "reporting": 4}


@pytest.fixture(scope="module")
def rows():
    text = files("qrpo_lib").joinpath("tasks/smol_prompts.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_fields_and_ids(rows):
    assert all(list(row) == ["id", "category", "split", "prompt"] for row in rows)
    assert [row["id"] for row in rows] == [f"p{i:03d}" for i in range(1, 313)]


def test_splits_are_stratified_by_category(rows):
    counts = Counter((row["category"], row["split"]) for row in rows)
    assert counts == {(category, split): n for category in CATEGORIES for split, n in PER_CATEGORY.items()}


def test_text_is_clean_and_of_bounded_length(rows):
    for row in rows:
        prompt = row["prompt"]
        assert prompt.isascii(), row
        assert prompt.isprintable(), row
        assert prompt == " ".join(prompt.split()), row
        assert 5 <= len(prompt.split()) <= 40, row


def test_no_two_prompts_are_near_duplicates(rows):
    # a near-duplicate across splits would leak a training prompt into selection or reporting
    words = {row["prompt"]: set(re.findall(r"[a-z0-9']+", row["prompt"].lower())) for row in rows}
    assert len(words) == len(rows)
    close = [(a, b) for a, b in combinations(words, 2) if len(words[a] & words[b]) / len(words[a] | words[b]) > 0.6]
    assert close == []


def test_written_prompts_have_no_demonstrations():
    with pytest.raises(ValueError, match="task written has no completions of its own"):
        tasks.of(profiles.load("smol", profiles.arms("smol")[0]).task).demonstrations(0)
