"""The form in which values leave the sandbox: the same text exactly where values are equal, and back again."""

import ast
import random

import pytest
from sandbox_marks import isolation, outcomes  # noqa: F401  (a fixture)

from qrpo_lib.rewards.sandbox import checks, worker


def _random_value(generator, depth=0):
    kind = generator.randrange(12 if depth < 3 else 7)
    if kind < 7:
        atoms = (
            None,
            True,
            generator.randrange(-3, 4),
            generator.choice([0.0, -0.0, 1.0, 0.5, 1e300]),
            2**70,
            "é\n",
            b"x",
        )
        return atoms[kind]
    some = [_random_value(generator, depth + 1) for _ in range(generator.randrange(4))]
    if kind < 9:
        return some if kind == 7 else tuple(some)
    hashable = [one for one in some if not set("[{") & set(repr(one)) and "set()" not in repr(one)]
    return set(hashable) if kind == 9 else frozenset(hashable) if kind == 10 else {one: some for one in hashable}


def test_texts_are_equal_exactly_where_values_are():
    """The form that digests are taken of, on pairs of random values; by the interpreter's own `==`."""
    generator = random.Random(0)
    encode, equal = checks._canonical, 0
    dumped = worker.dumped
    for _ in range(20_000):
        a, b = _random_value(generator), _random_value(generator)
        if generator.random() < 0.5:
            b = ast.literal_eval(repr(a)) if "frozenset" not in repr(a) and "set()" not in repr(a) else a
        assert (dumped(encode(a)) == dumped(encode(b))) == (a == b), (a, b)
        equal += a == b
    assert 1000 < equal < 19_000


def test_exact_values_come_back_with_their_types():
    """As JSON carries them, and as the trusted side reads them; `repr` tells 1, 1.0 and True apart, and -0.0 from 0."""
    generator, encode = random.Random(1), worker.encoder(exact=True)
    for _ in range(2000):
        value = _random_value(generator)
        back = checks.plain(checks.decode(worker.dumped(encode(value)).encode()))
        assert back == value
        if "{" not in repr(value) and "set" not in repr(value):  # whose elements come back in another order
            assert repr(back) == repr(value)


def test_a_value_without_an_end_is_refused():
    class ListNode:
        val = 1

    node = ListNode()
    node.next = node
    nested = []
    nested.append(nested)
    encode = worker.encoder(exact=True)
    for value, reason in (
        (node, "a list that does not end"),
        (nested, "nested deeper"),
        (object(), "no.* plain value"),
    ):
        with pytest.raises(worker.NotPlainError, match=reason):
            encode(value)
