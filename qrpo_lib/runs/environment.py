"""Variables of this process's environment that hold for a while, and in what it starts meanwhile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def given(values: Mapping[str, str | None]) -> Iterator[None]:
    """Context in which variables have these values, or are not there (None); afterwards they are as they were."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
