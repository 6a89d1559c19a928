"""A reply can do nothing but fail its test: bytes of every kind, read and compared."""

import json
import os
import random
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrpo_lib.rewards.sandbox import checks
from qrpo_lib.rewards.sandbox.reply import Digest, Reply

# QRPO_FUZZ=1000000 for the full number. Parts that are listed in the file QRPO_FUZZ_FILE are not done again.
REPLIES = int(os.environ.get("QRPO_FUZZ", 20_000))
PART = 20_000
CHECKS = [
    checks.split(test)
    for test in (
        "assert f(1) == 'a value that nobody knows'",
        "assert f(1) in ('a value that nobody knows', 7777)",
        "assert abs(f(1) - 7777.5) < 1e-6",
        "assert is_same_tree(f(1), tree_node([7777]))",
        "assert sorted(f(1), reverse=True) == [7777, 7776]",
        "assert 7777 in f(1)",
        "assert {7777: 7776} == f(1) or f(1) == {7775}",
        "assert all(a - b < 0.1 for a, b in zip(f(1), [7777, 7776])) and len(f(1)) == 2",
    )
]
TAGS = ("tuple", "set", "dict", "int", "nan", "ratio", "bytes", "complex", "range", "ListNode", "TreeNode", "x", "")
ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["0x" + "f" * 400, "-0x1", "zz", 10**400, "1" * 5000, 1e308, -(2**63)]),
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(TAGS), inner, min_size=1, max_size=2)
    ),
    max_leaves=12,
)


def judged(data, check, chunk=7):
    """Whether a test passes by the bytes of a reply."""
    reply = Reply(len(check.calls), check.expected is not None)
    done = False
    for start in range(0, len(data), chunk):
        if done:
            break
        done = reply.feed(data[start : start + chunk])
    if not done or reply.broken or "sizes" not in reply.header:
        return False
    return bool(check.holds(reply.answers()))


def whole(*values, **more):
    header = json.dumps({"id": "x", "sizes": [len(value) for value in values], **more}).encode()
    return len(header).to_bytes(4, "big") + header + b"".join(values)


@settings(max_examples=max(REPLIES // 10, 100))
@given(VALUES, st.sampled_from(CHECKS), st.integers(1, 64))
def test_no_value_raises(value, check, chunk):
    text = json.dumps(value).encode()
    for data in (whole(*[text] * len(check.calls)), len(text).to_bytes(4, "big") + text):
        assert judged(data, check, chunk) is False


@settings(max_examples=max(REPLIES // 10, 100))
@given(st.binary(max_size=60), st.sampled_from(CHECKS), st.integers(1, 64))
def test_no_bytes_raise(data, check, chunk):
    assert judged(data, check, chunk) is False
    assert judged(whole(*[data] * len(check.calls)), check, chunk) is False


def test_many_replies_of_every_kind(tmp_path):
    """Well-formed ones with parts exchanged, repeated and cut; faster than hypothesis, and reproducible."""
    done = Path(os.environ.get("QRPO_FUZZ_FILE", tmp_path / "parts"))
    done.touch()
    start = time.process_time()
    for number in range(len(done.read_text().splitlines()), max(REPLIES // PART, 1)):
        replies_of_every_kind(random.Random(number), min(REPLIES, PART))
        with done.open("a") as file:
            file.write(f"{number} {time.process_time() - start:.1f}\n")
    assert time.process_time() - start < REPLIES * 20e-3


def replies_of_every_kind(generator, replies):
    parts = [
        b'{"set":[',
        b'{"dict":[[',
        b'{"complex":[',
        b"[",
        b"]",
        b"]}",
        b"]]}",
        b"{",
        b"}",
        b",",
        b"1",
        b"-1e999",
        b"NaN",
    ]
    parts += [b'{"int":"0x', b'"}', b"f" * 50, b"9" * 400, b'"a"', b"null", b"true", b'{"TreeNode":[', b'{"range":[']
    parts += [b"\\ud800", b"\xff", b'{"ratio":["0x1","0x0"]}', b'{"bytes":"0', b"[" * 300, b"]" * 300, b'{"ListNode":[']
    for _ in range(replies):
        text = b"".join(generator.choices(parts, k=generator.randrange(12)))
        check = generator.choice(CHECKS)
        data = whole(*[text] * len(check.calls))
        if generator.random() < 0.2:
            place = generator.randrange(len(data))
            data = data[:place] + bytes([generator.randrange(256)]) + data[place + generator.randrange(3) :]
        assert judged(data, check, 50) is False


def test_a_complex_number_with_a_part_of_400_digits():
    check = checks.split("assert abs(f(1)) < 1")
    for value in ({"complex": [10**399, 0]}, {"complex": [1, {"int": hex(10**399)}]}, {"ratio": ["0x1", "0x0"]}):
        assert check.holds([json.dumps(value).encode()]) is False


def test_memory_does_not_grow_with_what_is_sent():
    """4 MB of empty lists, and as much as is taken at most, to a test that compares with a known value."""
    check = CHECKS[0]
    piece = b"[]," * 20_000
    tracemalloc.start()
    try:
        for total in (4 << 20, 64 << 20):
            reply = Reply(1, True)
            header = json.dumps({"id": "x", "sizes": [total]}).encode()
            assert not reply.feed(len(header).to_bytes(4, "big") + header)
            sent = 0
            while sent < total:
                part = piece[: total - sent]
                sent += len(part)
                done = reply.feed(part)
            assert done
            assert check.holds(reply.answers()) is False
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(64 << 20) + 1, 10**30])
def test_more_than_the_limit_is_not_taken(size):
    reply = Reply(1, True)
    header = json.dumps({"id": "x", "sizes": [size]}).encode()
    assert reply.feed(len(header).to_bytes(4, "big") + header)
    assert "more than" in reply.broken
    reply = Reply(1)
    assert reply.feed((1 << 17).to_bytes(4, "big"))
    assert reply.broken


def test_a_reply_is_the_same_in_any_pieces():
    value = json.dumps({"set": [1, "a", {"tuple": [2, 3]}]}, separators=(",", ":")).encode()
    check = checks.split("assert f(1) == {(2, 3), 'a', True}")
    encoded = checks.worker.dumped(checks._canonical({(2, 3), "a", True})).encode()
    assert {judged(whole(encoded), check, chunk) for chunk in (1, 2, 3, 50, 1000)} == {True}
    assert {judged(whole(value + b"x"), check, chunk) for chunk in (1, 2, 3, 50, 1000)} == {False}
    assert Digest.of(encoded) == check.expected
