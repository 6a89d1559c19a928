"""Verdicts on long values, in a process of their own."""

import resource
import subprocess
import threading

import pytest

from qrpo_lib.rewards.sandbox import checks, judge, sandbox

CHECK = checks.split("assert 7777 in f(1)")


def test_longer_values_are_left_to_a_process_of_their_own():
    assert CHECK.holds([b'{"range":[1000000000000000000,1,1]}']) is None  # which is as long as it says
    assert CHECK.holds([b"[" + b"1," * 5000 + b"7777]"]) is None
    assert CHECK.holds([b"[7777]"]) is True
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert CHECK.holds([b"[]," * (1 << 20)]) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 << 10


THERE = b"[" + b"1," * 5000 + b"7777]"


def test_the_process_decides_as_this_one_would():
    stop = threading.Event()
    assert judge.holds(CHECK, [THERE], stop)[0] is True
    assert judge.holds(CHECK, [THERE.replace(b"7777", b"7776")], stop)[0] is False
    assert judge.holds(CHECK, [b"no JSON"], stop)[0] is False
    two = checks.split("assert 7777 in f(1) or 3 in f(2)")
    assert judge.holds(two, [THERE, None], stop)[0] is True
    assert judge.holds(two, [b"[]", None], stop)[0] is False
    stop.set()
    assert judge.holds(CHECK, [THERE], stop)[0] is False  # nobody waits for it any more


@pytest.mark.parametrize(
    ("test", "answer"),
    [
        ("all(x % 2 == 0 for x in f(10))", b'["%2000000000d"]'),
        ("[a ** b for a, b in f(1)] == [1]", b"[[3,99999999999]]"),
        ("sum(sum(x) for x in f(1)) == 3", b"[" + b'{"range":[1000000,0,1]},' * 100 + b"1]"),
        ("sum(map(len, map(list, f(1)))) < 9", b"[" + b'{"\\u0072ange":[1000000,0,1]},' * 100 + b"1]"),
        ("max(f(1), key=len) == 'a'", b'["a"]'),
        ("sorted(f(1), reverse=True) == [1]", b'[{"r\\u0061nge":[1000000,0,1]}]'),
        ("7 in f(1)", b'{"tuple":[{"\\u0072\\u0061\\u006e\\u0067\\u0065":[1000000,0,1]}]}'),
    ],
)
def test_what_could_compute_for_long_is_left_to_it_however_it_is_written(test, answer, monkeypatch):
    """No value of the solution's is looped over in the judge's own process, and no range is there."""
    check = checks.split(f"assert {test}")
    monkeypatch.setattr(checks, "decided", lambda *_: pytest.fail("decided here"))
    assert check.holds([answer]) is None


def test_a_value_that_takes_too_much_has_failed_and_the_solution_pays_for_it():
    """Limits of time and memory are the process's, and its time counts among that of all tests."""
    solution = "def f(x): return ['%2000000000d', (3, 10 ** 9)][x:x + 1]"
    tests = ["assert all(x % 2 == 0 for x in f(0))", "assert all(a ** b == 0 for a, b in f(1))", "assert f(2) == []"]
    before = resource.getrusage(resource.RUSAGE_SELF)
    result = sandbox.run_tests(solution, tests, seconds_in_all=judge.SECONDS)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert result.outcomes == ("failed", "failed", "timeout")
    assert result.seconds >= judge.SECONDS
    assert after.ru_maxrss - before.ru_maxrss < 100 << 10
    assert after.ru_utime - before.ru_utime < judge.SECONDS / 2


def test_a_process_that_is_lost_is_replaced_once(monkeypatch):
    start, started, lost = subprocess.Popen, [], 1

    def killed(*args, **options):
        process = start(*args, **options)
        started.append(process)
        if len(started) <= lost:
            process.kill()
        return process

    monkeypatch.setattr(judge.subprocess, "Popen", killed)
    assert judge.holds(CHECK, [THERE], threading.Event())[0] is True
    assert len(started) == 2
    started.clear()
    lost = 99
    with pytest.raises(judge.LostJudgeError, match="twice"):
        judge.holds(CHECK, [THERE], threading.Event())
    assert len(started) == 2


def test_nothing_is_told_before_the_process_is_guarded(monkeypatch):
    """Until then a solution that runs at the same time may read what it is told."""
    program = """
import select, socket, sys
connection = socket.socket(fileno=int(sys.argv[2]))
early = select.select([connection], [], [], 0.5)[0]
connection.sendall(b"early" if early else b"!")
while not connection.recv(1 << 20).endswith(b"7777]"): pass
connection.sendall(b"True 0.5")
def main(): pass
"""
    monkeypatch.setattr(judge, "_MAIN", program)
    assert judge.holds(CHECK, [THERE], threading.Event()) == (True, 0.5)


QUICK = [
    *("all(isinstance(x, int) for x in f(1))", "sorted(f(1), reverse=True) == [2, 1]", "[x + 1 for x in f(1)] == [2]"),
    *("math.isclose(f(2), 1.41, rel_tol=1e-3)", "max(f(1), default=None) == 2", "all(len(x) < 4 for x in f(1))"),
    *("any(x > y for x, y in zip(f(1), f(2)))", "all(abs(a - b) < 1e-6 for a, b in zip(f(1), [1.0, 2.0]))"),
]


@pytest.mark.parametrize("test", QUICK)
def test_ordinary_loops_need_no_process(test, monkeypatch):
    monkeypatch.setattr(judge, "holds", lambda *_: pytest.fail("a process was asked"))
    check = checks.split(f"assert {test}")
    assert check.holds([b"[2,1]"] * len(check.calls)) in (True, False)


def test_a_forged_reply_may_have_as_many_characters_as_an_answer():
    answer = b"[" + b"[]," * (checks.worker.ANSWER_CHARACTERS // 3) + b"7777]"
    assert judge.holds(CHECK, [answer], threading.Event())[0] is False
    assert judge.holds(CHECK, [answer[:1] + answer[100 * 3 + 1 :]], threading.Event())[0] is True
