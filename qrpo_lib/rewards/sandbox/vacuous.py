"""Whether a test holds whatever the solution returns: then it says nothing of a solution, and gives a point away.

    assert (f(1) == 2, "why")            a tuple is true
    assert abs(f(1) - f(1)) < 1e-6       whatever f is
    assert (x > 0 for x in f(1))         so is a generator

It is tried with values of every kind, among them those that the test itself names and their neighbours: a test that
fails for none of them, and holds for several, is of this kind.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_NUMBERS = (False, True, 0, 1, -7, 0.5, -1e9, 1e9)
_COLLECTIONS = ("", "x", "Zz", [], [3, 1], [-7, "x"], [(2, 1), (0, 5)], ["ab", "ba"], (), (0,), {}, {"x": 1})
_MOST_KNOWN = 40
_LONG = 1000
_FEWEST = 5  # a test may raise for most of the values, and hold for the few that are left by chance


def holds_for_all(
    expression: ast.expr, verdict: str, calls: Sequence[int], evaluated: Callable[[str, dict[str, Any]], Any]
) -> bool:
    """Whether `verdict` is true for all values tried, but for those of which it raises, and for several at least.

    Parameters
    ----------
    expression: the verdict, parsed.
    verdict: an expression of the calls' values, `_0`, `_1` and so on.
    calls: of each call the first one that is the same: they get the same value.
    evaluated: the value of an expression with these names.
    """
    if _may_last(expression):
        return False
    known = list(itertools.islice(_known(expression, evaluated), _MOST_KNOWN))
    values = [None, *_NUMBERS, *_COLLECTIONS, *_around(known)]
    held = 0
    for shift in range(3):  # all calls the same value, then others
        for place in range(len(values)):
            names = {f"_{i}": values[(place + shift * 5 * first) % len(values)] for i, first in enumerate(calls)}
            try:
                if not evaluated(verdict, names):
                    return False
                # All elements of nothing are as they should be.
                held += all(value or isinstance(value, int | float) for value in names.values())
            except Exception:
                continue
    return held >= _FEWEST


def _may_last(expression: ast.expr) -> bool:
    """Whether a loop computes what a large number makes long or large: such a test is taken as it is."""
    nodes = list(ast.walk(expression))
    loops = any(
        isinstance(node, ast.comprehension) or (isinstance(node, ast.Name) and node.id == "map") for node in nodes
    )
    grows = (ast.Pow, ast.LShift, ast.Mult, ast.Mod)
    return loops and any(
        isinstance(node, grows) or (isinstance(node, ast.Name) and node.id in ("range", "pow")) for node in nodes
    )


def _known(expression: ast.expr, evaluated: Callable[[str, dict[str, Any]], Any]) -> Iterator[Any]:
    """Values of its parts that are known without any call."""
    for node in ast.walk(expression):
        is_whole = isinstance(node, ast.expr) and not isinstance(node, ast.Name | ast.Starred | ast.Slice)
        if not is_whole or any(isinstance(part, ast.Name) and part.id.startswith("_") for part in ast.walk(node)):
            continue
        try:
            yield evaluated(ast.unparse(node), {})
        except Exception:  # a part of a loop, say
            continue


def _around(known: list[Any]) -> Iterator[Any]:
    """These values, what is a little larger and smaller, and collections of them."""
    for value in known:
        yield value
        if isinstance(value, int | float):
            yield from (value + 1, value - 1, -value)
        elif isinstance(value, str | bytes | list | tuple):
            yield from (value + value[-1:], value[:-1])
        elif isinstance(value, set | frozenset):
            yield from (value | {"another"}, set())
        if hasattr(value, "__len__"):
            if len(value) >= _LONG:
                continue
            yield from (value * _LONG,) if hasattr(value, "__mul__") else ()
        yield from ([value], [value] * _LONG, [[value] * 3] * 3)
        try:
            yield {value}
            yield {key: value for key in known if key.__hash__}
        except TypeError:
            continue
