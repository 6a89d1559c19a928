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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import conversations, samples

REWARDS = {samples.PAIR: ("chosen_reward", "rejected_reward"), samples.POINTWISE: ("reward",)}
TEXTS = {samples.PAIR: ("chosen", "rejected"), samples.POINTWISE: ("completion",)}
REFERENCE_REWARDS = "reference_rewards"
_FILES = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_REASONS = {
    "unusable": "whose completion contains an end token or is not text",
    "too_long": "whose prompt alone fills max_length",
}


class Rows(NamedTuple):
    """Tokenised rows, where each came from, and what was left out or cut."""

    rows: list[dict[str, Any]]
    sources: list[int]  # of each row: its place in what was given
    counts: dict[str, int]  # "unusable", "too_long", "cut"

    def warning(self, name: str) -> str | None:
        """One sentence about what is not as it was given, or None."""
        parts = [f"{self.counts[key]} rows {why} are left out" for key, why in _REASONS.items() if self.counts[key]]
        if self.counts["cut"]:
            parts.append(f"{self.counts['cut']} completions are cut at max_length")
        return f"Of the {name} data, {' and '.join(parts)}." if parts else None


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
        return source
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir() and (path / "dataset_info.json").exists():
            return load_from_disk(str(path))
        if path.suffix in _FILES:
            if not path.is_file():
                raise InputError(f"{name}: there is no file {path}.")
            if path.stat().st_size == 0:
                raise InputError(f"{name}: the file {path} is empty.")
            if path.suffix == ".jsonl":
                return _json_lines(path)
        try:
            if path.suffix in _FILES:
                return load_dataset(_FILES[path.suffix], data_files=str(path), split="train")
            return load_dataset(str(source), split="train")
        except Exception as error:  # whatever loading scripts, parsers and the network come up with
            said = " ".join(str(error).split())[:200]
            raise InputError(
                f"{name}: {source} cannot be read as rows ({type(error).__name__}: {said}). Files end in "
                f"{', '.join(_FILES)}; everything else is a folder or a hub id."
            ) from error
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise InputError(f"{name} must be a dataset, a list of rows, a file or a hub id, not {type(source).__name__}.")
    rows = list(source)
    other = next((row for row in rows if not isinstance(row, Mapping)), None)
    if other is not None:
        raise InputError(
            f"{name} must hold dictionaries, one a row, not {type(other).__name__}: of a data frame, pass "
            "Dataset.from_pandas(frame)."
        )
    return rows


def _json_lines(path: Path) -> list[dict]:
    rows = []
    # lines end at newlines alone: other separators of Unicode, such as U+2028, may stand in a text as they are
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"Line {number} of {path} is not JSON ({error.msg}).") from None
            if not isinstance(rows[-1], dict):
                raise InputError(f"Line {number} of {path} is not an object with columns, in braces.")
    return rows


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
    found, sources, counts = [], [], Counter(unusable=0, too_long=0, cut=0)
    first_reason = ""
    for number, row in enumerate(data):
        try:
            if sides(row, name) != of:
                raise InputError("it has another form than the first row: pairs and single completions do not mix.")
            one = _tokens(row, of, tokenizer, ends) | _numbers(row, of)
            if not found and not _has(row, "prompt_ids"):
                conversations.check_answers_begin(tokenizer, prompt_of(row), **template_options(row))
        except conversations.UnusableAnswer as error:
            counts["unusable"] += 1
            first_reason = first_reason or f"{name} row {number}: {error}"
            continue
        except jinja2.TemplateError as error:  # which templates raise for roles that they do not take
            raise conversations.TemplateError(f"{name} row {number}: the chat template refuses it ({error}).") from None
        except (ValueError, TypeError, KeyError) as error:
            kind = type(error) if isinstance(error, InputError) else InputError
            raise kind(f"{name} row {number}: {error}") from None
        room = None if max_length is None else max_length - len(one["prompt_ids"])
        if room is not None and room < 1:
            counts["too_long"] += 1
            first_reason = first_reason or f"{name} row {number}: its prompt has {len(one['prompt_ids'])} tokens."
            continue
        for column in map(samples.ids_column, of):
            counts["cut"] += room is not None and len(one[column]) > room
            one[column] = one[column][:room]
        found.append(one)
        sources.append(number)
    if not found:
        raise InputError(f"None of the {len(data)} {name} rows can be used. {first_reason}")
    return Rows(found, sources, dict(counts))


def prompt_of(row: Mapping) -> str | list[Mapping]:
    """The prompt of a row; of a conversational pair without one, what its sides share.

    Raises InputError for what is neither a text nor messages.
    """
    if _says_its_prompt(row):
        _check_form("prompt", row["prompt"])
        return row["prompt"]
    return [*row["chosen"][: _shared_turns(row)]]


def completion_of(row: Mapping, text: str) -> str | list[Mapping]:
    """The completion in column `text`; of a conversational pair without a prompt, what follows the shared turns.

    Raises InputError for what is neither a text nor messages, or messages after a prompt that is a text.
    """
    if not _says_its_prompt(row):
        return [*row[text][_shared_turns(row) :]]
    _check_form(text, row[text])
    if isinstance(row["prompt"], str) and not isinstance(row[text], str):
        raise InputError(
            f"its prompt is a text, which a completion continues as it is, but {text} is a list of messages: make the "
            'prompt one too, [{"role": "user", "content": ...}].'
        )
    return row[text]


def template_options(row: Mapping) -> dict[str, Any]:
    """The options for the chat template that a row brings (`tools`, `chat_template_kwargs`)."""
    tools = row.get("tools")
    tools = json.loads(tools) if isinstance(tools, str) else tools
    return ({"tools": tools} if tools else {}) | dict(row.get("chat_template_kwargs") or {})


def _tokens(row: Mapping, of: tuple[str, ...], tokenizer: Any, ends: Sequence[int]) -> dict[str, Any]:
    if _has(row, "prompt_ids"):
        return {column: _ids(row, column) for column in ("prompt_ids", *map(samples.ids_column, of))}
    prompt, options = prompt_of(row), template_options(row)
    if not prompt:
        raise InputError("the prompt is empty: the first completion token needs a context.")
    result = {"prompt_ids": conversations.prompt_ids(tokenizer, prompt, **options)}
    for side, text in zip(of, TEXTS[of], strict=True):
        completion = completion_of(row, text)
        result[samples.ids_column(side)] = conversations.completion_ids(tokenizer, prompt, completion, ends, **options)
    return result


def _ids(row: Mapping, column: str) -> list[int]:
    ids = [int(token) for token in row[column]]
    if any(token != given for token, given in zip(ids, row[column], strict=True)):
        raise InputError(f"{column} must be token ids, whole numbers.")
    return ids


def _check_form(name: str, given: Any) -> None:
    """Raises InputError for what is neither a text nor a list of messages."""
    messages = isinstance(given, Sequence) and all(isinstance(one, Mapping) for one in given)
    if not (isinstance(given, str) or messages):
        raise InputError(f"{name} is neither a text nor a list of messages, but a {type(given).__name__}.")
    if messages and not all("role" in one for one in given):
        raise InputError(f"a message of {name} has no role.")


def _numbers(row: Mapping, of: tuple[str, ...]) -> dict[str, Any]:
    """What else a row says, under the names that training uses."""
    names = (*REWARDS[of], "weight", *samples.reference_columns(of))
    found: dict[str, Any] = {name: as_number(row[name], name) for name in names if row.get(name) is not None}
    for name in ("ref_rewards", REFERENCE_REWARDS):
        if row.get(name) is not None:
            found["ref_rewards"] = as_numbers(row[name], name)
    return found


def as_number(value: Any, name: str) -> float:
    """One number of a row, also written as a text, as in CSV. Raises InputError for anything else."""
    try:
        if getattr(value, "shape", ()) == ():
            return float(value)
    except (TypeError, ValueError):
        pass
    raise InputError(f"{name} must be one number, not {_shown(value)}.")


def as_numbers(value: Any, name: str) -> list[float]:
    """A list of numbers of a row, also as JSON text, as in CSV. Raises InputError for anything else."""
    if isinstance(value, str):
        with contextlib.suppress(json.JSONDecodeError):
            value = json.loads(value)
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable) or getattr(value, "shape", (0,)) == ():
        raise InputError(f"{name} must be a list of numbers, not {_shown(value)}.")
    return [math.nan if one is None else as_number(one, f"each of {name}") for one in value]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _says_its_prompt(row: Mapping) -> bool:
    """Whether the prompt is the row's `prompt`: beside whole conversations, a text repeats their first turn."""
    whole = conversations.is_conversation(row.get("chosen") or "") and len(row["chosen"]) > 1
    return _has(row, "prompt") and not (isinstance(row["prompt"], str) and whole)


def _has(row: Mapping, *names: str) -> bool:
    """Whether the row has these columns, and something in them: a dataset has None where a row says nothing."""
    return all(row.get(name) is not None for name in names)


def _shared_turns(row: Mapping) -> int:
    """How many messages both sides of a conversational pair begin with, the last turn of each aside."""
    chosen, rejected = row["chosen"], row["rejected"]
    if not (conversations.is_conversation(chosen) and conversations.is_conversation(rejected)):
        raise InputError("it has no prompt: only conversational pairs may leave it out.")
    shared, most = 0, min(len(chosen), len(rejected)) - 1
    while shared < most and chosen[shared] == rejected[shared]:
        shared += 1
    return shared
