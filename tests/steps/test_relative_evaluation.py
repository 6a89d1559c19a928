"""Answers of a trained relative: of which training, and of how many answers log-ratios are computed."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.relatives import Method
from qrpo_lib.steps import evaluation, relative_evaluation, relative_training

PROFILE = profiles.load(Path(__file__).parents[1] / "data" / "smallest.toml").with_training(setting="off-policy-best")
METHOD = Method(name="raw-reward", beta=0.3, learning_rate=2e-4, num_ref_rewards=4)


def test_each_split_rests_on_the_training_and_on_what_was_answered_before(runs_folder):
    steps = {split: relative_evaluation.step(PROFILE, METHOD, 1, split) for split in ("selection", "reporting")}
    assert steps["selection"].key != steps["reporting"].key
    for step in steps.values():
        assert step.inputs[0].key == relative_training.step(PROFILE, METHOD, 1).key
        assert [source.name for source in step.inputs] == ["relative_training", "reference_evaluation"]
    assert steps["selection"].inputs[1].key != steps["reporting"].inputs[1].key


@pytest.mark.parametrize("split", ["selection", "reporting"])
def test_log_ratios_are_of_the_first_answers_to_reporting_prompts(split, tmp_path, runs_folder, monkeypatch):
    answers = pd.DataFrame({"prompt_id": ["a"] * 8 + ["b"] * 8, "repeat": [*range(8)] * 2})
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr(evaluation, "recorded", lambda step, asked: answers.copy())
    trained = SimpleNamespace(policies={1: "trained"})
    monkeypatch.setattr(relative_evaluation, "_asked", lambda *arguments: trained)
    monkeypatch.setattr(
        relative_evaluation,
        "_log_probs",
        lambda profile, policy, some: [(-1.0 if policy == "trained" else -2.0)] * len(some),
    )
    relative_evaluation._make(PROFILE, METHOD, 0, split, tmp_path)
    found = relative_evaluation.load(tmp_path)
    assert found[["prompt_id", "repeat"]].equals(answers)
    if split == "selection":
        assert "policy_logp" not in found
        return
    counted = found["repeat"] < relative_evaluation.LOG_RATIOS
    assert counted.sum() == 12
    assert (found.loc[counted, "policy_logp"] == -1.0).all()
    assert (found.loc[counted, "ref_logp"] == -2.0).all()
    assert found.loc[~counted, ["policy_logp", "ref_logp"]].isna().all(axis=None)
