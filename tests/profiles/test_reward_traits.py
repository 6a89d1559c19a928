"""What is shown of a reward, for the arms of the shipped profiles, each as its TOML file and the paper describe it."""

import pytest

from qrpo_lib.profiles import reward_traits
from qrpo_lib.profiles import settings as profiles

# profile, arm: chat with a length-controlled reward, a reward that prefers length, an annotator, one that sees length
ARMS = {
    ("tiny", "chat"): (True, False, False, False),
    ("tiny", "chat-long"): (True, True, False, False),
    ("tiny", "code"): (False, False, False, False),
    ("smol", "chat"): (True, False, False, False),
    ("smol", "code"): (False, False, False, False),
    ("gh200", "llama-magpieair"): (True, False, False, False),
    ("gh200", "llama-leetcode"): (False, False, False, False),
    ("tiny-full", "chat-world-0"): (True, False, False, False),
    ("tiny-full", "chat-bonus-world-0"): (True, True, False, False),
    ("tiny-full", "chat-annotated-world-0"): (True, False, True, False),
    ("tiny-full", "chat-annotated-length-world-0"): (True, False, True, True),
}


@pytest.mark.parametrize(("profile", "arm"), ARMS)
def test_traits_of_the_shipped_arms(profile, arm):
    of = profiles.load(profile, arm)
    found = (
        reward_traits.has_lc_reward(of),
        reward_traits.prefers_length(of),
        reward_traits.has_annotator(of),
        reward_traits.sees_length(of),
    )
    assert found == ARMS[profile, arm]
    assert not reward_traits.is_own_data(of)
    assert reward_traits.shown_data(of) == of.task.name


def test_the_miniatures_properties_are_stated_of_its_main_chat_arm_in_every_world():
    stated = {
        (name, arm)
        for name in ("tiny", "smol", "tiny-full", "tiny-beyond")
        for arm in profiles.arms(name)
        if reward_traits.has_stated_properties(profiles.load(name, arm))
    }
    assert stated == {("tiny-full", f"chat-world-{world}") for world in range(5)}
