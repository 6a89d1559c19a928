"""The reward of code: the share of a problem's tests that an answer passes when it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from qrpo_lib.rewards import code_extraction
from qrpo_lib.rewards.base import check_lengths


class TestsReward:
    """The share of a problem's tests that the code in a completion passes when it is run, in [0, 1].

    The reward of the code task (App. L.4). The same code in answers to the same prompt is run once, in all calls
    together.

    Parameters
    ----------
    tests_of: a prompt's tests.
    setup_of: the source that runs before an answer's code.
    extraction: by which rule an answer has code (`qrpo_lib.rewards.code_extraction`); without any it scores 0.
    limits: as of `sandbox.run_many`; the sandbox's own by default, of which one is to run the first 100 tests at most.
    """

    __test__ = False  # pytest takes every name that begins with Test for its own

    def __init__(
        self,
        tests_of: Callable[[str], Sequence[str]],
        setup_of: Callable[[str], str] = lambda prompt: "",
        *,
        extraction: code_extraction.Extraction = "paper",
        **limits: Any,
    ):
        self._tests_of, self._setup_of, self._extraction, self._limits = tests_of, setup_of, extraction, limits
        self._rates: dict[tuple[str, str], float] = {}

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Float32 rewards (n,)."""
        from qrpo_lib.rewards.sandbox import sandbox

        check_lengths(prompts, completions)
        pairs = list(zip(prompts, completions, strict=True))
        answers = [(prompt, self._code(prompt, completion, self._extraction)) for prompt, completion in pairs]
        new = sorted({answer for answer in answers if answer[1] is not None and answer not in self._rates})
        jobs = [(sandbox.Program(code, self._setup_of(prompt)), self._tests_of(prompt)) for prompt, code in new]
        results = sandbox.run_many(jobs, **self._limits)
        self._rates.update((answer, result.pass_rate) for answer, result in zip(new, results, strict=True))
        return np.array([self._rates.get(answer, 0.0) for answer in answers], dtype=np.float32)

    def forms_differ(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Bool (n,): whether the authors' rule and the lenient one find different code in a completion."""
        check_lengths(prompts, completions)
        pairs = zip(prompts, completions, strict=True)
        return np.array([self._code(*pair, "paper") != self._code(*pair, "lenient") for pair in pairs], dtype=bool)

    def _code(self, prompt: str, completion: str, extraction: code_extraction.Extraction) -> str | None:
        names = _names(tuple(self._tests_of(prompt))) if extraction == "lenient" else ()
        return code_extraction.extract(completion, names, extraction)


@lru_cache(maxsize=1 << 12)
def _names(tests: tuple[str, ...]) -> frozenset[str]:
    """What of a solution its tests call."""
    from qrpo_lib.rewards.sandbox import checks

    return checks.split(tests[0]).names
