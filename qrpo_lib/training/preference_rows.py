"""Rows in TRL's forms, standard or conversational, as the rows of token ids that training takes (`samples`).

    pair       prompt, chosen, rejected; chosen_reward, rejected_reward, reference_rewards as far as a loss needs them
    pointwise  prompt, completion, reward, reference_rewards

`prompt` may be missing in conversational pairs whose sides hold the whole conversation: it is what they share. Optional
columns: `weight` (> 0), `tools` and `chat_template_kwargs` for the chat template. Rows that hold `prompt_ids` are taken
as they are. Other columns are left alone.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import conversations, row_files, samples

REWARDS = {samples.PAIR: ("chosen_reward", "rejected_reward"), samples.POINTWISE: ("reward",)}
TEXTS = {samples.PAIR: ("chosen", "rejected"), samples.POINTWISE: ("completion",)}
REFERENCE_REWARDS = "reference_rewards"
_IMAGES = ("image", "images")
_NESTED = (*row_files.TEXT_COLUMNS, "tools", "chat_template_kwargs")  # columns that may hold objects in lists
_WRITTEN = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")  # of a message, by templates
# What `apply_chat_template` is told here, so that no row can say it.
_NOT_OPTIONS = ("conversation", "messages", "tokenizer", "tokenize", "add_generation_prompt", "continue_final_message")
_NOT_OPTIONS += ("return_dict", "return_tensors", "return_assistant_tokens_mask", "padding", "truncation", "max_length")


class Rows(NamedTuple):
    """Tokenised rows, where each came from, and what was left out or cut."""

    rows: list[dict[str, Any]]
    sources: list[int]  # of each row: its place in what was given
    counts: dict[str, int]  # "left out", "cut"
    reason: str = ""  # why the first of the rows that are left out is

    def warning(self, name: str) -> str | None:
        """One sentence about what is not as it was given, or None."""
        left_out, cut = self.counts["left out"], self.counts["cut"]
        parts = [f"{left_out} cannot be used and {_are(left_out)} left out ({self.reason})"] if left_out else []
        parts += [f"{cut} {_are(cut)} cut at max_length or the model's context"] if cut else []
        return f"Of the {name} rows, {' and '.join(parts)}." if parts else None


def load(source: Any, name: str) -> Sequence[Mapping]:
    """The rows of a dataset, a list of dictionaries, a file (.jsonl, .json, .csv, .parquet), a folder or a hub id.

    Raises InputError for what is none of these.
    """
    from datasets import Dataset, DatasetDict, IterableDataset, load_dataset, load_from_disk

    if isinstance(source, IterableDataset):
        raise InputError(
            f"{name} is a streaming dataset: take the rows you want, Dataset.from_list(list({name}.take(n)))."
        )
    if isinstance(source, DatasetDict):
        raise InputError(
            f"{name} is a dataset with splits ({', '.join(source)}): pass one, {name}[{next(iter(source))!r}]."
        )
    if isinstance(source, Dataset):
        # rows of plain values, not of tensors or frames; a transformation of the user's own is the data
        return source if source.format["type"] == "custom" else _as_written(source.with_format(None))
    if isinstance(source, str | Path):
        path = Path(source)
        if not str(source).strip():
            raise InputError(f"{name} names no file, folder or dataset of the hub: it is an empty text.")
        try:
            if path.is_dir() and (path / "dataset_info.json").exists():
                found = load_from_disk(str(path))
            elif path.suffix.lower() in row_files.ENDINGS:
                found = row_files.read(path, name)
            elif path.is_file():
                raise InputError(
                    f"{name}: {source} cannot be read as rows by its ending. Files end in "
                    f"{', '.join(row_files.ENDINGS)}; unpack one that is compressed."
                )
            else:
                found = load_dataset(str(source), split="train")
        except InputError:
            raise
        except Exception as error:  # whatever loading scripts, parsers and the network come up with
            said = " ".join(str(error).split())[:200]
            raise InputError(
                f"{name}: {source} cannot be read as rows ({type(error).__name__}: {said}). Files end in "
                f"{', '.join(row_files.ENDINGS)}; everything else is a folder or a hub id."
            ) from error
        return _as_written(found) if isinstance(found, Dataset) else found
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise InputError(f"{name} must be a dataset, a list of rows, a file or a hub id, not {type(source).__name__}.")
    rows = list(source)
    other = next((row for row in rows if not isinstance(row, Mapping)), None)
    if other is not None:
        raise InputError(
            f"{name} must hold dictionaries, one a row, not {type(other).__name__}: of a data frame, pass "
            "Dataset.from_pandas(frame)."
        )
    unnamed = next((column for row in rows for column in row if not isinstance(column, str)), None)
    if unnamed is not None:
        raise InputError(
            f"{name} has a column called {unnamed!r}: names of columns are texts, as in {{'prompt': ...}}."
        )
    return [{column: _listed(value) for column, value in row.items()} if _has_arrays(row) else row for row in rows]


def _as_written(data: Any) -> Any:
    """A `datasets.Dataset` without the None that Arrow puts into objects: it gives those of a column the same keys."""
    from datasets import Value

    nested = [name for name, kind in data.features.items() if name in _NESTED and not isinstance(kind, Value)]
    if not nested:
        return data
    return data.with_transform(lambda rows: {**rows, **{name: _without_none(rows[name]) for name in nested}})


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):  # a message that calls tools has the content None
        return {key: _without_none(one) for key, one in value.items() if one is not None or key == "content"}
    return [_without_none(one) for one in value] if isinstance(value, list) else value


def _has_arrays(row: Mapping) -> bool:
    return any(isinstance(row.get(name), np.ndarray) for name in _NESTED)


def _listed(value: Any) -> Any:
    """Lists where pandas has arrays."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _listed(one) for key, one in value.items()}
    return [_listed(one) for one in value] if isinstance(value, list) else value


def sides(row: Mapping, name: str = "train") -> tuple[str, ...]:
    """The sides of a row in any form, as in `samples`. Raises InputError that says which columns are missing."""
    if _has(row, "prompt_ids"):
        return samples.POINTWISE if _has(row, "completion_ids") else samples.PAIR
    if _has(row, "chosen", "rejected"):
        return samples.PAIR
    if _has(row, "completion", "prompt"):
        return samples.POINTWISE
    hint = ""
    if "messages" in row or "text" in row:
        hint = "; these look like data for fine-tuning (SFT), without a reward"
    columns = ", ".join(column for column in row if _has(row, column)) or "(none)"
    raise InputError(
        f"The {name} rows have the columns {columns}{hint}: QRPO takes pairs (prompt, chosen, rejected) or single "
        "completions (prompt, completion)."
    )


def tokenised(
    data: Sequence[Mapping], tokenizer: Any, ends: Sequence[int], *, max_length: int | None, name: str = "train"
) -> Rows:
    """The rows as token ids, with the numbers that they hold; reference rewards are `ref_rewards` from here on.

    Parameters
    ----------
    data: rows, all of one form.
    tokenizer: with the chat template that conversational rows need.
    ends: the tokens that end a completion (`conversations.end_tokens`).
    max_length: completions are cut so that a prompt with its completion has no more tokens (None: never cut).
    name: of the data, for errors.

    Raises
    ------
    InputError
        There are no rows, no usable ones, or some of another form; names the row.
    """
    if not len(data):
        raise InputError(f"There are no {name} rows.")
    of = sides(data[0], name)
    found, sources, counts, first_reason = [], [], Counter({"left out": 0, "cut": 0}), ""
    tried: set[tuple] = set()  # kinds of messages, by role and place
    for number, row in enumerate(data):
        try:
            if sides(row, name) != of:
                raise InputError("it has another form than the first row: pairs and single completions do not mix.")
            one = _tokens(row, of, tokenizer, ends) | _numbers(row, of)
            if not _has(row, "prompt_ids"):
                check_template(tokenizer, row, of, tried)
        except conversations.UnusableAnswer as error:
            counts["left out"] += 1
            first_reason = first_reason or f"{name} row {number}: {error}"
            continue
        except jinja2.TemplateError as error:  # which templates raise for roles that they do not take
            raise conversations.TemplateError(f"{name} row {number}: the chat template refuses it ({error}).") from None
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            kind = type(error) if isinstance(error, InputError) else InputError
            raise kind(f"{name} row {number}: {error}") from None
        room = None if max_length is None else max_length - len(one["prompt_ids"])
        if room is not None and room < 1:
            counts["left out"] += 1
            said = f"its prompt has {len(one['prompt_ids'])} tokens, and max_length or the context is {max_length}."
            first_reason = first_reason or f"{name} row {number}: {said}"
            continue
        for side, column in zip(of, map(samples.ids_column, of), strict=True):
            if room is not None and len(one[column]) > room:
                _check_uncut(one, f"ref_{side}logps", f"{name} row {number}", max_length)
                counts["cut"] += 1
                one[column] = one[column][:room]
        found.append(one)
        sources.append(number)
    if not found:
        raise InputError(f"None of the {len(data)} {name} rows can be used. {first_reason}")
    return Rows(found, sources, dict(counts), first_reason.removesuffix("."))


def _check_uncut(row: Mapping, column: str, said: str, max_length: int | None) -> None:
    """Raises InputError for a row whose completion is cut, and that holds the log-probability of the whole."""
    if column in row:
        raise InputError(
            f"{said}: its {column} is of the whole completion, which is cut at {max_length} tokens: leave the column "
            "out, so that it is computed, or give a larger max_length."
        )


def check_template(tokenizer: Any, row: Mapping, of: tuple[str, ...], tried: set[tuple]) -> None:
    """Whether the chat template writes all of a row's conversation.

    Parameters
    ----------
    tokenizer: of the model.
    row: with a prompt and its completions.
    of: the row's completions, `samples.PAIR` or `samples.POINTWISE`.
    tried: kinds of turns that other rows have shown to be written, to which this row's are added. Answers are all
        looked for, but for their white space: some templates leave out what stands before </think>.

    Raises
    ------
    TemplateError
        It leaves out a message, or part of an answer.
    """
    prompt, options = prompt_of(row), template_options(row)
    if isinstance(prompt, str):
        return
    if not tried:
        conversations.check_answers_begin(tokenizer, prompt, **options)
    for place, message in enumerate(prompt):
        kind, content = (message["role"], place == 0, place == len(prompt) - 1), message.get("content")
        # of a turn that calls tools, some templates write the call alone
        if kind not in tried and isinstance(content, str) and content.strip() and not message.get("tool_calls"):
            tried.add(kind)
            _check_told(tokenizer, prompt, place, options)
    for text in TEXTS[of]:
        answer = conversations.text_of(completion_of(row, text))
        turns = [*prompt, {"role": "assistant", "content": answer}]
        written = conversations.applied(tokenizer, turns, tokenize=False, **options)
        if "".join(answer.split()) not in "".join(written.split()):
            raise conversations.TemplateError(
                f"The chat template does not write all of {text}, such as what stands before </think>: take that out "
                "of it, or use a template that writes it."
            )


def _check_told(tokenizer: Any, prompt: list[Mapping], place: int, options: Mapping[str, Any]) -> None:
    """Raises TemplateError if the template leaves out the message at this place."""
    message = prompt[place]
    changed = [*prompt[:place], {**message, "content": message["content"] + " x"}, *prompt[place + 1 :]]
    written = [conversations.applied(tokenizer, one, tokenize=False, **options) for one in (prompt, changed)]
    if written[0] == written[1]:
        raise conversations.TemplateError(
            f"The chat template leaves out the message of the role {message['role']} at place {place}, which the model "
            "would never see: put it into the request, or use a template that writes it."
        )


def prompt_of(row: Mapping) -> str | list[Mapping]:
    """The prompt of a row; of a conversational pair without one, what its sides share.

    Raises InputError for what is neither a text nor messages of text.
    """
    seen = next((name for name in _IMAGES if _has(row, name) and row[name] != []), None)
    if seen is not None:
        raise InputError(f"it has {seen}, which no model here is shown: leave the column out if the texts are enough.")
    if _says_its_prompt(row):
        return _in_form("prompt", row["prompt"])
    if not _has(row, "chosen"):
        raise InputError("it has no prompt as a text or messages, only token ids.")
    return _in_form("chosen", row["chosen"])[: _shared_turns(row)]


def completion_of(row: Mapping, text: str) -> str | list[Mapping]:
    """The completion in column `text`; of a conversational pair without a prompt, what follows the shared turns.

    Raises InputError for what is neither a text nor messages of text, or messages after a prompt that is a text;
    UnusableAnswer for answers that hold more than a text.
    """
    if not _has(row, text):
        raise InputError(f"it has no {text} as a text or a message, only token ids.")
    completion = _in_form(text, row[text])
    for message in () if isinstance(completion, str) else completion[-1:]:
        beside = next((name for name in _WRITTEN if message.get(name)), None)
        if beside is not None:
            raise conversations.UnusableAnswer(f"The answer has {beside}, and answers are trained on as texts alone.")
    if not _says_its_prompt(row):
        return completion[_shared_turns(row) :]
    if isinstance(row["prompt"], str) and not isinstance(completion, str):
        raise InputError(
            f"its prompt is a text, which a completion continues as it is, but {text} is a list of messages: make the "
            'prompt one too, [{"role": "user", "content": ...}].'
        )
    return completion


def template_options(row: Mapping) -> dict[str, Any]:
    """The options for the chat template that a row brings (`tools`, `chat_template_kwargs`), also as JSON text.

    Raises InputError for what are no options, or none that a row may set.
    """
    tools, options = _from_json(row, "tools"), _from_json(row, "chat_template_kwargs")
    if tools is not None and (isinstance(tools, str | Mapping) or not isinstance(tools, Iterable)):
        raise InputError(f"tools must be a list, not {_shown(tools)}.")
    if options is not None and not isinstance(options, Mapping):
        raise InputError(f"chat_template_kwargs must be an object with names and values, not {_shown(options)}.")
    unknown = [str(name) for name in options or () if not isinstance(name, str) or name in _NOT_OPTIONS]
    if unknown:
        raise InputError(f"chat_template_kwargs cannot set {', '.join(unknown)}: leave it out.")
    return ({"tools": tools} if tools else {}) | dict(options or {})


def _from_json(row: Mapping, name: str) -> Any:
    value = row.get(name)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise InputError(f"{name} is a text that is not JSON: {_shown(value)}.") from None


def _tokens(row: Mapping, of: tuple[str, ...], tokenizer: Any, ends: Sequence[int]) -> dict[str, Any]:
    if _has(row, "prompt_ids"):
        return {column: _ids(row, column) for column in ("prompt_ids", *map(samples.ids_column, of))}
    prompt, options = prompt_of(row), template_options(row)
    if not prompt:
        raise InputError("the prompt is empty: the first completion token needs a context.")
    if options and isinstance(prompt, str):
        raise InputError(
            f"it has {', '.join(options)} for the chat template, and a prompt that is a text, which no template "
            'writes: make it messages, [{"role": "user", "content": ...}].'
        )
    result = {"prompt_ids": conversations.prompt_ids(tokenizer, prompt, **options)}
    for side, text in zip(of, TEXTS[of], strict=True):
        completion = completion_of(row, text)
        result[samples.ids_column(side)] = conversations.completion_ids(tokenizer, prompt, completion, ends, **options)
    return result


def _ids(row: Mapping, column: str) -> list[int]:
    given = row.get(column)
    if given is None:
        raise InputError(f"it has token ids, but no {column}.")
    if not isinstance(given, str | bytes | Mapping | Set):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            tokens = list(given)
            ids = [int(token) for token in tokens]
            if all(token == one for token, one in zip(ids, tokens, strict=True)):
                return ids
    raise InputError(f"{column} must be a list of token ids, whole numbers, not {_shown(given)}.")


def _in_form(name: str, given: Any) -> str | list[Mapping]:
    """A text, or messages whose contents are texts. Raises InputError for anything else."""
    if isinstance(given, str):
        if row_files.messages_in(given) or (given.lstrip().startswith("[{'") and "'role'" in given):
            raise InputError(f"{name} is a text that spells a list of messages: give the list itself.")
        return _whole(name, given)
    if not (isinstance(given, Sequence) and all(isinstance(one, Mapping) for one in given)):
        raise InputError(f"{name} is neither a text nor a list of messages, but a {type(given).__name__}.")
    return [_message(name, one) for one in given]


def _message(name: str, message: Mapping) -> Mapping:
    """A message as chat templates of models of text take it: parts of text as one text, and nothing that is None."""
    if not isinstance(message.get("role"), str):
        raise InputError(f"a message of {name} has no role.")
    message = {key: value for key, value in message.items() if value is not None or key == "content"}
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return message
    if isinstance(content, str):
        _whole(f"a message of {name}", content)
        return message
    if not isinstance(content, Sequence):
        raise InputError(f"a message of {name} has no text as its content, but {_shown(content)}.")
    for part in content:
        if not (isinstance(part, Mapping) and isinstance(part.get("text"), str)):
            what = part.get("type", part) if isinstance(part, Mapping) else part
            raise InputError(f"a message of {name} has a part that is no text ({_shown(what)}): texts alone are used.")
    return {**message, "content": _whole(f"a message of {name}", "".join(part["text"] for part in content))}


def _whole(name: str, text: str) -> str:
    """The text. Raises InputError if it holds half of a character, which no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise InputError(f"{name} holds half of a character ({half!r}, a lone surrogate): repair the text.") from None
    return text


def _numbers(row: Mapping, of: tuple[str, ...]) -> dict[str, Any]:
    """What else a row says, under the names that training uses."""
    names = (*REWARDS[of], "weight", *samples.reference_columns(of))
    found: dict[str, Any] = {name: as_number(row[name], name) for name in names if row.get(name) is not None}
    likely = next((name for name in samples.reference_columns(of) if found.get(name, 0) > 0), None)
    if likely is not None:
        raise InputError(f"{likely} must be the logarithm of a probability, at most 0, not {found[likely]:g}.")
    references = reference_rewards_of(row)
    return found if references is None else found | {"ref_rewards": references}


def reference_rewards_of(row: Mapping) -> list[float] | None:
    """The reference rewards that a row comes with, also as `ref_rewards`; None where it has none.

    Raises InputError for anything else than a list of numbers, and for two different ones.
    """
    names = [name for name in ("ref_rewards", REFERENCE_REWARDS) if row.get(name) is not None]
    found = [as_numbers(row[name], name) for name in names]
    if len(found) == 2 and found[0] != found[1]:
        raise InputError(f"it has {' and other '.join(names)}: leave one of them out.")
    return found[-1] if found else None


def as_number(value: Any, name: str) -> float:
    """One number of a row, also written as a text, as in CSV. Raises InputError for anything else."""
    try:
        if getattr(value, "shape", ()) == () and not (isinstance(value, str) and "_" in value):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"{name} must be one number, not {_shown(value)}.")


def as_numbers(value: Any, name: str) -> list[float]:
    """A list of numbers of a row, also as JSON text, as in CSV. Raises InputError for anything else."""
    if isinstance(value, str):
        with contextlib.suppress(json.JSONDecodeError):
            value = json.loads(value)
    if (
        isinstance(value, str | bytes | Mapping | Set)
        or not isinstance(value, Iterable)
        or getattr(value, "shape", (0,)) == ()
    ):
        raise InputError(f"{name} must be a list of numbers, not {_shown(value)}.")
    return [math.nan if one is None else as_number(one, f"each of {name}") for one in value]


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _says_its_prompt(row: Mapping) -> bool:
    """Whether the prompt is the row's `prompt`: beside whole conversations, a text repeats their first turn."""
    whole = _is_conversation(row.get("chosen")) and len(row["chosen"]) > 1
    return _has(row, "prompt") and not (isinstance(row["prompt"], str) and whole)


def _is_conversation(value: Any) -> bool:
    return isinstance(value, Sequence) and conversations.is_conversation(value)


def _has(row: Mapping, *names: str) -> bool:
    """Whether the row has these columns, and something in them: a dataset has None where a row says nothing."""
    return all(row.get(name) is not None for name in names)


def _shared_turns(row: Mapping) -> int:
    """How many messages both sides of a conversational pair begin with, the last turn of each aside."""
    chosen, rejected = row["chosen"], row["rejected"]
    if not (_is_conversation(chosen) and _is_conversation(rejected)):
        raise InputError("it has no prompt: only conversational pairs may leave it out.")
    shared, most = 0, min(len(chosen), len(rejected)) - 1
    while shared < most and chosen[shared] == rejected[shared]:
        shared += 1
    return shared
