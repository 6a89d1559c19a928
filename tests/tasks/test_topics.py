import numpy as np
import pytest

from qrpo_lib.tasks import topics

REQUEST = "Tell me something calm about the sea, with a boat."


def score(answer):
    return float(topics.TopicReward().score([REQUEST], [answer])[0])


def test_requests_are_different_and_seeded():
    made = topics.requests(1200, seed=0)
    assert len(set(made)) == 1200
    assert made == topics.requests(1200, seed=0) != topics.requests(1200, seed=1)
    with pytest.raises(ValueError, match="1200 different requests"):
        topics.requests(1201, seed=0)


def test_reward_is_the_stated_formula():
    answer = "The salty boat drifts gently. The salty fox drifts gently."
    vectors = topics._vectors()
    subject = vectors["calm"] + vectors["sea"] + vectors["boat"]
    subject /= np.linalg.norm(subject)
    different = ["salty", "boat", "drifts", "gently", "fox"]
    s = sum(vectors[word] @ subject for word in different) / (8 + 4) - 0.01 * 8
    assert score(answer) == pytest.approx(np.exp(4 * s), rel=1e-6)


def test_what_the_reward_wants():
    on_topic = "The salty boat drifts gently."
    assert score(on_topic) > score("The muddy cow clucks fiercely.")
    assert score(on_topic) > score("") == 1.0
    assert score(on_topic + " The deep wave sails softly.") > score(f"{on_topic} {on_topic}")
    assert score(" ".join([on_topic] * 10)) < score(on_topic)


def test_rewards_are_continuous_with_a_right_tail():
    pairs = topics.conversations(4000, seed=0)
    rewards = topics.TopicReward().score(*zip(*pairs, strict=True))
    assert len(np.unique(rewards)) > 0.95 * len(rewards)
    low, middle, high = np.quantile(rewards, [0.01, 0.5, 0.99])
    assert high - middle > 1.5 * (middle - low)


def test_answers_vary_in_length_and_end():
    sentences = [answer.count(".") for _, answer in topics.conversations(2000, seed=0)]
    assert set(sentences) == {1, 2, 3, 4, 5, 6}


def test_the_words_vectors_are_unit_vectors():
    assert all(np.linalg.norm(vector) == pytest.approx(1) for vector in topics._vectors().values())


def test_a_length_bonus_adds_a_known_slope_to_the_logarithm():
    answers = ["The salty boat drifts gently.", "The salty boat drifts gently. The blue gull sails softly."]
    plain = topics.TopicReward().score([REQUEST] * 2, answers)
    biased = topics.TopicReward(length_bonus=0.03).score([REQUEST] * 2, answers)
    # Four and eight content words; the steepness is 4.
    np.testing.assert_allclose(np.log(biased / plain), [4 * 0.03 * 4, 4 * 0.03 * 8], rtol=1e-5)
