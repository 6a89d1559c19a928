"""The generated code task of the `tiny` profile: functions of two small numbers, asked for in English, judged by tests.

A request states a function with two cases ("Write f(a, b) that returns a plus 3 if b is at least four, otherwise a
times b."); an answer is a Python function in a code block. The reward is the share of the request's 24 tests that the
function passes when it is run (`qrpo_lib.rewards.tests`). The request alone determines the tests.

Partial credit is common. Half of the tests lie on each side of the condition and some at its boundary, so a function
that is right in one case passes at least that half, one with > for >= fails only at the boundary, and a wrong variable
is right wherever a = b. What returns nothing in a case fails its tests only.

Two problems are the same if their functions agree on the whole grid of inputs. Prompts (`requests`) are different
problems, and none of them is in the texts that the policy is pretrained and instruction-tuned on (`documents`,
`conversations`).
"""

from __future__ import annotations

import operator
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from qrpo_lib.rewards.tests import TestsReward
from qrpo_lib.tasks.base import Demonstration, Prompt, Task, generated_prompts, in_splits

_COMPARISONS = {
    "is more than": (">", operator.gt),
    "is less than": ("<", operator.lt),
    "is at least": (">=", operator.ge),
    "is at most": ("<=", operator.le),
}
_ARITHMETIC = {"plus": ("+", operator.add), "minus": ("-", operator.sub), "times": ("*", operator.mul)}
_VARIABLES = ("a", "b")
_CONSTANTS = tuple("23456789")
# Each side of a comparison with one of these has at least 20 of the 100 inputs. A condition's number is a word, so that
# a small policy can tell it from the other numbers of a request.
_THRESHOLDS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7"}
_REQUESTS = (
    "Write f(a, b) that returns {then} if {condition}, otherwise {otherwise}.",
    "Write f(a, b): if {condition}, return {then}, else {otherwise}.",
    "I need a function f(a, b). It gives {then} when {condition} and {otherwise} in all other cases.",
    "Code f(a, b): {then} if {condition}, {otherwise} if not.",
)
_DOCUMENT = "# {then} if {condition}, otherwise {otherwise}\n"
_FUNCTIONS = (
    "def f(a, b):\n    if {condition}:\n        return {then}\n    return {otherwise}\n",
    "def f(a, b):\n    return {then} if {condition} else {otherwise}\n",
    "def f(a, b):\n    x = {otherwise}\n    if {condition}:\n        x = {then}\n    return x\n",
    "def f(a, b):\n    # two cases\n"
    "    if {condition}:\n        return {then}\n    else:\n        return {otherwise}\n",
)
_OPENINGS = ("", "Here is the function.\n", "Two cases: one if {condition}, one if not.\n")
_GRID = np.array(list(product(range(10), repeat=2)))
_TESTS = 24
_AT_BOUNDARY = 3  # tests on each side of the condition
# One problem in four is kept for prompts, by its checksum.
_KEPT = 4
_MOST_REQUESTS = 10_000
# An instruction example has every part right with a probability of its own, so that a policy trained on them is varied.
_CARE = (0.75, 1.0)
_UNFINISHED = 0.04  # share of instruction examples that stop in the middle


@dataclass(frozen=True)
class _Term:
    """Two operands and what is done with them, such as "a", "plus", "3"."""

    left: str
    word: str
    right: str

    @property
    def words(self) -> str:
        return f"{self.left} {self.word} {self.right}"

    @property
    def code(self) -> str:
        return f"{self.left} {(_COMPARISONS | _ARITHMETIC)[self.word][0]} {_THRESHOLDS.get(self.right, self.right)}"

    def value(self, a, b):
        """Its value, or for a condition its truth, at integers or arrays of integers."""
        inputs = {"a": a, "b": b}
        left = inputs[self.left]
        right = inputs[self.right] if self.right in inputs else int(_THRESHOLDS.get(self.right, self.right))
        return (_COMPARISONS | _ARITHMETIC)[self.word][1](left, right)


@dataclass(frozen=True)
class _Problem:
    condition: _Term
    then: _Term
    otherwise: _Term

    def filled(self, template: str, form: str) -> str:
        """The template with each part as "words" or as "code"."""
        parts = ("condition", "then", "otherwise")
        return template.format(**{part: getattr(getattr(self, part), form) for part in parts})

    @property
    def values(self) -> np.ndarray:
        """Of all inputs of the grid."""
        a, b = _GRID.T
        return np.where(self.condition.value(a, b), self.then.value(a, b), self.otherwise.value(a, b))

    @property
    def identity(self) -> bytes:
        return self.values.astype("<i2").tobytes()


def requests(count: int, seed: int) -> list[str]:
    """`count` requests, each for another problem. Raises ValueError for more than 10,000."""
    if count > _MOST_REQUESTS:
        raise ValueError(f"The expressions task has {_MOST_REQUESTS} requests; the profile asks for {count} prompts.")
    generator = np.random.default_rng(seed)
    texts = {}
    while len(texts) < count:
        problem = _problem(generator, kept=True)
        texts.setdefault(problem.identity, problem.filled(_pick(generator, _REQUESTS), "words"))
    return list(texts.values())


def tests(request: str) -> list[str]:
    """The 24 tests of a request, such as "assert f(3, 5) == 15". Raises ValueError for a text that is no request."""
    problem = _read(request)
    generator = np.random.default_rng(zlib.crc32(request.encode()))
    order = generator.permutation(len(_GRID))
    holds = problem.condition.value(*_GRID[order].T)
    chosen = [i for side in (order[holds], order[~holds]) for i in _boundary_first(problem, side)[: _TESTS // 2]]
    values = problem.values
    return [f"assert f({_GRID[i, 0]}, {_GRID[i, 1]}) == {values[i]}" for i in chosen]


def solution(request: str) -> str:
    """An answer to a request that passes all its tests. Raises ValueError for a text that is no request."""
    return f"```python\n{_read(request).filled(_FUNCTIONS[0], 'code')}```"


def documents(count: int, seed: int) -> list[str]:
    """Plain text for pretraining: functions without mistakes, each under a comment that says what it returns."""
    generator = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        problem = _problem(generator, kept=False)
        texts.append(problem.filled(_DOCUMENT, "words") + problem.filled(_pick(generator, _FUNCTIONS), "code"))
    return texts


def conversations(count: int, seed: int) -> list[tuple[str, str]]:
    """(request, answer) pairs for instruction tuning. Answers are right to a random degree; a few do not end."""
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        problem = _problem(generator, kept=False)
        request = problem.filled(_pick(generator, _REQUESTS), "words")
        pairs.append((request, _answer(generator, problem)))
    return pairs


class Expressions(Task):
    """The generated code task of a profile."""

    def prompts(self, seed: int) -> list[Prompt]:
        """Different requests, in the order of the splits."""
        return in_splits(requests(generated_prompts(self.settings), seed), self.settings)

    def demonstrations(self, seed: int) -> list[Demonstration]:
        """A right answer to each request."""
        return [Demonstration(prompt.id, solution(prompt.text)) for prompt in self.prompts(seed)]

    def prompt_parameters(self) -> dict[str, Any]:
        """Without the rule by which code is found, which is the reward's."""
        return self.settings.model_dump(exclude={"extraction"})

    @cached_property
    def _judge(self) -> TestsReward:
        return TestsReward(tests, extraction=self.settings.extraction)

    def reward(self) -> TestsReward:
        """The share of tests passed; one judge a process, which remembers the answers that it has run."""
        return self._judge


def _problem(generator: np.random.Generator, *, kept: bool) -> _Problem:
    """A random problem that is kept for prompts, or one that is not."""
    while True:
        condition = _term(generator, _COMPARISONS)
        problem = _Problem(condition, _term(generator, _ARITHMETIC), _term(generator, _ARITHMETIC))
        if (zlib.crc32(problem.identity) % _KEPT == 0) == kept and problem.then != problem.otherwise:
            return problem


def _term(generator: np.random.Generator, words: dict) -> _Term:
    """A variable, a word, and the other variable or a constant."""
    left = _pick(generator, _VARIABLES)
    others = [name for name in _VARIABLES if name != left]
    constants = _THRESHOLDS if words is _COMPARISONS else _CONSTANTS
    return _Term(left, _pick(generator, [*words]), _pick(generator, [*others, *constants]))


def _pick(generator: np.random.Generator, options: Sequence[str]) -> str:
    return options[generator.integers(len(options))]  # many times faster than generator.choice


def _read(request: str) -> _Problem:
    """The problem that a request states."""
    for template in _REQUESTS:
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\w+ [a-z ]+ \\w+)", re.escape(template))
        match = re.fullmatch(pattern, request)
        if match:
            return _Problem(**{part: _Term(*re.split(r" (.+) ", words)) for part, words in match.groupdict().items()})
    raise ValueError(f"This is not a request of the expressions task: {request!r}.")


def _boundary_first(problem: _Problem, inputs: np.ndarray) -> np.ndarray:
    """Inputs (their places in the grid), beginning with three of those nearest to where the condition changes."""
    gap = abs(_Term(problem.condition.left, "minus", problem.condition.right).value(*_GRID[inputs].T))
    nearest = np.flatnonzero(gap == gap.min())[:_AT_BOUNDARY]
    return np.concatenate([inputs[nearest], np.delete(inputs, nearest)])


def _answer(generator: np.random.Generator, problem: _Problem) -> str:
    care = generator.uniform(*_CARE)

    def attempt(term: _Term, words: dict) -> _Term:
        other = _term(generator, words)
        left, word, right = (
            mine if generator.random() < care else its
            for mine, its in zip((term.left, term.word, term.right), (other.left, other.word, other.right), strict=True)
        )
        return _Term(left, word, right)

    tried = _Problem(
        attempt(problem.condition, _COMPARISONS),
        attempt(problem.then, _ARITHMETIC),
        attempt(problem.otherwise, _ARITHMETIC),
    )
    opening = tried.filled(_pick(generator, _OPENINGS), "words")
    answer = f"{opening}```python\n{tried.filled(_pick(generator, _FUNCTIONS), 'code')}```"
    if generator.random() < _UNFINISHED:
        return answer[: generator.integers(1, len(answer) - 3)]
    return answer
