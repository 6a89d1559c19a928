"""Verdicts on long values, in a process of their own."""

import resource
import threading

from qrpo_lib.rewards.sandbox import checks, judge

CHECK = checks.split("assert 7777 in f(1)")


def test_longer_values_are_left_to_a_process_of_their_own():
    assert CHECK.holds([b'{"range":[1000000000000000000,1,1]}']) is None  # which is as long as it says
    assert CHECK.holds([b"[" + b"1," * 5000 + b"7777]"]) is None
    assert CHECK.holds([b"[7777]"]) is True
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert CHECK.holds([b"[]," * (1 << 20)]) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 << 10


def test_the_process_decides_as_this_one_would():
    there, stop = b"[" + b"1," * 5000 + b"7777]", threading.Event()
    assert judge.holds(CHECK, [there], stop) is True
    assert judge.holds(CHECK, [there.replace(b"7777", b"7776")], stop) is False
    assert judge.holds(CHECK, [b"no JSON"], stop) is False
    stop.set()
    assert judge.holds(CHECK, [there], stop) is False  # nobody waits for it any more
