import gc
import os
import time

import pytest

from qrpo_lib.rewards.sandbox import checks, sandbox


def problem(isolation):
    """Why an isolation cannot be tested here, None if it can."""
    try:
        return None if sandbox.works(isolation) else f"a solution does not run in the isolation '{isolation}'"
    except RuntimeError as error:
        return str(error)


PROBLEMS = {isolation: problem(isolation) for isolation in ("bubblewrap", "limits")}


@pytest.fixture(params=["bubblewrap", "limits"])
def isolation(request):
    if PROBLEMS[request.param]:
        pytest.skip(PROBLEMS[request.param])
    return request.param


def outcomes(solution, tests, **options):
    return list(sandbox.run_tests(solution, tests, **options).outcomes)


RETURN = "from math import inf\ndef f(x): return x\ndef g(x): return eval(x)\n"


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_the_pass_rate_is_the_share_of_tests_that_pass(isolation):
    solution = "def add(a, b): return a + b if a < 3 else a - b\n"
    tests = [f"assert add({a}, 1) == {a + 1}" for a in range(4)]
    result = sandbox.run_tests(solution, tests, isolation=isolation)
    assert result.outcomes == ("passed", "passed", "passed", "failed")
    assert result.pass_rate == 0.75
    assert result.details[:3] == ("", "", "")


def test_only_the_first_tests_are_run():
    result = sandbox.run_tests(RETURN, [f"assert f({i}) == {min(i, 1)}" for i in range(9)], max_tests=4)
    assert result.outcomes == ("passed", "passed", "failed", "failed")


def test_an_exception_is_told(isolation):
    result = sandbox.run_tests("def f(x): return 1 // x", ["assert f(0) == 1", "assert f(1) == 1"], isolation=isolation)
    assert result.outcomes == ("error", "passed")
    assert result.details[0] == "ZeroDivisionError: integer division or modulo by zero"


def test_state_lasts_from_test_to_test_until_a_crash():
    counter = "import os\nn = 0\ndef f(x):\n    global n\n    n += 1\n    if x: os._exit(0)\n    return n\n"
    tests = ["assert f(0) == 1", "assert f(0) == 2", "assert f(1) == 3", "assert f(0) == 1"]
    assert outcomes(counter, tests) == ["passed", "passed", "crashed", "passed"]


def test_a_solution_may_use_dataclasses_threads_and_sorted_containers(isolation):
    solution = """
from dataclasses import dataclass
from threading import Thread
from sortedcontainers import SortedList
@dataclass(order=True)
class P:
    x: int
    y: "int" = 0
def f(n):
    found = SortedList()
    thread = Thread(target=lambda: found.update(P(i) for i in range(n, 0, -1)))
    thread.start()
    thread.join()
    return [p.x for p in found]
"""
    assert outcomes(solution, ["assert f(3) == [1, 2, 3]"], isolation=isolation) == ["passed"]


PLAIN = [
    "None",
    "True",
    "0",
    "1",
    "-1",
    "1.0",
    "-0.0",
    "0.1 + 0.2",
    "0.3",
    "1e400",
    "-1e400",
    "1e400 - 1e400",
    "2 ** 63",
    "-2 ** 200",
    "2.0 ** 63",
    "1j",
    "'1'",
    "b'1'",
    "'\\ud800é\\n\\x00'",
    "[]",
    "()",
    "{}",
    "set()",
    "[1]",
    "(1,)",
    "{1}",
    "frozenset({1})",
    "{1: 2}",
    "[[1], (2.5, None)]",
    "[[1], [2.5, None]]",
    "{(1, 2): [3], 'a': {4, 5}}",
    "{'a': {5, 4.0}, (1, 2): [3]}",
]


def test_equality_is_pythons_on_plain_values(isolation):
    """All pairs of values: the sandbox must agree with `==` of this interpreter."""
    names = {"set": set, "frozenset": frozenset}
    for a in PLAIN:
        tests = [f"assert g({a!r}) == {b.replace('1e400', 'inf')}" for b in PLAIN]
        expected = ["passed" if eval(a, names) == eval(b, names) else "failed" for b in PLAIN]
        assert outcomes(RETURN, tests, isolation=isolation) == expected


def test_subclasses_of_builtins_count_by_their_content():
    solution = """
import collections, enum, typing
class Colour(enum.IntEnum): RED = 3
class Pair(typing.NamedTuple):
    a: int
    b: int
class Text(str): pass
def f(x):
    ordered = collections.OrderedDict(b=1, a=2)
    default = collections.defaultdict(list)
    default[1].append(2)
    return [Colour.RED, Pair(1, 2), Text('t'), collections.Counter('aab'), ordered, default][x]
def g(x): return [collections.deque([1]), iter([1]), {1: 2}.keys(), range(2), object(), f][x]
"""
    expected = ["3", "(1, 2)", "'t'", "{'a': 2, 'b': 1}", "{'a': 2, 'b': 1}", "{1: [2]}"]
    assert outcomes(solution, [f"assert f({i}) == {value}" for i, value in enumerate(expected)]) == ["passed"] * 6
    result = sandbox.run_tests(solution, [f"assert g({i}) == [1]" for i in range(6)])
    assert result.outcomes == ("failed",) * 6
    assert "deque, which is not a plain value" in result.details[0]
    assert outcomes(solution, [f"assert list(g({i})) == [1]" for i in range(3)]) == ["passed"] * 3


FORMS = [
    ("assert f(2) == 2", True),
    ("assert 2 == f(2)", True),
    ("assert f(2) != 2", False),
    ("assert f(2) is not None", True),
    ("assert f(None) is None", True),
    ("assert f(True) is True", True),
    ("assert f(0)", False),
    ("assert not f(0)", True),
    ("assert f([0])", True),
    ("assert 1 < f(2) <= 2", True),
    ("assert f(2) in (1, 2)", True),
    ("assert 2 not in f([2])", False),
    ("assert f(1) == 1 and f(2) == 3", False),
    ("assert f(1) == 1 or f(2) == 3", True),
    ("assert abs(f(0.5) - 0.50001) < 1e-3", True),
    ("assert abs(f(0.5) - 0.6) < 1e-3", False),
    ("assert math.isclose(f(0.1), 0.1)", True),
    ("assert round(f(0.123), 2) == 0.12", True),
    ("assert sorted(f([2, 1])) == [1, 2]", True),
    ("assert sorted(map(sorted, f([[2, 1], [0]]))) == [[0], [1, 2]]", True),
    ("assert sorted(f([2, 1]), reverse=True) == [2, 1]", True),
    ("assert set(f([2, 1, 2])) == {1, 2}", True),
    ("assert Counter(f('aab')) == Counter('aba')", True),  # where the solution imports none, as here
    ("assert len(f('abc')) == 3", True),
    ("assert f([1, 2])[1] == 2", True),
    ("assert f('a').upper() == 'A'", True),
    ("assert f(f)(f)(3) == 3", True),
    ("assert f(1) == f(1.0)", True),
    ("assert all(x > 0 for x in f([1, 2]))", True),
    ("assert all(abs(a - b) < 1e-6 for a, b in zip(f([1, 2]), [1.0, 3.0]))", False),
    ("assert f(10) == 2 * 5", True),
    ("assert f(-inf) == -inf and f(2.5) == float('2.5')", True),
    ("assert f(3) == (3 if 1 else 4), 'a message'", True),
    ("assert f(\n  [1,\n   2]) == [1,\n 2]", True),
    ("assert f('é' 'ü') == 'éü'", True),
    ("assert f('\u2028\x0c') == '\u2028\x0c'", True),
    ("assert isinstance(f(1), int)", True),
    ("assert f('1') < 2", False),
]


@pytest.mark.parametrize("chunk", range(2))
def test_forms_of_asserts(chunk):
    some = FORMS[chunk::2]
    found = [outcome == "passed" for outcome in outcomes(RETURN, [test for test, _ in some])]
    assert found == [holds for _, holds in some]


def test_expected_values_do_not_enter_the_sandbox():
    for test, _ in FORMS:
        for call in checks.split(test).calls:
            assert "==" not in call.source + call.conversion
    (call,) = checks.split("assert is_same_list(Solution().f(list_node([1])), list_node([42]))").calls
    assert call == ("(Solution().f(list_node([1])))", "", "list")
    assert checks.split("assert abs(f(0.5) - 42) < 1").calls == (("(f(0.5))", "", ""),)
    assert checks.split("assert sorted(f(3)) == 42").calls == (("(f(3))", "sorted(_)", ""),)


# --- limits and batches ----------------------------------------------------------------------------------------------


def test_bad_limits_and_missing_tests_are_named():
    for option, value in (("seconds_per_test", 0), ("seconds_per_test", float("nan")), ("memory_mb", 8)):
        with pytest.raises(ValueError, match=option):
            sandbox.run_tests(RETURN, ["assert f(1) == 1"], **{option: value})
    with pytest.raises(ValueError, match="max_tests"):
        sandbox.run_many([], max_tests=0)
    with pytest.raises(ValueError, match="no tests"):
        sandbox.run_tests(RETURN, [])
    with pytest.raises(ValueError, match="Job 1 has no tests"):
        sandbox.run_many([(RETURN, ["assert f(1) == 1"]), (RETURN, [])])


def test_the_memory_limit_is_what_it_says(isolation):
    solution = "def f(megabytes): return len(bytearray(megabytes << 20)) >> 20\n"
    tests = ["assert f(100) == 100", "assert f(400) == 400"]
    assert outcomes(solution, tests, memory_mb=300, isolation=isolation) == ["passed", "memory"]
    assert outcomes(solution, tests, memory_mb=600, isolation=isolation) == ["passed", "passed"]


def test_time_is_limited_for_each_test_not_for_their_sum():
    """Eight tests of a third of the limit each."""
    spin = "import time\ndef f(s):\n    end = time.process_time() + s\n    while time.process_time() < end: pass\n"
    tests = ["assert f(0.1) is None"] * 8 + ["assert f(30) is None"]
    assert outcomes(spin, tests, seconds_per_test=0.3) == ["passed"] * 8 + ["timeout"]


def test_waiting_for_a_processor_is_free():
    """Many more busy solutions than processors: each waits for longer than it may compute, and none is failed."""
    spin = "import time\ndef f(s):\n    end = time.process_time() + s\n    while time.process_time() < end: pass\n"
    limit, busy = 0.25, 8 * (os.cpu_count() or 1)
    start = time.monotonic()
    results = sandbox.run_many(
        [(spin, [f"assert f({limit * 0.6}) is None"] * 2)] * busy, seconds_per_test=limit, processes=busy
    )
    assert [result.pass_rate for result in results] == [1.0] * busy
    assert time.monotonic() - start > limit  # so some did wait


def test_results_are_in_the_order_of_the_jobs_and_progress_is_told(isolation):
    told = []
    jobs = [(f"def f(): return {i}", ["assert f() == 3", f"assert f() == {i}"]) for i in range(12)]
    results = sandbox.run_many(
        jobs, processes=4, report=lambda done, total, _: told.append((done, total)), isolation=isolation
    )
    assert [result.outcomes[0] for result in results] == ["passed" if i == 3 else "failed" for i in range(12)]
    assert all(result.outcomes[1] == "passed" for result in results)
    assert told == [(i, 12) for i in range(1, 13)]
    assert sandbox.run_many([]) == []


def test_nothing_is_left_open():
    gc.collect()  # what other tests have left
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        outcomes("import os\ndef f(x): os._exit(0)", ["assert f(1) == 1"] * 3)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_without_bubblewrap_a_warning_says_what_is_not_covered(monkeypatch):
    if PROBLEMS["limits"]:
        pytest.skip(PROBLEMS["limits"])
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    sandbox.available_isolation.cache_clear()
    try:
        with pytest.warns(sandbox.WeakIsolationWarning, match=r"bubblewrap is not installed.*can read"):
            assert sandbox.available_isolation() == "limits"
        assert outcomes(RETURN, ["assert f(1) == 1"]) == ["passed"]
    finally:
        sandbox.available_isolation.cache_clear()


def test_time_zones_are_the_hosts(isolation):
    if not os.path.exists("/usr/share/zoneinfo/Europe/Paris"):
        pytest.skip("this machine has no time zones: apt-get install tzdata")
    source = "from datetime import datetime\nfrom zoneinfo import ZoneInfo\n"
    source += "def f(month): return datetime(2024, month, 1, tzinfo=ZoneInfo('Europe/Paris')).utcoffset().seconds\n"
    assert outcomes(source, ["assert f(7) == 7200", "assert f(1) == 3600"], isolation=isolation) == ["passed"] * 2
