import numpy as np
import pytest

from qrpo_lib.rewards.tests import TestsReward


def of_prompt(prompt):
    return [f"assert f({n}) == {n} {prompt} 2" for n in range(20)]


def block(code):
    return f"Here:\n```python\ndef f(n):\n    return {code}\n```\nDone."


def test_tests_reward_is_the_share_of_tests_passed():
    answers = {
        block("n + 2"): 1.0,
        block("n + 2 if n < 5 else n"): 0.25,
        block("2 * n"): 0.05,  # right for n = 2
        block("n.missing"): 0.0,
        "def f(n):\n    return n + 2\n": 0.0,  # no code block
        block("n + 2").removesuffix("```\nDone."): 0.0,  # not closed
        block("n + "): 0.0,  # not Python
        "": 0.0,
    }
    scores = TestsReward(of_prompt).score(["+"] * len(answers), list(answers))
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, np.float32(list(answers.values())))


def test_tests_reward_judges_each_code_by_its_own_prompt_and_runs_it_once(monkeypatch):
    from qrpo_lib.rewards.sandbox import sandbox

    run, solutions = sandbox.run_many, []
    monkeypatch.setattr(sandbox, "run_many", lambda jobs: solutions.extend(code for code, _ in jobs) or run(jobs))
    prompts = ["+", "*", "+", "+", "*"]
    completions = [block("n + 2"), block("n + 2"), "Other words. " + block("n + 2"), block("n * 2"), block("n * 2")]
    reward = TestsReward(of_prompt, lambda prompt: "import math\n")
    scores = reward.score(prompts, completions)
    np.testing.assert_array_equal(scores, np.float32([1, 0.05, 1, 0.05, 1]))
    assert len(solutions) == 4  # the first and the third are one
    np.testing.assert_array_equal(reward.score(["*", "*"], [block("n + 2"), block("n")]), np.float32([0.05, 0.05]))
    assert len(solutions) == 5  # of the second call, one is new
    assert all(solution.setup == "import math\n" for solution in solutions)


def test_tests_reward_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="2 prompts for 1 completions"):
        TestsReward(of_prompt).score(["+", "+"], [block("n")])
