# ruff: noqa: E501  a source a line
"""Attacks on the conversation with the judge, on the process as a whole and on its limits, judged in one go.

None of them costs more than tests of its own, none gives a value that it cannot know, and the solution after each is
judged as if nothing had been.
"""

import pytest

from qrpo_lib.rewards.sandbox import sandbox

pytestmark = pytest.mark.slow
AFTER = ("def f(x):\n    return 3 * x\n", ["assert f(2) == 6", "assert f(2) == 7", "assert f(5) == 15"])
IMPORTS = "import ctypes, os, signal, sys, threading, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"
FRAMES = (
    IMPORTS
    + """
import json
def wf(name):
    f = sys._getframe(1)
    while name not in f.f_locals: f = f.f_back
    return f
"""
)


def second(statements):
    """A right solution that attacks in its second test."""
    body = statements.strip().replace("\n", "\n        ")
    return f"def f(x):\n    if x == 2:\n        {body}\n    return x + 10\n"


# Right solutions that do harm in their second test; the first has been judged by then.
HARM = {
    "main thread exits, another sleeps": IMPORTS
    + second("threading.Thread(target=time.sleep, args=(1e6,)).start()\nlibc.pthread_exit(None)"),
    "main thread exits, another answers for ever": IMPORTS
    + second(
        "def g():\n    while True: os.write(4, b'\\0' * 4096)\nthreading.Thread(target=g).start()\nlibc.pthread_exit(None)"
    ),
    "stop itself": IMPORTS + second("signal.raise_signal(signal.SIGSTOP)"),
    "tstp by terminal": IMPORTS + second("signal.raise_signal(signal.SIGTSTP)"),
    "kill itself 9": IMPORTS + second("signal.raise_signal(9)"),
    "pthread_kill 9": IMPORTS + second("signal.pthread_kill(threading.get_ident(), 9)"),
    "rlimit AS zero": IMPORTS
    + second("import resource\nresource.setrlimit(resource.RLIMIT_AS, (0, 0))\nx = bytes(10**7)"),
    "rlimit fsize zero": IMPORTS
    + "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    + second("pass"),
    "rlimit nofile zero": IMPORTS
    + "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))\n"
    + second("pass"),
    "rlimit rttime": IMPORTS + second("import resource\nresource.setrlimit(15, (1, 1))\nwhile True: pass"),
    "rlimit stack tiny": IMPORTS
    + second("import resource\nresource.setrlimit(resource.RLIMIT_STACK, (4096, 4096))\nf(2)"),
    "close the question pipe": IMPORTS + second("os.close(3)"),
    "close the answer pipe": IMPORTS + second("os.close(4)"),
    "exchange pipes": IMPORTS + second("os.dup2(3, 5); os.dup2(4, 3); os.dup2(5, 4)"),
    "nonblocking answer pipe": IMPORTS
    + second("import fcntl\nfcntl.fcntl(4, fcntl.F_SETFL, os.O_NONBLOCK)\nreturn list(range(10**6))"),
    "namespace builtins replaced": "__builtins__ = {}\n" + second("pass"),
    "exception whose text never ends": second(
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E"
    ),
    "exception whose class has a hostile name": "class M(type):\n    @property\n    def __name__(c): raise KeyboardInterrupt\n"
    + second("class E(Exception, metaclass=M): pass\nraise E"),
    "posix_spawn, popen, pty": second(
        "import os, pty\nn = 0\nfor g in (lambda: os.posix_spawn('/bin/true', ['true'], {}), lambda: os.popen('true').read(), pty.fork, lambda: os.system('true') and 1/0):\n    try: g()\n    except (OSError, ZeroDivisionError): n += 1\nassert n == 4"
    ),
    "clone of a thread with namespaces": IMPORTS
    + second(
        "r = [libc.syscall(56, 0x10000 | 0x800 | 0x100 | flag, 0, 0, 0, 0) for flag in (0x10000000, 0x20000000, 0x40000000, 0x00020000, 0x02000000, 0x04000000, 0x08000000)]\nassert r == [-1] * 7, r"
    ),
    "deep folders in tmp": second(
        "import os\nos.chdir('/tmp')\nfor _ in range(3000):\n    os.mkdir('d'); os.chdir('d')"
    ),
    "links in tmp": second(
        "import os\nfor i in range(100): os.symlink('/worker.py', f'/tmp/attackl{i}')\nos.rename('/tmp/attackl0', '/tmp/attackl1')"
    ),
    "all descriptors": second("import os\nwhile True: os.dup(0)"),
    "socket pairs full": second(
        "import socket\nl = []\nwhile True:\n    a, b = socket.socketpair(); a.setblocking(False); l += [a, b]\n    try:\n        while True: a.send(bytes(1 << 16))\n    except BlockingIOError: pass"
    ),
    "audit hook that raises for ever": "import sys\n" + second("sys.addaudithook(lambda *a: 1 / 0)"),
    "gc callback loop": "import gc\n"
    + second("gc.callbacks.append(lambda *a: [0 for _ in iter(int, 1)])\ngc.collect()"),
    "del that loops": second("class D:\n    def __del__(self):\n        while True: pass\nD()"),
    "hash collisions of its own": second("s = {i * (2 ** 61 - 1) for i in range(10 ** 6)}"),
    "number of many digits": second("return 3 ** (10 ** 8)"),
    "dict that changes while read": "import threading\nd = {i: i for i in range(10 ** 5)}\ndef g():\n    while True:\n        d[-1] = 1; d.pop(-1)\nthreading.Thread(target=g, daemon=True).start()\ndef f(x): return d if x == 2 else x + 10\n",
    "alternate signal stack and SEGV in loop": IMPORTS
    + second(
        "import faulthandler\nfaulthandler.enable()\nsignal.signal(signal.SIGSEGV, lambda *a: None)\nctypes.string_at(0)"
    ),
    "profil timer flood": IMPORTS
    + second(
        "signal.signal(signal.SIGPROF, lambda *a: None)\nsignal.setitimer(signal.ITIMER_PROF, 1e-6, 1e-6)\nwhile True: pass"
    ),
    "sleep in small pieces": second("import time\nwhile True: time.sleep(0.001)"),
    "poll without end": second("import select\nselect.poll().poll()"),
    "reads the next question itself": IMPORTS + second("os.read(3, 1)"),
}
# Of f(x), whose right value nobody inside can know.
FORGERIES = {
    "SystemExit with a code that compares for ever": "class C:\n    def __eq__(self, o):\n        while True: pass\nraise SystemExit(C())\n",
    "value whose class lies": "class V:\n    __class__ = property(lambda s: str)\n    def __eq__(s, o): return True\n    __hash__ = None\ndef f(x): return V()\n",
    "str with every comparison true": "class V(str):\n    __eq__ = __contains__ = lambda s, o: True\n    __hash__ = lambda s: 0\n    def encode(self, *a): return b'x'\ndef f(x): return V('')\n",
    "mro that lies": "class M(type):\n    def mro(cls): return [cls, str, object]\nclass V(str, metaclass=M): pass\ndef f(x): return V('right')\n",
    "worker's own encoder replaced": FRAMES
    + "def f(x):\n    fr = wf('encoders')\n    fr.f_locals['encoders'][False] = fr.f_locals['encoders'][True] = lambda v, d=0: 'right-'\n    return 1\n",
    "request rewritten": FRAMES
    + "def f(x):\n    wf('request').f_locals['request']['exact'] = None\n    wf('request').f_locals['request']['calls'] = []\n    return True\n",
    "header flood": FRAMES
    + "def f(x):\n    i = wf('request').f_locals['request']['id']\n    h = b'[' * 60000\n    os.write(4, len(h).to_bytes(4, 'big') + h)\n",
    "sizes as huge integers": FRAMES
    + "def f(x):\n    i = wf('request').f_locals['request']['id']\n    h = ('{\"id\": \"%s\", \"sizes\": [' % i + '9' * 4000 + ']}').encode()\n    os.write(4, len(h).to_bytes(4, 'big') + h)\n    os._exit(0)\n",
    "sizes too long for Python's ints": FRAMES
    + "def f(x):\n    i = wf('request').f_locals['request']['id']\n    h = ('{\"id\": \"%s\", \"sizes\": [' % i + '9' * 50000 + ']}').encode()\n    os.write(4, len(h).to_bytes(4, 'big') + h)\n    os._exit(0)\n",
    "sizes negative, true, float": FRAMES
    + "def f(x):\n    i = wf('request').f_locals['request']['id']\n    h = ('{\"id\": \"%s\", \"sizes\": [%s]}' % (i, ['-1', 'true', '1e0'][x - 1])).encode()\n    os.write(4, len(h).to_bytes(4, 'big') + h + b'x')\n    os._exit(0)\n",
    "many small values": FRAMES
    + "def f(x):\n    i = wf('request').f_locals['request']['id']\n    h = ('{\"id\": \"%s\", \"sizes\": [%s]}' % (i, ','.join(['0'] * 30000))).encode()\n    os.write(4, len(h).to_bytes(4, 'big') + h)\n    os._exit(0)\n",
    "kind that is a list": FRAMES
    + "def f(x):\n    i = wf('request').f_locals['request']['id']\n    h = json.dumps({'id': i, 'kind': [['passed']], 'error': {'a': 1}}).encode()\n    os.write(4, len(h).to_bytes(4, 'big') + h)\n    os._exit(0)\n",
    "surrogates in the error": FRAMES
    + "def f(x):\n    i = wf('request').f_locals['request']['id']\n    h = ('{\"id\": \"%s\", \"error\": \"\\\\ud800\\\\udfff\\\\u0000\"}' % i).encode()\n    os.write(4, len(h).to_bytes(4, 'big') + h)\n    os._exit(0)\n",
    "tree of a million nodes shared": "class TreeNode:\n    def __init__(s): s.val = 1; s.left = s.right = None\nt = TreeNode()\nfor _ in range(60):\n    n = TreeNode(); n.left = n.right = t; t = n\ndef f(x): return t\n",
    "list shared exponentially": "l = []\nfor _ in range(60): l = [l, l]\ndef f(x): return l\n",
    "nan keys and items": "nan = float('nan')\ndef f(x): return {nan: nan, 'a': {nan}}\n",
}


def outcomes(attacks, tests, isolation):
    """Those of each attack, once the solution after it has been found to be judged as ever."""
    jobs = [job for source in attacks.values() for job in ((source, tests), AFTER)]
    options = {"processes": 1, "seconds_per_test": 0.2, "memory_mb": 300}
    results = [result.outcomes for result in sandbox.run_many(jobs, isolation=isolation, **options)]
    neighbours = dict(zip(attacks, results[1::2], strict=True))
    assert {name: found for name, found in neighbours.items() if found != ("passed", "failed", "passed")} == {}
    return dict(zip(attacks, results[::2], strict=True))


def test_harm_is_done_to_nobody(isolation):
    found = outcomes(HARM, [f"assert f({x}) == {x + 10}" for x in (1, 2, 3)], isolation)
    assert {name: some for name, some in found.items() if some[0] != "passed"} == {}


def test_nothing_is_forged(isolation, secret):
    found = outcomes(FORGERIES, [f"assert f({x}) == 'right-{secret}-{x}'" for x in (1, 2, 3)], isolation)
    assert {name: some for name, some in found.items() if "passed" in some} == {}
    assert len(HARM) + len(FORGERIES) > 50
