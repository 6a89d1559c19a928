"""A generated chat task in the paper's regime: short sketches that name two things, with a reward in closed form.

A request names a topic, a tone and two things of the topic ("Tell me something calm about the sea, with the boat and
the gull."). An answer is one to six sentences "The <adjectives> <noun> <verb> <adverb> near the <noun>.", of which only
noun and verb are always there; the model decides when to stop.

The reward. Every content word w has a fixed unit vector e(w) near that of its topic or tone, and a request x has the
unit vector u(x) of its topic, tone and things. Over the *different* content words w of an answer y, of which there are
m,

    s(x, y) = (sum over w of <e(w), u(x)>) / m^0.85,        R = exp(3 s).

Words of a group are the rarer the later they stand in it, and the rarer the closer to their topic: what is good is
uncommon. So rewards within a prompt have a long right tail, and the best of many answers is far above their mean. The
power 0.85 lets a longer answer of equally good words neither gain nor lose, so that among the reference policy's own
answers reward and length are uncorrelated. Trained policies drift from that.

The offline pairs come from a better writer, who keeps to the topic and prefers the rare words, so that each of his
words is less likely under the reference policy. A pair's two answers share one plan of sentences: chosen and rejected
answers have the same law of lengths.

What the data must be like is in `qrpo_lib.results.task_properties`, with its limits.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from qrpo_lib.tasks.base import Demonstration, Prompt, Task, generated_prompts, in_splits

# topic: nouns | adjectives | verbs; of each the commonest first
_TOPICS = {
    "sea": "boat wave harbor gull sailor | salty blue deep | sails drifts anchors",
    "forest": "fox oak owl trail fern | mossy green wild | rustles hides grows",
    "city": "tram bridge tower crowd lamp | busy noisy tall | hurries shines honks",
    "kitchen": "oven soup spoon baker bread | warm tasty spicy | simmers bakes stirs",
    "school": "pupil book teacher bell desk | clever curious young | learns reads counts",
    "farm": "cow barn tractor hen field | muddy sturdy brown | ploughs grazes clucks",
    "mountain": "peak goat climber glacier cabin | steep snowy high | climbs towers echoes",
    "desert": "camel dune cactus snake oasis | dry sandy hot | shimmers burns crawls",
    "garden": "rose bee gate tulip gardener | fragrant sunny neat | blooms buzzes digs",
    "market": "stall fruit seller coin basket | cheap fresh colorful | sells trades weighs",
    "castle": "knight king moat banner dragon | ancient royal stony | guards reigns fights",
    "space": "rocket moon comet robot star | distant silver vast | orbits glows launches",
}
_TONES = {
    "calm": "gently quietly slowly softly",
    "merry": "happily gladly brightly playfully",
    "gloomy": "sadly darkly wearily coldly",
    "brave": "boldly proudly fiercely firmly",
}
_REQUESTS = (
    "Tell me something {tone} about the {topic}, with the {first} and the {second}.",
    "Write a {tone} note on the {topic}, the {first} and the {second}.",
    "Describe the {topic} in a {tone} way; mention the {first} and the {second}.",
    "I want a {tone} story of the {first} and the {second} in the {topic}.",
    "What is {tone} about the {first} and the {second} of the {topic}?",
)
_DIMENSIONS = 8
_VECTOR_SEED = 20250711
# How far a word lies from its topic: the commonest of its group, and the rarest.
_SPREAD = (0.9, 0.35)
_RARER = 2.5  # each word of a group than the one before
_LENGTH_POWER = 0.85
_STEEPNESS = 3.0
_WRITTEN_ANSWERS = 3
_ADVERB, _NEAR = 0.6, 0.25
_KINDS = ("nouns", "adjectives", "verbs")


@dataclass(frozen=True)
class _Style:
    """How somebody writes.

    sentences: probabilities of one sentence, of two, and so on.
    adjectives: probabilities of none, one or two in a sentence.
    relevance: between which shares of an answer's words are of the topic and tone that were asked for; uniform.
    reversed: how often the frequencies of a word's group are turned round.
    """

    sentences: tuple[float, ...]
    adjectives: tuple[float, float, float]
    relevance: tuple[float, float]
    reversed: float


# Of the texts that a policy is taught. From them it learns to end earlier (half as many answers of six sentences).
_TAUGHT = _Style(sentences=(1 / 6,) * 6, adjectives=(0.3, 0.5, 0.2), relevance=(0.2, 1.0), reversed=0.0)
# The better writer has about the lengths of such a policy, and is less likely under it by rare words and by adjectives.
_WRITER = _Style(
    sentences=(0.28, 0.22, 0.18, 0.14, 0.10, 0.08), adjectives=(0.2, 0.3, 0.5), relevance=(0.4, 1.0), reversed=0.9
)


@dataclass(frozen=True)
class _Sentence:
    """What a sentence consists of, before its words are chosen."""

    adjectives: int
    adverb: bool
    near: bool


@cache
def _groups() -> dict[tuple[str, str], list[str]]:
    """The words of each topic and kind, and of each tone ("adverbs"), the commonest first."""
    found = {}
    for topic, words in _TOPICS.items():
        found |= {(topic, kind): part.split() for kind, part in zip(_KINDS, words.split("|"), strict=True)}
    return found | {(tone, "adverbs"): words.split() for tone, words in _TONES.items()}


@cache
def _vectors() -> dict[str, np.ndarray]:
    """The unit vector of every topic, tone and content word: the same on every machine."""
    generator = np.random.default_rng(_VECTOR_SEED)
    vectors = {name: _unit(generator.standard_normal(_DIMENSIONS)) for name in (*_TOPICS, *_TONES)}
    for (name, _), words in _groups().items():
        for word, spread in zip(words, np.linspace(*_SPREAD, len(words)), strict=True):
            vectors[word] = _unit(vectors[name] + spread * _unit(generator.standard_normal(_DIMENSIONS)))
    return vectors


def requests(count: int, seed: int) -> list[str]:
    """`count` different requests, in random order. Raises ValueError for more than there are."""
    every = [
        template.format(tone=tone, topic=topic, first=first, second=second)
        for template in _REQUESTS
        for tone in _TONES
        for topic in _TOPICS
        for first in _groups()[topic, "nouns"]
        for second in _groups()[topic, "nouns"]
        if first != second
    ]
    if count > len(every):
        raise ValueError(
            f"The sketches task has {len(every)} different requests; the profile asks for {count} prompts."
        )
    return [every[i] for i in np.random.default_rng(seed).permutation(len(every))[:count]]


def documents(count: int, seed: int) -> list[str]:
    """Plain text for pretraining: sketches of random topics, of random relevance."""
    generator = np.random.default_rng(seed)
    return [_taught(generator, *_random_subject(generator)) for _ in range(count)]


def conversations(count: int, seed: int) -> list[tuple[str, str]]:
    """(request, answer) pairs for instruction tuning. Answers are on topic to a random degree."""
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        topic, tone = _random_subject(generator)
        first, second = generator.choice(_groups()[topic, "nouns"], size=2, replace=False)
        template = str(generator.choice(_REQUESTS))
        request = template.format(tone=tone, topic=topic, first=first, second=second)
        pairs.append((request, _taught(generator, topic, tone)))
    return pairs


def written_pairs(requests: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """A better and a worse answer to each request by the better writer: the best and the worst by the reward of three
    that share one plan of sentences. A request's answers depend on the request and the seed alone."""
    pairs = []
    for request in requests:
        generator = _generator(request, seed)
        topic, tone = _subject(request)
        plan = _plan(generator, _WRITER)
        answers = [_answer(generator, topic, tone, plan, _WRITER) for _ in range(_WRITTEN_ANSWERS)]
        ranked = sorted(answers, key=lambda answer: _reward(request, answer))
        pairs.append((ranked[-1], ranked[0]))
    return pairs


def annotated_pairs(requests: Sequence[str], seed: int, *, noise: float, length_weight: float) -> list[tuple[str, str]]:
    """Two answers of the better writer to each request, of plans of their own, as a noisy annotator orders them.

    Parameters
    ----------
    requests: of the task.
    seed: of the answers and of the annotator.
    noise: standard deviation of the annotator's error on the difference of two answers, in standard deviations of the
        difference of log rewards (over these requests).
    length_weight: what a standard deviation of the difference in length (in words) adds, in the same unit. With 0 the
        annotator does not see length; the same answers and errors are used whatever it is.

    Returns
    -------
    (preferred, other) for each request. The reward knows nothing of this: it may rank a pair the other way.
    """
    both, errors = [], []
    for request in requests:
        generator = _generator(request, seed)
        topic, tone = _subject(request)
        plans = [_plan(generator, _WRITER) for _ in range(2)]
        both.append([_answer(generator, topic, tone, plan, _WRITER) for plan in plans])
        errors.append(generator.standard_normal())
    rewards = [np.log([_reward(request, one) for one in pair]) for request, pair in zip(requests, both, strict=True)]
    lengths = [[len(_words(one)) for one in pair] for pair in both]
    better, longer = (np.subtract(*np.transpose(values)) for values in (rewards, lengths))
    utility = better / _scale(better) + length_weight * longer / _scale(longer) + noise * np.array(errors)
    return [(a, b) if u > 0 else (b, a) for (a, b), u in zip(both, utility, strict=True)]


@dataclass(frozen=True)
class SketchReward:
    """The reward R of this module's docstring, behind the interface of `qrpo_lib.rewards.base`.

    length_bonus: added to s for each content word, so that a reward has a length bias of known size.
    """

    length_bonus: float = 0.0

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Float32 rewards (n,) of n completions of n requests; positive, 1 for an answer without content words."""
        pairs = zip(prompts, completions, strict=True)
        return np.array([_reward(*pair, self.length_bonus) for pair in pairs], dtype=np.float32)


class Sketches(Task):
    """The generated chat task in the paper's regime."""

    def prompts(self, seed: int) -> list[Prompt]:
        """Different requests, in the order of the splits."""
        return in_splits(requests(generated_prompts(self.settings), seed), self.settings)

    def demonstrations(self, seed: int) -> list[Demonstration]:
        """The pairs of a better writer, ordered by the reward or, where there is one, by the annotator."""
        every = self.prompts(seed)
        texts, annotator = [prompt.text for prompt in every], self.settings.annotator
        if annotator is None:
            pairs = written_pairs(texts, seed)
        else:
            pairs = annotated_pairs(texts, seed, noise=annotator.noise, length_weight=annotator.length_weight)
        return [Demonstration(prompt.id, *pair) for prompt, pair in zip(every, pairs, strict=True)]

    def prompt_parameters(self) -> dict[str, Any]:
        """Without the length bonus, which is the reward's."""
        return self.settings.model_dump(exclude={"length_bonus"})

    def reward(self) -> SketchReward:
        """The reward in closed form."""
        return SketchReward(self.settings.length_bonus)


def _reward(request: str, answer: str, length_bonus: float = 0.0) -> float:
    vectors = _vectors()
    subject = _unit(np.sum([vectors[word] for word in _words(request) if word in vectors], axis=0))
    content = [word for word in _words(answer) if word in vectors]
    different = sorted(set(content))
    relevance = sum(float(vectors[word] @ subject) for word in different)
    score = relevance / max(len(different), 1) ** _LENGTH_POWER + length_bonus * len(content)
    return float(np.exp(_STEEPNESS * score))


def _taught(generator: np.random.Generator, topic: str, tone: str) -> str:
    return _answer(generator, topic, tone, _plan(generator, _TAUGHT), _TAUGHT)


def _plan(generator: np.random.Generator, style: _Style) -> list[_Sentence]:
    return [
        _Sentence(
            int(generator.choice(len(style.adjectives), p=style.adjectives)),
            bool(generator.random() < _ADVERB),
            bool(generator.random() < _NEAR),
        )
        for _ in range(1 + generator.choice(len(style.sentences), p=style.sentences))
    ]


def _answer(generator: np.random.Generator, topic: str, tone: str, plan: list[_Sentence], style: _Style) -> str:
    """An answer by this plan."""
    relevance = generator.uniform(*style.relevance)

    def pick(kind: str) -> str:
        asked, every = (tone, _TONES) if kind == "adverbs" else (topic, _TOPICS)
        group = _groups()[asked if generator.random() < relevance else str(generator.choice(list(every))), kind]
        words = group[::-1] if generator.random() < style.reversed else group
        return str(generator.choice(words, p=_frequencies(len(words))))

    def written(sentence: _Sentence) -> str:
        words = ["The", *(pick("adjectives") for _ in range(sentence.adjectives)), pick("nouns"), pick("verbs")]
        words += [pick("adverbs")] if sentence.adverb else []
        words += ["near", "the", pick("nouns")] if sentence.near else []
        return f"{' '.join(words)}."

    return " ".join(written(sentence) for sentence in plan)


@cache
def _frequencies(count: int) -> np.ndarray:
    shares = _RARER ** -np.arange(count, dtype=np.float64)
    return shares / shares.sum()


def _generator(request: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(request.encode())])


def _subject(request: str) -> tuple[str, str]:
    """The topic and the tone of a request."""
    words = _words(request)
    topic, tone = (next(word for word in words if word in known) for known in (_TOPICS, _TONES))
    return topic, tone


def _random_subject(generator: np.random.Generator) -> tuple[str, str]:
    return str(generator.choice(list(_TOPICS))), str(generator.choice(list(_TONES)))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _scale(values: np.ndarray) -> float:
    """Standard deviation, 1 where there is none."""
    return float(values.std()) or 1.0


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
