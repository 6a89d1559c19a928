"""Attacks from within the interpreter, one a test: what the worker is made of, its channel, and the values it reads."""

import pytest

from qrpo_lib.rewards.sandbox import sandbox

RIGHT = "def f(x):\n    return 3 * x\n"
# Gives what the worker's own frames hold.
FRAMES = """
import ctypes, gc, json, os, sys, threading, time, types
def worker_frame(name):
    frame = sys._getframe()
    while name not in frame.f_locals: frame = frame.f_back
    return frame
def set_local(frame, name, value):
    frame.f_locals[name] = value
    write = getattr(ctypes.pythonapi, 'PyFrame_LocalsToFast', None)
    if write: write(ctypes.py_object(frame), ctypes.c_int(0))
def reply(identity, *texts):
    header = json.dumps({'id': identity, 'sizes': [len(t) for t in texts]}).encode()
    return len(header).to_bytes(4, 'big') + header + b''.join(texts)
"""
# None passes a test whose right answer is a secret.
FORGERIES = {
    "the whole request as the answer": "def f(x): return str(worker_frame('request').f_locals['request'])",
    "everything that the frames hold": """
def f(x):
    frame, found = sys._getframe(), []
    while frame:
        found.append(repr(frame.f_locals))
        frame = frame.f_back
    return ''.join(found)
""",
    "the request changed": """
def f(x):
    worker_frame('request').f_locals['request'].update(calls=['True'], exact=True, passed=True)
    return True
""",
    "the frame's values replaced": """
def f(x):
    frame = worker_frame('request')
    for name in ('values', 'texts', 'answer'): set_local(frame, name, [b'true'])
    return True
""",
    "the encoders replaced": """
def f(x):
    encoders = worker_frame('encoders').f_locals['encoders']
    encoders.update({True: lambda v: True, False: lambda v: True})
    return True
""",
    "the closure's cells replaced": """
def f(x):
    encode = worker_frame('encoders').f_locals['encoders'][False]
    for cell in encode.__closure__: cell.cell_contents = lambda *a: 'right'
    return True
""",
    "the worker's code replaced": """
def f(x):
    module = sys.modules['__main__']
    for name, value in [*vars(module).items()]:
        if isinstance(value, types.FunctionType):
            try: value.__code__ = (lambda *a, **k: True).__code__
            except ValueError: pass
    return True
""",
    "constants of the worker changed": """
import __main__
__main__.ANSWER_CHARACTERS = __main__._MAX_NODES = 1 << 60
def f(x): return ['right'] * 1000
""",
    "builtins that the encoder asks": """
import builtins
builtins.issubclass = builtins.isinstance = lambda *a: True
builtins.type = lambda *a: str
builtins.sorted = lambda *a, **k: ['right']
builtins.len = lambda *a: 0
def f(x): return {1: 2}
""",
    "equality of text itself": """
import builtins
class S(str):
    __eq__ = lambda a, b: True
    __ne__ = lambda a, b: False
    __hash__ = str.__hash__
    encode = lambda s, *a: b'right'
builtins.str = S
def f(x): return S('right')
""",
    "JSON's own encoder": """
json.JSONEncoder.encode = json.JSONEncoder.iterencode = lambda *a, **k: '"right"'
json.encoder.c_make_encoder = json.encoder.encode_basestring = lambda *a, **k: '"right"'
def f(x): return 'wrong'
""",
    "a hash that is forged": """
import hashlib
hashlib.sha256 = lambda *a: types.SimpleNamespace(digest=lambda: b'x' * 32)
def f(x): return 'right'
""",
    "two replies at once": """
def f(x):
    identity = worker_frame('request').f_locals['request']['id']
    os.write(4, reply(identity, b'"a"') + reply(identity, b'"b"'))
    os._exit(0)
""",
    "more values than asked for": """
def f(x):
    identity = worker_frame('request').f_locals['request']['id']
    os.write(4, reply(identity, *[b'"right-%d"' % i for i in range(100)]))
    os._exit(0)
""",
    "no values at all": """
def f(x):
    os.write(4, reply(worker_frame('request').f_locals['request']['id']))
    os._exit(0)
""",
    "keys of the header twice": """
def f(x):
    identity = worker_frame('request').f_locals['request']['id']
    data = ('{"id":"%s","sizes":[0],"sizes":[1],"passed":true,"outcome":"passed"}' % identity).encode()
    os.write(4, len(data).to_bytes(4, 'big') + data + b'1')
    os._exit(0)
""",
    "a length that is not what follows": """
def f(x):
    identity = worker_frame('request').f_locals['request']['id']
    os.write(4, reply(identity, b'"right"')[:-4])
    time.sleep(0.05)
    os._exit(0)
""",
    "the answer to the next question": """
def f(x):
    identity = worker_frame('request').f_locals['request']['id']
    if x == 1: os.write(4, reply(identity, b'1') * 3)
    return 1
""",
    "a thread that reads the questions": """
def steal():
    while True:
        os.read(3, 1 << 16)
        os.write(4, b'{}')
threading.Thread(target=steal, daemon=True).start()
def f(x): return x
""",
    "a thread that answers after the answer": """
def later(identity):
    while True:
        try: os.write(4, reply(identity, b'"right"'))
        except OSError: pass
def f(x):
    identity = worker_frame('request').f_locals['request']['id']
    threading.Thread(target=later, args=(identity,), daemon=True).start()
    return x
""",
    "a list that grows while it is read": """
kept = []
def grow():
    while True: kept.append(1); kept.clear()
threading.Thread(target=grow, daemon=True).start()
def f(x):
    kept[:] = range(1000)
    return kept
""",
    "a value that is another each time": """
class ListNode:
    n = 0
    next = None
    @property
    def val(self):
        ListNode.n += 1
        return ListNode.n
def f(x): return ListNode()
""",
    "a list without an end that is never twice the same": """
class ListNode:
    val = 1
    next = property(lambda self: ListNode())
def f(x): return ListNode()
""",
    "a dict that lies about its items": """
class D(dict):
    items = keys = values = __iter__ = lambda self: iter([('right', 'right')])
def f(x): return D()
""",
    "an object that calls itself a Fraction": """
class Fraction:
    __module__, __qualname__ = 'fractions', 'Fraction'
    numerator, denominator = 'right', 1
    def __eq__(self, other): return True
Fraction.__module__, Fraction.__qualname__ = 'fractions', 'Fraction'
def f(x): return Fraction()
""",
    "an object that calls itself a UserString": """
class U: data = type('S', (str,), {'__str__': lambda s: 'right'})('right')
U.__module__, U.__qualname__ = 'collections', 'UserString'
def f(x): return U()
""",
    "an mro of its own": """
class M(type):
    def mro(cls): return [cls, str, object]
try:
    class S(metaclass=M): pass
except TypeError: S = object
def f(x): return S()
""",
    "a class changed into another": """
class A: pass
class B(A): __eq__ = lambda *a: True
def f(x):
    a = A()
    a.__class__ = B
    return a
""",
    "a type of C's made by hand": """
def f(x):
    value = 'wrong-value-of-some-length'
    ctypes.c_ssize_t.from_address(id(value) + 16).value = 1 << 40
    return value
""",
    "a reference count of nought": """
def f(x):
    value = [1]
    ctypes.c_ssize_t.from_address(id(value)).value = 0
    return value
""",
    "an exit handler that answers": """
import atexit
atexit.register(lambda: os.write(4, b'right'))
def f(x): sys.exit()
""",
    "an end of the interpreter": "def f(x): ctypes.pythonapi.Py_FinalizeEx()",
    "a fatal error": "def f(x): ctypes.pythonapi.Py_FatalError(b'right')",
    "a signal handler in the middle of the answer": """
import signal
def handler(*_): os.write(4, b'right')
signal.signal(signal.SIGALRM, handler)
def f(x):
    signal.setitimer(signal.ITIMER_REAL, 1e-5, 1e-5)
    return x
""",
    "an exception in another thread's place": """
main = threading.main_thread().ident
def throw():
    while True: ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(SystemExit))
threading.Thread(target=throw, daemon=True).start()
def f(x): return x
""",
    "an exception that is a value": """
class E(BaseException):
    __str__ = lambda self: '{"passed": true}'
    kind = 'passed'
def f(x): raise E
""",
    "a group of exceptions": "def f(x): raise BaseExceptionGroup('passed', [SystemExit(0), KeyboardInterrupt()])",
    "an exception while it is told": """
class E(Exception):
    def __str__(self): raise SystemExit(0)
    __repr__ = __str__
def f(x): raise E
""",
    "a hook for exceptions": """
sys.excepthook = threading.excepthook = sys.unraisablehook = lambda *a: os._exit(0)
sys.exit = os._exit
def f(x): raise ValueError
""",
    "a finder of modules that gives its own": """
class Finder:
    def find_spec(self, name, *a):
        raise SystemExit(0)
sys.meta_path[:] = [Finder()]
sys.modules.clear()
def f(x): return 'right'
""",
    "a pickle that runs": """
import pickle
class P:
    def __reduce__(self): return (os._exit, (0,))
def f(x): return pickle.loads(pickle.dumps(P()))
""",
    "text that ends a message": r"def f(x): return 'right\n\x00\x00\x00\x04true\"}]}'",
    "text that is JSON": "def f(x): return '{\"set\":[1]}'",
    "lone surrogates in place of text": r"def f(x): return 'right-\udc80\ud800'",
    "numbers that are none": "def f(x): return [float('nan'), float('inf'), -0.0, 1e400]",
    "a tag of the form itself": "def f(x): return {'int': '0x1', 'nan': 0, 'set': [1]}",
    "nested beyond JSON's depth": """
def f(x):
    value = 'right'
    for _ in range(190): value = (value,)
    return value
""",
    "an iterator without an end": "import itertools\ndef f(x): return iter(itertools.repeat('right').__next__, None)",
    "a coroutine that is not awaited": "async def f(x): return 'right'",
    "a type in place of a value": "f = type('right', (str,), {})",
    "the builtins themselves": "def f(x): return __builtins__",
    "NotImplemented": "def f(x): return NotImplemented",
    "Ellipsis": "def f(x): return ...",
}


@pytest.mark.parametrize("part", range(4))
def test_none_of_them_passes(isolation, secret, part):
    """Each in a process of its own, and after each a right solution, which is judged as if nothing had been."""
    names = [*FORGERIES][part::4]
    secrets = [f"assert f({x}) == 'right-{secret}-{x}'" for x in (1, 2)]
    after = (RIGHT, ["assert f(2) == 6", "assert f(2) == 7"])
    jobs = [job for name in names for job in ((f"{FRAMES}\n{FORGERIES[name]}\n", secrets), after)]
    results = sandbox.run_many(jobs, processes=1, isolation=isolation, seconds_per_test=0.3, memory_mb=300)
    wrong = [(name, result) for name, result in zip(names, results[::2], strict=True) if "passed" in result.outcomes]
    assert wrong == []
    assert [result.outcomes for result in results[1::2]] == [("passed", "failed")] * len(names)


def test_a_guess_is_worth_what_a_guess_is_worth(isolation):
    """Who writes both truths to the channel is heard once."""
    source = f"""{FRAMES}
def f(x):
    identity = worker_frame('request').f_locals['request']['id']
    os.write(4, reply(identity, b'1') + reply(identity, b'0'))
    os._exit(0)
"""
    result = sandbox.run_tests(source, ["assert f(1) == True", "assert f(2) == False"], isolation=isolation)
    assert set(result.outcomes) == {"crashed"}
