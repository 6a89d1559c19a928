"""The generated chat task of the `tiny` profile: requests about a topic in a tone, and a reward known in closed form.

A request names a topic, a tone and a thing ("Tell me something calm about the sea, with a boat."). An answer is one or
more sentences "The <adjective> <noun> <verb> <adverb>."; the model decides when to stop.

The reward. Every content word w has a fixed unit vector e(w) near that of its topic or tone, and a request x has the
unit vector u(x) of its topic, tone and thing. With v = <e(w), u(x)>, over the content words of the answer,

    s(x, y) = (sum of v over the different words) / (number of words + 4) - 0.01 (number of words),   R = exp(4 s).

On-topic words raise it, repetition and length cost, and a few sentences are best. The exponential makes it continuous
with a right tail. The paper's chat rewards have the same features, without a truth to compare with.
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

# topic: nouns | adjectives | verbs
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
    "Tell me something {tone} about the {topic}, with a {noun}.",
    "Write a {tone} note on the {topic} and the {noun}.",
    "Describe the {topic} in a {tone} way; mention the {noun}.",
    "I want a {tone} story of a {noun} in the {topic}.",
    "What is {tone} about the {noun} of the {topic}?",
)
_DIMENSIONS = 8
_SPREAD = 0.6  # how far a word lies from its topic
_SHRINKAGE = 4.0
_COST_OF_A_WORD = 0.01
_STEEPNESS = 4.0
# An instruction example is more or less on topic, and more or less long, so that a policy trained on them is varied.
_RELEVANCE = (0.4, 1.0)
_RELEVANCE_OF_WRITTEN = (0.7, 1.0)
_WRITTEN_ANSWERS = 5
_MEAN_SENTENCES = 2.5
_MOST_SENTENCES = 6


@dataclass(frozen=True)
class _Words:
    nouns: list[str]
    adjectives: list[str]
    verbs: list[str]


@cache
def _lexicon() -> dict[str, _Words]:
    return {topic: _Words(*(part.split() for part in words.split("|"))) for topic, words in _TOPICS.items()}


@cache
def _vectors() -> dict[str, np.ndarray]:
    """The unit vector of every topic, tone and content word: the same on every machine."""
    generator = np.random.default_rng(20250711)
    vectors = {}
    groups = {topic: [*words.nouns, *words.adjectives, *words.verbs] for topic, words in _lexicon().items()}
    for name, words in (groups | {tone: adverbs.split() for tone, adverbs in _TONES.items()}).items():
        vectors[name] = _unit(generator.standard_normal(_DIMENSIONS))
        for word in words:
            vectors[word] = _unit(vectors[name] + _SPREAD * _unit(generator.standard_normal(_DIMENSIONS)))
    return vectors


def requests(count: int, seed: int) -> list[str]:
    """`count` different requests, in random order. Raises ValueError for more than there are."""
    texts = [
        template.format(tone=tone, topic=topic, noun=noun)
        for template in _REQUESTS
        for tone in _TONES
        for topic, words in _lexicon().items()
        for noun in words.nouns
    ]
    if count > len(texts):
        raise ValueError(f"The topics task has {len(texts)} different requests; the profile asks for {count} prompts.")
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))[:count]]


def documents(count: int, seed: int) -> list[str]:
    """Plain text for pretraining: sentences about random topics, of random relevance."""
    generator = np.random.default_rng(seed)
    return [_answer(generator, *_random_subject(generator)) for _ in range(count)]


def conversations(count: int, seed: int) -> list[tuple[str, str]]:
    """(request, answer) pairs for instruction tuning. Answers are on topic to a random degree."""
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        topic, tone = _random_subject(generator)
        noun = generator.choice(_lexicon()[topic].nouns)
        request = str(generator.choice(_REQUESTS)).format(tone=tone, topic=topic, noun=noun)
        pairs.append((request, _answer(generator, topic, tone)))
    return pairs


def written_pairs(requests: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """A better and a worse answer to each request, by a writer who keeps to the topic more than the policy was taught.

    The better one is the best, the worse one the worst of five by the reward, as in Magpie-Air, whose completions
    likewise come from a stronger model. A request's answers depend on the request and the seed alone.
    """
    pairs = []
    for request in requests:
        generator = np.random.default_rng([seed, zlib.crc32(request.encode())])
        words = _words(request)
        topic, tone = (next(word for word in words if word in known) for known in (_TOPICS, _TONES))
        answers = [_answer(generator, topic, tone, _RELEVANCE_OF_WRITTEN) for _ in range(_WRITTEN_ANSWERS)]
        ranked = sorted(answers, key=lambda answer: _reward(request, answer))
        pairs.append((ranked[-1], ranked[0]))
    return pairs


@dataclass(frozen=True)
class TopicReward:
    """The reward R of this module's docstring, behind the interface of `qrpo_lib.rewards.base`.

    length_bonus: added to s for each content word, so that a reward has a length bias of known size.
    """

    length_bonus: float = 0.0

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Float32 rewards (n,) of n completions of n requests; positive, 1 for an answer without content words."""
        pairs = zip(prompts, completions, strict=True)
        return np.array([_reward(*pair, self.length_bonus) for pair in pairs], dtype=np.float32)


class Topics(Task):
    """The generated chat task of a profile."""

    def prompts(self, seed: int) -> list[Prompt]:
        """Different requests, in the order of the splits."""
        return in_splits(requests(generated_prompts(self.settings), seed), self.settings)

    def demonstrations(self, seed: int) -> list[Demonstration]:
        """The pairs of a better writer."""
        prompts = self.prompts(seed)
        written = written_pairs([prompt.text for prompt in prompts], seed)
        return [Demonstration(prompt.id, *pair) for prompt, pair in zip(prompts, written, strict=True)]

    def prompt_parameters(self) -> dict[str, Any]:
        """Without the length bonus, which is the reward's."""
        return self.settings.model_dump(exclude={"length_bonus"})

    def reward(self) -> TopicReward:
        """The reward in closed form."""
        return TopicReward(self.settings.length_bonus)


def _reward(request: str, answer: str, length_bonus: float = 0.0) -> float:
    vectors = _vectors()
    subject = _unit(np.sum([vectors[word] for word in _words(request) if word in vectors], axis=0))
    content = [word for word in _words(answer) if word in vectors]
    relevance = sum(float(vectors[word] @ subject) for word in sorted(set(content)))
    score = relevance / (len(content) + _SHRINKAGE) + (length_bonus - _COST_OF_A_WORD) * len(content)
    return float(np.exp(_STEEPNESS * score))


def _answer(generator: np.random.Generator, topic: str, tone: str, relevances: tuple[float, float] = _RELEVANCE) -> str:
    relevance = generator.uniform(*relevances)
    sentences = min(int(generator.geometric(1 / _MEAN_SENTENCES)), _MOST_SENTENCES)
    return " ".join(_sentence(generator, topic, tone, relevance) for _ in range(sentences))


def _sentence(generator: np.random.Generator, topic: str, tone: str, relevance: float) -> str:
    def pick(kind: str) -> str:
        source = topic if generator.random() < relevance else generator.choice(list(_TOPICS))
        return str(generator.choice(getattr(_lexicon()[source], kind)))

    adverb_tone = tone if generator.random() < relevance else generator.choice(list(_TONES))
    adverb = generator.choice(_TONES[adverb_tone].split())
    return f"The {pick('adjectives')} {pick('nouns')} {pick('verbs')} {adverb}."


def _random_subject(generator: np.random.Generator) -> tuple[str, str]:
    return str(generator.choice(list(_TOPICS))), str(generator.choice(list(_TONES)))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
