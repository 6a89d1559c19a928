"""Secrets: environment variables that look like tokens stay out of jobs, records, logs and notebooks.

Jobs and notebooks are started without them (`hidden`), so they cannot print one; what this process itself
writes or shows (errors, ends of logs, records) goes through `mask`. Downloads, which need a token, are a step of their
own that a person runs.
"""

from __future__ import annotations

import contextlib
import os
import re

from qrpo_lib.runs import environment

# Parts of a name, between underscores, that say its value is a secret; and names that end so, as PGPASSWORD does.
_NAME = re.compile(
    r"(?:^|_)(?:tokens?|secrets?|passwords?|passwd|credentials?|auth|cookie|(?:api|access|private|secret|ssh)_?key)(?:_|$)"
    r"|(?:password|passwd|apikey|token)$",
    re.IGNORECASE,
)
# The forms of tokens that hubs and services give out.
_VALUE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|sk-[\w-]{20,}|AKIA[A-Z0-9]{16})\b"
)
_ASSIGNMENT = re.compile(r"(\w+)=[\"']?([^\s\"'$]{4,})")
# A shorter value is no secret, and hiding it everywhere would make text unreadable.
_SHORTEST = 6


def is_secret(name: str) -> bool:
    """Whether an environment variable of that name holds a secret."""
    return _NAME.search(name) is not None


def holds_secret(text: str) -> bool:
    """Whether text has a token in it, or sets a variable that looks like one to a value written out."""
    return _VALUE.search(text) is not None or any(is_secret(name) for name, _ in _ASSIGNMENT.findall(text))


def mask(text: str) -> str:
    """The text with the values of this process's secrets, and whatever has the form of a token, replaced."""
    secrets = {value: name for name, value in os.environ.items() if is_secret(name) and len(value) >= _SHORTEST}
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, f"<{secrets[value]}>")
    return _VALUE.sub("<token>", text)


def hidden() -> contextlib.AbstractContextManager[None]:
    """Context in which this process's own environment has no secrets: what is started inside inherits none."""
    return environment.given(dict.fromkeys(filter(is_secret, os.environ)))
