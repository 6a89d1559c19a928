"""Values as the trusted side reads them: nodes by what they hold, everything else as the builtin types."""

from __future__ import annotations

import collections
import json
import math
from fractions import Fraction
from typing import Any

from qrpo_lib.rewards.sandbox import worker

# As a list, it is about as long as an answer may be.
_LONGEST_RANGE = 1 << 20


class Nodes:
    """A linked list or binary tree as its values. Equal only to itself, like the nodes that it stands for."""

    def __init__(self, values: list):
        self.values = values


class LinkedList(Nodes):
    """Values from the head on."""


class Tree(Nodes):
    """Preorder: [value] for a node, None for an absent one."""


def list_node(values: list) -> LinkedList | None:
    """The trusted side's `list_node` of the LeetCode initialisation."""
    return LinkedList(list(values)) if values else None


def tree_node(values: list) -> Tree | None:
    """The trusted side's `tree_node`: values level by level, None where a child is absent."""
    if not values:
        return None
    root: dict = {"value": values[0], "children": []}
    waiting = collections.deque([root])
    rest = iter(values[1:])
    missing = object()
    while waiting:
        node = waiting.popleft()
        for _ in range(2):
            value = next(rest, missing)
            child = None if value is missing or value is None else {"value": value, "children": []}
            node["children"].append(child)
            if child:
                waiting.append(child)
    preorder, ahead = [], [root]
    while ahead:
        node = ahead.pop()
        preorder.append(None if node is None else [node["value"]])
        if node is not None:
            ahead.extend(reversed(node["children"]))
    return Tree(preorder)


def same(kind: type[Nodes]) -> Any:
    """The trusted side's `is_same_list` or `is_same_tree`."""

    def same(a: Any, b: Any) -> bool:
        if not all(value is None or type(value) is kind for value in (a, b)):
            raise TypeError("no node")  # as the initialisation's own would raise AttributeError
        return a is b if a is None or b is None else a.values == b.values

    return same


class UndecodableError(Exception):
    """What came back is no plain value."""


def decode(data: bytes) -> Any:
    """The JSON in some bytes of the untrusted side. Raises UndecodableError."""
    try:
        text = data.decode("utf-8", "surrogatepass")
        if len(text) > worker.ANSWER_CHARACTERS:
            raise UndecodableError("more characters than an answer may have")
        return json.loads(text)
    except (ValueError, RecursionError, MemoryError):
        raise UndecodableError("not JSON") from None


def plain(encoded: Any) -> Any:
    """A value as `worker` encodes it: exact builtin types and `LinkedList`, `Tree`. Raises UndecodableError.

    Takes the time that building the sets and dicts takes: bound it for values that somebody else has chosen.
    """
    try:
        return _value(encoded)
    except Exception:  # whatever somebody else's data make Python raise
        raise UndecodableError("unknown value") from None


def _value(item: Any) -> Any:
    if isinstance(item, list):
        return [_value(part) for part in item]
    if not isinstance(item, dict):
        return item
    ((tag, content),) = item.items()
    if tag == "tuple":
        return tuple([_value(part) for part in content])
    if tag == "set":
        return {_value(part) for part in content}
    if tag == "dict":
        return {_value(key): _value(part) for key, part in content}
    if tag == "int":
        return int(content, 16)
    if tag == "nan":
        return math.nan
    if tag == "ratio":
        return Fraction(int(content[0], 16), int(content[1], 16))
    if tag == "bytes":
        return bytes.fromhex(content)
    if tag == "complex":
        real, imaginary = content
        return complex(_value(real), _value(imaginary))
    if tag == "range":
        length, first, step = content
        if length > _LONGEST_RANGE:
            raise UndecodableError("a range longer than an answer may be")
        return range(first, first + length * (step or 1), step or 1)
    if tag == "ListNode":
        return LinkedList([_value(part) for part in content])
    if tag == "TreeNode":
        return Tree([None if part is None else [_value(part[0])] for part in content])
    raise UndecodableError("unknown value")
