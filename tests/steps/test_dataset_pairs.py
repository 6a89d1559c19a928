"""The dataset's own pairs."""

from pathlib import Path

import numpy as np

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import dataset_pairs
from qrpo_lib.tasks import topics

PROFILE = profiles.load(Path(__file__).parents[1] / "data" / "smallest.toml")


def in_setting(setting, **changes):
    return PROFILE.with_training(setting=setting, **changes)


def test_dataset_pairs_leave_the_reporting_prompts_alone(runs_folder):
    frame = dataset_pairs.load(dataset_pairs.run(in_setting("offline")))
    assert set(frame["split"]) == {"train", "selection"}
    assert list(frame["side"]) == ["chosen", "rejected"] * 40
    np.testing.assert_array_equal(frame["reward"], topics.TopicReward().score(frame["prompt"], frame["text"]))
