"""Studies of relatives in a profile: what cannot be is refused before work."""

from pathlib import Path

import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.files import ProfileError

SMALLEST = Path(__file__).parents[1] / "data" / "smallest-beyond.toml"


ONLINE = '{ label = "a", name = "online-qrpo", betas = [0.1], %s }'


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ('{ label = "a", name = "raw-reward", betas = [0.1] }', "the method raw-reward needs num_ref_rewards"),
        ('{ label = "a", name = "dpo", betas = [0.1], best_of = 2 }', "the method dpo has no best_of"),
        ('{ label = "a", name = "best-of-n", betas = [0.4], best_of = 3, num_ref_rewards = [4] }', "best of 3 is beta"),
        ('{ label = "a", name = "raw-reward", betas = [0.1], num_ref_rewards = [5] }', "only 4 are sampled"),
        (
            ONLINE % 'completions = 3, data = "half", num_ref_rewards = [2]',
            "3 completions of a prompt cannot be divided",
        ),
        (
            ONLINE % 'completions = 2, data = "half", references = "renewed"',
            "references can be renewed",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_work(method, message, tmp_path):
    path = tmp_path / "own.toml"
    study = '[[arms.chat.experiment.relatives]]\nstudy = "online"\nsetting = "off-policy-random"\n'
    path.write_text(f'extends = "{SMALLEST}"\n{study}methods = [{method}]\n')
    with pytest.raises(ProfileError, match=message):
        profiles.load(path, "chat")


def test_studies_and_what_an_arm_shows_belong_together(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('extends = "tiny"\n[arms.chat.experiment]\nshows = "relatives"\n')
    with pytest.raises(ProfileError, match="belong together"):
        profiles.load(path, "chat")
