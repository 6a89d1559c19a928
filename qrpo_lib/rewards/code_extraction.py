"""The code in a completion: by the authors' rule ("paper"), or whatever its form ("lenient").

"paper" is the first block that is fenced with ```python and closed; anything else scores 0. "lenient" also reads other
spellings of the language and of the fence, several blocks (the last that defines what the tests call, else the last),
a last block that is not closed, and a text that is code as a whole.
"""

from __future__ import annotations

import ast
import itertools
import re
import warnings
from collections.abc import Collection, Iterator
from typing import Literal

Extraction = Literal["paper", "lenient"]

_PAPER_BLOCK = re.compile(r"```python\b[^\n]*\n(.*?)```", re.DOTALL)
_PYTHON = re.compile(r"\{?\.?(language-)?(i?python|py)[\d.]*\}?(?![\w+#-])", re.IGNORECASE)
_OPENING = re.compile(r"(?P<before>.*?)(?P<fence>`{3,}|~{3,})(?P<language>[^`]*)")
_LIST_ITEM = re.compile(r"[ \t]*([-*+]|\d+[.)])[ \t]+")
_QUOTE = re.compile(r"[ \t]*> ?")
_MOST_CHARACTERS = 100_000  # of a text that is looked at as Python's parser would
_MOST_CLOSINGS = 20


def extract(completion: str, names: Collection[str] = (), extraction: Extraction = "paper") -> str | None:
    """The code of a completion; None if there is none, which scores 0.

    names: what the tests call (`Solution`, `f`), one of which the block that counts defines.
    """
    found = _PAPER_BLOCK.search(completion)
    paper = found.group(1) if found else None
    if extraction == "paper":
        return paper
    text = completion.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
    blocks = list(_blocks(text))
    defining = [code for _, code in blocks if any(_defines(code, name) for name in names)]
    if defining:
        return defining[-1]
    if names and paper is None and _defines_any(text, names) and _is_code(text):
        return text
    python = [code for is_python, code in blocks if is_python] or [code for _, code in blocks]
    if python:
        return python[-1]
    if paper is not None:
        return paper
    return text if _is_code(text) and re.search(r"(?m)^(def|class|async def) ", text) else None


def _defines(code: str, name: str) -> bool:
    name = re.escape(name)
    return re.search(rf"(?m)^[ \t]*((async\s+)?def|class)\s+{name}\b|^{name}\s*(:[^=\n]+)?=[^=]", code) is not None


def _defines_any(code: str, names: Collection[str]) -> bool:
    return any(_defines(code, name) for name in names)


def _blocks(text: str) -> Iterator[tuple[bool, str]]:
    """(whether it is called Python, code) of each fenced block; blocks in other languages are left out."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        opening = _OPENING.fullmatch(lines[at])
        at += 1
        language = opening and opening["language"].strip()
        is_python = bool(language and _PYTHON.match(language))
        # Within a line of prose, only a fence that names the language opens a block.
        if not opening or (opening["before"].strip() and not is_python):
            continue
        before = opening["before"]
        if _QUOTE.fullmatch(before):  # the lines of the quotation, up to the first that is none
            quoted = list(itertools.takewhile(_QUOTE.match, lines[at:]))
            end, code = _closed([_QUOTE.sub("", line, count=1) for line in quoted], 0, opening["fence"], 0)
            at += end + 1
        else:
            indented = not before.strip() or _LIST_ITEM.fullmatch(before)
            end, code = _closed(lines, at, opening["fence"], len(before) if indented else 0)
            at = end + 1
        if code.strip() and (is_python or not language):
            yield is_python, code


def _closed(lines: list[str], start: int, fence: str, indent: int) -> tuple[int, str]:
    """(the line of the closing fence, the code before it).

    A fence may also stand in a string of the code: the first closing at which the code is Python's counts, if there is
    such a one. A block that nothing closes ends with the text.
    """
    closings, limit = [], len(lines)
    for number in range(start, len(lines)):
        line = lines[number].strip()
        after = line.lstrip(fence[0]).strip() if line.startswith(fence) else None
        if after and _PYTHON.match(after):  # another block begins
            limit = number
            break
        if after is not None or (line.endswith(fence) and not line.startswith("#")):
            closings.append(number)
    if not closings:
        return limit - 1, _without_indent(lines[start:limit], indent)
    codes = []
    for number in closings[:_MOST_CLOSINGS]:
        code = _without_indent(lines[start:number], indent)
        if not lines[number].strip().startswith(fence):  # the code's last line closes it
            rest = lines[number].rstrip().rstrip(fence[0])
            code += rest[min(indent, len(rest) - len(rest.lstrip())) :]
        if _is_code(code):
            return number, code
        codes.append(code)
    rest_of_text = _without_indent(lines[start:limit], indent)
    return (limit - 1, rest_of_text) if _is_code(rest_of_text) else (closings[0], codes[0])


def _without_indent(lines: list[str], indent: int) -> str:
    """Lines of a block whose fence is indented by so much, as in a list: they lose as much of their own."""
    return "".join(f"{line[min(indent, len(line) - len(line.lstrip())) :]}\n" for line in lines)


def _is_code(text: str) -> bool:
    """Whether a text is Python, and not empty."""
    if len(text) > _MOST_CHARACTERS:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(ast.parse(text.replace("\ufeff", "")).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
