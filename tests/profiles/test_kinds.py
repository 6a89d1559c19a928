"""Tables of several kinds: policies, tasks, rewards."""

from typing import get_args

import pytest

from qrpo_lib.profiles import files as profile_files
from qrpo_lib.profiles import settings as profiles

HUB_POLICY = """
[policy]
source = "hub"
model = "/models/mine"
pad_token = "<pad>"
temperature = 0.7
top_p = 0.9
"""


def test_arms_may_have_policies_of_several_kinds(write):
    text = 'extends = "tiny"\n' + HUB_POLICY.replace("[policy]", "[arms.code.policy]")
    path = write(text)
    assert profiles.load(path, "chat").evaluation_sampling == {"temperature": 1.0, "top_p": 1.0}
    assert profiles.load(path, "code").evaluation_sampling == {"temperature": 0.7, "top_p": 0.9}
    path = write(f"{text}[arms.code.evaluation]\ntemperature = 0.5\n")
    with pytest.raises(profiles.ProfileError, match=r"evaluation\.temperature is set, but the policy has its own"):
        profiles.load(path, "code")


def test_every_table_of_several_kinds_is_known_by_its_discriminator():
    found = {}

    def look(model, path):
        for name, field in model.model_fields.items():
            kinds = [
                one for one in get_args(field.annotation) if isinstance(one, type) and hasattr(one, "model_fields")
            ]
            if isinstance(field.discriminator, str):
                found[(*path, name)] = field.discriminator
            models = kinds or ([field.annotation] if hasattr(field.annotation, "model_fields") else [])
            for one in models:
                look(one, (*path, name))

    look(profiles.Profile, ())
    transform = {("training", "qrpo", "transform"): "name"}  # its discriminator is a function
    assert found | transform == profile_files.DISCRIMINATORS
    assert get_args(profiles.Algorithm) == profiles.ALGORITHMS
