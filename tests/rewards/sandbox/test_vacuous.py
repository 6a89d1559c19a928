"""Tests that say nothing of a solution are refused by their form, and no other test is."""

import pytest

from qrpo_lib.rewards.sandbox import checks

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
