"""Prompts and answers as token ids, by the tokenizer's chat template."""

from __future__ import annotations

from typing import Any

from qrpo_lib.training.conversations import TODAY as TODAY
from qrpo_lib.training.conversations import UnusableAnswer as UnusableAnswer
from qrpo_lib.training.conversations import applied as applied


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """A request as the token ids that a completion continues: the chat template up to the assistant's turn."""
    message = [{"role": "user", "content": text}]
    return applied(tokenizer, message, add_generation_prompt=True, tokenize=True, return_dict=False)


def completion_ids(tokenizer: Any, prompt: str, completion: str) -> list[int]:
    """A written answer as the token ids that follow `prompt_ids`, with one end-of-sequence token, the last.

    The ids are those of the chat template with the answer in its place. Where a token would span the border between
    prompt and answer, the answer is tokenised by itself: a sampled completion cannot reach into its prompt.

    Raises UnusableAnswer for one in which the end-of-sequence token is written out.
    """
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    start = prompt_ids(tokenizer, prompt)
    whole = applied(tokenizer, messages, tokenize=True, return_dict=False)
    ids = whole[len(start) :]
    if whole[: len(start)] != start:
        before = applied(tokenizer, messages[:1], add_generation_prompt=True, tokenize=False)
        text = applied(tokenizer, messages, tokenize=False)
        if not text.startswith(before):
            raise ValueError("The chat template writes a request in another way once it is answered.")
        ids = tokenizer(text[len(before) :], add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    if ids.count(end) > 1 or (end in ids and tokenizer.decode(ids[ids.index(end) + 1 :]).strip()):
        raise UnusableAnswer("The answer contains the end-of-sequence token: it would end there.")
    return [*(ids[: ids.index(end)] if end in ids else ids), end]
