# ruff: noqa: E501  a source a line
"""Right solutions, written as hardly anybody writes them: each passes, as Python itself says that it should."""

import json
import subprocess
import sys

from sandbox_marks import isolation  # noqa: F401  (a fixture)

from qrpo_lib.rewards import code_extraction
from qrpo_lib.rewards.sandbox import sandbox
from qrpo_lib.tasks import leetcode

# Source, and what follows `assert`, of functions and classes on their own.
PLAIN = {
    "a function in an attribute of a module": (
        "import types\nm = types.ModuleType('m')\nexec('def g(x): return x + 1', m.__dict__)\nf = m.g\n",
        ["f(1) == 2"],
    ),
    "partial": ("from functools import partial\nf = partial(pow, 2)\n", ["f(10) == 1024"]),
    "a lambda": ("f = lambda x: x and x * f(x - 1) or 1\n", ["f(5) == 120"]),
    "an object that is called": (
        "class F:\n    __slots__ = ()\n    def __call__(self, x): return x * 2\nf = F()\n",
        ["f(4) == 8"],
    ),
    "a method of an instance": ("f = 'abc'.index\n", ["f('b') == 1"]),
    "a built-in": ("f = sorted\n", ["f([2, 1]) == [1, 2]"]),
    "a class with a static method": ("class S:\n    @staticmethod\n    def f(x): return -x\n", ["S().f(1) == -1"]),
    "a class method": ("class S:\n    @classmethod\n    def f(cls, x): return cls.__name__ * x\n", ["S.f(2) == 'SS'"]),
    "a metaclass": (
        "class M(type):\n    def __new__(m, n, b, d): return super().__new__(m, n, b, {k.lower(): v for k, v in d.items()})\n"
        "class S(metaclass=M):\n    def F(self, x): return x\n",
        ["S().f(3) == 3"],
    ),
    "a metaclass with __call__": (
        "class M(type):\n    def __call__(cls, *a): return lambda x: x + len(a)\nclass S(metaclass=M): pass\n",
        ["S(1, 2)(3) == 5"],
    ),
    "__getattr__": ("class S:\n    def __getattr__(self, n): return lambda x: n + x\n", ["S().f('!') == 'f!'"]),
    "a descriptor": (
        "class D:\n    def __get__(self, o, t): return lambda x: x\nclass S:\n    f = D()\n",
        ["S().f(3) == 3"],
    ),
    "a class decorator": (
        "def d(c):\n    c.f = lambda self, x: x\n    return c\n@d\nclass S: pass\n",
        ["S().f(3) == 3"],
    ),
    "an abstract class": (
        "from abc import ABC, abstractmethod\nclass B(ABC):\n    @abstractmethod\n    def f(self, x): ...\n"
        "class S(B):\n    def f(self, x): return x\n",
        ["S().f(1) == 1"],
    ),
    "multiple inheritance": (
        "class A:\n    def f(self, x): return [x]\nclass B(A):\n    def f(self, x): return super().f(x) + ['B']\n"
        "class C(A):\n    def f(self, x): return super().f(x) + ['C']\nclass S(B, C): pass\n",
        ["S().f(1) == [1, 'C', 'B']"],
    ),
    "a named tuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(x, [P(1, 2)])\n",
        ["f(0) == (0, [(1, 2)])"],
    ),
    "a typed named tuple": (
        "from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\n    y: int = 2\ndef f(x): return P(x)\n",
        ["f(1) == (1, 2)"],
    ),
    "a data class as a tuple": (
        "from dataclasses import dataclass, astuple\n@dataclass(slots=True, frozen=True)\nclass P:\n    x: int\n    y: int\n"
        "def f(x): return astuple(P(x, 2))\n",
        ["f(1) == (1, 2)"],
    ),
    "a data class as a dict": (
        "from __future__ import annotations\nfrom dataclasses import *\n@dataclass\nclass P:\n    x: int\n"
        "    y: list[P] = field(default_factory=list)\ndef f(x): return asdict(P(x, [P(2)]))\n",
        ["f(1) == {'x': 1, 'y': [{'x': 2, 'y': []}]}"],
    ),
    "an IntEnum": ("from enum import IntEnum\nclass C(IntEnum):\n    A = 3\ndef f(x): return [C.A]\n", ["f(0) == [3]"]),
    "an IntFlag": (
        "from enum import IntFlag\nclass C(IntFlag):\n    A = 1\n    B = 2\ndef f(x): return C.A | C.B\n",
        ["f(0) == 3"],
    ),
    "a str enumeration": (
        "from enum import Enum\nclass C(str, Enum):\n    A = 'a'\ndef f(x): return {C.A: C.A}\n",
        ["f(0) == {'a': 'a'}"],
    ),
    "a defaultdict": (
        "from collections import defaultdict\ndef f(x):\n    d = defaultdict(lambda: defaultdict(int))\n    d[x][1] += 1\n"
        "    return d\n",
        ["f(1) == {1: {1: 1}}"],
    ),
    "a Counter": ("from collections import Counter\ndef f(x): return Counter(x)\n", ["f('aab') == {'a': 2, 'b': 1}"]),
    "an OrderedDict": (
        "from collections import OrderedDict\ndef f(x): return OrderedDict([(2, x), (1, x)])\n",
        ["f(0) == {1: 0, 2: 0}"],
    ),
    "a deque made a list": (
        "from collections import deque\ndef f(x):\n    d = deque(x, maxlen=2)\n    d.rotate()\n    return list(d)\n",
        ["f([1, 2, 3]) == [3, 2]"],
    ),
    "an array made a list": ("from array import array\ndef f(x): return array('i', x).tolist()\n", ["f([1]) == [1]"]),
    "a memoryview made a list": ("def f(x): return memoryview(bytes(x))[::2].tolist()\n", ["f([1, 2, 3]) == [1, 3]"]),
    "numpy, where there is any": (
        "try: import numpy as np\nexcept ImportError: np = None\ndef f(x): return sum(x)\n",
        ["f([1, 2]) == 3"],
    ),
    "a generator that the test reads": (
        "def f(n): yield from range(n)\n",
        ["list(f(3)) == [0, 1, 2]", "sum(f(4)) == 6"],
    ),
    "a generator that the test sorts": (
        "def f(n): return (x % 3 for x in range(n))\n",
        ["sorted(f(4)) == [0, 0, 1, 2]"],
    ),
    "map, filter, zip, reversed": (
        "def f(n): return map(abs, filter(None, reversed(range(-n, 1))))\n",
        ["list(f(3)) == [1, 2, 3]", "set(f(3)) == {1, 2, 3}", "max(f(3)) == 3"],
    ),
    "an iterator of its own": (
        "class It:\n    def __init__(self, n): self.n = n\n    def __iter__(self): return self\n"
        "    def __next__(self):\n        if not self.n: raise StopIteration\n        self.n -= 1\n        return self.n\n"
        "def f(n): return It(n)\n",
        ["list(f(3)) == [2, 1, 0]"],
    ),
    "a sequence by __getitem__": (
        "class Q:\n    def __getitem__(self, i):\n        if i > 2: raise IndexError\n        return i\ndef f(n): return Q()\n",
        ["list(f(3)) == [0, 1, 2]"],
    ),
    "an int of 5,000 digits": ("def f(n): return 10 ** n + 1\n", ["f(5000) == 10 ** 5000 + 1"]),
    "digits of an int of 5,000": (
        "import sys\nsys.set_int_max_str_digits(0)\ndef f(n): return len(str(10 ** n))\n",
        ["f(5000) == 5001"],
    ),
    "bool for int and float for int": ("def f(x): return [x > 0, float(x)]\n", ["f(1) == [1, 1]"]),
    "minus zero, infinity": ("def f(x): return [-0.0, float('-inf')]\n", ["f(1) == [0, -float('inf')]"]),
    "a complex number without an imaginary part": ("def f(x): return complex(x)\n", ["f(1) == 1"]),
    "a Fraction": ("from fractions import Fraction as F\ndef f(x): return F(x, 4)\n", ["f(2) == 0.5", "f(8) == 2"]),
    "a Decimal": ("from decimal import Decimal as D\ndef f(x): return D(x) / 4\n", ["f(2) == 0.5", "f(1) == 0.25"]),
    "nested sets": (
        "def f(x): return {frozenset({x, 2}), frozenset()}\n",
        ["f(1) == {frozenset({1, 2}), frozenset()}"],
    ),
    "dict keys": ("def f(x): return dict.fromkeys(x).keys()\n", ["f('ab') == {'a', 'b'}"]),
    "a dict keyed by tuples": (
        "def f(x): return {(1, 'a'): None, (2,): (x,)}\n",
        ["f(3) == {(2,): (3,), (1, 'a'): None}"],
    ),
    "text of every plane": (
        "def f(x): return x[::-1]\n",
        ["f('a\\u0301\\U0001f600\\ud800') == '\\ud800\\U0001f600\\u0301a'"],
    ),
    "bytes": ("def f(x): return bytearray(x.encode())\n", ["f('\\xe9') == b'\\xc3\\xa9'"]),
    "None for an empty answer": ("def f(x): pass\n", ["f(1) is None", "f(1) == None", "not f(1)"]),
    "the argument changed in place": ("def f(x):\n    x.sort()\n    return x\n", ["f([2, 1]) == [1, 2]"]),
    "the same list many times over": ("def f(n): return [[0] * 2] * n\n", ["f(2) == [[0, 0], [0, 0]]"]),
    "a recursion of 50,000": (
        "import sys\nsys.setrecursionlimit(10 ** 6)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\n",
        ["f(50000) == 50000"],
    ),
    "a thread with a large stack": (
        "import sys, threading\nthreading.stack_size(2 ** 27)\nsys.setrecursionlimit(10 ** 6)\n"
        "def g(n): return 0 if n == 0 else 1 + g(n - 1)\ndef f(n):\n    out = []\n"
        "    t = threading.Thread(target=lambda: out.append(g(n)))\n    t.start(); t.join()\n    return out[0]\n",
        ["f(20000) == 20000"],
    ),
    "a larger stack asked of the system": (
        "import resource, sys\ntry: resource.setrlimit(resource.RLIMIT_STACK, (2 ** 27, resource.RLIM_INFINITY))\n"
        "except ValueError: resource.setrlimit(resource.RLIMIT_STACK, (2 ** 27, resource.getrlimit(3)[1]))\n"
        "def f(n): return n\n",
        ["f(1) == 1"],
    ),
    "a recursion through lru_cache": (
        "import sys\nfrom functools import lru_cache\nsys.setrecursionlimit(10 ** 5)\n"
        "@lru_cache(None)\ndef f(n): return n if n < 2 else (f(n - 1) + f(n - 2)) % 1000\n",
        # Python 3.12 bounds recursion through C by a number of its own, which no program can raise.
        ["f(300) == 600" if sys.version_info[:2] == (3, 12) else "f(3000) == 0"],
    ),
    "a trampoline of generators": (
        "def g(n):\n    if n == 0: return 0\n    return 1 + (yield g(n - 1))\n"
        "def f(n):\n    stack, value = [g(n)], None\n    while stack:\n        try:\n            stack.append(stack[-1].send(value)); value = None\n"
        "        except StopIteration as e: value = e.value; stack.pop()\n    return value\n",
        ["f(20000) == 20000"],
    ),
    "async": (
        "import asyncio\nasync def g(x):\n    await asyncio.sleep(0)\n    return x\n"
        "async def main(n): return await asyncio.gather(*(g(i) for i in range(n)))\ndef f(n): return asyncio.run(main(n))\n",
        ["f(3) == [0, 1, 2]", "f(2) == [0, 1]"],
    ),
    "an async generator": (
        "import asyncio\nasync def g(n):\n    for i in range(n): yield i\nasync def m(n): return [i async for i in g(n)]\n"
        "def f(n): return asyncio.new_event_loop().run_until_complete(m(n))\n",
        ["f(3) == [0, 1, 2]"],
    ),
    "a pool of threads": (
        "from concurrent.futures import ThreadPoolExecutor\ndef f(n):\n    with ThreadPoolExecutor(4) as p: return list(p.map(abs, range(-n, 0)))\n",
        ["f(3) == [3, 2, 1]"],
    ),
    "a queue and an event": (
        "import queue, threading\ndef f(n):\n    q, e = queue.Queue(), threading.Event()\n"
        "    threading.Thread(target=lambda: (e.wait(), q.put(n)), daemon=True).start()\n    e.set()\n    return q.get()\n",
        ["f(3) == 3"],
    ),
    "match": (
        "def f(x):\n    match x:\n        case [a, *rest] if rest: return a\n        case {'k': v, **more}: return v, more\n        case _: return None\n",
        ["f([1, 2]) == 1", "f({'k': 1, 'l': 2}) == (1, {'l': 2})", "f(0) is None"],
    ),
    "walrus and positional-only": (
        "def f(x, /, *, y=2): return (z := x + y) and [z, z]\n",
        ["f(1) == [3, 3]", "f(1, y=0) == [1, 1]"],
    ),
    "exec and globals": ("exec('def f(x): return globals()[\"k\"] + x')\nglobals()['k'] = 5\n", ["f(1) == 6"]),
    "state between tests": ("n = 0\ndef f():\n    global n\n    n += 1\n    return n\n", ["f() == 1", "f() == 2"]),
    "pickle and copy": (
        "import copy, pickle\nclass P:\n    def __init__(self, x): self.x = x\ndef f(x): return pickle.loads(pickle.dumps(copy.deepcopy(P(x)))).x\n",
        ["f([1]) == [1]"],
    ),
    "inspect and typing": (
        "import inspect, typing\ndef f(x: 'int') -> int: return len(inspect.signature(f).parameters) + typing.get_type_hints(f)['x'](x)\n",
        ["f(1) == 2"],
    ),
    "input in place of arguments": (
        "import io, sys\ndef f(x):\n    sys.stdin = io.StringIO(str(x))\n    return int(input()) * 2\n",
        ["f(3) == 6", "f(4) == 8"],
    ),
    "printing caught": (
        "import contextlib, io\ndef f(x):\n    with contextlib.redirect_stdout(io.StringIO()) as out: print(x)\n    return out.getvalue()\n",
        ["f(3) == '3\\n'"],
    ),
    "standard output closed": (
        "import os, sys\nsys.stdout = open(os.devnull, 'w')\nsys.stdout.close()\nsys.stdout = None\ndef f(x): return x\n",
        ["f(3) == 3"],
    ),
    "no standard streams read": ("import sys\ndef f(x): return sys.stdin.read() or x\n", ["f(3) == 3"]),
    "random with its own seed": (
        "import random\ndef f(x):\n    random.seed(x)\n    a = random.random()\n    random.seed(x)\n    return a == random.random()\n",
        ["f(3) is True"],
    ),
    "a name of the worker's": (
        "def encode(x): return x\nrequest = values = answer = send = receive = loads = None\nf = encode\n",
        ["f(1) == 1"],
    ),
    "a module named as itself": (
        "import sys\nsys.modules['json'] = sys\nimport json\ndef f(x): return json.maxsize > 0\n",
        ["f(1)"],
    ),
    "signals": (
        "import signal\nsignal.signal(signal.SIGALRM, lambda *_: None)\nsignal.alarm(100)\ndef f(x): return x\n",
        ["f(1) == 1"],
    ),
    "warnings as errors": ("import warnings\nwarnings.simplefilter('error')\ndef f(x): return x\n", ["f(1) == 1"]),
    "tabs": ("def f(x):\n\tif x:\n\t\treturn 1\n\treturn 0\n", ["f(1) == 1"]),
    "a coding line and a shebang": (
        "#!/usr/bin/env python3\n# -*- coding: utf-8 -*-\ndef f(x): return 'é'\n",
        ["f(1) == 'é'"],
    ),
    "names of other scripts": ("class Lösung:\n    def größe(self, 数): return 数\n", ["Lösung().größe(3) == 3"]),
    "a form feed": ("\x0cdef f(x):\n    return x\n\x0c\n", ["f(1) == 1"]),
    "no line end at its end": ("def f(x): return x #", ["f(1) == 1"]),
    "a bit of everything in one line": (
        "import math; f = lambda x: math.comb(x, 2) if x else None; g = f",
        ["f(4) == 6", "g(0) is None"],
    ),
    "an answer of 2 MB": ("def f(n): return list(range(n))\n", ["len(f(300000)) == 300000", "sum(f(10)) == 45"]),
    "gc switched off, freeze": (
        "import gc\ngc.disable(); gc.freeze(); gc.set_threshold(1)\ndef f(x): return x\n",
        ["f(1) == 1"],
    ),
    "statistics, bisect, heapq, itertools": (
        "import statistics, bisect, heapq, itertools, operator, string, calendar, datetime\ndef f(x):\n    heapq.heapify(x)\n"
        "    return [statistics.median(x), bisect.bisect(sorted(x), 2), heapq.nlargest(1, x), list(itertools.accumulate(x, operator.mul))]\n",
        ["f([3, 1, 2]) == [2, 2, [3], [1, 1 * 3, 6]] or f([3, 1, 2])[0] == 2"],
    ),
    "dates": (
        "import datetime\ndef f(x): return (datetime.date(2024, 2, 28) + datetime.timedelta(x)).isoformat()\n",
        ["f(1) == '2024-02-29'"],
    ),
    "sorted containers": (
        "from sortedcontainers import SortedDict, SortedList\ndef f(x): return SortedList(x)[0], SortedDict({2: 1, 1: 2}).peekitem(0)\n",
        ["f([3, 1]) == (1, (1, 2))"],
    ),
}
REVERSE = "class Solution:\n    def f(self, head):\n        last = None\n        while head: last, head = {new}, head.next\n        return last\n"
LIST = [
    "is_same_list(Solution().f(list_node([1, 2, 3])), list_node([3, 2, 1]))",
    "is_same_list(Solution().f(list_node([])), list_node([]))",
]
# The same with the LeetCode initialisation before it.
WITH_INITIALISATION = {
    "nodes with slots": (
        "class ListNode:\n    __slots__ = ('val', 'next')\n    def __init__(self, val=0, next=None): self.val, self.next = val, next\n"
        + REVERSE.format(new="ListNode(head.val, last)"),
        LIST,
    ),
    "a subclass of ListNode with slots": (
        "class N(ListNode):\n    __slots__ = ('seen',)\n" + REVERSE.format(new="N(head.val, last)"),
        LIST,
    ),
    "nodes as a data class": (
        "from dataclasses import dataclass\nfrom typing import Any\n@dataclass\nclass ListNode:\n    val: Any = 0\n    next: Any = None\n"
        + REVERSE.format(new="ListNode(head.val, last)"),
        LIST,
    ),
    "nodes whose next is a property": (
        "class ListNode:\n    def __init__(self, val=0, next=None): self.val, self._n = val, next\n"
        "    next = property(lambda self: self._n, lambda self, n: setattr(self, '_n', n))\n"
        + REVERSE.format(new="ListNode(head.val, last)"),
        LIST,
    ),
    "nodes that compare and iterate": (
        "ListNode.__iter__ = lambda s: iter([s.val])\nListNode.__eq__ = lambda a, b: False\nListNode.__hash__ = lambda s: 1\nListNode.__bool__ = lambda s: True\n"
        + REVERSE.format(new="ListNode(head.val, last)"),
        LIST,
    ),
    "a helper class of the same name inside": (
        "class Solution:\n    class Node:\n        def __init__(self, v): self.v = v\n    def f(self, x): return [self.Node(v).v for v in x]\n",
        ["Solution().f([1, 2]) == [1, 2]"],
    ),
    "the class twice, the second counts": (
        "class Solution:\n    def f(self, x): return None\nclass Solution(Solution):\n    def f(self, x): return x\n",
        ["Solution().f(1) == 1"],
    ),
    "Solution made by a function": ("def Solution():\n    class S:\n        def f(self, x): return x\n    return S()\n", ["Solution().f(1) == 1"]),
    "Solution without self": ("class Solution:\n    f = staticmethod(lambda x: x)\n", ["Solution().f(1) == 1"]),
    "Solution with a cache": (
        "class Solution:\n    @cache\n    def f(self, n): return n if n < 2 else self.f(n - 1) + self.f(n - 2)\n",
        ["Solution().f(80) == 23416728348467685"],
    ),
    "names of the initialisation used": (
        "class Solution:\n    def f(self, x: List[int]) -> Optional[int]: return reduce(xor, x, 0) if inf > 0 else Counter()\n",
        ["Solution().f([1, 2]) == 3"],
    ),
    "names of the initialisation taken": (
        "deque = list = heappush = inf = None\nclass Solution:\n    def f(self, x): return x\n",
        ["Solution().f(1) == 1"],
    ),
    "an import that fails, caught": (
        "try:\n    import numpy\nexcept Exception: numpy = None\nclass Solution:\n    def f(self, x): return x\n",
        ["Solution().f(1) == 1"],
    ),
    "tests of its own below": (
        "class Solution:\n    def f(self, x): return x\ndef test():\n    assert Solution().f(2) == 2\ntest()\nprint('ok')\n",
        ["Solution().f(1) == 1"],
    ),
    "unittest below": (
        "import unittest\nclass Solution:\n    def f(self, x): return x\nclass T(unittest.TestCase):\n    def test(self): pass\n"
        "if __name__ == '__main__': unittest.main()\n",
        ["Solution().f(1) == 1"],
    ),
    "a tree by tuples of children": (
        "class Solution:\n    def f(self, root):\n        def flip(n): return n and TreeNode(n.val, flip(n.right), flip(n.left))\n        return flip(root)\n",
        ["is_same_tree(Solution().f(tree_node([1, 2, 3, None, 4])), tree_node([1, 3, 2, None, None, 4]))"],
    ),
    "a skewed tree of 3,000": (
        "import sys\nsys.setrecursionlimit(10 ** 5)\nclass Solution:\n    def f(self, n):\n        root = None\n"
        "        for i in range(n): root = TreeNode(i, root)\n        return root\n    def g(self, n):\n        d, r = 0, self.f(n)\n"
        "        while r: d, r = d + 1, r.left\n        return d\n",
        ["Solution().g(3000) == 3000", "is_same_tree(Solution().f(2), tree_node([1, 0]))"],
    ),
    "a list of nodes of another name": (
        "class Node:\n    def __init__(self, val, next): self.val, self.next = val, next\n"
        "class Solution:\n    def f(self, head):\n        new = None\n        while head: new, head = Node(head.val, new), head.next\n        return new\n",
        ["is_same_list(Solution().f(list_node([1, 2, 3])), list_node([3, 2, 1]))", "is_same_list(Solution().f(list_node([])), list_node([]))"],
    ),
    "a list of named tuples": (
        "from collections import namedtuple\nNode = namedtuple('Node', 'val next')\n"
        "class Solution:\n    def f(self, n):\n        new = None\n        for i in range(n): new = Node(i, new)\n        return new\n",
        ["is_same_list(Solution().f(3), list_node([2, 1, 0]))", "is_same_list(list_node([0]), Solution().f(1))"],
    ),
    "a list of a dataclass with slots": (
        "from dataclasses import dataclass\n@dataclass(slots=True, eq=False)\nclass Cell:\n    val: int\n    next: object = None\n"
        "class Solution:\n    def f(self, n): return Cell(n, Cell(n + 1))\n",
        ["is_same_list(Solution().f(3), list_node([3, 4]))"],
    ),
    "a tree of nodes of another name": (
        "class Branch:\n    def __init__(self, val, left=None, right=None): self.val, self.left, self.right = val, left, right\n"
        "class Solution:\n    def f(self, root): return root and Branch(root.val, self.f(root.right), self.f(root.left))\n",
        ["is_same_tree(Solution().f(tree_node([1, 2, 3, None, 4])), tree_node([1, 3, 2, None, None, 4]))"],
    ),
    "a tree of simple namespaces": (
        "from types import SimpleNamespace as N\n"
        "class Solution:\n    def f(self, n): return N(val=n, left=N(val=1, left=None, right=None), right=None)\n",
        ["is_same_tree(Solution().f(7), tree_node([7, 1]))"],
    ),
    "another class for what it returns, ListNode kept": (
        "class Result(ListNode): pass\nclass Solution:\n    def f(self, n): return Result(n, ListNode(n))\n",
        ["is_same_list(Solution().f(3), list_node([3, 3]))"],
    ),
    "json's functions replaced": (
        "import json\ndef compact(o, **k): return 'mine'\njson.dumps = json.dump = json.loads = compact\njson.JSONEncoder = None\n"
        "class Solution:\n    def f(self, x): return {x: json.dumps(x)}\n",
        ["Solution().f(1) == {1: 'mine'}"],
    ),
    "only what is needed is called": (
        "class Solution:\n    def f(self, x): return 10 // x\n",
        ["Solution().f(5) == 2 or Solution().f(0) == 1", "(Solution().f(5) if Solution().f(10) == 1 else Solution().f(0)) == 2"],
    ),
    "one list that it goes on with": (
        "class Solution:\n    seen = []\n    def f(self, x):\n        self.seen.append(x)\n        return self.seen\n",
        ["Solution().f(1) == [1] and Solution().f(2) == [1, 2]"],
    ),
}  # fmt: skip

PYTHON = """
import io, json, sys, types
jobs, modules, output = json.load(sys.stdin), dict(sys.modules), sys.stdout
for name, source, tests in jobs:
    module = sys.modules["solution"] = types.ModuleType("solution")
    try:
        exec(source, module.__dict__)
        for test in tests: exec(test, module.__dict__)
    except BaseException as error:
        print(name, repr(error), file=sys.stderr)
    sys.stdout, sys.stdin = output, io.StringIO()
    sys.modules.update(modules)
"""


def asserts(tests):
    return [f"assert {test}" for test in tests]


def test_python_itself_finds_them_right():
    """Otherwise what follows would say nothing. In one process, those with the initialisation joined to it."""
    jobs = [(name, source, asserts(tests)) for name, (source, tests) in PLAIN.items()]
    for name, (source, tests) in WITH_INITIALISATION.items():
        jobs.append((name, f"{leetcode.INITIALISATION}\n{source}", asserts(tests)))
    found = subprocess.run([sys.executable, "-c", PYTHON], input=json.dumps(jobs), text=True, capture_output=True)
    assert [line for line in found.stderr.splitlines() if "Warning" not in line] == []
    assert found.returncode == 0


def test_every_one_of_them_passes(isolation):  # noqa: F811
    jobs = {name: (source, asserts(tests)) for name, (source, tests) in PLAIN.items()}
    jobs |= {name: (leetcode.program(source), asserts(tests)) for name, (source, tests) in WITH_INITIALISATION.items()}
    results = sandbox.run_many([*jobs.values()], isolation=isolation, processes=1, seconds_per_test=5)
    wrong = {name: result.details for name, result in zip(jobs, results, strict=True) if result.pass_rate != 1}
    assert wrong == {}
    assert len(jobs) > 95


BLOCK = "class Solution:\n    def f(self, n):\n        return {}\n"
# Completions in which a right class is found by the lenient rule; `n + 1` is right.
COMPLETIONS = {
    "brute force first": f"```python\n{BLOCK.format('0')}```\nFaster:\n```python\n{BLOCK.format('n + 1')}```\nIt is O(1).",
    "imports in a block before": f"```python\nimport math\n```\n```python\n{BLOCK.format('n + 1')}```",
    "a usage example after": f"```python\n{BLOCK.format('n + 1')}```\n```python\nprint(Solution().f(1))\n```",
    "the output after": f"```py\n{BLOCK.format('n + 1')}```\n```text\n2\n```",
    "a thought before": f"<think>```python\n{BLOCK.format('0')}```</think>\n```python\n{BLOCK.format('n + 1')}```",
    "cut off after the code": f"Sure.\n```Python3\n{BLOCK.format('n + 1')}",
    "quoted in a list": "1. First\n   ```python\n   "
    + BLOCK.format("n + 1").replace("\n", "\n   ")
    + "\n   ```\n2. Done",
    "code alone": BLOCK.format("n + 1"),
    "console and code": f"```console\n$ python x.py\n```\n```python\n{BLOCK.format('n + 1')}\n```",
    "five backticks": f"`````python\n{BLOCK.format('n + 1')}`````",
}


def test_completions_with_a_right_class_count(isolation):  # noqa: F811
    codes = {name: code_extraction.extract(text, ["Solution"], "lenient") for name, text in COMPLETIONS.items()}
    jobs = [(leetcode.program(code or ""), ["assert Solution().f(n = 1) == 2"]) for code in codes.values()]
    results = sandbox.run_many(jobs, isolation=isolation, processes=1)
    assert [name for name, result in zip(codes, results, strict=True) if result.pass_rate != 1] == []


# A solution's own names for what the test converts with: in one namespace with it, the test would take these.
OWN_NAMES = """
from collections import defaultdict
class Counter(defaultdict):
    def __init__(self, text): super().__init__(int, {"mine": 1})
sorted = list = tuple = set = len = max = abs = map = None
sum = 0
def f(x): return x
"""
CONVERTED = [
    *("Counter(f('aab')) == Counter('aba')", "sorted(f([2, 1])) == [1, 2]", "list(f((1, 2))) == [1, 2]"),
    *(
        "tuple(f([1])) == (1,)",
        "set(f([1, 1])) == {1}",
        "len(f([1, 2])) == 2",
        "max(f([1, 2])) == 2",
        "abs(f(-1)) == 1",
    ),
    *("sum(f([1, 2])) == 3", "sorted(map(sorted, f([[2, 1], [0]]))) == [[0], [1, 2]]", "str(f(1)) == '1'"),
    *("list(map(list, f(['ab']))) == [['a', 'b']]", "dict(f([(1, 2)])) == {1: 2}", "int(f('7')) == 7"),
]


def test_a_test_converts_by_its_own_functions_whatever_the_solution_calls_by_their_names(isolation):  # noqa: F811
    tests = asserts(CONVERTED)
    result = sandbox.run_tests(OWN_NAMES, tests, isolation=isolation)
    assert result.outcomes == ("passed",) * len(tests), result.details
    wrong = sandbox.run_tests(OWN_NAMES.replace("return x", "return [x]"), tests, isolation=isolation)
    assert "passed" not in wrong.outcomes


def test_of_several_calls_one_that_raises_fails_the_test_only_where_it_is_needed(isolation):  # noqa: F811
    source = "def f(x):\n    if x == 7: return object()\n    if x == 8: [0] * 10 ** 12\n    return 10 // x\n"
    tests = ["f(5) == 2 or f(0) == 1", "f(5) == 3 or f(0) == 1", "f(0) == 1 or f(5) == 2", "f(0) == f(1)"]
    tests += ["f(5) == 2 or f(7) == 1", "f(7) == 1 or f(5) == 2", "f(5) == 2 or f(8) == 1", "f(0) == 1"]
    result = sandbox.run_tests(source, asserts(tests), isolation=isolation)
    expected = ("passed", "error", "error", "error", "passed", "failed", "memory", "error")
    assert result.outcomes == expected, result.details


# What iterates over a value takes any iterable, as Python does.
ITERABLES = """
import collections
def f(n):
    for i in range(n): yield i + 1
def g(n): return {i: str(i) for i in range(n)}.values()
def h(n): return collections.deque(range(n))
"""
ITERATED = [
    *("[x for x in f(3)] == [1, 2, 3]", "sum(x for x in f(3)) == 6", "all(x > 0 and x < 9 for x in f(3))", "2 in f(3)"),
    *("any(f(3))", "[*f(3)] == [1, 2, 3]", "sorted(f(3), reverse=True) == [3, 2, 1]", "max(f(3), default=0) == 3"),
    *("list(zip(f(2), f(2))) == [(1, 1), (2, 2)]", "list(enumerate(f(2))) == [(0, 1), (1, 2)]", "7 not in f(3)"),
    *("'1' in g(2)", "2 in h(3)", "[x for x in h(2)] == [0, 1]", "sorted(h(3), reverse=True) == [2, 1, 0]"),
]


def test_what_a_test_iterates_over_may_be_any_iterable(isolation):  # noqa: F811
    result = sandbox.run_tests(ITERABLES, asserts(ITERATED), isolation=isolation)
    assert result.outcomes == ("passed",) * len(ITERATED), result.details
    wrong = sandbox.run_tests("def f(n): yield 0\ndef g(n): yield 0\nh = g", asserts(ITERATED), isolation=isolation)
    assert [test for test, one in zip(ITERATED, wrong.outcomes, strict=True) if one == "passed"] == ["7 not in f(3)"]


def test_what_is_no_node_is_no_other_list(isolation):  # noqa: F811
    """Python's own comparison would raise."""
    solution = f"{leetcode.INITIALISATION}\ndef f(x): return [[], (1,), 'a', 0][x]"
    tests = asserts(f"not is_same_list(f({i}), list_node([1]))" for i in range(4))
    assert sandbox.run_tests(solution, tests, isolation=isolation).outcomes == ("failed",) * 4
