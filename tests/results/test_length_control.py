"""The length-controlled reward (App. L.5) against NumPy's least squares and made-up data of a known coefficient."""

import numpy as np
import pandas as pd
import pytest

from qrpo_lib.results import length_control


@pytest.fixture
def completions():
    """Completions of 40 prompts, 3 each, and 10 reference completions a prompt."""
    generator = np.random.default_rng(0)
    ref_lengths = generator.integers(5, 60, size=(40, 10)).astype(float)
    ref_rewards = generator.normal(2, 1, size=(40, 1)) + generator.normal(0, 0.5, size=(40, 10))
    prompts = np.repeat(np.arange(40), 3)
    lengths = generator.integers(5, 90, size=120).astype(float)
    rewards = generator.normal(2, 1, size=120) + 0.02 * lengths
    return rewards, lengths, ref_rewards[prompts], ref_lengths[prompts]


def test_length_controlled_reward_agrees_with_numpys_least_squares(completions):
    rewards, lengths, ref_rewards, ref_lengths = completions
    scale, spread = ref_rewards.std(axis=1, ddof=1), ref_lengths.std(axis=1, ddof=1)
    x = (lengths - ref_lengths.mean(axis=1)) / spread
    y = (rewards - ref_rewards.mean(axis=1)) / scale
    (slope, _), *_ = np.linalg.lstsq(np.stack([x, np.ones_like(x)], axis=1), y)
    expected = rewards - slope * scale / spread * (lengths - ref_lengths.mean(axis=1))
    np.testing.assert_allclose(length_control.length_controlled_reward(*completions), expected, rtol=1e-12)


def test_a_known_coefficient_is_taken_off(completions):
    _, lengths, ref_rewards, ref_lengths = completions
    x = length_control.standardised(lengths, ref_lengths)
    mean, scale = ref_rewards.mean(axis=1), ref_rewards.std(axis=1, ddof=1)
    generator = np.random.default_rng(1)
    noise = generator.normal(size=len(x))
    design = np.stack([x, np.ones_like(x)], axis=1)
    noise -= design @ np.linalg.lstsq(design, noise)[0]  # nothing of it is linear in length
    rewards = mean + scale * (0.7 * x + 0.3 + noise)
    controlled = length_control.length_controlled_reward(rewards, lengths, ref_rewards, ref_lengths)
    np.testing.assert_allclose(controlled, mean + scale * (0.3 + noise), rtol=1e-10)


def test_what_is_left_has_no_correlation_with_length(completions):
    controlled = length_control.length_controlled_reward(*completions)
    x = length_control.standardised(completions[1], completions[3])
    y = length_control.standardised(controlled, completions[2])
    assert abs(np.corrcoef(x, y)[0, 1]) < 1e-10
    assert abs(np.corrcoef(x, length_control.standardised(completions[0], completions[2]))[0, 1]) > 0.1


def test_prompts_without_a_scale_are_left_out_and_keep_their_reward(completions):
    rewards, lengths, ref_rewards, ref_lengths = (array.copy() for array in completions)
    ref_rewards[:3], ref_lengths[3:6] = 1.0, 20.0
    controlled = length_control.length_controlled_reward(rewards, lengths, ref_rewards, ref_lengths)
    np.testing.assert_array_equal(controlled[:6], rewards[:6])
    rest = length_control.length_controlled_reward(*(array[6:] for array in completions))
    np.testing.assert_allclose(controlled[6:], rest)


def test_units_do_not_matter(completions):
    rewards, lengths, ref_rewards, ref_lengths = completions
    scaled = length_control.length_controlled_reward(5 * rewards + 1, 2 * lengths, 5 * ref_rewards + 1, 2 * ref_lengths)
    np.testing.assert_allclose(scaled, 5 * length_control.length_controlled_reward(*completions) + 1, rtol=1e-10)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.ones(3), np.ones(2), np.ones((3, 2)), np.ones((3, 2))), "must be"),
        ((np.ones(3), np.ones(3), np.ones((2, 2)), np.ones((2, 2))), "reference rewards and lengths"),
        ((np.ones(3), np.ones(3), np.ones((3, 1)), np.ones((3, 1))), "at least 2 reference"),
    ],
)
def test_unusable_shapes_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        length_control.length_controlled_reward(*arrays)


def test_references_by_prompt():
    frame = pd.DataFrame({"prompt_id": ["b", "a", "b", "a"], "reward": [1.0, 2.0, 3.0, 4.0]})
    assert length_control.by_prompt(frame, "reward").loc[["b", "a"]].to_numpy().tolist() == [[1, 3], [2, 4]]
    with pytest.raises(ValueError, match="as many reference completions"):
        length_control.by_prompt(frame.iloc[:3], "reward")
