# ruff: noqa: E501  a source a line
"""Right solutions that use what the language and the standard library have, as Python itself says that they are right."""

import json
import subprocess
import sys

from sandbox_marks import isolation  # noqa: F401  (a fixture)

from qrpo_lib.rewards.sandbox import sandbox

# Source, and what follows `assert`.
SOLUTIONS = {
    "star imports": (
        "from math import *\nfrom typing import *\nfrom collections import *\nfrom itertools import *\nfrom heapq import *\nfrom bisect import *\ndef f(x: List[int]) -> int: return comb(len(x), 2)\n",
        ["f([1,2,3]) == 3"],
    ),
    "sys.exit at end": ("import sys\ndef f(x): return x\nsys.exit()\n", ["f(1) == 1"]),
    "raise SystemExit(0)": ("def f(x): return x\nraise SystemExit(0)\n", ["f(1) == 1"]),
    "type()": ("Solution = type('Solution', (), {'f': lambda self, x: x + 1})\n", ["Solution().f(1) == 2"]),
    "contextvar": (
        "import contextvars\nv = contextvars.ContextVar('v', default=0)\ndef f(x):\n    t = v.set(x)\n    y = v.get()\n    v.reset(t)\n    return y + v.get()\n",
        ["f(4) == 4"],
    ),
    "thread local": (
        "import threading\nl = threading.local()\ndef f(x):\n    l.x = x\n    return l.x\n",
        ["f(1) == 1"],
    ),
    "asyncio queue taskgroup": (
        "import asyncio\nasync def main(n):\n    q = asyncio.Queue()\n    out = []\n    async def prod():\n        for i in range(n): await q.put(i)\n        await q.put(None)\n    async def cons():\n        while (i := await q.get()) is not None: out.append(i)\n    async with asyncio.TaskGroup() as g:\n        g.create_task(prod()); g.create_task(cons())\n    return out\ndef f(n): return asyncio.run(main(n))\n",
        ["f(3) == [0, 1, 2]"],
    ),
    "asyncio to_thread": (
        "import asyncio\nasync def m(x): return await asyncio.to_thread(lambda: x + 1)\ndef f(x): return asyncio.run(m(x))\n",
        ["f(1) == 2"],
    ),
    "platform": (
        "import platform, os\ndef f(x): return platform.system() + platform.python_implementation() * 0 + str(len(platform.processor()) * 0)\n",
        ["f(1) == 'Linux0'"],
    ),
    "uuid": (
        "import uuid\ndef f(x): return len(str(uuid.uuid4())) + len(str(uuid.uuid5(uuid.NAMESPACE_DNS, 'a'))) + 0 * len(str(uuid.uuid1()))\n",
        ["f(1) == 72"],
    ),
    "secrets": (
        "import secrets, os\ndef f(x): return len(secrets.token_hex(8)) + len(os.urandom(4)) + secrets.randbelow(1)\n",
        ["f(1) == 20"],
    ),
    "utc": (
        "import datetime\ndef f(x): return datetime.datetime.fromtimestamp(x, datetime.timezone.utc).isoformat()\n",
        ["f(0) == '1970-01-01T00:00:00+00:00'"],
    ),
    "locale": (
        "import locale\nlocale.setlocale(locale.LC_ALL, '')\ndef f(x): return locale.format_string('%d', x)\n",
        ["f(1) == '1'"],
    ),
    "decimal context": (
        "from decimal import *\ngetcontext().prec = 30\ndef f(x): return str(Decimal(1) / Decimal(x))\n",
        ["f(3) == '0.' + '3' * 30"],
    ),
    "sqlite": (
        "import sqlite3\ndef f(x):\n    c = sqlite3.connect(':memory:')\n    c.execute('create table t (a int)')\n    c.executemany('insert into t values (?)', [(i,) for i in range(x)])\n    return c.execute('select sum(a) from t').fetchone()[0]\n",
        ["f(5) == 10"],
    ),
    "csv": (
        "import csv, io\ndef f(s): return list(csv.reader(io.StringIO(s)))\n",
        ["f('a,b\\nc,d\\n') == [['a', 'b'], ['c', 'd']]"],
    ),
    "hash and struct": (
        "import hashlib, struct, base64, zlib, hmac\ndef f(s): return hashlib.md5(s.encode()).hexdigest()[:4] + str(struct.calcsize('>iq')) + base64.b64encode(s.encode()).decode()\n",
        ["f('a') == '0cc112YQ=='"],
    ),
    "graphlib": (
        "from graphlib import TopologicalSorter\ndef f(g): return list(TopologicalSorter(g).static_order())\n",
        ["f({'b': ['a'], 'c': ['b']}) == ['a', 'b', 'c']"],
    ),
    "singledispatch": (
        "from functools import singledispatch\n@singledispatch\ndef f(x): return 'o'\n@f.register\ndef _(x: int): return 'i'\n@f.register(list)\ndef _(x): return 'l'\n",
        ["f(1) == 'i'", "f([]) == 'l'", "f('') == 'o'"],
    ),
    "cmp_to_key": (
        "from functools import cmp_to_key\ndef f(x): return ''.join(sorted(map(str, x), key=cmp_to_key(lambda a, b: 1 if a + b < b + a else -1)))\n",
        ["f([3, 30, 34, 5, 9]) == '9534330'"],
    ),
    "exception group": (
        "def f(x):\n    try: raise ExceptionGroup('g', [ValueError(x), TypeError()])\n    except* ValueError as e: r = e.exceptions[0].args[0]\n    except* TypeError: pass\n    return r\n",
        ["f(3) == 3"],
    ),
    "match class": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    y: int\ndef f(a, b):\n    match P(a, b):\n        case P(x=0, y=y): return y\n        case P(x, y) if x > y: return x\n        case _: return -1\n",
        ["f(0, 5) == 5", "f(3, 2) == 3", "f(1, 2) == -1"],
    ),
    "init_subclass": (
        "class B:\n    r = []\n    def __init_subclass__(cls, **k): B.r.append(cls.__name__)\n    def __class_getitem__(cls, i): return i\nclass A(B): pass\ndef f(x): return B.r + [B[x]]\n",
        ["f(1) == ['A', 1]"],
    ),
    "set_name": (
        "class D:\n    def __set_name__(self, o, n): self.n = n\n    def __get__(self, o, t): return lambda x: self.n * x\nclass S:\n    go = D()\n",
        ["S().go(2) == 'gogo'"],
    ),
    "exit stack": (
        "from contextlib import ExitStack, contextmanager\n@contextmanager\ndef c(l, i):\n    l.append(i)\n    try: yield\n    finally: l.append(-i)\ndef f(n):\n    l = []\n    with ExitStack() as s:\n        for i in range(1, n): s.enter_context(c(l, i))\n    return l\n",
        ["f(3) == [1, 2, -2, -1]"],
    ),
    "generator finally": (
        "log = []\ndef g():\n    try:\n        yield 1\n        yield 2\n    finally: log.append('closed')\ndef f(x):\n    it = g(); next(it); it.close()\n    return log\n",
        ["f(1) == ['closed']"],
    ),
    "weakref finalize": (
        "import weakref, gc\nclass A: pass\ndef f(x):\n    l = []\n    a = A(); a.a = a\n    weakref.finalize(a, l.append, x)\n    del a; gc.collect()\n    return l\n",
        ["f(1) == [1]"],
    ),
    "logging": (
        "import logging, sys\nlogging.basicConfig(level=logging.DEBUG, stream=sys.stdout)\ndef f(x):\n    logging.info('x' * 100)\n    print('a', file=sys.stderr)\n    return x\n",
        ["f(1) == 1"],
    ),
    "fast input": (
        "import sys, os, io\ninput = sys.stdin.readline\nprint = lambda *a: sys.stdout.write(' '.join(map(str, a)) + '\\n')\ndef f(x):\n    print(x)\n    return x\n",
        ["f(1) == 1"],
    ),
    "BytesIO fast io": (
        "import sys, os, io\nsys.stdin = io.TextIOWrapper(io.BytesIO(os.read(0, 100)))\ndef f(x): return [sys.stdin.read(), x]\n",
        ["f(1) == ['', 1]"],
    ),
    "open(0)": ("data = open(0, closefd=False).read().split()\ndef f(x): return len(data) + x\n", ["f(1) == 1"]),
    "stack 256 MB": (
        "import sys, threading\nsys.setrecursionlimit(10 ** 7)\nthreading.stack_size(2 ** 28)\ndef g(n): return 0 if n == 0 else 1 + g(n - 1)\ndef f(n):\n    r = []\n    t = threading.Thread(target=lambda: r.append(g(n)))\n    t.start(); t.join()\n    return r[0]\n",
        ["f(100000) == 100000"],
    ),
    "stack 512 MB": (
        "import sys, threading\nthreading.stack_size(512 * 1024 * 1024)\ndef f(n):\n    r = []\n    t = threading.Thread(target=lambda: r.append(n))\n    t.start(); t.join()\n    return r[0]\n",
        ["f(1) == 1"],
    ),
    "1e22": (
        "def f(x): return float(x)\n",
        ["f(10 ** 22) == 10 ** 22", "f(2 ** 70) == 2 ** 70", "f(1e16) == 10 ** 16"],
    ),
    "negative zero int keys": (
        "def f(x): return {0.0: 'a', True: 'b', 2.0: 'c'}\n",
        ["f(1) == {0: 'a', 1: 'b', 2: 'c'}"],
    ),
    "mixed keys": (
        "def f(x): return {None: 1, 'a': 2, (1, 2): 3, 4: 5, 1.5: 6, b'x': 7, frozenset({1}): 8}\n",
        ["f(1) == {4: 5, None: 1, (1, 2): 3, 'a': 2, b'x': 7, 1.5: 6, frozenset({1}): 8}"],
    ),
    "mixed set": (
        "def f(x): return {None, 'a', (1, 2), 4, 1.5, b'x', True}\n",
        ["f(1) == {1, 4, None, (1, 2), 'a', b'x', 1.5}"],
    ),
    "call forms": (
        "def f(a, b=2, *c, d=4, **e): return [a, b, list(c), d, e]\n",
        ["f(1, *[2, 3], **{'z': 3}) == [1, 2, [3], 4, {'z': 3}]", "f(b=1, a=0) == [0, 1, [], 4, {}]"],
    ),
    "nested calls": (
        "def f(x): return x + 1\ndef g(*a): return list(a)\n",
        ["f(f(f(1))) == 4", "g(f(1), f(2)) == [2, 3]", "g(*g(1, 2)) == [1, 2]"],
    ),
    "chains": (
        "class A:\n    def __init__(self, x=0): self.x = x\n    def plus(self, y): return A(self.x + y)\n    def get(self): return self.x\n",
        ["A(1).plus(2).plus(3).get() == 6", "A().plus(2).x == 2"],
    ),
    "indexing": (
        "def f(x): return {'a': [1, (2, 3)]}\n",
        ["f(1)['a'][1] == (2, 3)", "f(1)['a'][1][0] == 2", "len(f(1)['a']) == 2"],
    ),
    "lambda default": (
        "fs = [lambda x, i=i: x * i for i in range(4)]\ndef f(x): return [g(x) for g in fs]\n",
        ["f(2) == [0, 2, 4, 6]"],
    ),
    "big recursion dict": (
        "def f(n):\n    d = {}\n    for i in range(n): d = {'k': d}\n    return d\n",
        ["f(3) == {'k': {'k': {'k': {}}}}"],
    ),
    "nested 150": (
        "def f(n):\n    d = []\n    for i in range(n): d = [d]\n    return d\n",
        ["f(40) == [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"],
    ),
    "unicode names": ("def ｆ(x): return x\n", ["f(1) == 1"]),
    "ternary and walrus": ("def f(x): return y if (y := x * 2) > 3 else -y\n", ["f(1) == -2", "f(2) == 4"]),
    "global in class": (
        "class Solution:\n    memo = {}\n    def f(self, n):\n        if n in self.memo: return self.memo[n]\n        self.memo[n] = n if n < 2 else self.f(n - 1) + self.f(n - 2)\n        return self.memo[n]\n",
        ["Solution().f(90) == 2880067194370816120"],
    ),
    "type alias": (
        "from typing import TypeVar, Generic, Protocol, TypeAlias, Self\nT = TypeVar('T')\nclass Box(Generic[T]):\n    def __init__(self, x: T): self.x = x\n    def get(self) -> T: return self.x\ndef f(x): return Box[int](x).get()\n",
        ["f(3) == 3"],
    ),
    "union find slots": (
        "class UF:\n    __slots__ = ('p', 'r')\n    def __init__(self, n): self.p = list(range(n)); self.r = [0] * n\n    def find(self, x):\n        while self.p[x] != x:\n            self.p[x] = self.p[self.p[x]]; x = self.p[x]\n        return x\ndef f(n, e):\n    u = UF(n)\n    for a, b in e: u.p[u.find(a)] = u.find(b)\n    return len({u.find(i) for i in range(n)})\n",
        ["f(4, [[0, 1], [1, 2]]) == 2"],
    ),
    "segment in bytes": (
        "def f(s): return bytes(s, 'ascii').translate(bytes.maketrans(b'ab', b'ba')).decode()\n",
        ["f('abba') == 'baab'"],
    ),
    "memoryview cast": (
        "from array import array\ndef f(n):\n    m = memoryview(array('q', range(n)))\n    return m[::-1].tolist(), m.nbytes\n",
        ["f(3) == ([2, 1, 0], 24)"],
    ),
    "string enum auto": (
        "from enum import StrEnum, auto\nclass C(StrEnum):\n    RED = auto()\ndef f(x): return [C.RED, C.RED.value]\n",
        ["f(1) == ['red', 'red']"],
    ),
    "custom int str float subclasses": (
        "class I(int): pass\nclass S(str): pass\nclass F(float): pass\nclass L(list): pass\ndef f(x): return L([I(x), S('a'), F(1.5), {S('k'): I(2)}])\n",
        ["f(1) == [1, 'a', 1.5, {'k': 2}]"],
    ),
    "ChainMap": (
        "from collections import ChainMap\ndef f(x): return dict(ChainMap({1: 2}, {1: 3, 4: 5}))\n",
        ["f(1) == {1: 2, 4: 5}"],
    ),
    "select and sockets pair": (
        "import selectors, socket\ndef f(x):\n    a, b = socket.socketpair()\n    s = selectors.DefaultSelector()\n    s.register(b, selectors.EVENT_READ)\n    a.send(b'x')\n    n = len(s.select(1))\n    a.close(); b.close(); s.close()\n    return n\n",
        ["f(1) == 1"],
    ),
    "sched": (
        "import sched, time\ndef f(n):\n    out = []\n    s = sched.scheduler(time.monotonic, time.sleep)\n    for i in range(n): s.enter(0.001 * (n - i), 1, out.append, (i,))\n    s.run()\n    return out\n",
        ["f(3) == [2, 1, 0]"],
    ),
    "condition barrier": (
        "import threading\ndef f(n):\n    out, c = [], threading.Condition()\n    turn = [0]\n    def w(i):\n        with c:\n            c.wait_for(lambda: turn[0] == i)\n            out.append(i); turn[0] += 1; c.notify_all()\n    ts = [threading.Thread(target=w, args=(i,)) for i in reversed(range(n))]\n    [t.start() for t in ts]; [t.join() for t in ts]\n    return out\n",
        ["f(10) == list(range(10))"],
    ),
    "profiling": (
        "import cProfile, timeit, tracemalloc, io, pstats\ndef f(x):\n    p = cProfile.Profile()\n    p.enable(); y = sum(range(x)); p.disable()\n    tracemalloc.start(); tracemalloc.stop()\n    return y + 0 * int(timeit.timeit('1', number=1))\n",
        ["f(4) == 6"],
    ),
}
PYTHON = """
import io, json, sys, types
jobs, output = json.load(sys.stdin), sys.stdout
sys.stdin = open("/dev/null")
for name, source, tests in jobs:
    module = sys.modules["solution"] = types.ModuleType("solution")
    try:
        try: exec(source, module.__dict__)
        except SystemExit: pass
        for test in tests: exec(f"assert {test}", module.__dict__)
    except BaseException as error: output.write(f"{name}: {error!r}\\n")
    sys.stdout, sys.stdin = io.StringIO(), io.StringIO()
"""


def test_python_itself_finds_them_right():
    jobs = [(name, *solution) for name, solution in SOLUTIONS.items()]
    found = subprocess.run(
        [sys.executable, "-c", PYTHON], input=json.dumps(jobs), stdout=subprocess.PIPE, text=True, check=True
    )
    assert [line for line in found.stdout.splitlines() if line.split(":")[0] in SOLUTIONS] == []


def test_every_one_of_them_passes(isolation):  # noqa: F811
    jobs = [(source, [f"assert {test}" for test in tests]) for source, tests in SOLUTIONS.values()]
    results = sandbox.run_many(jobs, isolation=isolation, processes=1, seconds_per_test=5)
    wrong = {name: result.details for name, result in zip(SOLUTIONS, results, strict=True) if result.pass_rate != 1}
    assert wrong == {}
    assert len(SOLUTIONS) > 55
