"""Whether a test holds whatever the solution returns: then it says nothing of a solution, and gives a point away.

    assert (f(1) == 2, "why")            a tuple is true
    assert abs(f(1) - f(1)) < 1e-6       whatever f is
    assert (x > 0 for x in f(1))         so is a generator

It is told by its form alone, so that no test is refused that some solution fails. (Not a number differs from itself.)
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping
from typing import Any

_LAZY = frozenset(("enumerate", "map", "reversed", "zip"))  # give an object that is true whatever is in it
_DISPLAYS = (ast.Tuple, ast.List, ast.Set)
_OF_THE_SAME = {ast.Eq: True, ast.LtE: True, ast.GtE: True, ast.Is: True}
_OF_THE_SAME |= {ast.NotEq: False, ast.Lt: False, ast.Gt: False, ast.IsNot: False}


def is_always_true(expression: ast.expr, first: Mapping[str, str], evaluated: Callable[[str], Any]) -> bool:
    """Whether a verdict is true for all values of its calls.

    Parameters
    ----------
    expression: the verdict, of the calls' values `_0`, `_1` and so on.
    first: of each of these names that of the first call that is the same, which has the same value.
    evaluated: the value of an expression without such names.
    """
    folded = ast.fix_missing_locations(_Folded(first).visit(copy.deepcopy(expression)))
    return _truth(folded, set(first), evaluated) is True


class _Folded(ast.NodeTransformer):
    """The same call by one name, and what is taken from itself as 0."""

    def __init__(self, first: Mapping[str, str]):
        self._first = first

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._first.get(node.id, node.id), node.ctx)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Sub) and ast.dump(node.left) == ast.dump(node.right):
            return ast.Constant(0)
        return node


def _truth(node: ast.expr, calls: set[str], evaluated: Callable[[str], Any]) -> bool | None:
    """What the expression is as a condition; None if that depends on a call."""
    if not any(isinstance(part, ast.Name) and part.id in calls for part in ast.walk(node)):
        try:
            return bool(evaluated(ast.unparse(node)))
        except Exception:  # it raises, so that no solution passes
            return None
    if isinstance(node, ast.BoolOp):
        parts = [_truth(part, calls, evaluated) for part in node.values]
        decides = isinstance(node.op, ast.Or)
        return decides if decides in parts else None if None in parts else not decides
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        operand = _truth(node.operand, calls, evaluated)
        return None if operand is None else not operand
    if isinstance(node, ast.IfExp):
        condition = _truth(node.test, calls, evaluated)
        chosen = [node.body, node.orelse] if condition is None else [node.body if condition else node.orelse]
        truths = {_truth(part, calls, evaluated) for part in chosen}
        return truths.pop() if len(truths) == 1 else None
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        if len(sides) == 2 and ast.dump(sides[0]) == ast.dump(sides[1]):
            return _OF_THE_SAME.get(type(node.ops[0]))
        return None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "bool" and len(node.args) == 1:
            return _truth(node.args[0], calls, evaluated)
        if node.func.id in ("is_same_list", "is_same_tree") and len({ast.dump(part) for part in node.args}) == 1:
            return True
        return True if node.func.id in _LAZY else None
    if isinstance(node, _DISPLAYS):
        return True if any(not isinstance(part, ast.Starred) for part in node.elts) else None
    if isinstance(node, ast.Dict):
        return True if any(key is not None for key in node.keys) else None
    return True if isinstance(node, ast.GeneratorExp) else None
