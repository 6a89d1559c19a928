"""The models of a study of relatives."""

from pathlib import Path

import pytest

from qrpo_lib.experiment import relatives
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs.errors import InputError

SMALLEST = Path(__file__).parents[1] / "data" / "smallest-beyond.toml"


def test_the_models_of_a_study_are_every_combination():
    profile = profiles.load(SMALLEST, "chat")
    models = relatives.models(profile, "estimated_z")
    assert len(models) == 2 * (4 + 4 + 4 + 2 + 2)
    assert len({model.name for model in models}) == len(models)
    assert len({model.training(profile).key for model in models}) == len(models)
    assert {model.seed for model in models} == {0, 1}
    with pytest.raises(InputError, match=r"has no study 'partitions' of relatives; it has estimated_z, relatives"):
        relatives.models(profile, "partitions")
