"""Rewards of completions: objects with `score(prompts, completions)`, texts in, float32 out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from qrpo_lib import pretrained

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

        folder = pretrained.minilm_folder()
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


class SequenceClassifierReward:
    """A reward model with one output, such as ArmoRM: the chat of prompt and completion, cut at `max_tokens`.

    The paper cuts at 2,048 tokens (App. L.4). `dtype` is a torch dtype's name, or "auto" for the file's own;
    `remote_code` allows a model that brings its own code. Raises ValueError for a model with several outputs.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        max_tokens: int = 2048,
        batch_size: int = 16,
        dtype: str = "auto",
        remote_code: bool = False,
    ):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._model = AutoModelForSequenceClassification.from_pretrained(
            model, trust_remote_code=remote_code, dtype=dtype
        ).eval()
        self._max_tokens, self._batch_size = max_tokens, batch_size

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Float32 rewards (n,). Chats of similar length share a batch."""
        import torch

        _check(prompts, completions)
        chats = [self._chat_ids(*pair) for pair in zip(prompts, completions, strict=True)]
        order = sorted(range(len(chats)), key=lambda i: (len(chats[i]), chats[i]))
        rewards = np.empty(len(chats), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), self._batch_size):
                some = order[start : start + self._batch_size]
                batch = self._tokenizer.pad({"input_ids": [chats[i] for i in some]}, return_tensors="pt")
                output = self._model(**batch.to(self._model.device))
                # ArmoRM's logits are its many objectives; its one reward is called score.
                scores = output.score if hasattr(output, "score") else output.logits
                if scores.numel() != len(some):
                    outputs = scores.numel() // len(some)
                    raise ValueError(f"The reward model gives {outputs} outputs a chat; choose one that gives one.")
                rewards[some] = scores.float().reshape(len(some)).cpu().numpy()
        return rewards

    def _chat_ids(self, prompt: str, completion: str) -> list[int]:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        ids = self._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        return ids[: self._max_tokens]
