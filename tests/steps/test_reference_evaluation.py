"""The reference policy's answers: shared by all trainings that start from it, and their own reference."""

from pathlib import Path

import pandas as pd

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import evaluation, reference_evaluation

PROFILE = profiles.load(Path(__file__).parents[1] / "data" / "smallest.toml")


def test_trainings_that_differ_in_the_loss_share_them(runs_folder):
    step = reference_evaluation.step(PROFILE, 0, "selection")
    for same in ({"qrpo.beta": 0.7}, {"batch_size": 4, "micro_batch_size": 4}, {"setting": "offline"}):
        assert reference_evaluation.step(PROFILE.with_training(**same), 0, "selection").key == step.key
    tuned = PROFILE.with_training(setting="sft-offline")
    others = [reference_evaluation.step(tuned, 0, "selection"), reference_evaluation.step(PROFILE, 1, "selection")]
    others.append(reference_evaluation.step(PROFILE, 0, "reporting"))
    assert len({one.key for one in (step, *others)}) == 4


def test_the_policy_is_its_own_reference(tmp_path):
    answers = pd.DataFrame({"prompt_id": ["a", "b"], "reward": [0.5, 1.0], "logp": [-1.5, -2.5]})
    answers.to_parquet(tmp_path / evaluation.EVALUATION)
    assert reference_evaluation.load(tmp_path)["ref_logp"].tolist() == [-1.5, -2.5]
    assert list(reference_evaluation.load(tmp_path, ["prompt_id", "reward"]).columns) == ["prompt_id", "reward"]
