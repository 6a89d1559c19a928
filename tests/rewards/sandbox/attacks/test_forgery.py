"""Attacks that would forge a verdict, one a test: none passes a test whose right answer it cannot know."""

from qrpo_lib.rewards.sandbox import judge

FAILED = ["failed"] * 3
ERROR = ["error"] * 3
# Writes an answer of the attacker's own to the channel, with the question's id.
CHANNEL = """
import json, os, sys
def write_answer(value, **more):
    frame = sys._getframe()
    while 'request' not in frame.f_locals: frame = frame.f_back
    value = value if type(value) is bytes else value.encode('utf-8', 'surrogatepass')
    header = json.dumps({'id': frame.f_locals['request']['id'], 'sizes': [len(value)], **more}).encode()
    data = len(header).to_bytes(4, 'big') + header + value
    while data: data = data[os.write(4, data):]
    os._exit(0)
"""


# --- the comparison --------------------------------------------------------------------------------------------------


def test_hostile_eq(forgery):
    assert forgery("class Same:\n    def __eq__(self, other): return True\ndef f(x): return Same()\n") == FAILED


def test_hostile_eq_on_subclasses_of_builtins(judged, isolation, secret):
    source = """
def lying(kind, *content):
    class Same(kind):
        __eq__ = __ge__ = __contains__ = lambda self, other: True
        __ne__ = lambda self, other: False
        __hash__ = lambda self: 0
        __str__ = __repr__ = __int__ = __index__ = __float__ = __iter__ = lambda self: [1]
    return Same(*content)
def f(kind): return lying({'int': int, 'str': str, 'list': list, 'dict': dict, 'tuple': tuple, 'float': float}[kind])
"""
    expected = {"int": "3", "str": f"'{secret}'", "list": "[1]", "dict": "{1: 2}", "tuple": "(1,)", "float": "0.5"}
    tests = [f"assert f({kind!r}) == {value}" for kind, value in expected.items()]
    assert judged(source, tests, isolation) == ["failed"] * 6


def test_hostile_eq_on_elements(judged, isolation):
    source = "class Same:\n    def __eq__(self, other): return True\ndef f(x): return [Same()] * x\n"
    assert judged(source, ["assert f(1) == [5]", "assert 5 in f(1)", "assert f(0) == []"], isolation) == [
        "failed",
        "failed",
        "passed",
    ]


def test_hostile_hash(judged, isolation):
    source = """
class Same:
    def __eq__(self, other): return True
    def __hash__(self): return hash(5)
def f(x): return {Same()} if x else {Same(): 1}
"""
    assert judged(source, ["assert f(1) == {5}", "assert f(0) == {5: 1}"], isolation) == ["failed", "failed"]


def test_hostile_reduce(forgery, host):
    canary, _ = host
    source = f"""
class Bomb:
    def __reduce__(self): return (exec, ("open({str(canary)!r}, 'w')",))
    __getstate__ = __getnewargs__ = __reduce_ex__ = __reduce__
def f(x): return Bomb()
"""
    assert forgery(source) == FAILED


def test_hostile_truth_and_order(judged, isolation):
    source = """
class Yes:
    def __bool__(self): return True
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __ne__ = __contains__ = __lt__
    def __abs__(self): return self
    def __sub__(self, other): return 0
def f(x): return Yes()
"""
    tests = ["assert f(1)", "assert f(1) < 3", "assert f(1) != 3", "assert abs(f(1) - 0.5) < 1e-6", "assert 1 in f(1)"]
    assert judged(source, tests, isolation) == ["failed"] * 5


def test_class_that_lies_about_itself(forgery):
    source = """
class Meta(type):
    __instancecheck__ = __subclasscheck__ = lambda *_: True
    __eq__ = lambda *_: True
    __hash__ = type.__hash__
class Lie(metaclass=Meta):
    __class__ = property(lambda self: str)
    def __eq__(self, other): return True
def f(x): return Lie()
"""
    assert forgery(source) == FAILED


def test_not_a_number(judged, isolation):
    assert (
        judged("def f(x): return float('nan')", ["assert f(1) == 3", "assert f(1) == nan"], isolation) == ["failed"] * 2
    )


def test_lists_and_trees_that_pretend(judged, isolation):
    source = """
class ListNode:
    def __init__(self): self.val, self.next = Same(), None
    def __eq__(self, other): return True
class Same(int):
    def __eq__(self, other): return True
class TreeNode:
    def __init__(self): self.val, self.left, self.right = Same(), None, None
def is_same_list(*_): return True
is_same_tree = is_same_list
def f(x): return ListNode() if x else TreeNode()
"""
    tests = [
        "assert is_same_list(f(1), list_node([7]))",
        "assert is_same_tree(f(0), tree_node([7]))",
        "assert is_same_list(f(1), list_node([0]))",
    ]
    assert judged(source, tests, isolation) == ["failed", "failed", "passed"]


def test_list_without_an_end(judged, isolation):
    source = """
class ListNode: val = 1
node = ListNode()
node.next = node
loop = []
loop.append(loop)
def f(x): return node if x else loop
"""
    tests = ["assert is_same_list(f(1), list_node([1]))", "assert f(0) == [1]"]
    first, last = judged(source, tests, isolation)
    assert first in ("failed", "timeout", "memory")
    assert last in ("failed", "error")


def test_deeply_nested_value(attack):
    source = "def f(x):\n    value = []\n    for _ in range(10 ** 5): value = [value]\n    return value\n"
    assert attack(source, seconds=1) == FAILED


def test_values_made_to_collide(judged, isolation, monkeypatch):
    """A set of a million ints of one hash would take this side hours to build."""
    # of the process that decides in the end, which computes for all the seconds that it may: two instead of ten
    monkeypatch.setattr(judge, "_MAIN", judge._MAIN.replace("import judge; ", "import judge; judge.SECONDS = 2; "))
    collide = "def f(n): return [0] if n < 0 else {} if n < 1 else {i * (2 ** 61 - 1) for i in range(1, n)}\n"
    tests = ["assert set(f(3000)) == {1}", "assert f(0) == {}"]
    assert judged(collide, tests, isolation, seconds=5) == ["failed", "passed"]
    # What the solution could not build within its own time, it might write to the channel itself.
    forged = (
        CHANNEL
        + """
def f(n):
    numbers = ','.join(hex(i * (2 ** 61 - 1)).join(['{"int":"', '"}']) for i in range(50000))
    write_answer('{"set": [%s]}' % numbers)
"""
    )
    assert judged(forged, ["assert f(1) == {1}"], isolation, seconds=5) == ["failed"]
    assert judged(forged, ["assert 1 in f(1)"], isolation, seconds=5) == ["failed"]


def test_a_range_without_an_end(judged, isolation):
    """A few characters for as many numbers as would hold this side up for ever, or fill its memory."""
    source = "def f(n): return range(1, 10 ** n)\n"
    tests = [
        "assert all(x > 0 for x in f(18))",
        "assert 7.5 in f(18)",
        "assert [x for x in f(18)] == [1]",
        "assert all(x > 0 for x in f(2)) and 99 in f(2) and 100 not in f(2)",
    ]
    assert judged(source, tests, isolation) == ["failed", "failed", "failed", "passed"]


def test_huge_integers(attack):
    assert attack("def f(x): return 1 << 10 ** 7", seconds=2) == FAILED


# --- forged verdicts -------------------------------------------------------------------------------------------------


def test_verdicts_on_standard_output(forgery):
    assert forgery("import sys\ndef f(x):\n    print('passed', True, 1.0, flush=True)\n    return True\n") == FAILED


def test_verdicts_on_standard_error(forgery):
    assert forgery("import sys\ndef f(x):\n    print('{\"passed\": true}', file=sys.stderr)\n") == FAILED


def test_verdicts_on_every_file_descriptor(forgery):
    source = """
import os
def f(x):
    for text in (b'passed\\n', b'\\x00\\x00\\x00\\x04true', b'\\x00\\x00\\x00\\x10{"passed": true}'):
        for descriptor in range(64):
            try: os.write(descriptor, text)
            except OSError: pass
    return True
"""
    assert set(forgery(source)) <= {"crashed", "failed"}


def test_well_formed_answer_with_the_questions_own_id(forgery):
    """All that it can say is a value, and it does not know the right one."""
    source = CHANNEL + "def f(x): write_answer('true', passed=True, kind='passed', values=[True])\n"
    assert forgery(source)[0] == "failed"
    assert set(forgery(source)) <= {"crashed", "failed"}


def test_outcome_in_place_of_a_value(forgery):
    source = """
import json, os, sys
def f(x):
    frame = sys._getframe()
    while 'request' not in frame.f_locals: frame = frame.f_back
    data = json.dumps({'id': frame.f_locals['request']['id'], 'kind': 'passed', 'error': ''}).encode()
    os.write(4, len(data).to_bytes(4, 'big') + data)
    os._exit(0)
"""
    assert set(forgery(source)) <= {"error", "crashed"}


def test_outcome_that_is_no_text(isolation, judged):
    """Nested as deeply as JSON goes, where a text is expected."""
    source = """
import os, sys
def f(x):
    frame = sys._getframe()
    while 'request' not in frame.f_locals: frame = frame.f_back
    deep = '[' * 900 + ']' * 900
    text = ['{"id": "%s", "error": %s}', '{"id": "%s", "sizes": [%s]}', '{"id": %s%s}', '%.0s%s'][x]
    data = (text % (frame.f_locals['request']['id'], deep)).encode()
    os.write(4, len(data).to_bytes(4, 'big') + data)
    os._exit(0)
"""
    outcomes = judged(source, [f"assert f({x}) == 1" for x in range(4)], isolation)
    assert outcomes[0] in ("error", "crashed")
    assert set(outcomes[1:]) <= {"failed", "crashed"}


def test_answers_prepared_before_the_question(attack):
    source = """
import json, os, sys
for x in (11, 12, 13):
    data = json.dumps({'id': None, 'sizes': [2]}).encode()
    os.write(4, len(data).to_bytes(4, 'big') + data + str(x).encode())
def f(x): return x + 10
"""
    assert set(attack(source)) == {"crashed"}


# --- what the process holds ------------------------------------------------------------------------------------------


SEARCH = """
import gc, sys, types
def search(wanted):
    seen, ahead = set(), [sys.modules, *gc.get_objects()]
    frame = sys._getframe(1)
    while frame:
        ahead += [frame.f_locals, frame.f_globals, frame.f_code.co_consts]
        frame = frame.f_back
    while ahead:
        thing = ahead.pop()
        if id(thing) in seen: continue
        seen.add(id(thing))
        if type(thing) is str and wanted in thing and thing != wanted and 'wanted in' not in thing: return thing
        if type(thing) is bytes and wanted.encode() in thing: return thing.decode()
        if type(thing) in (list, tuple, set, dict, types.FrameType, types.CodeType, types.FunctionType, types.CellType):
            ahead += gc.get_referents(thing)
"""


def test_expected_outputs_in_frames_and_in_gc(judged, isolation, secret):
    source = f"{SEARCH}\ndef f(wanted):\n    return search(wanted)\n"
    outcomes = judged(source, [f"assert f('right' + '-') == 'right-{secret}'"], isolation, seconds=5)
    assert outcomes == ["failed"]
    # The same search finds what is there: the input. So it is no accident that it finds no more.
    found = judged(
        source + "kept = ['left-' + 'over']\n", ["assert f('left' + '-') == 'left-over'"], isolation, seconds=5
    )
    assert found == ["passed"]


def test_memory_of_the_parent(judged, bubblewrap, secret):
    source = """
import os
def f(x):
    for path in ('/proc/1/mem', f'/proc/{os.getppid()}/mem', '/proc/self/mem', '/proc/kcore', '/dev/kmem'):
        try: open(path, 'rb').read(1)
        except OSError: continue
        return path
    import ctypes
    return ctypes.CDLL(None).process_vm_readv(os.getppid(), 0, 0, 0, 0, 0)
"""
    assert judged(source, ["assert f(1) == -1"], bubblewrap) == ["passed"]


def test_replaced_builtins(forgery):
    source = """
import builtins
for name in ('isinstance', 'len', 'type', 'eval', 'compile', 'all', 'any', 'sorted', 'bool', 'AssertionError'):
    setattr(builtins, name, lambda *a, **k: True)
def f(x): return True
"""
    assert "passed" not in forgery(source)


def test_replaced_worker_functions(forgery):
    source = """
import __main__, json, os
json.dumps = lambda *a, **k: '{"passed": true}'
os.write = lambda *a: 1
for name in list(vars(__main__)):
    if name.startswith('_') and callable(getattr(__main__, name)): setattr(__main__, name, lambda *a, **k: True)
def f(x): return True
"""
    assert "passed" not in forgery(source)


def test_assertions_off(attack):
    """Like python -O; and an AssertionError that is no error."""
    source = """
import builtins, sys
class AssertionError(BaseException): pass
builtins.AssertionError = AssertionError
builtins.__debug__ = sys.flags
def f(x): return x + 10
"""
    assert attack(source) == ERROR  # __debug__ cannot be assigned
    assert attack("import builtins\nbuiltins.AssertionError = None\ndef f(x): return 0\n") == FAILED


def test_replaced_modules(forgery):
    source = """
import sys
class Any:
    def __getattr__(self, name): return self
    def __call__(self, *a, **k): return self
    def __eq__(self, other): return True
for name in list(sys.modules):
    if name not in ('sys', 'builtins'): sys.modules[name] = Any()
def f(x): return Any()
"""
    assert "passed" not in forgery(source)


def test_import_hooks(forgery):
    source = """
import sys
class Hook:
    def find_spec(self, name, path=None, target=None): raise SystemExit(0)
sys.meta_path.insert(0, Hook())
sys.path_hooks.insert(0, Hook().find_spec)
sys.path_importer_cache.clear()
def f(x):
    import some_module
"""
    assert forgery(source) == ERROR


def test_trace_functions(forgery):
    source = """
import sys, threading
def trace(frame, event, argument):
    if 'answer' in frame.f_locals: frame.f_locals['answer'] = {'values': [True], 'passed': True}
    frame.f_trace_opcodes = True
    return trace
sys.settrace(trace)
sys.setprofile(lambda *a: None)
threading.settrace(trace)
frame = sys._getframe()
while frame:
    frame.f_trace = trace
    frame = frame.f_back
def f(x): return True
"""
    assert "passed" not in forgery(source)


def test_audit_hooks(forgery):
    source = """
import sys
def hook(name, arguments): raise SystemExit(0)
sys.addaudithook(hook)
def f(x): return open('/tmp/x')
"""
    assert "passed" not in forgery(source)


def test_memory_written_by_ctypes(judged, isolation):
    """The small integers of its own interpreter become others; those of this one stay."""
    source = """
import ctypes
ctypes.memmove(id(257 - 1) + 24, id(7) + 24, 4)
def f(x): return 256
"""
    outcomes = judged(source, ["assert f(1) == 8"], isolation)
    assert outcomes[0] != "passed"
    assert int("256") + 1 == int("257")
