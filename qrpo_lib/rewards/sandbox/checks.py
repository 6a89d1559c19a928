"""The trusted half of a test: what of an `assert` the solution computes, and what is decided here, on plain values.

`assert sorted(Solution().f(3)) == [1, 2]` is split into the call `sorted(Solution().f(3))`, which the sandbox
evaluates, and the comparison of its value with `[1, 2]`, which never enters the sandbox. So a solution has the power
that it is entitled to, to return values, and no other.

Nearly all tests compare one value with one that is known. Both have a form in which equal values are equal texts
(`sandbox_worker.encoder`); the solution's side brings its value into it, in its own time, and here digests are
compared. What a test of another form compares is decoded: small values here, if no loop of the test could make them
last, others in a process with limits (`judge`).
"""

from __future__ import annotations

import ast
import builtins
import collections
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from qrpo_lib.rewards.sandbox import vacuous, worker
from qrpo_lib.rewards.sandbox.reply import Digest
from qrpo_lib.rewards.sandbox.values import (
    LinkedList,
    Nodes,
    Tree,
    UndecodableError,
    decode,
    list_node,
    plain,
    same,
    tree_node,
)

# Values that are decoded and compared here: so few that whatever they are, it takes no time.
_SMALL_BYTES = 4096


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
    "is_same_list": same(LinkedList),
    "is_same_tree": same(Tree),
}
# Turn a call's value into another before it is compared. Around a call and nothing else, they are evaluated with it,
# so that a result may be any iterable. Predicates are not among them: those are verdicts.
_CONVERSIONS = frozenset(worker.CONVERSIONS)
# Builtins of known values alone, in tests that call the solution by other names: it could define its own.
_OF_KNOWN = {
    name: getattr(builtins, name) for name in ("ascii", "bin", "chr", "divmod", "hex", "oct", "ord", "pow", "repr")
}
# What a loop may call for each element and still be quick.
_CHEAP = frozenset(
    (
        "abs",
        "all",
        "any",
        "bool",
        "enumerate",
        "float",
        "isinstance",
        "len",
        "max",
        "min",
        "sorted",
        "str",
        "sum",
        "zip",
    )
)
_FEW = 100
# Whose argument is iterated over: any iterable will do.
_ITERATE = frozenset(("all", "any", "enumerate", "list", "max", "min", "reversed", "sorted", "sum", "tuple", "zip"))
_NODES = {"is_same_list": "list", "is_same_tree": "tree"}
_BUILTIN = frozenset(dir(builtins))
# Could be made to work for ever, or to hash values that collide, by a value that the solution chooses.
_NOT_OF_VALUES = frozenset(("Counter", "bytes", "dict", "frozenset", "range", "set"))
# Methods of plain values: with arguments, they are part of a test's verdict.
_PLAIN_METHODS = frozenset(
    name for kind in (str, bytes, list, tuple, dict, set, frozenset, int, float, complex) for name in dir(kind)
)
_ANYWHERE = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.IfExp)
_LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict)
_BINDING = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)
_COMPREHENSIONS = (ast.ListComp, ast.GeneratorExp)


class Call(NamedTuple):
    """A call into the solution, as the worker takes it.

    source: of the call, in the solution's own names.
    conversion: source of what is done with its value `_`, in the worker's names; empty for nothing.
    read_as: "list" or "tree" where the test compares the value as one, "iterable" where it iterates over it.
    """

    source: str
    conversion: str = ""
    read_as: str = ""


@dataclass(frozen=True)
class Check:
    """A test, split.

    calls: what to evaluate in the sandbox.
    expected: the digest that the one call's value must have; None where `verdict` decides.
    verdict: source of an expression of the calls' values, `_0`, `_1` and so on.
    names: what of the solution the calls begin with.
    is_quick: whether the expression takes little time for all short values, whatever is in them.
    """

    calls: tuple[Call, ...]
    expected: Digest | None
    verdict: str
    names: frozenset[str]
    is_quick: bool

    def holds(self, answers: Sequence[Digest] | Sequence[bytes | None]) -> bool | None:
        """Whether the assertion holds for the calls' answers. None: deciding may take too long for this process.

        Answers are what the untrusted side sent, digests where `expected` is one, None for a call that raised.
        Whatever goes wrong with them means that the assertion does not hold.
        """
        if self.expected is not None:
            return list(answers) == [self.expected]
        given = [answer for answer in answers if answer is not None]
        if not self.is_quick or sum(map(len, given)) > _SMALL_BYTES or any(map(_may_be_long, given)):
            return None
        return decided(self.verdict, answers)


def _may_be_long(answer: bytes) -> bool:
    """Whether a range may be in it, which is as long as it says in a few characters, however these are written."""
    try:
        return '"range"' in worker.dumped(decode(answer))
    except (UndecodableError, RecursionError):
        return False


def decided(verdict: str, answers: Sequence[bytes | None]) -> bool:
    """The truth of an expression of values. One that raises is false, and so is one of values that are none."""
    try:
        names = {f"_{i}": plain(decode(answer)) for i, answer in enumerate(answers) if answer is not None}
        return bool(evaluated(verdict, names))
    except Exception:  # also RecursionError, MemoryError: nothing of this is the suite's fault
        return False


def evaluated(verdict: str, names: dict[str, Any]) -> Any:
    """The value of an expression of trusted names and these."""
    return eval(_compiled(verdict), {"__builtins__": {}} | _TRUSTED | _OF_KNOWN | names)


@lru_cache(maxsize=1 << 10)
def _compiled(verdict: str) -> Any:
    return compile(verdict, "<test>", "eval")


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
    try:
        return _split(test, shown, body[0].test)
    except RecursionError:
        raise ValueError(f"The test `{shown}` is nested too deeply, or has too many terms.") from None


def _split(test: str, shown: str, condition: ast.expr) -> Check:
    splitter = _Splitter(test, condition)
    try:
        splitter.check_form(condition)
        expression = splitter.visit(condition)
    except _UnfitError as error:
        raise ValueError(
            f"The test `{shown}` cannot be judged outside the solution's reach: {error}. Compare the value of a call"
            " with literals, list_node(...), tree_node(...) and plain builtins."
        ) from None
    if not splitter.calls:
        raise ValueError(f"The test `{shown}` calls nothing of the solution.")
    calls, names = tuple(splitter.calls), frozenset(splitter.names)
    expected = _expected(expression, splitter.literals) if len(calls) == 1 else None
    if expected:
        return Check(calls, expected, "", names, is_quick=True)
    first = {f"_{i}": f"_{calls.index(call)}" for i, call in enumerate(calls)}
    if vacuous.is_always_true(expression, first, lambda known: evaluated(known, {})):
        raise ValueError(f"The test `{shown}` passes every solution: whatever the calls return, it holds.")
    return Check(calls, expected, ast.unparse(ast.fix_missing_locations(expression)), names, _is_quick(expression))


def _is_quick(expression: ast.expr) -> bool:
    """Whether it takes little time and memory for all short values, whatever is in them.

    A loop does if what it does with each element takes time in proportion to that one's length, and adds no loop.
    """
    nodes = list(ast.walk(expression))
    loops = [node for node in nodes if isinstance(node, _COMPREHENSIONS)]
    if any(isinstance(node, ast.Name) and node.id == "map" for node in nodes):
        return False
    if any(isinstance(node, ast.keyword) and node.arg == "key" for node in nodes):
        return False
    inside = [part for loop in loops for part in ast.walk(loop) if part is not loop]
    return len(loops) <= 1 and all(_is_cheap(part) for part in inside)


def _is_cheap(node: ast.AST) -> bool:
    """Whether this, done with one element after the other, takes no time to speak of."""
    if isinstance(node, ast.BinOp):  # "%9999999d" % x, "x" * n and a ** b are as large as the solution says
        return isinstance(node.op, ast.Add | ast.Sub)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _CHEAP
    return not (isinstance(node, _LITERALS[1:]) and sum(1 for _ in ast.walk(node)) > _FEW)


_canonical = worker.encoder(exact=False)
_NOT_A_NUMBER = worker.dumped(_canonical(math.nan))


def _expected(expression: ast.expr, literals: dict[ast.AST, Any]) -> Digest | None:
    """The digest of the one value that the one call may have; None if the expression says it in another way."""
    compares = (
        isinstance(expression, ast.Compare) and len(expression.ops) == 1 and isinstance(expression.ops[0], ast.Eq)
    )
    if compares:
        sides, kind = [expression.left, *expression.comparators], None
    elif isinstance(expression, ast.Call) and not expression.keywords and isinstance(expression.func, ast.Name):
        sides, kind = expression.args, {"is_same_list": LinkedList, "is_same_tree": Tree}.get(expression.func.id)
    else:
        return None
    known = [side for side in sides if not (isinstance(side, ast.Name) and side.id == "_0")]
    if len(sides) != 2 or len(known) != 1 or not (compares or kind):
        return None
    try:
        if known[0] in literals:
            value = literals[known[0]]
        else:
            if any(isinstance(part, ast.Name) and part.id == "_0" for part in ast.walk(known[0])):
                return None
            tree = ast.fix_missing_locations(ast.Expression(known[0]))
            value = eval(compile(tree, "<test>", "eval"), {"__builtins__": {}} | _TRUSTED | _OF_KNOWN)
        text = worker.dumped(_canonical(value) if compares else _of_nodes(value, kind))
    except Exception:  # it raises, or is no plain value: then evaluating the whole says what follows
        return None
    # Not a number equals nothing, itself included.
    return None if _NOT_A_NUMBER in text else Digest.of(text.encode("utf-8", "surrogatepass"))


def _of_nodes(value: Any, kind: type[Nodes]) -> Any:
    if value is None:
        return None
    if type(value) is not kind:
        raise worker.NotPlainError
    encoded = [
        _canonical(item) if kind is LinkedList or item is None else [_canonical(item[0])] for item in value.values
    ]
    return {"ListNode" if kind is LinkedList else "TreeNode": encoded}


class _UnfitError(Exception):
    pass


class _Splitter(ast.NodeTransformer):
    """Takes the calls into the solution out of an expression, and allows nothing else that could do harm here."""

    def __init__(self, test: str, expression: ast.expr):
        self.calls: list[Call] = []
        self.names: set[str] = set()
        self.literals: dict[ast.AST, Any] = {}
        self._read_as: dict[ast.AST, str] = {}
        # Only what Python takes for the end of a line; str.splitlines knows more.
        self._lines = [f"{line}\n".encode() for line in test.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
        self._bound: set[str] = set()
        # Where the test calls nothing by another name, a builtin's name is the solution's: `assert pow(2, 3) == 8`.
        self._has_names = any(True for _ in self._solution_names(expression))

    def visit(self, node: ast.AST) -> ast.AST:
        if self._is_literal(node):
            return node
        if self._is_call(node):
            return self._call(node)
        if isinstance(node, _COMPREHENSIONS):
            return self._comprehension(node)
        if isinstance(node, ast.Starred):
            self._read_as[node.value] = "iterable"
        if isinstance(node, ast.Compare):
            pairs = zip(node.ops, node.comparators, strict=True)
            self._read_as |= {side: "iterable" for op, side in pairs if isinstance(op, ast.In | ast.NotIn)}
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

    def _call(self, node: ast.expr) -> ast.AST:
        """Note a call into the solution; the name of its value."""
        read_as, conversion = self._read_as.get(node, ""), "_"
        while self._is_conversion_of(node):
            inner = next(part for part in node.args if not self._is_conversion(part))
            given = ", ".join("_" if part is inner else part.id for part in node.args)
            conversion = conversion.replace("_", f"{node.func.id}({given})")
            node = inner
        source = self._source(node)
        if self._bound and any(isinstance(name, ast.Name) and name.id in self._bound for name in ast.walk(node)):
            raise _UnfitError("it calls the solution in a loop")
        # Only a text that looks like it is searched: walking through a long literal takes long.
        if re.search(":=|await|yield", source) and any(isinstance(part, _BINDING) for part in ast.walk(node)):
            raise _UnfitError("it binds names inside a call")
        self.calls.append(Call(source, "" if conversion == "_" else conversion, read_as))
        root = self._root(node).id
        self.names |= {root} if root not in _BUILTIN or not self._has_names else set(self._solution_names(node))
        return ast.Name(f"_{len(self.calls) - 1}", ast.Load())

    def _solution_names(self, node: ast.AST) -> Iterator[str]:
        """Names in it that neither this side nor Python knows; long literals are not walked through."""
        if isinstance(node, ast.Name):
            if node.id not in _TRUSTED and node.id not in _BUILTIN and node.id not in self._bound:
                yield node.id
        elif not self._is_literal(node):
            loops = node.generators if isinstance(node, _COMPREHENSIONS) else ()
            own = {name.id for loop in loops for name in ast.walk(loop.target) if isinstance(name, ast.Name)}
            for child in ast.iter_child_nodes(node):
                yield from (name for name in self._solution_names(child) if name not in own)

    def _is_literal(self, node: ast.AST) -> bool:
        """Whether a node is nothing but a literal; its value is kept. Most of a test's text is one."""
        if node in self.literals:
            return True
        if not isinstance(node, _LITERALS) or "(" in self._source(node)[1:].lstrip("("):
            return False
        try:
            self.literals[node] = ast.literal_eval(node)
        except (ValueError, TypeError, MemoryError, RecursionError):
            return False
        return True

    def check_form(self, node: ast.AST, verdict: bool = True) -> None:
        """Raise _UnfitError where what a value should be would be sent in with the call that gives it.

        verdict: whether the node's truth is the test's.
        """
        if self._is_literal(node):
            return None
        if self._is_call(node):
            return self._check_call(node, verdict)
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(self._is_call(side) and ast.dump(side) == ast.dump(node.left) for side in node.comparators):
                raise _UnfitError("it compares a call with itself, which says nothing of a solution")
            among = [part for side in sides if isinstance(side, ast.Tuple | ast.List | ast.Set) for part in side.elts]
            for side in [*sides, *among]:
                if isinstance(side, ast.Name) and callable(_TRUSTED.get(side.id)):
                    raise _UnfitError(f"it compares with `{side.id}`, which no plain value equals")
            told = any(isinstance(side, ast.Constant) and isinstance(side.value, bool) for side in sides)
            verdict = verdict and told
        elif not (isinstance(node, ast.BoolOp | ast.IfExp) or _is_not_or_bool(node)):
            verdict = False
        for child in ast.iter_child_nodes(node):
            self.check_form(child, verdict)
        return None

    def _check_call(self, node: ast.AST, verdict: bool) -> None:
        while self._is_conversion_of(node):
            node = next(part for part in node.args if not self._is_conversion(part))
        advice = "the value that it should have would be known to the solution; compare it with =="
        root = self._root(node).id
        if root in ("eval", "exec", "compile"):
            raise _UnfitError(f"it has the solution's side call {root}: {advice}")
        if root in _BUILTIN and self._has_names and any(isinstance(part, ast.Compare) for part in ast.walk(node)):
            raise _UnfitError(f"it compares inside of {root}(...): {advice}")
        if verdict and isinstance(node, ast.Call):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            if len(given) > 1 and any(self._is_call(part) for part in given):
                raise _UnfitError(f"it asks the solution to judge a value of its own: {advice}")
        while not isinstance(node, ast.Name):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and (node.args or node.keywords):
                method = node.func.attr
                if (verdict or method in _PLAIN_METHODS) and _is_a_result(node.func.value):
                    raise _UnfitError(f"it calls .{method}(...) on the value of a call: {advice}")
            node = node.func if isinstance(node, ast.Call) else node.value

    def _is_call(self, node: ast.AST) -> bool:
        """Whether the solution's side computes this: a chain of calls from one of its names, perhaps converted."""
        if self._is_conversion_of(node):
            kinds = [self._is_call(part) for part in node.args if not self._is_conversion(part)]
            return not node.keywords and kinds == [True]
        called, part = False, node
        while isinstance(part, ast.Call | ast.Attribute | ast.Subscript):
            called = called or isinstance(part, ast.Call)
            part = part.func if isinstance(part, ast.Call) else part.value
        if not called or not isinstance(part, ast.Name) or part.id in _TRUSTED or part.id in self._bound:
            return False
        if part.id in _BUILTIN and self._has_names:  # of known values alone, it is this side's to compute
            return any(True for _ in self._solution_names(node))
        return True

    @staticmethod
    def _root(node: ast.AST) -> ast.Name:
        while not isinstance(node, ast.Name):
            node = node.func if isinstance(node, ast.Call) else node.value
        return node

    @staticmethod
    def _is_conversion(node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id in _CONVERSIONS

    @classmethod
    def _is_conversion_of(cls, node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and cls._is_conversion(node.func)

    def _arithmetic(self, node: ast.BinOp) -> ast.AST:
        before = len(self.calls)
        visited = self.generic_visit(node)
        # A value chosen by the solution must not make this side compute for ever ("x" * value).
        if len(self.calls) > before and not isinstance(node.op, ast.Add | ast.Sub):
            raise _UnfitError(f"it computes {type(node.op).__name__} with the solution's value; + and - are allowed")
        return visited

    def _function(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in _OF_KNOWN:
            node.args = [self.visit(part) for part in node.args]
            node.keywords = [self.visit(part) for part in node.keywords]
            return node
        if isinstance(node.func, ast.Name) and node.func.id in _BUILTIN and node.func.id not in _TRUSTED:
            raise _UnfitError(f"only the solution's side could know `{node.func.id}`; write the value")
        if isinstance(node.func, ast.Name) and node.func.id in _NODES:
            self._read_as |= dict.fromkeys(node.args, _NODES[node.func.id])
        several = isinstance(node.func, ast.Name) and (node.func.id not in ("max", "min") or len(node.args) == 1)
        if several and node.func.id in _ITERATE:
            self._read_as |= dict.fromkeys(node.args, "iterable")
        before = len(self.calls)
        visited = self.generic_visit(node)
        if len(self.calls) > before and isinstance(node.func, ast.Name) and node.func.id in _NOT_OF_VALUES:
            raise _UnfitError(f"it calls {node.func.id} on more than one call's value")
        if len(self.calls) > before and isinstance(node.func, ast.Name) and node.func.id == "sum" and node.args[1:]:
            raise _UnfitError("it calls sum on more than numbers")
        rounds = isinstance(node.func, ast.Name) and node.func.id == "round" and node.args[1:]
        if len(self.calls) > before and rounds and not isinstance(node.args[1], ast.Constant):
            raise _UnfitError("it rounds to a number of digits that is not written in it")
        return visited

    def _comprehension(self, node: ast.AST) -> ast.AST:
        if len(node.generators) != 1 or node.generators[0].is_async:
            raise _UnfitError("it has nested loops")
        (loop,) = node.generators
        self._read_as[loop.iter] = "iterable"
        loop.iter = self.visit(loop.iter)
        names = {name.id for name in ast.walk(loop.target) if isinstance(name, ast.Name)}
        if any(re.fullmatch(r"_\d+", name) for name in names):
            raise _UnfitError(f"its loop uses the name {min(names)}, which means a call's value here")
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


def _is_not_or_bool(node: ast.AST) -> bool:
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not)
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "bool"


def _is_a_result(node: ast.AST) -> bool:
    """Whether a chain calls a function. Making an object of a class, whose name has a capital letter, is none."""
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id[:1].isupper()):
            return True
        node = node.func if isinstance(node, ast.Call) else node.value
    return False
