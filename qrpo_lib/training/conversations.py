"""Prompts and completions as token ids: plain text, or conversations by the tokenizer's chat template.

A prompt is a text, which the completion continues, or a list of messages `{"role": ..., "content": ...}` (system
messages and several turns included), which the assistant's next turn answers. A completion is a text, or the list of
that one turn.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from qrpo_lib.runs.errors import InputError

# Templates such as Llama 3's print today's date. Here a day has to stand for all days, or the same prompt would be
# another one tomorrow: that which Llama 3's template itself takes where it is told none.
TODAY = datetime(2024, 7, 26)
_CLOCK = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


class UnusableAnswer(ValueError):
    """A written answer cannot be encoded as a completion by this tokenizer."""


class TemplateError(InputError):
    """The chat template writes conversations in a way that completions cannot be taken from."""


def applied(tokenizer: Any, conversation: list, **options: Any) -> Any:
    """The tokenizer's `apply_chat_template`, with the template's clock stopped at `TODAY`.

    Raises ValueError for a template that asks for the time in a format that it computes.
    """
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        options["chat_template"] = _CLOCK.sub(lambda found: repr(TODAY.strftime(found[2])), template)
        if "strftime_now(" in options["chat_template"].replace(" ", ""):
            raise ValueError("The chat template prints the time in a way that cannot be fixed: write a date into it.")
    return tokenizer.apply_chat_template(conversation, **options)


def is_conversation(value: Any) -> bool:
    """Whether this is a list of messages, not a text."""
    return not isinstance(value, str) and len(value) > 0 and isinstance(value[0], Mapping) and "role" in value[0]


# Prompts are kept as texts, in files and in the suite's steps. A text without a mark is a request of one turn.
_OF_MESSAGES, _PLAIN = "\ue000", "\ue001"


def encoded(prompt: str | Sequence[Mapping]) -> str:
    """A prompt as one text that `decoded` gives back: a single request of a user's as it is, all others with a mark."""
    if isinstance(prompt, str):
        return _PLAIN + prompt
    messages = [{name: value for name, value in message.items() if value is not None} for message in prompt]
    single = len(messages) == 1 and set(messages[0]) == {"role", "content"} and messages[0]["role"] == "user"
    if single and isinstance(messages[0]["content"], str) and messages[0]["content"][:1] not in (_OF_MESSAGES, _PLAIN):
        return messages[0]["content"]
    return _OF_MESSAGES + json.dumps(messages, sort_keys=True, ensure_ascii=False)


def decoded(text: str) -> str | list[dict[str, Any]]:
    """The prompt that a text stands for: messages, or a text that a completion continues."""
    if text.startswith(_OF_MESSAGES):
        return json.loads(text[1:])
    return text[1:] if text.startswith(_PLAIN) else [{"role": "user", "content": text}]


def readable(text: str) -> str:
    """The prompt as plain text, for people and encoders: the request, or the turns of a conversation line by line."""
    prompt = decoded(text)
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def text_of(completion: str | Sequence[Mapping]) -> str:
    """The text of a completion. Raises UnusableAnswer for a list that is not one turn of the assistant's, in words."""
    if isinstance(completion, str):
        return completion
    if len(completion) != 1 or completion[0].get("role") != "assistant":
        raise UnusableAnswer("A completion must be a text or the list of one message of the assistant's.")
    if not isinstance(completion[0].get("content"), str):
        raise UnusableAnswer("The message of the assistant's has no text as its content.")
    return completion[0]["content"]


def as_completion(prompt: str | Sequence[Mapping], text: str) -> str | list[dict[str, str]]:
    """A sampled text as the completion of a prompt, in the prompt's form."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def end_tokens(tokenizer: Any, generation_config: Any = None) -> tuple[int, ...]:
    """The tokens that end a completion: the tokenizer's, and those of the model's generation configuration.

    Raises TemplateError where there is none.
    """
    of_model = getattr(generation_config, "eos_token_id", None)
    of_model = [of_model] if isinstance(of_model, int) else list(of_model or ())
    found = [token for token in (tokenizer.eos_token_id, *of_model) if token is not None]
    if not found:
        raise TemplateError("The tokenizer has no end-of-sequence token: set tokenizer.eos_token.")
    return tuple(dict.fromkeys(found))


def ending_turns(tokenizer: Any, generation_config: Any = None) -> Any:
    """The tokenizer, with the token that ends an assistant's turn as its end-of-sequence token: where sampling stops.

    A copy where that is another token of the generation configuration, as in models whose tokenizer says the end of a
    document; the tokenizer itself otherwise. Raises TemplateError where a turn ends with no end token of the model.
    """
    request, answer = [{"role": "user", "content": "Hello"}], "Hello"
    end = completion_ids(tokenizer, request, answer, end_tokens(tokenizer, generation_config))[-1]
    if end == tokenizer.eos_token_id:
        return tokenizer
    changed = copy.deepcopy(tokenizer)
    changed.eos_token = tokenizer.convert_ids_to_tokens(end)
    return changed


def prompt_ids(tokenizer: Any, prompt: str | Sequence[Mapping], **options: Any) -> list[int]:
    """The token ids that a completion continues: of a text as it is, of messages up to the assistant's turn.

    `options` go to the chat template (`tools`, `enable_thinking`, ...).
    """
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    _check_conversation(tokenizer, prompt)
    return list(
        applied(tokenizer, list(prompt), add_generation_prompt=True, tokenize=True, return_dict=False, **options)
    )


def completion_ids(
    tokenizer: Any, prompt: str | Sequence[Mapping], completion: str | Sequence[Mapping], ends: Sequence[int], **options
) -> list[int]:
    """A written completion as the token ids that follow `prompt_ids`, with one end token, the last.

    The ids are those of the whole text with the completion in its place. Where a token would span the border, the
    completion is tokenised by itself: a sampled completion cannot reach into its prompt.

    Parameters
    ----------
    tokenizer: with a chat template, where the prompt is messages.
    prompt, completion: a text each, or messages each.
    ends: token ids that may end a turn.
    options: of the chat template.

    Raises
    ------
    UnusableAnswer
        An end token is written out in the completion.
    TemplateError
        The template's turn does not end with one of `ends`.
    """
    start = prompt_ids(tokenizer, prompt, **options)
    if isinstance(prompt, str):
        before, text = prompt, prompt + text_of(completion)
        whole = list(tokenizer(text)["input_ids"])
        # what the tokenizer itself puts behind every text
        trailing = len(tokenizer("")["input_ids"]) > 0 and whole[-1:] == tokenizer("")["input_ids"][-1:]
        if trailing and whole[-1] not in ends:
            raise TemplateError("The tokenizer ends every text with a special token that is no end-of-sequence token.")
        if trailing and start[-1:] == whole[-1:]:
            raise TemplateError("The tokenizer ends every prompt with an end-of-sequence token: no completion follows.")
    else:
        message = {"role": "assistant", "content": text_of(completion)}
        conversation = [*prompt, message]
        whole = list(applied(tokenizer, conversation, tokenize=True, return_dict=False, **options))
        before = applied(tokenizer, list(prompt), add_generation_prompt=True, tokenize=False, **options)
        text = applied(tokenizer, conversation, tokenize=False, **options)
    ids = whole[len(start) :]
    if whole[: len(start)] != start:
        if not text.startswith(before):
            raise TemplateError(
                "The chat template writes the prompt in another way once it is answered, as templates with <think> do: "
                "give it options (`chat_template_kwargs`, such as enable_thinking = false) or a template with which "
                "the prompt is the beginning of the whole."
            )
        ids = list(tokenizer(text[len(before) :], add_special_tokens=False)["input_ids"])
    return _ended(tokenizer, ids, ends, of_template=not isinstance(prompt, str))


def check_answers_begin(tokenizer: Any, prompt: str | Sequence[Mapping], **options: Any) -> None:
    """Raises TemplateError if the template leaves the header of the assistant's turn to the model that is sampled.

    What was sampled would begin with it, and what is in the data not.
    """
    if isinstance(prompt, str):
        return
    answer = "Hello"
    conversation = [*prompt, {"role": "assistant", "content": answer}]
    plain = [
        applied(tokenizer, list(prompt), add_generation_prompt=asked, tokenize=False, **options) for asked in (0, 1)
    ]
    whole = applied(tokenizer, conversation, tokenize=False, **options)
    header = whole[len(plain[0]) :].partition(answer)[0]
    if plain[0] == plain[1] and whole.startswith(plain[0]) and header.strip():
        raise TemplateError(
            f"The chat template has no generation prompt, so that a sampled answer would begin with {header!r}, the "
            "header of its turn: let the template write it where add_generation_prompt is set."
        )


def _ended(tokenizer: Any, ids: list[int], ends: Sequence[int], *, of_template: bool) -> list[int]:
    """The ids up to their first end token, which must be the last thing that they say."""
    first = next((place for place, token in enumerate(ids) if token in ends), None)
    if first is None:
        if of_template:
            shown = ", ".join(repr(tokenizer.decode([token])) for token in ends)
            raise TemplateError(
                f"The chat template does not end an answer with an end token of the model ({shown}), so what is "
                "sampled would run on: add the token that ends a turn to the generation configuration's eos_token_id, "
                "or make it the tokenizer's eos_token."
            )
        return [*ids, tokenizer.eos_token_id if tokenizer.eos_token_id is not None else ends[0]]
    rest = ids[first + 1 :]
    if any(token in ends for token in rest) or tokenizer.decode(rest).strip():
        raise UnusableAnswer("The answer contains an end-of-sequence token: it would end there.")
    return ids[: first + 1]


def _check_conversation(tokenizer: Any, prompt: Sequence[Mapping]) -> None:
    if tokenizer.chat_template is None:
        raise TemplateError(
            "The prompt is a conversation, but the tokenizer has no chat template: use an instruction-tuned model, set "
            "tokenizer.chat_template, or give prompts as plain texts."
        )
    if not is_conversation(prompt):
        raise UnusableAnswer("The prompt is neither a text nor a list of messages with role and content.")
    if prompt[-1]["role"] == "assistant":
        raise UnusableAnswer("The prompt ends with the assistant's turn: what is to be written must not have begun.")
