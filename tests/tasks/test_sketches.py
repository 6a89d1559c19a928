from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.tasks import registry, sketches

REQUEST = "Tell me something calm about the sea, with the boat and the gull."


def score(answer, **settings):
    return float(sketches.SketchReward(**settings).score([REQUEST], [answer])[0])


def words(text):
    return sketches._words(text)


def test_requests_are_different_and_seeded():
    made = sketches.requests(4800, seed=0)
    assert len(set(made)) == 4800
    assert made == sketches.requests(4800, seed=0) != sketches.requests(4800, seed=1)
    assert sketches.requests(10, seed=0) == made[:10]
    with pytest.raises(ValueError, match="4800 different requests"):
        sketches.requests(4801, seed=0)


def test_reward_is_the_stated_formula():
    answer = "The salty boat drifts gently. The salty fox drifts gently near the boat."
    vectors = sketches._vectors()
    subject = vectors["calm"] + vectors["sea"] + vectors["boat"] + vectors["gull"]
    subject /= np.linalg.norm(subject)
    different = ["salty", "boat", "drifts", "gently", "fox"]
    s = sum(vectors[word] @ subject for word in different) / 5**0.85
    assert score(answer) == pytest.approx(np.exp(3 * s), rel=1e-6)
    # Nine content words, repeated ones included.
    assert np.log(score(answer, length_bonus=0.03) / score(answer)) == pytest.approx(3 * 0.03 * 9, rel=1e-5)


def test_repetition_earns_nothing_and_an_empty_answer_one():
    once = "The salty boat drifts gently."
    assert score(f"{once} {once}") == score(once) > score("The muddy cow clucks fiercely.")
    assert score("") == 1.0


def test_later_words_of_a_group_are_rarer_and_closer_to_their_topic():
    texts = [word for text in sketches.documents(6000, seed=0) for word in words(text)]
    counts = {word: texts.count(word) for group in sketches._groups().values() for word in group}
    vectors, closer = sketches._vectors(), []
    for (name, _), group in sketches._groups().items():
        ratios = np.divide(*np.array([[counts[a], counts[b]] for a, b in pairwise(group)]).T)
        assert 1.5 < np.exp(np.log(ratios).mean()) < 3.5
        closer.append([vectors[word] @ vectors[name] for word in (group[0], group[-1])])
    first, last = np.array(closer).T
    assert (last > first).mean() > 0.95


def test_the_words_vectors_are_unit_vectors():
    assert all(np.linalg.norm(vector) == pytest.approx(1) for vector in sketches._vectors().values())


def test_answers_have_one_to_six_sentences_equally_often():
    counts = np.bincount([text.count(".") for text in sketches.documents(3000, seed=0)], minlength=7)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3


def test_a_pair_is_ordered_by_the_reward_and_has_one_plan():
    requests = sketches.requests(200, seed=0)
    pairs = sketches.written_pairs(requests, seed=3)
    assert pairs[5:9] == sketches.written_pairs(requests[5:9], seed=3) != sketches.written_pairs(requests[5:9], seed=4)
    for request, (chosen, rejected) in zip(requests, pairs, strict=True):
        better, worse = sketches.SketchReward().score([request] * 2, [chosen, rejected])
        assert better >= worse
        assert [len(words(part)) for part in chosen.split(".")] == [len(words(part)) for part in rejected.split(".")]


def test_the_writer_uses_rarer_words():
    requests = sketches.requests(300, seed=0)
    rank = {word: i for group in sketches._groups().values() for i, word in enumerate(group)}

    def mean_rank(texts):
        return np.mean([rank[word] for text in texts for word in words(text) if word in rank])

    written = [text for pair in sketches.written_pairs(requests, seed=0) for text in pair]
    assert mean_rank(written) > mean_rank(sketches.documents(600, seed=0)) + 0.4


def annotated(**settings):
    requests = sketches.requests(1500, seed=0)
    pairs = sketches.annotated_pairs(requests, seed=0, **settings)
    score = sketches.SketchReward().score
    rewards = [np.log(score([request] * 2, pair)) for request, pair in zip(requests, pairs, strict=True)]
    lengths = [[len(words(text)) for text in pair] for pair in pairs]
    return pairs, np.subtract(*np.transpose(rewards)), np.subtract(*np.transpose(lengths))


def test_an_annotator_without_noise_follows_the_reward():
    _, better, _ = annotated(noise=0.0, length_weight=0.0)
    assert (better >= 0).all()


def test_a_noisy_annotator_errs_as_often_as_the_normal_law_says():
    _, better, longer = annotated(noise=1.0, length_weight=0.0)
    # Of a normal difference and a normal error of the same size, one in four has the other sign.
    assert (better < 0).mean() == pytest.approx(0.25, abs=0.03)
    assert (longer > 0).mean() == pytest.approx((longer < 0).mean(), abs=0.06)


def test_an_annotator_who_sees_length_prefers_it_whatever_the_reward():
    blind, better, _ = annotated(noise=1.0, length_weight=0.0)
    pairs, less, longer = annotated(noise=1.0, length_weight=1.0)
    assert [set(pair) for pair in pairs] == [set(pair) for pair in blind]  # the same answers, in another order
    assert (longer > 0).mean() > (longer < 0).mean() + 0.3
    assert 0 < less.mean() < better.mean()


def test_the_task_of_a_profile_makes_its_prompts_and_pairs():
    task = registry.of(profiles.load("tiny-full", "chat-world-0").task)
    prompts = task.prompts(0)
    splits = [one.split for one in prompts]
    assert [splits.count(split) for split in ("train", "selection", "reporting")] == [1920, 48, 96]
    of_annotator = registry.of(profiles.load("tiny-full", "chat-annotated-length-world-0").task)
    first, other = task.demonstrations(0)[:5], of_annotator.demonstrations(0)[:5]
    assert [one.prompt_id for one in first] == [one.prompt_id for one in other]
    assert first != other
    assert "length_bonus" not in task.prompt_parameters()
    assert task.reward().score([prompts[0].text], ["."]) == [1.0]
