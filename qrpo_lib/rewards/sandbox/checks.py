"""The trusted half of a test: what of an `assert` the solution computes, and what is decided here, on plain values.

`assert sorted(Solution().f(3)) == [1, 2]` is split into the call `sorted(Solution().f(3))`, which the sandbox
evaluates, and the comparison of its value with `[1, 2]`, which never enters the sandbox. So a solution has the power
that it is entitled to, to return values, and no other.
"""

from __future__ import annotations

import ast
import builtins
import collections
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, SimpleNamespace
from typing import Any

# Values that the solution side may hash into our sets and dicts: chosen to collide, n of them cost n² comparisons.
_MAX_HASHED = 10_000


class _Nodes:
    """A linked list or binary tree as its values. Equal only to itself, like the nodes that it stands for."""

    def __init__(self, values: list):
        self.values = values


class LinkedList(_Nodes):
    """Values from the head on."""


class Tree(_Nodes):
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


def _same(kind: type[_Nodes]) -> Any:
    def same(a: Any, b: Any) -> bool:
        if a is None or b is None:
            return a is b
        return type(a) is type(b) is kind and a.values == b.values

    return same


# The names that a test may use besides what the solution defines.
_MATH = ("inf", "nan", "pi", "e", "isclose", "isnan", "isinf", "floor", "ceil", "sqrt")
_BUILTINS = (
    *("abs", "all", "any", "bool", "bytes", "complex", "dict", "enumerate", "float", "frozenset", "int", "isinstance"),
    *("len", "list", "map", "max", "min", "range", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip"),
)
_TRUSTED: dict[str, Any] = {name: getattr(builtins, name) for name in _BUILTINS} | {
    "math": SimpleNamespace(**{name: getattr(math, name) for name in _MATH}),
    "inf": math.inf,
    "nan": math.nan,
    "Counter": collections.Counter,
    "list_node": list_node,
    "tree_node": tree_node,
    "is_same_list": _same(LinkedList),
    "is_same_tree": _same(Tree),
}
# Turn a call's value into another before it is compared. Around a call and nothing else, they are evaluated with it,
# so that a result may be any iterable. Predicates are not among them: those are verdicts.
_CONVERSIONS = frozenset(
    [
        *("Counter", "abs", "dict", "float", "frozenset", "int", "len", "list", "map", "max", "min", "reversed", "set"),
        *("sorted", "str", "sum", "tuple"),
    ]
)
# Could be made to work for ever, or to hash values that collide, by a value that the solution chooses.
_NOT_OF_VALUES = frozenset(("Counter", "bytes", "dict", "frozenset", "range", "set"))
_ANYWHERE = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.IfExp)
_COMPREHENSIONS = (ast.ListComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Check:
    """A test, split: `calls` are sources to evaluate in the sandbox, `verdict` is an expression of their values."""

    calls: tuple[str, ...]
    verdict: CodeType

    def holds(self, values: list) -> bool:
        """Whether the assertion holds for the calls' decoded values. A comparison that raises does not hold."""
        names = {f"_{i}": value for i, value in enumerate(values)}
        try:
            return bool(eval(self.verdict, {"__builtins__": {}} | _TRUSTED | names))
        except Exception:
            return False


@lru_cache(maxsize=1 << 14)
def split(test: str) -> Check:
    """A test as `Check`. Raises ValueError for one that cannot be judged outside the solution's reach."""
    shown = test if len(test) <= 120 else test[:117] + "..."
    try:
        body = ast.parse(test).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"The test `{shown}` is not Python: {error}.") from None
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        raise ValueError(f"The test `{shown}` must be one assert statement.")
    splitter = _Splitter(test)
    try:
        expression = splitter.visit(body[0].test)
    except _UnfitError as error:
        raise ValueError(
            f"The test `{shown}` cannot be judged outside the solution's reach: {error}. Compare the value of a call"
            " with literals, list_node(...), tree_node(...) and plain builtins."
        ) from None
    if not splitter.calls:
        raise ValueError(f"The test `{shown}` calls nothing of the solution.")
    tree = ast.fix_missing_locations(ast.Expression(expression))
    return Check(tuple(splitter.calls), compile(tree, "<test>", "eval"))


class _UnfitError(Exception):
    pass


class _Splitter(ast.NodeTransformer):
    """Takes the calls into the solution out of an expression, and allows nothing else that could do harm here."""

    def __init__(self, test: str):
        self.calls: list[str] = []
        # Only what Python takes for the end of a line; str.splitlines knows more.
        self._lines = [f"{line}\n".encode() for line in test.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
        self._bound: set[str] = set()

    def visit(self, node: ast.AST) -> ast.AST:
        if self._is_call(node):
            used = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            if used & self._bound:
                raise _UnfitError("it calls the solution in a loop")
            if any(isinstance(part, ast.NamedExpr | ast.Await | ast.Yield) for part in ast.walk(node)):
                raise _UnfitError("it binds names inside a call")
            self.calls.append(self._source(node))
            return ast.Name(f"_{len(self.calls) - 1}", ast.Load())
        if isinstance(node, _COMPREHENSIONS):
            return self._comprehension(node)
        if isinstance(node, ast.Name):
            if node.id not in _TRUSTED and node.id not in self._bound:
                raise _UnfitError(f"only the solution's side could know `{node.id}`")
            return node
        if isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id == "math" and node.attr in _MATH):
                raise _UnfitError(f"it uses the attribute `{node.attr}`")
            return node
        if isinstance(node, ast.BinOp):
            return self._arithmetic(node)
        if isinstance(node, ast.Call):
            return self._function(node)
        fits = (*_ANYWHERE, ast.keyword, ast.Subscript, ast.Slice, ast.Starred)
        operators = (ast.operator, ast.cmpop, ast.unaryop, ast.boolop, ast.expr_context)
        if not isinstance(node, fits + operators):
            raise _UnfitError(f"it contains a {type(node).__name__}")
        return self.generic_visit(node)

    def _is_call(self, node: ast.AST) -> bool:
        """Whether the solution's side computes this: a chain of calls from one of its names, perhaps converted."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CONVERSIONS:
            kinds = [self._is_call(part) for part in node.args if not self._is_conversion(part)]
            return not node.keywords and kinds == [True]
        called, part = False, node
        while isinstance(part, ast.Call | ast.Attribute | ast.Subscript):
            called = called or isinstance(part, ast.Call)
            part = part.func if isinstance(part, ast.Call) else part.value
        return called and isinstance(part, ast.Name) and part.id not in _TRUSTED and part.id not in self._bound

    @staticmethod
    def _is_conversion(node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id in _CONVERSIONS

    def _arithmetic(self, node: ast.BinOp) -> ast.AST:
        before = len(self.calls)
        visited = self.generic_visit(node)
        # A value chosen by the solution must not make this side compute for ever ("x" * value).
        if len(self.calls) > before and not isinstance(node.op, ast.Add | ast.Sub):
            raise _UnfitError(f"it computes {type(node.op).__name__} with the solution's value; + and - are allowed")
        return visited

    def _function(self, node: ast.Call) -> ast.AST:
        before = len(self.calls)
        visited = self.generic_visit(node)
        if len(self.calls) > before and isinstance(node.func, ast.Name) and node.func.id in _NOT_OF_VALUES:
            raise _UnfitError(f"it calls {node.func.id} on more than one call's value")
        if len(self.calls) > before and isinstance(node.func, ast.Name) and node.func.id == "sum" and node.args[1:]:
            raise _UnfitError("it calls sum on more than numbers")
        return visited

    def _comprehension(self, node: ast.AST) -> ast.AST:
        if len(node.generators) != 1 or node.generators[0].is_async:
            raise _UnfitError("it has nested loops")
        (loop,) = node.generators
        loop.iter = self.visit(loop.iter)
        names = {name.id for name in ast.walk(loop.target) if isinstance(name, ast.Name)}
        self._bound |= names
        loop.ifs = [self.visit(condition) for condition in loop.ifs]
        node.elt = self.visit(node.elt)
        self._bound -= names
        return node

    def _source(self, node: ast.expr) -> str:
        """A node's text, in parentheses so that it may span lines (`ast.get_source_segment` is slow on long tests)."""
        first, last = node.lineno - 1, node.end_lineno - 1
        lines = self._lines[first : last + 1]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return f"({b''.join(lines).decode()})"


class UndecodableError(Exception):
    """What came back is no plain value."""


def decode(data: bytes) -> Any:
    """One message of the untrusted side: JSON. Raises UndecodableError."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise UndecodableError("not JSON") from None


def plain(encoded: Any) -> Any:
    """A value as `worker` encodes it: exact builtin types and `LinkedList`, `Tree`. Raises UndecodableError."""
    hashed = 0

    def value(item: Any) -> Any:
        if isinstance(item, list):
            return [value(part) for part in item]
        if not isinstance(item, dict):
            return item
        if len(item) != 1:
            raise UndecodableError("unknown value")
        ((tag, content),) = item.items()
        if tag == "tuple":
            return tuple([value(part) for part in content])
        if tag in ("set", "frozenset", "dict"):
            nonlocal hashed
            hashed += len(content)
            if hashed > _MAX_HASHED:
                raise UndecodableError(f"more than {_MAX_HASHED} elements in sets and dicts")
            if tag == "dict":
                return {value(key): value(part) for key, part in content}
            kind = set if tag == "set" else frozenset
            return kind([value(part) for part in content])
        if tag == "int":
            return int(content, 16)
        if tag == "bytes":
            return bytes.fromhex(content)
        if tag == "complex":
            return complex(*content)
        if tag == "ListNode":
            return LinkedList([value(part) for part in content])
        if tag == "TreeNode":
            return Tree([None if part is None else [value(part[0])] for part in content])
        raise UndecodableError("unknown value")

    try:
        return value(encoded)
    except (TypeError, ValueError, KeyError, IndexError, RecursionError):
        raise UndecodableError("unknown value") from None
