"""What pydantic finds wrong with a profile's settings, as a key of the file and a sentence."""

from __future__ import annotations

from typing import Any

from qrpo_lib.profiles import files


def key_and_reason(error: dict[str, Any], settings: dict[str, Any]) -> tuple[tuple, str]:
    """The key as it stands in the file, without pydantic's names of kinds, and what is wrong with its value."""
    key, value = (), settings
    told = set()  # the tables whose kind has been named
    for part in error["loc"]:
        kind = files.DISCRIMINATORS.get(key)
        is_kind = isinstance(value, dict) and key not in told and kind and value.get(kind) == part
        if part == "[key]" or is_kind or (kind and not isinstance(value, dict)):
            told.add(key)
            continue
        key += (part,)
        inside = (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int))
        value = value[part] if inside else None
    reason = error["msg"].removeprefix("Value error, ")
    reason = reason[0].lower() + reason[1:]
    given = error.get("input")
    if error["type"] == "extra_forbidden":
        return key, "there is no such setting"
    if error["type"] == "union_tag_not_found":
        kind = files.DISCRIMINATORS[key]
        return key, f"{kind} is missing, which says of what kind it is"
    if error["type"] == "union_tag_invalid":
        kind = files.DISCRIMINATORS[key]
        return (*key, kind), f"must be one of {error['ctx']['expected_tags']}, not {given[kind]!r}"
    if error["type"] == "string_pattern_mismatch":  # of a function or a commit; names are checked before
        of_function = "must be FILE.py:FUNCTION or MODULE:FUNCTION"
        reason = of_function if key[-1] == "function" else "must be a full commit, 40 hexadecimal digits"
    if "input" in error and not isinstance(given, dict):
        reason += f", not {_short(given)}"
    return key, reason


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
