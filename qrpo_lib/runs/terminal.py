"""What the command line writes to: a terminal, a file or a pipe, whatever their encoding.

Text is written as it is: a path with brackets or colons in it is no markup. What the encoding does not have is escaped.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `qrpo --help` does without
    from rich.console import Console
    from rich.text import Text


def make_console() -> Console:
    """A console that prints texts as they are, without markup, emoji or highlighting; styles are given beside them."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False)


def escape_what_cannot_be_encoded() -> None:
    """Have characters that standard output and error cannot encode written as `\\xe9` rather than raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def styled(*parts: str | tuple[str, str]) -> Text:
    """A line of texts and (text, style) pairs."""
    from rich.text import Text

    return Text.assemble(*parts)


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
