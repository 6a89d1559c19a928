"""Right is right, whatever its form: sources and values that Python takes for equal to the expected ones."""

import math

import pytest
from sandbox_marks import isolation, outcomes  # noqa: F401  (a fixture)

from qrpo_lib.rewards.sandbox import sandbox
from qrpo_lib.tasks import leetcode

LIST = "assert is_same_list(Solution().f(list_node([1, 2, 3])), list_node([3, 2, 1]))"
REVERSE = """
    def f(self, head):
        before = None
        while head:
            node = {new}
            node.next, before, head = before, node, head.next
        return before
"""
OWN_NODE = """
class ListNode:
    def __init__(self, x):
        self.val = x
        self.next = None
"""
OWN_NODE_OF_TWO = """
class ListNode:
    def __init__(self, val, next):
        self.val = val
        self.next = next
"""
# Right solutions of one problem, reversing a list, that are written as people and models write.
SOURCES = {
    "plain": "class Solution:" + REVERSE.format(new="ListNode(head.val)"),
    "its own ListNode with one argument": OWN_NODE + "class Solution:" + REVERSE.format(new="ListNode(head.val)"),
    "its own ListNode, asked for by isinstance": OWN_NODE
    + "class Solution:"
    + REVERSE.format(new="ListNode(head.val) if isinstance(head, ListNode) else 0"),
    "its own ListNode with two arguments": OWN_NODE_OF_TWO
    + "class Solution:"
    + REVERSE.format(new="ListNode(head.val, None)"),
    "a subclass of ListNode": "class Node(ListNode):\n    pass\nclass Solution:" + REVERSE.format(new="Node(head.val)"),
    "a method added to ListNode": "ListNode.__lt__ = lambda a, b: a.val < b.val\nclass Solution:"
    + REVERSE.format(new="min(ListNode(head.val), ListNode(9))"),
    "globals called like builtins": "next = iter = setattr = reversed = len = list = deque = None\nclass Solution:"
    + REVERSE.format(new="ListNode(head.val)"),
    "a global called next": "next = None\nclass Solution:" + REVERSE.format(new="ListNode(head.val)"),
    "annotations from the future": "from __future__ import annotations\nclass Solution:\n    y: Undefined = 1"
    + REVERSE.format(new="ListNode(head.val)"),
    "a docstring before the future": '"""Mine."""\nfrom __future__ import annotations\nclass Solution:'
    + REVERSE.format(new="ListNode(head.val)"),
    "a byte order mark": "\ufeffclass Solution:" + REVERSE.format(new="ListNode(head.val)"),
    "Windows' line ends": ("class Solution:" + REVERSE.format(new="ListNode(head.val)")).replace("\n", "\r\n"),
    "exit at its end": "class Solution:" + REVERSE.format(new="ListNode(head.val)") + "exit()\n",
    "sys.exit(0) at its end": "import sys\nclass Solution:"
    + REVERSE.format(new="ListNode(head.val)")
    + "sys.exit(0)\n",
    "a part for running it": "class Solution:"
    + REVERSE.format(new="ListNode(head.val)")
    + "if __name__ == '__main__':\n    import nothing\n    quit()\n",
    "printing to the null device": "import os\nprint('x', file=open(os.devnull, 'w'))\nclass Solution:"
    + REVERSE.format(new="ListNode(head.val)"),
    "a dataclass": "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int'\nclass Solution:"
    + REVERSE.format(new="ListNode(P(head.val).x)"),
}


@pytest.mark.parametrize("form", SOURCES)
def test_right_sources_pass_in_every_form(form, isolation):  # noqa: F811
    result = sandbox.run_tests(leetcode.program(SOURCES[form]), [LIST] * 2, isolation=isolation)
    assert result.outcomes == ("passed", "passed"), result.details


@pytest.mark.parametrize("form", ["annotations from the future", "a byte order mark", "a global called next"])
def test_the_same_as_one_text(form):
    """The initialisation and the solution joined by the caller, as the contract of `run_tests` has it."""
    assert outcomes(f"{leetcode.INITIALISATION}\n{SOURCES[form]}", [LIST]) == ["passed"]


def test_trees_of_ones_own_class(isolation):  # noqa: F811
    code = """
class TreeNode:
    def __init__(self, x):
        self.val, self.left, self.right = x, None, None
class Solution:
    def f(self, root):
        if root: root.left, root.right = self.f(root.right), self.f(root.left)
        return root
"""
    test = "assert is_same_tree(Solution().f(tree_node([1, 2, None, 3])), tree_node([1, None, 2, None, 3]))"
    assert outcomes(leetcode.program(code), [test], isolation=isolation) == ["passed"]


VALUES = """
import array, collections, decimal, fractions, types
from collections import *
from decimal import Decimal
from fractions import Fraction
from sortedcontainers import *
class Mine(list): pass
def f(text): return eval(text)
"""
# What a solution returns, what it is compared with, and whether Python finds them equal (computed below).
PAIRS = [
    ("Fraction(1, 2)", "0.5"),
    ("Fraction(4, 2)", "2"),
    ("Fraction(1, 10)", "0.1"),
    ("Fraction(1, 3)", "0.3333333333333333"),
    ("[Fraction(3)]", "[3.0]"),
    ("Decimal('0.5')", "0.5"),
    ("Decimal('0.1')", "0.1"),
    ("Decimal('3.00')", "3"),
    ("Decimal('1e30')", "10 ** 30"),
    ("Decimal('NaN')", "1"),
    ("Decimal('-Infinity')", "-1e400"),
    ("{1: 2}.keys()", "{1}"),
    ("{1: 2}.items()", "{(1, 2)}"),
    ("{1: 2}.values()", "[2]"),
    ("OrderedDict(a=1).keys()", "{'a'}"),
    ("bytearray(b'ab')", "b'ab'"),
    ("memoryview(b'ab')", "b'ab'"),
    ("UserList([1, 2])", "[1, 2]"),
    ("UserString('ab')", "'ab'"),
    ("UserDict(a=1)", "{'a': 1}"),
    ("ChainMap({'a': 1}, {'b': 2})", "{'a': 1, 'b': 2}"),
    ("types.MappingProxyType({1: 2})", "{1: 2}"),
    ("SortedList([2, 1])", "[1, 2]"),
    ("SortedSet([2, 1])", "{1, 2}"),
    ("SortedDict({2: 1})", "{2: 1}"),
    ("SortedDict({2: 1}).keys()", "{2}"),
    ("Mine([1])", "[1]"),
    ("deque([1])", "[1]"),
    ("range(3)", "[0, 1, 2]"),
    ("range(0, 3, 2)", "range(0, 4, 2)"),
    ("range(5, 5)", "range(0)"),
    ("array.array('i', [1])", "[1]"),
    ("frozenset({1})", "{1.0}"),
    ("{1, 'a', (2, 3.0)}", "{'a', True, (2, 3)}"),
    ("{frozenset({1, 2}): {3}}", "{frozenset({2, 1}): {3}}"),
    ("1 + 0j", "1"),
    ("[1j, -0.0]", "[1j, 0]"),
    ("10 ** 400", "10 ** 400"),
    ("float(2 ** 70)", "2 ** 70"),
    ("1e22", "10 ** 22"),
    ("1e23", "10 ** 23"),
    ("'\\ud800\"\\u2028'", "'\\ud800\"\\u2028'"),
    ("[float('nan')]", "[nan]"),
    ("set(range(100000))", "set(range(100000))"),
    ("{i: str(i) for i in range(20000, 0, -1)}", "dict((i, str(i)) for i in range(1, 20001))"),
]


def test_equality_is_pythons_on_what_counts_as_plain(isolation):  # noqa: F811
    names: dict = {}
    exec(VALUES, names)
    trusted = {"nan": math.nan}
    pairs = [pair for pair in PAIRS if "dict(" not in pair[1]]
    expected = ["passed" if eval(a, names) == eval(b, names | trusted) else "failed" for a, b in pairs]
    tests = [f"assert f({a!r}) == {b}" for a, b in pairs]
    found = outcomes(VALUES, tests, isolation=isolation)
    wrong = [pair for pair, one, other in zip(pairs, found, expected, strict=True) if one != other]
    assert wrong == []
    assert 25 < expected.count("passed") < len(expected)


def test_a_long_answer_counts_up_to_the_limit_in_characters(isolation):  # noqa: F811
    """JSON's quotation marks are two of the characters; a character of several bytes is one."""
    room = sandbox.ANSWER_CHARACTERS - 2
    source = "def f(n, text): return text * n\n"
    tests = [
        f"assert len(f({room}, 'x')) == {room}",
        f"assert f({room // 2}, 'é') == 'é' * {room // 2}",
        f"assert f({room}, 'x') == 'x' * {room}",
        f"assert f({room + 1}, 'x') == 'x' * {room + 1}",
    ]
    result = sandbox.run_tests(source, tests, isolation=isolation, seconds_per_test=10)
    assert result.outcomes == ("passed", "passed", "passed", "failed")
    assert f"more than {sandbox.ANSWER_CHARACTERS} characters" in result.details[3]


def test_a_long_list(isolation):  # noqa: F811
    """Over 4 MB of JSON."""
    source = "def f(n): return list(range(10 ** 6, 10 ** 6 + n))\n"
    tests = [
        "assert f(900000) == list(range(1000000, 1900000))",
        "assert f(900000) != [1]",
        "assert 1500000 in f(900000)",
    ]
    assert outcomes(source, tests, isolation=isolation, seconds_per_test=10) == ["passed"] * 3
