"""Prompts and answers as token ids, by the tokenizer's chat template.

A prompt is a text: a request of one turn, or what `conversations.encoded` makes of a conversation or of a text that is
to be continued as it is.
"""

from __future__ import annotations

from typing import Any

from qrpo_lib.training import conversations
from qrpo_lib.training.conversations import TODAY as TODAY
from qrpo_lib.training.conversations import UnusableAnswer as UnusableAnswer
from qrpo_lib.training.conversations import applied as applied


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """A prompt as the token ids that a completion continues: the chat template up to the assistant's turn."""
    return conversations.prompt_ids(tokenizer, conversations.decoded(text))


def completion_ids(tokenizer: Any, prompt: str, completion: str) -> list[int]:
    """A written answer as the token ids that follow `prompt_ids`, with one end-of-sequence token, the last.

    Raises UnusableAnswer for one in which the end-of-sequence token is written out, `conversations.TemplateError` for a
    template whose turn does not end with it.
    """
    ends = conversations.end_tokens(tokenizer)
    return conversations.completion_ids(tokenizer, conversations.decoded(prompt), completion, ends)
