"""What of a test is judged outside of the sandbox, and which tests cannot be."""

import string

import pytest
from sandbox_marks import isolation, outcomes  # noqa: F401  (a fixture)

from qrpo_lib.rewards.sandbox import checks

REFUSED = [
    ("assert f(1).startswith('right')", ".startswith"),
    ("assert f(1).endswith('right')", ".endswith"),
    ("assert not f(1).__ne__('right')", ".__ne__"),
    ("assert f(1).count('right') == 1", ".count"),
    ("assert len(f(1).split('right')) == 2", ".split"),
    ("assert f(1).replace('right', '') == ''", ".replace"),
    ("assert f(1).issubset({1})", ".issubset"),
    ("assert f(1).equals(3)", ".equals"),
    ("assert same(f(1), 3)", "judge a value of its own"),
    ("assert same(f(1), 3) == True", "judge a value of its own"),
    ("assert same(f(1), 3) is True and f(2) == 1", "judge a value of its own"),
    ("assert bool(Checker().same(f(1), other=3))", "judge a value of its own"),
    ("assert f(1) == f(1)", "with itself, which says nothing"),
    ("assert tuple(f(1)) == tuple(f(1))", "with itself"),
    ("assert round(f(1), f(2)) == 3", "digits"),
]


@pytest.mark.parametrize(("test", "reason"), REFUSED)
def test_forms_that_would_give_the_expected_value_away_are_refused(test, reason):
    with pytest.raises(ValueError, match="cannot be judged outside the solution's reach") as refusal:
        checks.split(test)
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    "test",
    [
        "assert Solution().isPalindrome('aba')",
        "assert not Solution().search([1, 2], target = 3)",
        "assert decode(encode('abc')) == 'abc'",
        "assert add(f(1), 2) == 3",
        "assert Trie().insert('a') is None",
        "assert f('a').upper() == 'A'",
        "assert f(1) == f(2)",
        "assert f(1)[0] == 'a'",
    ],
)
def test_forms_that_only_send_inputs_are_not(test):
    checks.split(test)


def test_names_that_a_test_calls():
    assert checks.split("assert sorted(Solution().f(g(1))) == [1]").names == {"Solution"}
    assert checks.split("assert f(1) == g(2)").names == {"f", "g"}
    assert set(string.ascii_lowercase) & checks.split("assert f(1)").names == {"f"}


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("f(1) == 2", "one assert"),
        ("assert f(1) == 1; assert f(2) == 2", "one assert"),
        ("assert f(1", "not Python"),
        ("assert 1 == 1", "calls nothing"),
        ("assert sorted([2, 1]) == [1, 2]", "calls nothing"),
        ("assert f(1) == ANSWER", "could know `ANSWER`"),
        ("assert f == 1", "could know `f`"),
        ("assert (lambda: f(1))() == 1", "Lambda"),
        ("assert all(f(i) == i for i in range(3))", "in a loop"),
        ("assert 'x' * f(3) == 'xxx'", "Mult"),
        ("assert f(3) ** 2 == 9", "Pow"),
        ("assert list(range(f(3), 5)) == [3, 4]", "calls range"),
        ("assert __import__ == f(1)", "__import__"),
        ("assert f(1) == ().__class__", "__class__"),
        ("assert f'{f(1)}' == '1'", "JoinedStr"),
        ("assert math.factorial(f(3)) == 6", "factorial"),
        ("assert type(f(1)) == int", "compares with `int`"),
        ("assert f(1) is list", "compares with `list`"),
        ("assert type(f(1)) in (int, float)", "compares with `int`"),
        ("assert eval('f(1) == 3')", "call eval"),
        ("assert repr(f(1) == 3) == 'True'", "compares inside of repr"),
        ("assert next(iter([f(1) == 3]))", "compares inside of next"),
        ("assert all(_1 <= f(2) for _1 in f(1))", "uses the name _1"),
        ("assert " + " + ".join(f"f({i})" for i in range(400)) + " < 5", "nested too deeply|recursion"),
        ("assert f(1) == hash('a')", "could know `hash`"),
        ("assert f(1) == eval('2')", "could know `eval`"),
        ("assert f(1) == next(iter([2]))", "could know"),
    ],
)
def test_what_cannot_be_judged_is_refused(test, reason):
    with pytest.raises(ValueError, match=reason):
        checks.split(test)


def test_builtins_of_known_values_are_not_the_solutions(isolation):  # noqa: F811
    """It could define its own; where a test calls nothing else, that is what it should do."""
    liar = "def f(x): return 'mine'\ndef pow(*x): return 'mine'\nbin = chr = repr = divmod = pow\n"
    tests = ["f(1) == pow(2, 3)", "f(1) == bin(8)[2:]", "f(1) == chr(97)", "f(1) == repr([1])", "f(1) == divmod(7, 2)"]
    assert outcomes(liar, [f"assert {test}" for test in tests], isolation=isolation) == ["failed"] * 5
    right = "def f(x): return [pow(2, 3), bin(8)[2:], chr(97), repr([1]), divmod(7, 2)][x]\n"
    tests = [test.replace("f(1)", f"f({i})") for i, test in enumerate(tests)]
    assert outcomes(right, [f"assert {test}" for test in tests], isolation=isolation) == ["passed"] * 5
    own = "def pow(x, n): return x ** n"
    assert outcomes(own, ["assert pow(2, 3) == 8", "assert pow(2, 3) == 9"], isolation=isolation) == [
        "passed",
        "failed",
    ]
