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
    ],
)
def test_what_cannot_be_judged_is_refused(test, reason):
    with pytest.raises(ValueError, match=reason):
        checks.split(test)


VACUOUS = [
    "assert (f(1) == 2, 'why')",
    "assert [f(1) == 2]",
    "assert {'equal': f(1) == 2}",
    "assert abs(f(1) - f(1)) < 1e-6",
    "assert f(1) - f(1) == 0",
    "assert round(f(1) - f(1), 3) == 0 or f(1) != 0",
    "assert [f(1)] == [f(1)]",
    "assert (f(1), 2) == (f(1), 2)",
    "assert (x > 0 for x in f(1))",
    "assert zip(f(1), [2])",
    "assert f(1) == 2 or True",
    "assert f(1) == 2 or 'two'",
    "assert not (f(1) == 2 and False)",
    "assert 2 if f(1) == 3 else 4",
    "assert bool([f(1)])",
    "assert not not (f(1),)",
    "assert is_same_list(f(1), f(1))",
    "assert f(2) == 2 or f(1) <= f(1)",
]
# Each fails for some solution: nothing of this kind may be refused.
DECIDING = """
f(1) != 5; f(1) < 10**9; f(1) <= 10**9; f(1) >= -10**9; f(1) != 'abc' + 'd'; f(1) != -5; not f(1); f(1) < f(2)
f(1) <= f(2); f(1) != f(2); f(1) == f(2); f(1) == 1 or f(2) == 2; f(1) is not None; f(1) != [[1, 2], [3]]
f(1)[0] != 'a'; f(2)['a'] != 3; f(1) not in (1, 2); 'a' not in f(1); len(f(1)) <= 10; len(f(1)) > 0; len(f(1)) != 100
len(f(1)) < 5000; set(f(3)) <= {1, 2, 3}; set(f(3)) >= {1}; isinstance(f(1), int); isinstance(f(1), (int, float, str))
bool(f(1)); all(x % 2 == 0 for x in f(10)); all(f(1)); any(x > 3 for x in f(1)); abs(f(1) - 3.5) < 1e-6; f(1) <= 'b'
f(1) != b'a'; f(1) < (1, 2); f(1) <= [5]; round(f(1), 2) != 3.14; -1 < f(1) < 10**6; f(1) != {1: 2}; f(1) != {1}
f(1) != 1.5; f(1) is not True; max(f(1)) <= 7; sorted(f(1)) != [1]; math.isclose(f(1), 1e-12, abs_tol=1e-9); f('a')
not f('a') == 'b'; f(1) or f(2); f(1) and f(2); all(len(w) <= 16 for w in f('hello world', 16)); [x for x in f(1)]
all(len(x) > 0 for x in f('a b')); all(1 <= len(r) <= 3 for r in f([1], 3)); max(len(w) for w in f('a b')) <= 5
not any(len(x) > 5 for x in f(3)); max(len(x) for x in f(1)) - min(len(x) for x in f(1)) <= 1
all(i != j for i, j in f([1, 2])); all(len(set(p)) == len(p) for p in f([1, 2, 3])); all(x[0] >= 0 for x in f(3))
all(min(w) >= 0 for w in f(3)); all(v <= 100 for v in f(1)); all(-100 <= v <= 100 for v in f(1))
all(c <= 'z' for c in f('abc')); not any(isinstance(x, list) for x in f([1, [2]])); not isinstance(f(1), set)
not isinstance(f(1), bytes); not math.isnan(f([1, 2])); not math.isinf(f([1, 2])); f(3) <= float('inf'); f(3) >= -1e18
-1e20 <= f(1) <= 1e20; f(2**60) <= 2.0**60; sum(1 for x in f(1)) < 10000; len([x for x in f(1) if x > 100]) <= 1
(f(1), f(2)) != (1, 2); not (f(1) == 1 and f(2) == 2); f(1) != 1 or f(2) != 2; f('a') + f('b') != 'ab'
str(f(1)) + str(f(2)) != '12'; sum([f(1), f(2), f(3)]) != 6; f(3) + 1 != f(4); f(2) in range(10**20)
isinstance(f(1), (list if True else str)); isinstance(f(1), [int, list][1]); f(1) - f(2) == 0; [*f(1)]; (*f(1),)
f(1) == 2 if f(3) else f(4) == 5; zip(f(1), f(2)) == 3; f(1) in [[1], [2]]; f(1) in ('a', 'b', None)
""".replace("\n", ";")
DECIDING = [test.strip() for test in DECIDING.split(";") if test.strip()]


@pytest.mark.parametrize("test", VACUOUS)
def test_what_every_solution_passes_is_refused(test):
    with pytest.raises(ValueError, match=r"passes every solution|with itself"):
        checks.split(test)


@pytest.mark.parametrize("test", DECIDING)
def test_what_some_solution_fails_is_not(test):
    checks.split(f"assert {test}")


@pytest.mark.parametrize(
    ("test", "reason"),
    [
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
def test_what_the_solution_could_replace_or_no_value_equals_is_refused(test, reason):
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
