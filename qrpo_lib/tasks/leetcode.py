"""LeetCode problems as the paper uses them (App. L.3, L.4, L.6): prompts, tests, filter. Rows are plain dicts.

A row has the columns of newfacade/LeetCodeDataset; this module reads `task_id`, `difficulty`, `query`, `starter_code`,
`entry_point`, `test` and `input_output`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from qrpo_lib.rewards.sandbox import checks, sandbox

MIN_TESTS = 20
"""Problems with fewer test cases are left out (App. L.3)."""

INITIALISATION = '''\
import bisect
import collections
import datetime
import functools
import heapq
import itertools
import math
import operator
import queue
import random
import re
import string
from bisect import bisect_left, bisect_right, insort, insort_left, insort_right
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque, namedtuple
from functools import cache, cached_property, cmp_to_key, lru_cache, partial, reduce, total_ordering
from heapq import heapify, heappop, heappush, heappushpop, heapreplace, merge, nlargest, nsmallest
from itertools import (
    accumulate, chain, combinations, combinations_with_replacement, compress, count, cycle, dropwhile, filterfalse,
    groupby, islice, pairwise, permutations, product, repeat, starmap, takewhile, tee, zip_longest,
)
from math import ceil, comb, dist, factorial, floor, gcd, hypot, inf, isqrt, lcm, log, log2, log10, perm, pi, prod, sqrt
from operator import add, and_, attrgetter, itemgetter, mul, or_, sub, xor
from queue import PriorityQueue, Queue
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits
from typing import Any, Callable, Deque, Dict, FrozenSet, Iterable, Iterator, List, Optional, Set, Tuple, Union

from sortedcontainers import SortedDict, SortedList, SortedSet


class ListNode:
    """A node of a linked list."""

    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next


class TreeNode:
    """A node of a binary tree."""

    def __init__(self, val=0, left=None, right=None):
        self.val = val
        self.left = left
        self.right = right


class Node:
    """A node of a tree, or of a list whose nodes also point to a random one."""

    def __init__(self, val=0, left=None, right=None, random=None):
        self.val = val
        self.left = left
        self.right = right
        self.random = random


class CategoryHandler:
    """Says whether two items are of the same category; a test brings its own."""

    def haveSameCategory(self, a: int, b: int) -> bool:
        raise NotImplementedError


def list_node(values):
    """The linked list of some values, None if there are none."""
    head = None
    for value in reversed(values):
        node = ListNode(value)
        node.next = head
        head = node
    return head


def tree_node(values):
    """The binary tree of values given level by level, None where a child is absent."""
    if not values:
        return None
    nodes = [None if value is None else TreeNode(value) for value in values]
    children = nodes[:0:-1]
    for node in nodes:
        if node is not None and children:
            node.left = children.pop()
        if node is not None and children:
            node.right = children.pop()
    return nodes[0]


def is_same_list(a, b):
    """Whether two linked lists hold the same values."""
    while a is not None and b is not None:
        if a.val != b.val:
            return False
        a, b = a.next, b.next
    return a is None and b is None


def is_same_tree(a, b):
    """Whether two binary trees have the same shape and values."""
    pairs = [(a, b)]
    while pairs:
        a, b = pairs.pop()
        if a is None and b is None:
            continue
        if a is None or b is None or a.val != b.val:
            return False
        pairs += [(a.left, b.left), (a.right, b.right)]
    return True
'''
"""Runs before every solution, and every prompt shows it: one for all problems, without wildcard imports."""

_FORMAT = re.compile(r"^### Format:.*?(?=^### Answer:)", re.DOTALL | re.MULTILINE)


def prompt(row: Mapping[str, Any]) -> str:
    """The request for a solution (App. L.6): the dataset's own, with a format section that shows the initialisation.

    Raises ValueError if the row's `query` is not laid out as the dataset's are.
    """
    section = (
        "### Format:\n"
        "The code below has run before your solution does. Use what you need of it.\n"
        f"```python\n{INITIALISATION}```\n\n"
        "Complete the starter code and give the whole of it, between the delimiters shown. If your solution needs an"
        " import that is not above, add it at the marked place.\n"
        "```python\n"
        "# Further imports, if any.\n\n"
        f"{row['starter_code'].rstrip()}\n"
        "```\n\n"
    )
    query, sections = _FORMAT.subn(lambda _: section, row["query"])
    if sections != 1:
        raise ValueError(
            f"The query of problem {row['task_id']} has {sections} sections '### Format:' before '### Answer:';"
            " exactly one is expected: check the revision of the dataset."
        )
    return query


def tests(row: Mapping[str, Any]) -> list[str]:
    """The asserts of the row's `check(candidate)`, in order, on the entry point instead of `candidate`.

    Raises ValueError for a `test` column of another form.
    """
    source = row["test"]
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"The tests of problem {row['task_id']} are not Python: {error}.") from None
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef) or body[0].name != "check":
        raise ValueError(f"The tests of problem {row['task_id']} are not one function `check`.")
    lines = [f"{line}\n".encode() for line in source.split("\n")]
    return [
        _on_entry_point(lines, statement, row["entry_point"])
        for statement in body[0].body
        if isinstance(statement, ast.Assert)
    ]


def _on_entry_point(lines: list[bytes], statement: ast.Assert, entry_point: str) -> str:
    """A statement's text with the entry point in place of the name `candidate`."""
    starts = [0]
    for line in lines[statement.lineno - 1 : statement.end_lineno]:
        starts.append(starts[-1] + len(line))
    text = b"".join(lines[statement.lineno - 1 : statement.end_lineno])

    def at(line: int, column: int) -> int:
        return starts[line - statement.lineno] + column

    end = at(statement.end_lineno, statement.end_col_offset)
    names = [node for node in ast.walk(statement) if isinstance(node, ast.Name) and node.id == "candidate"]
    for name in sorted(names, key=lambda name: (name.lineno, name.col_offset), reverse=True):
        start = at(name.lineno, name.col_offset)
        text = text[:start] + entry_point.encode() + text[start + len(b"candidate") :]
        end += len(entry_point.encode()) - len(b"candidate")
    return text[at(statement.lineno, statement.col_offset) : end].decode()


def program(code: str) -> sandbox.Program:
    """What the sandbox runs: the initialisation, then the solution's code."""
    return sandbox.Program(code, INITIALISATION)


def unfit(row: Mapping[str, Any], *, min_tests: int = MIN_TESTS, max_tests: int = sandbox.MAX_TESTS) -> str | None:
    """Why a problem cannot be used, None if it can: too few test cases (App. L.3), or some that cannot be judged.

    The authors count the entries of `input_output`, of which the dataset turned fewer into asserts for some problems;
    so do we, to have their problems, some of which run fewer than `min_tests` asserts. The paper's other filter, on
    tokens, needs a tokenizer and is not applied here.
    """
    cases = len(row["input_output"])
    if cases < min_tests:
        return f"{cases} test cases, fewer than {min_tests}"
    try:
        asserts = tests(row)
        for test in asserts[:max_tests]:
            checks.split(test)
    except ValueError as error:
        return str(error)
    return None if asserts else "no asserts"
