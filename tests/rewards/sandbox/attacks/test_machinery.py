# ruff: noqa: E501  an attack a line
"""Attacks on the machinery: the worker's encoder and channel, the interpreter, the kernel's objects; f's body a line.

None of them knows what is right, each is tried in three tests, and the solution after it is judged as ever.
"""

import os

import pytest
from sandbox_marks import survivors

from qrpo_lib.rewards.sandbox import sandbox

pytestmark = pytest.mark.slow
AFTER = ("def f(x):\n    return 3 * x\n", ["assert f(2) == 6", "assert f(2) == 7", "assert f(5) == 15"])
PREFIX = """
import ctypes, os, signal, sys, threading, time, json, gc, types, struct, fcntl, select, resource
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def wf(name='request'):
    f = sys._getframe(1)
    while name not in f.f_locals: f = f.f_back
    return f
def send(*texts, **more):
    i = wf().f_locals['request']['id']
    h = json.dumps({'id': i, 'sizes': [len(t) for t in texts], **more}).encode()
    os.write(4, len(h).to_bytes(4, 'big') + h + b''.join(texts))
"""
BODIES = {
    "gc strings": "return max((s for o in gc.get_objects() for s in (o if isinstance(o,(list,tuple)) else o.values() if isinstance(o,dict) else ()) if isinstance(s,str) and s.startswith('right-')), default=None)",
    "object whose class changes while encoded": "class V(list):\n    def __iter__(s): return iter(['right'])\n    def __class_getitem__(c, i): return 1\nv = V([1]); threading.Thread(target=lambda: setattr(v, '__class__', V)).start(); return v",
    "str subclass __len__": "class S(str):\n    def __len__(s): return 10**9\nreturn S('right')",
    "int subclass with __index__, __format__": "class I(int):\n    def __hex__(s): return 'right'\n    __index__ = lambda s: 7\nreturn I(2**70)",
    "dict with evil keys sort": "class K(str):\n    def __lt__(s, o): os._exit(0)\nreturn {K('a'): 1, K('b'): 2}",
    "set with evil hash later": 'class K(int):\n    n = 0\n    def __hash__(s): return 1\n    def __eq__(s, o): raise SystemExit\nreturn {K(1), K(2)} if x > 5 else K(1)',
    "tuple subclass with evil new": "class T(tuple):\n    def __getitem__(s, i): return 'right'\nreturn T([1])",
    "fake Fraction module": "class Fraction:\n    numerator = property(lambda s: os.write(4, b'x' * 100) and 1)\n    denominator = 1\nFraction.__module__ = 'fractions'; Fraction.__qualname__ = 'Fraction'\nreturn Fraction()",
    "fake Fraction with strings": "class Fraction:\n    numerator = 'right'\n    denominator = 1\nFraction.__module__ = 'fractions'; Fraction.__qualname__ = 'Fraction'\nreturn Fraction()",
    "fake Decimal": "class Decimal:\n    def is_nan(s): return False\n    def is_infinite(s): return False\n    def adjusted(s): return 0\n    def as_tuple(s): return types.SimpleNamespace(exponent=0)\n    def as_integer_ratio(s): return ({'a': 1}, 1)\nDecimal.__module__ = 'decimal'; Decimal.__qualname__ = 'Decimal'\nreturn Decimal()",
    "fake UserString with bytes": "class UserString:\n    data = b'right'\nUserString.__module__ = 'collections'\nUserString.__qualname__ = 'UserString'\nreturn UserString()",
    "fake memoryview": "class memoryview:\n    def tobytes(s): return object()\nmemoryview.__module__ = 'builtins'; memoryview.__qualname__ = 'memoryview'\nreturn memoryview()",
    "fake UserDict items endless": "class UserDict:\n    def items(s):\n        while True: yield (1, 1)\nUserDict.__module__ = 'collections'; UserDict.__qualname__ = 'UserDict'\nreturn UserDict()",
    "UserList of itself": 'from collections import UserList\nu = UserList(); u.data.append(u); return u',
    "mappingproxy of itself": 'd = {}; m = types.MappingProxyType(d); d[1] = m; return m',
    "ListNode val is itself": 'class ListNode: pass\nn = ListNode(); n.val = n; n.next = None; return n',
    "TreeNode left is itself": 'class TreeNode: pass\nn = TreeNode(); n.val = 1; n.left = n; n.right = None; return n',
    "TreeNode exponential val": 'class TreeNode:\n    def __init__(s, v): s.val, s.left, s.right = v, None, None\nn = 1\nfor _ in range(60): n = TreeNode([n, n])\nreturn n',
    "bool impostor": 'libc\nreturn ctypes.cast(id(True), ctypes.py_object).value',
    "corrupt True": "ctypes.c_long.from_address(id(True) + 24).value = 0\nreturn 'x'",
    "corrupt interned empty string": "ctypes.memset(id('') + 16, 5, 1)\nreturn ''",
    "corrupt a type's flags": 'ctypes.c_ulong.from_address(id(object) + object.__basicsize__ + 168).value = 0\nreturn {}',
    "corrupt None refcount": 'ctypes.c_long.from_address(id(None)).value = 1\nreturn None',
    "function code swap on json encoder": 'json.encoder.JSONEncoder.encode.__code__ = (lambda self, o: \'"right"\').__code__\nreturn 1',
    "function code swap on dumps": 'json.dumps.__code__ = (lambda *a, **k: \'"right"\').__code__ if json.dumps.__code__.co_freevars == () else None\nreturn 1',
    "descriptor 3 replaced by a pipe with forged requests": 'r, w = os.pipe(); i = wf().f_locals[\'request\'][\'id\']\nm = json.dumps({\'id\': i, \'calls\': [\'"right"\'], \'exact\': False}).encode()\nos.write(w, len(m).to_bytes(4, \'big\') + m); os.dup2(r, 3); return \'a\'',
    "descriptor 4 with O_DIRECT": 'fcntl.fcntl(4, fcntl.F_SETFL, os.O_DIRECT); return list(range(50000))',
    "tee and splice own channel": 'return [libc.syscall(276, 3, 4, 100, 0), libc.syscall(275, 3, 0, 4, 0, 100, 0)]',
    "reply of empty header": "os.write(4, b'\\0\\0\\0\\0'); os._exit(0)",
    "reply header is a list": "os.write(4, b'\\0\\0\\0\\2[]'); os._exit(0)",
    "reply header is a NaN": "os.write(4, b'\\0\\0\\0\\3NaN'); os._exit(0)",
    "reply header huge nested": 'h = b\'{"id":\' + b\'[\' * 30000 + b\']\' * 30000 + b\'}\'\nos.write(4, len(h).to_bytes(4, \'big\') + h); os._exit(0)',
    "reply header with floats sizes 1e400": 'i = wf().f_locals[\'request\'][\'id\']; h = (\'{"id":"%s","sizes":[1e400]}\' % i).encode(); os.write(4, len(h).to_bytes(4, \'big\') + h); os._exit(0)',
    "reply with utf-16 header": 'h = json.dumps({\'id\': wf().f_locals[\'request\'][\'id\'], \'sizes\': [2]}).encode(\'utf-16\'); os.write(4, len(h).to_bytes(4, \'big\') + h + b\'""\'); os._exit(0)',
    "reply with utf-16 value": 'send(\'"right"\'.encode(\'utf-16\')); os._exit(0)',
    "reply with BOM value": 'send(b\'\\xef\\xbb\\xbf"right"\'); os._exit(0)',
    "reply announces 64 MB, sends nothing": "i = wf().f_locals['request']['id']; h = json.dumps({'id': i, 'sizes': [1 << 26]}).encode(); os.write(4, len(h).to_bytes(4, 'big') + h); time.sleep(1e6)",
    "reply announces 64 MB, sends slowly": "i = wf().f_locals['request']['id']; h = json.dumps({'id': i, 'sizes': [1 << 26]}).encode(); os.write(4, len(h).to_bytes(4, 'big') + h)\nwhile True: os.write(4, b'x'); time.sleep(0.001)",
    "reply of 64 MB": "send(b'x' * (1 << 26)); os._exit(0)",
    "error text with terminal codes": "raise ValueError('\\x1b[2J\\x1b]0;owned\\x07' + '\\r\\n' * 50)",
    "error class name is huge": "raise type('E' * 10**6, (Exception,), {})()",
    "error is a class with evil bool": 'class E(Exception):\n    def __bool__(s): raise SystemExit\nraise E',
    "MemoryError raised by hand": "raise MemoryError('x' * 10**6)",
    "BaseExceptionGroup": "raise BaseExceptionGroup('g', [SystemExit(), KeyboardInterrupt()])",
    "exception chain endless": 'e = ValueError()\nfor _ in range(100000):\n    n = ValueError(); n.__cause__ = e; e = n\nraise e',
    "traceback deep": 'def g(n): g(n + 1)\nsys.setrecursionlimit(10**6)\ng(0)',
    "many file objects unclosed": "return [open('/dev/null') for _ in range(1000)]",
    "epoll nest": 'es = [select.epoll() for _ in range(20)]\nfor p, q in zip(es, es[1:]): p.register(q.fileno())\nreturn es[0].poll(0)',
    "eventfd flood": 'fs = []\nwhile True: fs.append(os.eventfd(0))',
    "pipes filled": 'ps = []\nwhile True:\n    r, w = os.pipe(); os.set_blocking(w, False)\n    try:\n        while True: os.write(w, bytes(1 << 16))\n    except BlockingIOError: pass\n    ps.append((r, w))',
    "thousands of mappings": 'import mmap\nl = [mmap.mmap(-1, 4096) for _ in range(70000)]\nreturn len(l)',
    "mprotect split": 'import mmap\nm = mmap.mmap(-1, 1 << 28); p = ctypes.addressof(ctypes.c_char.from_buffer(m))\nfor i in range(0, 1 << 28, 8192): libc.mprotect(ctypes.c_void_p(p + i), 4096, 1)\nreturn 1',
    "page tables": 'import mmap\nm = mmap.mmap(-1, 1 << 29)\nfor i in range(0, 1 << 29, 4096): m[i]\nreturn 1',
    "hugetlb by madvise": 'import mmap\nm = mmap.mmap(-1, 1 << 28); m.madvise(14); m[0] = 1\nreturn 1',
    "threads that create threads": 'def g():\n    while True:\n        try: threading.Thread(target=g, daemon=True).start()\n        except RuntimeError: pass\ng()',
    "futex wait for ever": 'libc.syscall(202, ctypes.byref(ctypes.c_int(0)), 0, 0, None, None, 0)',
    "sigsuspend with everything blocked": 'signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); signal.sigwait([signal.SIGUSR1])',
    "ill instruction": "import mmap\nm = mmap.mmap(-1, 4096, prot=7); m.write(b'\\x0f\\x0b'); p = ctypes.addressof(ctypes.c_char.from_buffer(m)); ctypes.CFUNCTYPE(None)(p)()",
    "machine code: int 0x80 kill": "import mmap\nm = mmap.mmap(-1, 4096, prot=7); m.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3'); p = ctypes.addressof(ctypes.c_char.from_buffer(m)); return ctypes.CFUNCTYPE(ctypes.c_int)(p)()",
    "machine code: hlt loop": "import mmap\nm = mmap.mmap(-1, 4096, prot=7); m.write(b'\\xeb\\xfe'); p = ctypes.addressof(ctypes.c_char.from_buffer(m)); ctypes.CFUNCTYPE(None)(p)()",
    "PyDLL holding the GIL for ever": 'ctypes.PyDLL(None).sleep(10**6)',
    "profiler signal that raises in encode": 'signal.signal(signal.SIGALRM, lambda *a: 1 / 0); signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4); return list(range(1000))',
    "async exception into main thread": 't = threading.main_thread().ident\nthreading.Thread(target=lambda: [ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(t), ctypes.py_object(SystemExit)) for _ in range(1000)]).start(); return list(range(10**5))',
    "interrupt main": 'import _thread; threading.Timer(0.001, _thread.interrupt_main).start(); return list(range(10**5))',
    "subinterpreter": 'import _xxsubinterpreters as s\ni = s.create(); s.run_string(i, \'import os; os.write(4, b"x")\'); return 1',
    "finalizer at exit in C": "libc.atexit(ctypes.CFUNCTYPE(None)(lambda: os.write(4, b'x' * 100))); libc.exit(0)",
    "rename worker": "os.rename('/worker.py', '/tmp/w')",
    "unlink everything": "n = 0\nfor root, d, fs in os.walk('/packages' if os.path.isdir('/packages') else '/nowhere'):\n    for q in fs:\n        try: os.unlink(os.path.join(root, q)); n += 1\n        except OSError: pass\nreturn n or 'none'",
    "pyc planted": "import importlib.util as u, random, os\np = u.cache_from_source(random.__file__); open(p, 'wb').write(b'x')",
    "tmp planted module": "open('/tmp/heapq.py', 'w').write('1/0'); return 1",
    "tmp unnamed file": "return os.open('/tmp', os.O_TMPFILE | os.O_RDWR)",
    "tmp fifo": "os.mkfifo('/tmp/attackf')",
    "tmp removed cwd": "os.mkdir('/tmp/d'); os.chdir('/tmp/d'); os.rmdir('/tmp/d'); return os.getcwd()",
    "mmap shared file grows": "import mmap\nf_ = open('/tmp/m', 'wb+'); f_.truncate(1 << 22); m = mmap.mmap(f_.fileno(), 0); m[:] = b'x' * (1 << 22); return 1",
    "sendfile of dev null": 'return os.sendfile(4, 0, 0, 100)',
    "copy_file_range channel": 'return os.copy_file_range(0, 4, 100)',
    "setitimer real 0": 'signal.setitimer(signal.ITIMER_REAL, 1e-6); time.sleep(1)',
    "lower own AS limit": 'resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20)); return list(range(10**5))',
    "lower NOFILE below channel": 'resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); return 1',
    "sigpending exhaustion": 'signal.pthread_sigmask(signal.SIG_BLOCK, [40])\nreturn [libc.sigqueue(os.getpid(), 40, 0) for _ in range(3)]',
    "sys.modules emptied": 'sys.modules.clear(); return {1: {2}}',
    "builtins emptied": 'import builtins\nbuiltins.__dict__.clear(); return {1: 2}',
    "namespace emptied": 'globals().clear(); return 1',
    "worker's module emptied": 'import __main__\nvars(__main__).clear(); return {1: 2}',
    "os functions replaced": 'os.write = os.read = os._exit = lambda *a: 0; return 1',
    "int.from_bytes impossible": 'import builtins\nbuiltins.int = builtins.memoryview = builtins.len = None; return 1',
    "json.loads replaced by forged requests": "json.loads = lambda *a: {'id': 'x', 'calls': ['1'], 'exact': False}; return 1",
    "warnings flood": 'import warnings\nfor i in range(1000): warnings.warn(str(i))\nreturn 1',
    "recursion limit 1": 'sys.setrecursionlimit(60); return [[[[[[1]]]]]]',
    "switch interval": 'sys.setswitchinterval(1e9); threading.Thread(target=lambda: [0 for _ in iter(int, 1)], daemon=True).start(); time.sleep(0.01); return 1',
    "audit hook abort": "sys.addaudithook(lambda e, a: os._exit(0) if e == 'compile' else None); return 1",
    "unraisable hook": 'sys.unraisablehook = lambda *a: os._exit(0)\nclass D:\n    def __del__(s): 1/0\nD(); return 1',
    "generator that answers twice": "send(b'1'); return 2",
    "answers for the future": 'i = wf().f_locals[\'request\'][\'id\']; send(b\'"a"\'); send(b\'"a"\'); send(b\'"a"\'); time.sleep(100)',
}  # fmt: skip


def solution(body):
    return f"{PREFIX}\ndef f(x):\n    " + body.replace("\n", "\n    ") + "\n"


def test_nothing_is_forged_harmed_or_left(isolation, secret):
    tests = [f"assert f({x}) == 'right-{secret}-{x}'" for x in (1, 2)] + [f"assert f(3) in ('right-{secret}-3', 9)"]
    jobs = [job for body in BODIES.values() for job in ((solution(body), tests), AFTER)]
    before = len(os.listdir("/proc/self/fd"))
    options = {"processes": 1, "seconds_per_test": 0.2, "memory_mb": 300}
    results = [result.outcomes for result in sandbox.run_many(jobs, isolation=isolation, **options)]
    attacks = dict(zip(BODIES, results[::2], strict=True))
    neighbours = dict(zip(BODIES, results[1::2], strict=True))
    assert {name: found for name, found in attacks.items() if "passed" in found} == {}
    assert {name: found for name, found in neighbours.items() if found != ("passed", "failed", "passed")} == {}
    assert len(os.listdir("/proc/self/fd")) <= before
    assert survivors(os.getpid()) == set()
    assert len(BODIES) > 90
