"""Pairs for training: from which steps, and built once in a process; what is in them: `test_fitting`."""

from pathlib import Path

import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import training_pairs

PROFILE = profiles.load(Path(__file__).parents[1] / "data" / "smallest.toml")


@pytest.mark.parametrize("tuned", ["", "sft-"])
def test_offline_pairs_rest_on_the_datasets_too(tuned, runs_folder):
    names = {
        origin: [step.name for step in training_pairs.sources(PROFILE.with_training(setting=tuned + origin))]
        for origin in ("offline", "off-policy-best", "off-policy-random")
    }
    policy = "sft" if tuned else "initial_policy"
    assert names["offline"] == [policy, "reference_sampling", "dataset_pairs"]
    assert names["off-policy-best"] == names["off-policy-random"] == [policy, "reference_sampling"]


def test_pairs_are_built_once_for_losses_and_the_oldest_are_forgotten(monkeypatch, runs_folder):
    built = []

    def build(profile, policy, completions):
        built.append(profile.seed)
        return training_pairs.Splits(f"train {profile.seed}", f"validation {profile.seed}")

    monkeypatch.setattr(training_pairs, "_BUILT", {})
    monkeypatch.setattr(training_pairs, "build", build)
    first = training_pairs.of(PROFILE)
    assert training_pairs.of(PROFILE.with_training(**{"qrpo.beta": 0.7, "dpo.learning_rate": 1e-5})) is first
    assert training_pairs.of(PROFILE.with_training(ties="keep")) is not first
    assert len(built) == 2
    for seed in range(1, training_pairs._MOST_BUILT):
        training_pairs.of(PROFILE.model_copy(update={"seed": seed}))
    assert len(training_pairs._BUILT) == training_pairs._MOST_BUILT
    assert training_pairs.of(PROFILE.with_training(ties="keep")).train == "train 0"
    assert built.count(0) == 2  # still there
    assert training_pairs.of(PROFILE) is not first  # forgotten
