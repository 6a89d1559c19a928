# ruff: noqa: E501  a case a line
"""Right solutions whose form, imports, state, output or results are unusual; Python itself finds them right."""

import json
import subprocess
import sys

import pytest
from sandbox_marks import isolation  # noqa: F401  (a fixture)

from qrpo_lib.rewards.sandbox import sandbox

pytestmark = pytest.mark.slow
# Source, and what follows `assert`.
SOLUTIONS = {
    "typing star": ('from typing import *\nclass Solution:\n    def twoSum(self, nums: List[int], target: int) -> Optional[List[int]]:\n        d = {}\n        for i, x in enumerate(nums):\n            if target - x in d: return [d[target - x], i]\n            d[x] = i\n', ['Solution().twoSum(nums = [2,7,11,15], target = 9) == [0,1]']),
    "helper after class": ('class Solution:\n    def f(self, x): return helper(x)\ndef helper(x): return x * 2\n', ['Solution().f(2) == 4']),
    "main guard unittest": ("def f(x): return x\nif __name__ == '__main__':\n    import sys\n    sys.exit(f(int(input())))\n", ['f(1) == 1']),
    "cache by class attr": ('class S:\n    memo = {}\n    def f(self, n):\n        if n not in self.memo: self.memo[n] = n if n < 2 else self.f(n-1)+self.f(n-2)\n        return self.memo[n]\n', ['S().f(50) == 12586269025', 'S().f(51) == 20365011074']),
    "bisect key": ('import bisect\ndef f(a, x): return bisect.bisect_left(a, x, key=lambda t: t[1])\n', ['f([(0,1),(0,3)], 2) == 1']),
    "insort key": ('from bisect import insort\ndef f(a):\n    out = []\n    for x in a: insort(out, x, key=lambda v: -v)\n    return out\n', ['f([1,3,2]) == [3,2,1]']),
    "file attr": ("import os\nHERE = os.path.dirname(os.path.abspath(globals().get('__file__', '.')))\ndef f(x): return x\n", ['f(1) == 1']),
    "timeit from main": ("import timeit\ndef f(x): return x\nassert timeit.timeit('f(1)', globals=globals(), number=1) >= 0\n", ['f(1) == 1']),
    "doctest": ("def f(x):\n    '''\n    >>> f(1)\n    1\n    '''\n    return x\nimport doctest\ndoctest.testmod()\n", ['f(1) == 1']),
    "doctest of itself": ("import doctest, sys\ndef f(x):\n    '''\n    >>> f(1)\n    1\n    '''\n    return x\nr = doctest.testmod(sys.modules[__name__])\ndef g(): return r.attempted\n", ['g() == 1']),
    "unittest run at load": ('import unittest, io\ndef f(x): return x\nclass T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(1), 1)\nr = unittest.TextTestRunner(stream=io.StringIO()).run(unittest.defaultTestLoader.loadTestsFromTestCase(T))\ndef g(): return r.wasSuccessful()\n', ['g() is True']),
    "unittest main exit False": ("import unittest, sys\ndef f(x): return x\nclass T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(1), 1)\nunittest.main(module=sys.modules[__name__], argv=['x'], exit=False)\n", ['f(1) == 1']),
    "unittest main exits": ("import unittest, sys\ndef f(x): return x\nclass T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(1), 1)\nunittest.main(module=sys.modules[__name__], argv=['x'])\n", ['f(1) == 1']),
    "os.environ home": ("import os\nHOME = os.environ.get('HOME')\nUSER = os.environ.get('USER')\ndef f(x): return x\n", ['f(1) == 1']),
    "argparse": ("import argparse\np = argparse.ArgumentParser()\np.add_argument('--n', type=int, default=3)\nA = p.parse_args([])\ndef f(x): return x + A.n\n", ['f(1) == 4']),
    "argparse of argv": ("import argparse\np = argparse.ArgumentParser()\np.add_argument('--n', type=int, default=3)\nA = p.parse_args()\ndef f(x): return x + A.n\n", ['f(1) == 4']),
    "sys.argv[0]": ('import sys\nname = sys.argv[0]\ndef f(x): return x\n', ['f(1) == 1']),
    "logging basicConfig": ("import logging\nlogging.basicConfig(level=logging.DEBUG)\nlogging.debug('x')\ndef f(x):\n    logging.info('x %s', x)\n    return x\n", ['f(1) == 1']),
    "print unicode": ("print('\\u4f60\\u597d \\U0001f600')\ndef f(x):\n    print('é'); return x\n", ['f(1) == 1']),
    "print flush to stderr": ("import sys\ndef f(x):\n    print(x, file=sys.stderr, flush=True); sys.stdout.write('a'); sys.stdout.buffer.write(b'x'); return x\n", ['f(1) == 1']),
    "reconfigure": ("import sys\nsys.stdout.reconfigure(line_buffering=True)\nsys.stdin.reconfigure(encoding='utf-8')\ndef f(x): return x\n", ['f(1) == 1']),
    "input readlines": ('import sys\ninput = sys.stdin.readline\nlines = sys.stdin.readlines()\ndef f(x): return x\n', ['f(1) == 1']),
    "input caught": ('try:\n    n = int(input())\nexcept EOFError:\n    n = 0\ndef f(x): return x + n\n', ['f(1) == 1']),
    "fileinput": ("import fileinput\nlines = list(fileinput.input(files=('-',)))\ndef f(x): return len(lines) + x\n", ['f(1) == 1']),
    "os.read stdin": ('import os, io\ndata = os.read(0, os.fstat(0).st_size or 1)\ndef f(x): return x + len(data)\n', ['f(1) == 1']),
    "mmap anon": ("import mmap\ndef f(x):\n    m = mmap.mmap(-1, 4096)\n    m[0:3] = b'abc'\n    return bytes(m[:x])\n", ["f(3) == b'abc'"]),
    "tempfile spooled": ("import tempfile\ndef f(x):\n    with tempfile.SpooledTemporaryFile() as t:\n        t.write(b'x' * x); t.seek(0)\n        return t.read()\n", ["f(3) == b'xxx'"]),
    "hashlib": ('import hashlib, base64, zlib, binascii\ndef f(x): return hashlib.md5(x.encode()).hexdigest()\ndef g(x): return zlib.decompress(zlib.compress(x)) + base64.b64decode(base64.b64encode(x))\n', ["f('a') == '0cc175b9c0f1b6a831c399e269772661'", "g(b'a') == b'aa'"]),
    "zlib bz2 lzma": ('import bz2, lzma, gzip\ndef f(x): return gzip.decompress(gzip.compress(x)) + bz2.decompress(bz2.compress(x)) + lzma.decompress(lzma.compress(x))\n', ["f(b'a') == b'aaa'"]),
    "ast and dis": ("import ast, dis, io\ndef f(s): return eval(compile(ast.parse(s, mode='eval'), '', 'eval'))\ndef g():\n    b = io.StringIO(); dis.dis(f, file=b); return len(b.getvalue()) > 0\n", ["f('1+2') == 3", 'g() is True']),
    "ast.literal_eval": ('import ast\ndef f(s): return ast.literal_eval(s)\n', ["f('[1, {2: (3,)}]') == [1, {2: (3,)}]"]),
    "inspect source": ('import inspect\ndef f(x):\n    try: return len(inspect.getsource(f)) * 0 + x\n    except (OSError, TypeError): return x\n', ['f(1) == 1']),
    "ctypes array": ('import ctypes\ndef f(n):\n    a = (ctypes.c_int * n)()\n    for i in range(n): a[i] = i\n    return list(a)\n', ['f(3) == [0,1,2]']),
    "ctypes int32": ('import ctypes\ndef f(n): return ctypes.c_int32(n).value\n', ['f(2**31) == -2**31']),
    "struct": ("import struct\ndef f(x): return struct.unpack('<f', struct.pack('<f', x))[0]\n", ['f(0.5) == 0.5']),
    "str subclass keys": ('class K(str): pass\ndef f(x): return {K(c): i for i, c in enumerate(x)}\n', ["f('ab') == {'a': 0, 'b': 1}"]),
    "int subclass list": ("class I(int):\n    def __repr__(s): return 'I'\ndef f(x): return [I(v) for v in x]\n", ['f([1,2]) == [1,2]', 'f([2**70]) == [2**70]']),
    "float subclass": ('class F(float): pass\ndef f(x): return [F(x)]\n', ['f(0.5) == [0.5]', 'f(2) == [2]']),
    "list subclass extra attrs": ("class L(list):\n    __slots__ = ('x',)\ndef f(x):\n    l = L(x); l.x = 1; return l\n", ['f([1]) == [1]']),
    "dict missing": ('class D(dict):\n    def __missing__(self, k): return 0\ndef f(x):\n    d = D()\n    for c in x: d[c] = d[c] + 1\n    return d\n', ["f('aab') == {'a': 2, 'b': 1}"]),
    "bool list": ('def f(x): return [v > 1 for v in x]\n', ['f([1,2]) == [False, True]', 'f([1,2]) == [0, 1]']),
    "None in dict": ("def f(x): return {None: x, 1: None, 'None': 2}\n", ["f(3) == {1: None, 'None': 2, None: 3}"]),
    "mixed nested keys": ("def f(): return {(1, 'a', None): {frozenset({1, 2}): [1.5, (2,)]}, 'x': {1: {2: {3: set()}}}, 1.5: b'x', True: 1j}\n", ["f() == {1: 1j, 1.5: b'x', 'x': {1: {2: {3: set()}}}, (1, 'a', None): {frozenset({2, 1}): [1.5, (2,)]}}"]),
    "sets of tuples of sets": ("def f(): return {(1, frozenset({3, 2})), (0.5, 'x'), None, 'None', b'b'}\n", ["f() == {None, b'b', 'None', (0.5, 'x'), (1.0, frozenset({2, 3}))}"]),
    "-0.0 keys": ('def f(): return {-0.0: 1, 0.5: {-0.0}}\n', ['f() == {0: 1, 0.5: {0}}']),
    "big float int": ('def f(): return [1e308, 2**1023, 1e16, 10**16]\n', ['f() == [1e308, 2.0**1023, 10**16, 1e16]']),
    "tiny floats": ('def f(): return [5e-324, 2.2250738585072014e-308, 0.1+0.2, 1/3]\n', ['f() == [5e-324, 2.2250738585072014e-308, 0.30000000000000004, 0.3333333333333333]']),
    "long strings": ("def f(n): return 'ab' * n\n", ['len(f(5_000_000)) == 10_000_000', "f(3) == 'ababab'"]),
    "surrogate pair as two": ("def f(): return '\\ud83d\\ude00'\n", ["f() == '\\ud83d\\ude00'", "f() != '\\U0001f600'"]),
    "answers of 10 MB": ('def f(n): return [0] * n\n', ['f(5_000_000) != [1]', 'len(f(5_000_000)) == 5_000_000']),
    "deep recursion default": ('import sys\ndef f(n):\n    sys.setrecursionlimit(10**7)\n    def g(k): return 0 if k == 0 else 1 + g(k - 1)\n    return g(n)\n', ['f(100000) == 100000']),
    "recursion error caught": ("def g(n): return g(n + 1)\ndef f():\n    try: g(0)\n    except RecursionError: return 'deep'\n", ["f() == 'deep'"]),
    "memory error caught": ("def f():\n    try: x = [0] * 10**11\n    except MemoryError: return 'much'\n", ["f() == 'much'"]),
    "mutual recursion with cache": ('import sys\nfrom functools import cache\nsys.setrecursionlimit(10**6)\n@cache\ndef even(n): return True if n == 0 else odd(n-1)\n@cache\ndef odd(n): return False if n == 0 else even(n-1)\nf = even\n', ['f(5000) is True']),
    "list chain dealloc": ('def f(n):\n    head = None\n    for i in range(n): head = [i, head]\n    k = 0\n    while head: head = head[1]; k += 1\n    return k\n', ['f(10**6) == 10**6']),
    "node chain dealloc": ('class N:\n    def __init__(s, v, n): s.v, s.n = v, n\ndef f(n):\n    head = None\n    for i in range(n): head = N(i, head)\n    del head\n    return n\n', ['f(300000) == 300000']),
    "generator chain": ('def f(n):\n    g = iter(range(n))\n    for _ in range(500): g = (x for x in g)\n    return sum(g)\n', ['f(5) == 10']),
    "itertools chain deep": ('from itertools import chain\ndef f(n):\n    it = iter([])\n    for i in range(n): it = chain(it, [i])\n    return len(list(it))\n', ['f(10000) == 10000']),
    "str.format_map, template": ("from string import Template\ndef f(x): return Template('$a').substitute(a=x) + '{b}'.format_map({'b': 2})\n", ["f(1) == '12'"]),
    "f-string nested": ('def f(x): return f"{x!r:>{5}}|{f\'{x:03d}\'}|{x=}"\n', ["f(7) == '    7|007|x=7'"]),
    "except star": ("def f(x):\n    try: raise ExceptionGroup('g', [ValueError(x), KeyError(x)])\n    except* ValueError as e: r = len(e.exceptions)\n    except* KeyError: pass\n    return r\n", ['f(1) == 1']),
    "match everything": ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    y: int\ndef f(v):\n    match v:\n        case P(x=0, y=y): return y\n        case P(): return 'p'\n        case {'a': [1, *r], **k}: return (r, k)\n        case str() as s if s: return s\n        case 1 | 2 | 3: return 'n'\n        case -1.5: return 'f'\n        case None | True: return 'c'\n        case _: return '_'\ndef g(): return f(P(0, 5))\n", ['g() == 5', "f({'a': [1,2], 'b': 3}) == ([2], {'b': 3})", "f('') == '_'", "f(2) == 'n'", "f(-1.5) == 'f'", "f(None) == 'c'"]),
    "generic class": ("from typing import Generic, TypeVar\nT = TypeVar('T')\nclass Stack(Generic[T]):\n    def __init__(self) -> None: self.a: list[T] = []\n    def push(self, x: T): self.a.append(x); return self\n    def pop(self) -> T: return self.a.pop()\n", ['Stack().push(3).pop() == 3', 'Stack[int]().push(3).pop() == 3']),
    "protocol, overload, final": ('from typing import *\nclass P(Protocol):\n    def f(self) -> int: ...\n@overload\ndef f(x: int) -> int: ...\n@overload\ndef f(x: str) -> str: ...\n@final\nclass A: pass\ndef f(x): return x\n', ["f('a') == 'a'"]),
    "TypedDict": ('from typing import TypedDict, NotRequired\nclass M(TypedDict):\n    x: int\n    y: NotRequired[int]\ndef f(x): return M(x=x)\n', ["f(1) == {'x': 1}"]),
    "dataclass field order slots kw": ('from dataclasses import dataclass, field, replace\n@dataclass(order=True, slots=True, kw_only=True)\nclass P:\n    a: int\n    b: list = field(default_factory=list, compare=False)\ndef f(x): return sorted([P(a=2), P(a=x)])[0].a + replace(P(a=5), a=1).a\n', ['f(1) == 2']),
    "dataclass InitVar ClassVar strings": ('from __future__ import annotations\nfrom dataclasses import dataclass, InitVar\nfrom typing import ClassVar\n@dataclass\nclass P:\n    k: ClassVar[int] = 3\n    x: int = 0\n    y: InitVar[int] = 2\n    def __post_init__(self, y): self.x += y\ndef f(v): return P(v).x + P.k\n', ['f(1) == 6']),
    "dataclass match args": ('from dataclasses import dataclass\n@dataclass\nclass P:\n    a: int\n    b: int\ndef f(a, b):\n    match P(a, b):\n        case P(a, 2): return a\n    return None\n', ['f(1, 2) == 1']),
    "enum members": ('from enum import Enum, auto\nclass D(Enum):\n    N = auto()\n    E = auto()\n    def turn(self): return list(D)[(self.value) % 2]\ndef f(x): return D.N.turn().name\n', ["f(0) == 'E'"]),
    "strenum": ("from enum import StrEnum\nclass S(StrEnum):\n    A = 'a'\ndef f(): return [S.A, {S.A: S.A}]\n", ["f() == ['a', {'a': 'a'}]"]),
    "namedtuple defaults rename": ("from collections import namedtuple\nP = namedtuple('P', ['x', 'class'], rename=True, defaults=[3])\ndef f(x): return P(x)\n", ['f(1) == (1, 3)', 'f(1)[1] == 3', 'f(1)._1 == 3']),
    "property setter": ('class A:\n    def __init__(s): s._x = 0\n    @property\n    def x(s): return s._x\n    @x.setter\n    def x(s, v): s._x = v\ndef f(v):\n    a = A(); a.x = v; return a.x\n', ['f(2) == 2']),
    "total_ordering heap": ('import heapq, functools\n@functools.total_ordering\nclass W:\n    def __init__(s, w): s.w = w\n    def __lt__(s, o): return (-len(s.w), s.w) < (-len(o.w), o.w)\n    def __eq__(s, o): return s.w == o.w\ndef f(ws):\n    h = [W(w) for w in ws]; heapq.heapify(h)\n    return [heapq.heappop(h).w for _ in range(len(h))]\n', ["f(['a','bb','aa']) == ['aa','bb','a']"]),
    "global rebinding builtins": ('sum = 0\nlist_ = list\nmax = 3\nid = 7\ndef f(x):\n    global sum\n    sum += x\n    return sum\n', ['f(1) == 1', 'f(2) == 3']),
    "named type, str": ("def type(x): return x\nstr = 'abc'\nint_ = int\ndef f(x): return type(x)\n", ['f(1) == 1']),
    "named print": ('def print(*a, **k): pass\ndef f(x):\n    print(x); return x\n', ['f(1) == 1']),
    "named isinstance, len, repr": ('isinstance = len = repr = type = issubclass = None\ndef f(x): return x\n', ['f([1, {2: 3}]) == [1, {2: 3}]']),
    "builtins changed": ("import builtins\nbuiltins.len = lambda x: x.__len__()\nbuiltins.print = lambda *a, **k: None\nbuiltins.input = lambda *a: '5'\ndef f(x): return len(x) + int(input())\n", ['f([1]) == 6']),
    "sorted replaced by own": ('import builtins\n_sorted = sorted\ndef sorted(x, *a, **k): return _sorted(x, *a, **k)[::-1][::-1]\ndef f(x): return sorted(x)\n', ['f([2,1]) == [1,2]', 'sorted(f([3,1])) == [1,3]']),
    "json module shadowed": ("json = {'a': 1}\nos = sys = 3\ndef f(x): return json\n", ["f(1) == {'a': 1}"]),
    "names _0 answer": ('_0 = 5\n_1 = 6\nexpected = 7\ndef f(x): return _0 + _1\n', ['f(1) == 11', 'f(1) + f(2) == 22']),
    "setattr on module": ("import sys\nm = sys.modules[__name__]\nsetattr(m, 'f', lambda x: x + 1)\n", ['f(1) == 2']),
    "module __getattr__": ("def __getattr__(name):\n    if name == 'f': return lambda x: x\n    raise AttributeError(name)\ndef g(x): return x\n", ['g(1) == 1']),
    "import solution": ("import sys\ndef f(x): return x\nimport solution\ndef g(x): return solution.f(x) if hasattr(solution, 'f') else f(x)\n", ['g(1) == 1']),
    "pickle of class": ('import pickle\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(x): return pickle.loads(pickle.dumps([P(x)]))[0].x\n', ['f(1) == 1']),
    "copyreg reduce": ('import copy\nclass P:\n    def __init__(s, x): s.x = x\n    def __reduce__(s): return (P, (s.x + 1,))\ndef f(x): return copy.copy(P(x)).x\n', ['f(1) == 2']),
    "weak dictionaries": ('import weakref\nclass K: pass\ndef f():\n    d = weakref.WeakKeyDictionary(); k = K(); d[k] = 1\n    n = len(d); del k\n    return [n, len(d)]\n', ['f() == [1, 0]']),
    "slots and del": ("class A:\n    __slots__ = 'x', '__weakref__'\n    def __del__(self): log.append(1)\nlog = []\ndef f():\n    a = A(); del a\n    return log\n", ['f() == [1]']),
    "async timeout": ("import asyncio\nasync def g():\n    try:\n        async with asyncio.timeout(0.01): await asyncio.sleep(10)\n    except TimeoutError: return 't'\ndef f(): return asyncio.run(g())\n", ["f() == 't'"]),
    "async run in executor": ('import asyncio\nasync def g(x):\n    loop = asyncio.get_running_loop()\n    return await loop.run_in_executor(None, lambda: x + 1)\ndef f(x): return asyncio.run(g(x))\n', ['f(1) == 2', 'f(2) == 3']),
    "async semaphore lock": ('import asyncio\nasync def w(s, o, i):\n    async with s:\n        await asyncio.sleep(0.001 * (3 - i)); o.append(i)\nasync def m():\n    s, o = asyncio.Semaphore(1), []\n    await asyncio.gather(*[w(s, o, i) for i in range(3)])\n    return o\ndef f(): return asyncio.run(m())\n', ['f() == [0,1,2]']),
    "leetcode threads: print in order": ('from threading import Lock, Thread\nclass Foo:\n    def __init__(self):\n        self.a, self.b = Lock(), Lock(); self.a.acquire(); self.b.acquire()\n    def first(self, p): p(); self.a.release()\n    def second(self, p): self.a.acquire(); p(); self.b.release()\n    def third(self, p): self.b.acquire(); p()\ndef f(order):\n    foo, out = Foo(), []\n    ts = [Thread(target=getattr(foo, n), args=(lambda n=n: out.append(n),)) for n in order]\n    [t.start() for t in ts]; [t.join() for t in ts]\n    return out\n', ["f(['third','first','second']) == ['first','second','third']"]),
    "semaphore barrier": ('import threading\ndef f(n):\n    b = threading.Barrier(n); out = []\n    def w(i): b.wait(); out.append(i)\n    ts = [threading.Thread(target=w, args=(i,)) for i in range(n)]\n    for t in ts: t.start()\n    for t in ts: t.join()\n    return sorted(out)\n', ['f(30) == list(range(30))', 'f(50) == list(range(50))']),
    "timer": ('import threading\ndef f():\n    e = threading.Event(); threading.Timer(0.02, e.set).start(); return e.wait(5)\n', ['f() is True']),
    "futures as completed": ('from concurrent.futures import ThreadPoolExecutor, as_completed\ndef f(n):\n    with ThreadPoolExecutor() as p: return sorted(x.result() for x in as_completed([p.submit(pow, i, 2) for i in range(n)]))\n', ['f(4) == [0,1,4,9]']),
    "sleep": ('import time\ndef f(x):\n    time.sleep(0.05); return x\n', ['f(1) == 1', 'f(2) == 2']),
    "time functions": ("import time, datetime\ndef f():\n    a = time.perf_counter(), time.monotonic(), time.process_time(), time.thread_time(), time.time_ns()\n    return time.strftime('%Y', time.gmtime(0)) + str(datetime.date(2020, 2, 28) + datetime.timedelta(2)) + time.tzname[0][:0] + str(time.localtime(0).tm_year)[:0]\n", ["f() == '19702020-03-01'"]),
    "calendar locale": ("import calendar, locale\nlocale.setlocale(locale.LC_ALL, '')\ndef f(): return calendar.day_name[0]\n", ["f() == 'Monday'"]),
    "decimal precise": ('from decimal import *\ngetcontext().prec = 50\ndef f(): return str(Decimal(2).sqrt())\n', ["f()[:12] == '1.4142135623'"]),
    "decimal result": ('from decimal import Decimal, getcontext\ngetcontext().prec = 3\ndef f(x): return Decimal(x)\n', ['f(10**20+1) == 10**20+1', "f('0.5') == 0.5", "f('1E+3') == 1000"]),
    "fraction in containers": ('from fractions import Fraction\ndef f(): return {Fraction(1, 2): [Fraction(4, 2)], Fraction(1,3): {Fraction(3)}}\ndef g(): return {Fraction(1, 2): [Fraction(4, 2)]}\n', ['g() == {0.5: [2]}', 'len(f()) == 2']),
    "complex": ('def f(x): return complex(1, x)\n', ['f(2) == 1 + 2j', 'f(2) == complex(1, 2)', 'abs(f(0)) == 1', 'f(2).imag == 2']),
    "cmath": ('import cmath\ndef f(x): return cmath.sqrt(x)\n', ['f(-1) == 1j', 'abs(f(-2) - 1.4142135j) < 1e-6']),
    "matrix by zip": ('def f(m): return [*map(list, zip(*m))]\n', ['f([[1,2],[3,4]]) == [[1,3],[2,4]]']),
    "zip lists of tuples": ('def f(m): return list(zip(*m))\n', ['f([[1,2],[3,4]]) == [(1,3),(2,4)]']),
    "dict view values list": ('def f(x): return list(dict(zip(x, x)).values())\n', ["f('ab') == ['a','b']"]),
    "iterator methods": ('def f(x): return iter(x)\n', ['list(f([1,2])) == [1,2]', 'next(f([1,2])) == 1', 'sorted(f([2,1])) == [1,2]', '[x for x in list(f([1]))] == [1]']),
    "callable chains": ('def f(x): return lambda y: [x, y]\nclass A:\n    def __init__(s, x): s.x = x\n    def m(s, y): s.x += y; return s\n    @property\n    def v(s): return s.x\n', ['f(1)(2) == [1,2]', 'A(1).m(2).m(3).x == 6', 'A(1).m(2).v == 3', 'f(1)(2)[0] == 1']),
    "design class": ("class MinStack:\n    def __init__(self): self.a = []\n    def push(self, v): self.a.append(v)\n    def getMin(self): return min(self.a)\nobj = None\ndef run(ops, args):\n    out, o = [], None\n    for op, a in zip(ops, args):\n        if op == 'MinStack': o = MinStack(); out.append(None)\n        else: out.append(getattr(o, op)(*a))\n    return out\n", ["run(['MinStack','push','getMin'], [[],[2],[]]) == [None, None, 2]"]),
    "tabs and spaces": ('def f(x):\n\tif x:\n\t    return 1\n\treturn 0\n', ['f(1) == 1']),
    "CRLF": ("def f(x):\r\n    s = '''a\r\nb'''\r\n    return s\r\n", ["f(1) == 'a\\nb'"]),
    "CR": ('def f(x):\r    return x\r', ['f(1) == 1']),
    "trailing backslash nl": ('def f(x): return x + \\\n  1\n', ['f(1) == 2']),
    "semicolons": ('x = 1; y = 2; f = lambda a: a + x + y;', ['f(1) == 4']),
    "nonlocal closure": ('def mk():\n    n = 0\n    def f():\n        nonlocal n\n        n += 1\n        return n\n    return f\nf = mk()\n', ['f() == 1', 'f() == 2']),
    "class var mutable default": ('def f(x, acc=[]):\n    acc.append(x); return acc\n', ['f(1) == [1]', 'f(2) == [1, 2]']),
    "__call__ on metaclass singletons": ('class S(type):\n    _i = {}\n    def __call__(c, *a):\n        if c not in S._i: S._i[c] = super().__call__(*a)\n        return S._i[c]\nclass A(metaclass=S):\n    n = 0\n    def f(self): self.n += 1; return self.n\n', ['A().f() == 1', 'A().f() == 2']),
    "exec in class": ("class A:\n    exec('def f(self, x): return x')\n", ['A().f(1) == 1']),
    "types.FunctionType": ("import types\ndef g(x): return x\nf = types.FunctionType(g.__code__, globals(), 'f')\n", ['f(1) == 1']),
    "hash randomization free": ('def f(x): return list(set(x))[0] in x\n', ["f(['a','b']) is True"]),
    "gc callbacks": ('import gc\nn = []\ngc.callbacks.append(lambda p, i: n.append(1))\ndef f(x):\n    gc.collect(); return len(n) > 0\n', ['f(1) is True']),
    "sys.settrace counting": ('import sys\ncount = 0\ndef tr(fr, ev, arg):\n    global count\n    count += 1\n    return tr\ndef f(x):\n    sys.settrace(tr)\n    try: y = abs(-x)\n    finally: sys.settrace(None)\n    return y\n', ['f(3) == 3']),
    "sys.setprofile": ('import sys\nsys.setprofile(lambda *a: None)\ndef f(x): return x\n', ['f(1) == 1']),
    "contextmanager": ("from contextlib import *\n@contextmanager\ndef cm(): yield 3\ndef f():\n    with cm() as a, suppress(KeyError): return a + {}['x']\n    return 'k'\n", ["f() == 'k'"]),
    "atexit": ('import atexit\natexit.register(lambda: 1/0)\ndef f(x): return x\n', ['f(1) == 1']),
    "threading excepthook": ('import threading, sys\nsys.excepthook = lambda *a: None\nthreading.excepthook = lambda *a: None\ndef f(x):\n    t = threading.Thread(target=lambda: 1/0); t.start(); t.join(); return x\n', ['f(1) == 1']),
    "thread raises default hook": ('import threading\ndef f(x):\n    t = threading.Thread(target=lambda: 1/0); t.start(); t.join(); return x\n', ['f(1) == 1']),
    "sentinel classes": ('class _M: pass\nMISSING = _M()\ndef f(x=MISSING): return x is MISSING\n', ['f() is True', 'f(1) is False']),
    "operator overloads": ('class V:\n    def __init__(s, *a): s.a = a\n    def __matmul__(s, o): return sum(x * y for x, y in zip(s.a, o.a))\n    def __iter__(s): return iter(s.a)\n    def __len__(s): return len(s.a)\ndef f(x): return V(*x) @ V(*x)\ndef g(x): return V(*x)\n', ['f([1,2]) == 5', 'list(g([1,2])) == [1,2]', 'len(g([1])) == 1', 'sum(g([1,2])) == 3', 'tuple(g([1])) == (1,)', 'set(g([1])) == {1}', 'max(g([1,5])) == 5']),
    "defaultdict lambdas nested tree": ("from collections import defaultdict\nTree = lambda: defaultdict(Tree)\ndef f():\n    t = Tree(); t['a']['b']; return t\n", ["f() == {'a': {'b': {}}}"]),
    "counter arithmetic": ('from collections import Counter\ndef f(a, b): return Counter(a) - Counter(b)\ndef g(a): return Counter(a).most_common()\n', ["f('aab', 'a') == {'a': 1, 'b': 1}", "g('aab') == [('a', 2), ('b', 1)]"]),
    "counter with zero": ("from collections import Counter\ndef f(a):\n    c = Counter(a); c['z'] = 0; return c\n", ["f('a') == {'a': 1, 'z': 0}"]),
    "array return by test list": ("from array import array\ndef f(n): return array('d', [n])\n", ['list(f(1)) == [1.0]', 'len(f(1)) == 1']),
    "bytes iteration": ('def f(b): return [x for x in b] + [b[:1]]\n', ["f(b'ab') == [97, 98, b'a']"]),
    "str methods": ("def f(s): return s.casefold().translate({97: 'b', 98: None}).partition('c')\n", ["f('ABC') == ('b', 'c', '')"]),
    "global state reset": ('count = 0\nclass Solution:\n    def f(self, n):\n        global count\n        count = 0\n        def g(k):\n            global count\n            count += 1\n            if k: g(k-1)\n        g(n)\n        return count\n', ['Solution().f(3) == 4', 'Solution().f(2) == 3']),
    "int to str limit": ('def f(n): return 10**n\n', ['f(4400) == 10**4400', 'f(10000) == 10**10000']),
    "return of same list twice changed after": ('l = []\ndef f(x):\n    l.append(x); return l\n', ['f(1) == [1]', 'f(2) == [1,2]']),
    "dict of functions": ("ops = {'+': lambda a, b: a + b}\ndef f(o, a, b): return ops[o](a, b)\n", ["f('+', 1, 2) == 3"]),
    "star expr": ('def f(*a, k=3, **kw): return [*a, k, *kw.items()]\n', ["f(1, *[2], k=4, **{'z': 5}) == [1, 2, 4, ('z', 5)]"]),
    "walrus comprehension": ('def f(x): return [y for v in x if (y := v * 2) > 2]\n', ['f([1,2]) == [4]']),
    "async comprehension": ('import asyncio\nasync def ag():\n    for i in range(3): yield i\nasync def m(): return {i: [j async for j in ag() if j < i] async for i in ag()}\ndef f(): return asyncio.run(m())\n', ['f() == {0: [], 1: [0], 2: [0, 1]}']),
    "coroutine by hand": ('async def g(x): return x\ndef f(x):\n    try: g(x).send(None)\n    except StopIteration as e: return e.value\n', ['f(1) == 1']),
    "local import star of module attr": ('from collections.abc import *\nfrom math import *\nfrom functools import *\nfrom itertools import *\nfrom operator import *\nfrom string import *\nfrom heapq import *\nfrom bisect import *\nfrom random import *\ndef f(x): return [floor(x), comb(4, 2), reduce(mul, [1,2,3]), *accumulate([1,2])]\n', ['f(1.5) == [1, 6, 6, 1, 3]', 'sorted(f(1.0)) == [1,1,3,6,6]']),
    "star import operator overrides abs, pow": ('from operator import *\nfrom math import *\ndef f(x): return abs(x)\n', ['f(-1) == 1', 'abs(f(-1)) == 1', 'abs(f(-1) - 1) < 1e-9']),
    "shlex, textwrap, difflib": ("import shlex, textwrap, difflib, fnmatch\ndef f(s): return shlex.split(s) + textwrap.wrap('aa bb', 2) + [difflib.SequenceMatcher(None, 'ab', 'ab').ratio(), fnmatch.fnmatch('a.py', '*.py')]\n", ['f(\'a "b c"\') == [\'a\', \'b c\', \'aa\', \'bb\', 1.0, True]']),
    "pathlib pure": ("from pathlib import PurePosixPath, Path\ndef f(p): return str(PurePosixPath(p).parent), Path('/').exists()\n", ["f('/a/b') == ('/a', True)"]),
    "html, urllib.parse, ipaddress, email": ("import html, urllib.parse, ipaddress, email.message, xml.etree.ElementTree as E\ndef f(): return [html.escape('<'), urllib.parse.quote('a b'), str(ipaddress.ip_address(1)), E.fromstring('<a>b</a>').text]\n", ["f() == ['&lt;', 'a%20b', '0.0.0.1', 'b']"]),
    "typing runtime": ("import typing\ndef f(x: 'typing.Optional[int]') -> 'list[int]': return [x]\nh = typing.get_type_hints(f)\n", ['f(1) == [1]']),
    "importlib reload": ('import importlib, math\nimportlib.reload(math)\ndef f(x): return math.floor(x)\n', ['f(1.5) == 1']),
    "zipimport runpy": ("import runpy, pkgutil\ndef f(x): return pkgutil.resolve_name('math.floor')(x)\n", ['f(1.5) == 1']),
}  # fmt: skip
SOLUTIONS |= {
    "3,000 functions": ("".join(f"def g{i}(x): return x + {i}\n" for i in range(3000)), ["g2999(1) == 3000"]),
    "a list of 20,000 literals": ("X = [" + "0," * 20_000 + "]\ndef f(): return len(X)\n", ["f() == 20000"]),
    "nested 80 deep": (
        "def f(x):\n" + "".join("    " * i + f"if x != {i}:\n" for i in range(1, 80)) + "    " * 80 + "return x\n",
        ["f(100) == 100", "f(5) is None"],
    ),
}

# Each in a process of its own, without the sandbox; prints the names of those that fail.
PYTHON = """
import io, json, os, sys, types
jobs = json.load(sys.stdin)
sys.stdin = open(os.devnull)
for name, (source, tests) in jobs.items():
    if os.fork():
        if os.wait()[1]: print(name)
        continue
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3): os.dup2(null, descriptor)
    module = sys.modules["solution"] = types.ModuleType("solution")
    try: exec(source, module.__dict__)
    except SystemExit: pass
    for test in tests: exec(f"assert {test}", module.__dict__)
    os._exit(0)
"""


def test_python_itself_finds_them_right():
    program = [sys.executable, "-c", PYTHON]
    found = subprocess.run(program, input=json.dumps(SOLUTIONS), capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_every_one_of_them_passes(isolation):  # noqa: F811
    jobs = [(source, [f"assert {test}" for test in tests]) for source, tests in SOLUTIONS.values()]
    results = sandbox.run_many(jobs, isolation=isolation, processes=1, seconds_per_test=5)
    wrong = {name: result.details for name, result in zip(SOLUTIONS, results, strict=True) if result.pass_rate != 1}
    assert wrong == {}
    assert len(SOLUTIONS) > 150
