"""Errors that the user can fix: one sentence that says what is wrong and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
    """Something that the suite was given cannot be used. A notebook shows the sentence alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


@contextlib.contextmanager
def about(where: str) -> Iterator[None]:
    """Context in which an InputError says where it is: "WHERE: sentence", of the same kind."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{where}: {error}") from None
