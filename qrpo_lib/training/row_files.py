"""Files of rows as people have them: JSON lines, JSON, CSV, Parquet.

What a file says is taken as it stands: no prompt or completion becomes a number, a date or a missing value because it
looks like one. In CSV, lists are JSON text: messages as well as `reference_rewards`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qrpo_lib.runs.errors import InputError

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
TEXT_COLUMNS = ("prompt", "chosen", "rejected", "completion")
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,999})")
_TRUTHS = {"true": True, "false": False}


def read(path: Path, name: str) -> Sequence[Mapping]:
    """The rows of a file, `name` to errors. Raises InputError for one that is not there or cannot be read."""
    if not path.is_file():
        raise InputError(f"{name}: there is no file {path}.")
    if path.stat().st_size == 0:
        raise InputError(f"{name}: the file {path} is empty.")
    kind = path.suffix.lower()
    if kind == ".parquet":
        from datasets import load_dataset

        return load_dataset("parquet", data_files=str(path), split="train")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    return {".jsonl": _json_lines, ".json": _json, ".csv": _csv}[kind](text, path)


def messages_in(text: str) -> list | None:
    """The messages that a text holds as JSON, None for all other texts."""
    if not text.lstrip().startswith("[") or '"role"' not in text:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if found and all(isinstance(one, dict) and "role" in one for one in found) else None


def _json_lines(text: str, path: Path) -> list[dict]:
    rows = []
    # lines end at newlines alone: other separators of Unicode, such as U+2028, may stand in a text as they are
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"Line {number} of {path} is not JSON ({error.msg}).") from None
            except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in lists in lists
                raise InputError(f"Line {number} of {path} cannot be read ({error}).") from None
            if not isinstance(rows[-1], dict):
                raise InputError(f"Line {number} of {path} is not an object with columns, in braces.")
    return rows


def _json(text: str, path: Path) -> list[dict]:
    """A list of objects; or JSON lines, whatever the file is called; or one object, over several lines."""
    if not text.lstrip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            return _json_lines(json.dumps(json.loads(text)), path)
        return _json_lines(text, path)
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"Line {error.lineno} of {path} is not JSON ({error.msg}).") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}).") from None
    other = next((number for number, row in enumerate(rows) if not isinstance(row, dict)), None)
    if other is not None:
        raise InputError(f"Row {other} of {path} is not an object with columns, in braces.")
    return rows


def _csv(text: str, path: Path) -> list[dict]:
    limit = csv.field_size_limit(sys.maxsize)  # completions may be longer than the module's 131 072 characters
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise InputError(f"Line {reader.line_num} of {path} is not CSV ({error}).") from None
    finally:
        csv.field_size_limit(limit)
    header = [column.strip() for column in lines[0][1]] if lines else []
    if len(header) == 1 and any(separator in header[0] for separator in ";\t|"):
        raise InputError(f"{path} has one column, {header[0]!r}: separate columns by commas.")
    twice = [column for column, count in Counter(header).items() if count > 1 and column]
    if twice:
        raise InputError(f"{path} has several columns {twice[0]}: leave one.")
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise InputError(f"Line {number} of {path} has {len(cells)} values for {len(header)} columns.")
    columns = {}
    for place, column in enumerate(header):
        if column:  # that of pandas' row numbers has no name
            cells = [cells[place] for _, cells in lines[1:]]
            columns[column] = list(map(_text, cells)) if column in TEXT_COLUMNS else _values(cells)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _text(cell: str) -> str | list | None:
    """A prompt or completion: an empty cell is none, JSON of messages is those."""
    return (messages_in(cell) or cell) if cell else None


def _values(cells: list[str]) -> list[Any]:
    """A column of numbers or truths as such where all of it is, else of texts; an empty cell is None."""
    given = [cell.strip() for cell in cells if cell.strip()]
    convert: Callable[[str], Any] = str
    if all(map(_INTEGER.fullmatch, given)):
        convert = int
    elif all(map(_is_number, given)):
        convert = float
    elif all(cell.lower() in _TRUTHS for cell in given):
        convert = _truth
    return [convert(cell) if cell.strip() else None for cell in cells]


def _truth(cell: str) -> bool:
    return _TRUTHS[cell.strip().lower()]


def _is_number(cell: str) -> bool:
    """Whether it is a decimal number as programs write them: 007 is a name."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and not re.match(r"[+-]?0[0-9]", cell)
