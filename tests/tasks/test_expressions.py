"""The generated code task. What a request means is taken from its English here, by other means than the library's."""

import re

import pytest

from qrpo_lib.rewards import code_extraction
from qrpo_lib.tasks import expressions

WORDS = {
    "is more than": ">",
    "is less than": "<",
    "is at least": ">=",
    "is at most": "<=",
    "plus": "+",
    "minus": "-",
    "times": "*",
}
FORMS = {  # of each kind of request: its parts in this order
    r"Write f\(a, b\) that returns (.+) if (.+), otherwise (.+)\.": "then condition otherwise",
    r"Write f\(a, b\): if (.+), return (.+), else (.+)\.": "condition then otherwise",
    r"I need a function f\(a, b\)\. It gives (.+) when (.+) and (.+) in all other cases\.": "then condition otherwise",
    r"Code f\(a, b\): (.+) if (.+), (.+) if not\.": "then condition otherwise",
}
NUMBERS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7"}
REQUEST = "Write f(a, b) that returns a plus 3 if b is at least four, otherwise a times b."


def meaning(request):
    """The function that a request's English describes."""
    for form, names in FORMS.items():
        if found := re.fullmatch(form, request):
            parts = dict(zip(names.split(), found.groups(), strict=True))
            for words, sign in (WORDS | NUMBERS).items():
                parts = {name: part.replace(words, sign) for name, part in parts.items()}
            return lambda a, b: eval(
                parts["then"] if eval(parts["condition"], {"a": a, "b": b}) else parts["otherwise"], {"a": a, "b": b}
            )
    raise AssertionError(request)


def behaviour(request):
    function = meaning(request)
    return tuple(function(a, b) for a in range(10) for b in range(10))


def share_passed(code, request=REQUEST):
    namespace = {}
    exec(code, namespace)
    passed = 0
    for test in expressions.tests(request):
        try:
            exec(test, namespace)
            passed += 1
        except AssertionError:
            pass
    return passed / len(expressions.tests(request))


def test_requests_are_different_problems_and_seeded():
    made = expressions.requests(500, seed=0)
    assert len({behaviour(request) for request in made}) == 500
    assert made == expressions.requests(500, seed=0) != expressions.requests(500, seed=1)
    with pytest.raises(ValueError, match="10000 requests"):
        expressions.requests(10_001, seed=0)


def test_no_prompt_is_a_problem_that_the_policy_was_tuned_on():
    prompts = {behaviour(request) for seed in range(3) for request in expressions.requests(500, seed)}
    tuned = {behaviour(request) for request, _ in expressions.conversations(1500, seed=1)}
    assert not prompts & tuned
    for document in expressions.documents(500, seed=2):
        namespace = {}
        exec(document, namespace)
        assert tuple(namespace["f"](a, b) for a in range(10) for b in range(10)) not in prompts


def test_tests_say_what_the_request_means():
    for request in expressions.requests(300, seed=0):
        made, function = expressions.tests(request), meaning(request)
        assert len(made) == len(set(made)) == 24
        for test in made:
            a, b, value = map(int, re.fullmatch(r"assert f\((\d), (\d)\) == (-?\d+)", test).groups())
            assert function(a, b) == value
    assert expressions.tests(REQUEST) == expressions.tests(REQUEST)


def test_what_is_no_request_is_refused():
    with pytest.raises(ValueError, match="not a request of the expressions task"):
        expressions.tests("Write a poem.")


def test_documents_do_what_their_comment_says():
    for document in expressions.documents(200, seed=0):
        comment, _, code = document.partition("\n")
        then, condition, otherwise = re.fullmatch(r"# (.+) if (.+), otherwise (.+)", comment).groups()
        wanted = meaning(f"Write f(a, b) that returns {then} if {condition}, otherwise {otherwise}.")
        namespace = {}
        exec(code, namespace)
        assert all(namespace["f"](a, b) == wanted(a, b) for a in range(10) for b in range(10))


@pytest.mark.parametrize(
    ("body", "low", "high"),
    [
        ("a + 3 if b >= 4 else a * b", 1, 1),
        ("a + 3 if b > 4 else a * b", 0.7, 0.9),  # the boundary: at least 3 of 24 tests
        ("a + 3 if b >= 4 else a * 2", 0.5, 0.75),  # wrong in one case
        ("a + 4 if b >= 4 else a * b", 0.5, 0.5),  # a wrong constant in one case
        ("a * b if b >= 4 else a + 3", 0, 0.3),  # the cases swapped
        ("a + 3 if b >= 4 else None", 0.5, 0.5),
    ],
)
def test_nearly_right_functions_get_partial_credit(body, low, high):
    assert low <= share_passed(f"def f(a, b):\n    return {body}\n") <= high


def test_each_case_has_half_of_the_tests():
    for request in expressions.requests(50, seed=3):
        condition = request.replace("when", "if").split("if ")[1]
        left, words, right = re.match(r"(\w) (is \w+ \w+) (\w+)", condition).groups()
        sign, right = WORDS[words], NUMBERS.get(right, right)
        inputs = [re.search(r"f\((\d), (\d)\)", test).groups() for test in expressions.tests(request)]
        holds = [eval(f"{left} {sign} {right}", {"a": int(a), "b": int(b)}) for a, b in inputs]
        assert sum(holds) == 12


def test_instruction_examples_are_right_to_a_random_degree():
    pairs = expressions.conversations(1000, seed=0)
    codes = [code_extraction.extract(answer) for _, answer in pairs]
    assert 0.01 < codes.count(None) / len(pairs) < 0.08  # unfinished
    rates = [share_passed(code, request) for (request, _), code in zip(pairs, codes, strict=True) if code is not None]
    assert 0.2 < sum(rate == 1 for rate in rates) / len(pairs) < 0.5
    assert sum(0 < rate < 1 for rate in rates) / len(pairs) > 0.3
    assert len({len(answer) for _, answer in pairs}) > 20
