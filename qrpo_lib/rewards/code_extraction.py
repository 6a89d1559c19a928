"""The code in a completion: by the authors' rule ("paper"), or whatever its form ("lenient").

"paper" is the first block that is fenced with ```python and closed; anything else scores 0. "lenient" also reads other
spellings of the language and of the fence, several blocks (the last that defines what the tests call, else the last),
a last block that is not closed, and a text that is code as a whole.

Both take time in proportion to a completion's length, whatever a policy writes.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

Extraction = Literal["paper", "lenient"]

_PAPER_OPENING = re.compile(r"```python\b")
_PYTHON = re.compile(r"\{?\.?(language-)?(i?python|py)[\d.]*\}?(?![\w+#-])", re.IGNORECASE)
_LIST_ITEM = re.compile(r"[ \t]*([-*+]|\d+[.)])[ \t]+")
_QUOTE = re.compile(r"[ \t]*> ?")
_MOST_CHARACTERS = 100_000  # of a text that is looked at as Python's parser would
_MOST_BRACES = 10_000  # Python 3.11 parses one f-string in time with the square of its fields
_MOST_CLOSINGS = 20
# How many characters of a completion are looked at in all to find where blocks end, for each that it has and besides.
# Beyond that, a block ends at the first fence.
_LOOKS, _MORE_CHARACTERS = 20, 300_000


def extract(completion: str, names: Collection[str] = (), extraction: Extraction = "paper") -> str | None:
    """The code of a completion; None if there is none, which scores 0.

    names: what the tests call (`Solution`, `f`), one of which the block that counts defines.
    """
    paper = _by_the_authors(completion)
    if extraction == "paper":
        return paper
    text = completion.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
    blocks = list(_blocks(text))
    defining = [code for _, code in blocks if _defines_any(code, names)]
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


def _by_the_authors(completion: str) -> str | None:
    """What follows the first ```python on the lines below it, up to the next fence."""
    opening = _PAPER_OPENING.search(completion)
    start = completion.find("\n", opening.end()) if opening else -1
    end = completion.find("```", start + 1) if start >= 0 else -1
    return completion[start + 1 : end] if end >= 0 else None


def _defines(code: str, name: str) -> bool:
    name = re.escape(name)
    return re.search(rf"(?m)^[ \t]*((async\s+)?def|class)\s+{name}\b|^{name}\s*(:[^=\n]+)?=[^=]", code) is not None


def _defines_any(code: str, names: Collection[str]) -> bool:
    return any(_defines(code, name) for name in names)


def _blocks(text: str) -> Iterator[tuple[bool, str]]:
    """(whether it is called Python, code) of each fenced block; blocks in other languages are left out."""
    lines, at = text.split("\n"), 0
    work = _Work(_LOOKS * len(text) + _MORE_CHARACTERS)
    while at < len(lines):
        opening = _opening(lines[at])
        at += 1
        if opening is None:
            continue
        before, fence, language = opening
        is_python = bool(_PYTHON.match(language))
        # Within a line of prose, only a fence that names the language opens a block.
        if before.strip() and not is_python:
            continue
        is_quote = bool(_QUOTE.fullmatch(before))
        indented = not is_quote and (not before.strip() or _LIST_ITEM.fullmatch(before))
        end, code = _closed(_Body(lines, at, len(before) if indented else 0, is_quote), fence, work)
        at = end + 1
        if code.strip() and (is_python or not language):
            yield is_python, code


def _opening(line: str) -> tuple[str, str, str] | None:
    """(what is before a fence, the fence, the language after it) of a line with one; no backtick may follow it."""
    last = line.rfind("`") + 1
    start = len(line[:last].rstrip("`"))
    if last - start < 3:
        start = line.find("~~~", last)
        if start < 0:
            return None
        last = len(line) - len(line[start:].lstrip("~"))
    return line[:start], line[start:last], line[last:].strip()


@dataclass
class _Work:
    """How many characters may still be looked at."""

    left: int

    def take(self, characters: int) -> None:
        self.left -= characters


@dataclass(frozen=True)
class _Body:
    """The lines after an opening fence.

    start: the first of them.
    indent: of the fence, as in a list: they lose as much of their own.
    is_quote: whether they are a quotation, which ends with the first line that is none.
    """

    lines: list[str]
    start: int
    indent: int
    is_quote: bool

    def line(self, number: int) -> str | None:
        """None after the end."""
        if number >= len(self.lines) or (self.is_quote and not _QUOTE.match(self.lines[number])):
            return None
        return _QUOTE.sub("", self.lines[number], count=1) if self.is_quote else self.lines[number]

    def code(self, end: int) -> str:
        """Of the lines before this one."""
        return _without_indent([self.line(number) for number in range(self.start, end)], self.indent)


def _closed(body: _Body, fence: str, work: _Work) -> tuple[int, str]:
    """(the line of the closing fence, the code before it).

    A fence may also stand in a string of the code: the first closing at which the code is Python's counts, if there is
    such a one. A block that nothing closes ends with the text.
    """
    first, closings, number = None, 0, body.start
    while (whole := body.line(number)) is not None:
        work.take(len(whole) + 1)
        line = whole.strip()
        after = line.lstrip(fence[0]).strip() if line.startswith(fence) else None
        if after and _PYTHON.match(after):  # another block begins
            break
        if after is not None or (line.endswith(fence) and not line.startswith("#")):
            closings += 1
            if first is None or (closings <= _MOST_CLOSINGS and work.left > 0):
                code = body.code(number)
                if after is None:  # the code's last line closes it
                    rest = whole.rstrip().rstrip(fence[0])
                    code += rest[min(body.indent, len(rest) - len(rest.lstrip())) :]
                first = first or (number, code)
                work.take(2 * len(code))
                if work.left > 0 and _is_code(code):
                    return number, code
        if first is not None and work.left <= 0:
            return first
        number += 1
    if first is None:
        return number - 1, body.code(number)
    rest_of_text = body.code(number)
    work.take(2 * len(rest_of_text))
    return (number - 1, rest_of_text) if work.left > 0 and _is_code(rest_of_text) else first


def _without_indent(lines: list[str], indent: int) -> str:
    """Lines of a block whose fence is indented by so much, as in a list: they lose as much of their own."""
    return "".join(f"{line[min(indent, len(line) - len(line.lstrip())) :]}\n" for line in lines)


def _is_code(text: str) -> bool:
    """Whether a text is Python, and not empty."""
    if len(text) > _MOST_CHARACTERS or text.count("{") > _MOST_BRACES:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(ast.parse(text.replace("\ufeff", "")).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
