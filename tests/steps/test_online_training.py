"""Groups of completions of a prompt: how many are sampled, and whose rewards are their references.

That they are the current policy's, and what is stepped on: `test_relative_training`.
"""

from types import SimpleNamespace

import pytest

from qrpo_lib.profiles.relatives import Method
from qrpo_lib.steps import online_training


def method(name="online-qrpo", **values):
    return Method(name=name, beta=0.3, learning_rate=2e-4, **values)


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        (method("grpo", completions=6), 6),
        (method("rloo", completions=6), 6),
        (method(completions=6, references="renewed"), 6),
        (method(completions=6, num_ref_rewards=3), 9),
        (method(completions=6, data="half", num_ref_rewards=3), 9),
        (method(completions=6, data="off-policy", num_ref_rewards=3), 9),
        (method(completions=6, data="thirds", num_ref_rewards=3), 7),  # two are the dataset's, of which none is sampled
    ],
)
def test_what_is_sampled_for_a_prompt(chosen, count):
    assert online_training.sampled(chosen) == count


def groups(chosen, online, drawn):
    """Groups of which each prompt's online completions have these rewards."""
    made = object.__new__(online_training._Groups)
    made.setup, made.online = SimpleNamespace(method=chosen), online
    made._drawn = lambda step, prompts: [{"reward": reward} for reward in drawn]
    return made


PROMPTS = [
    {"of_prompt": [1], "ref_rewards": [0.0, 9.0], "before": [{"reward": 5.0}]},
    {"of_prompt": [2], "ref_rewards": [7.0, 8.0], "before": [{"reward": 6.0}]},
]


def test_completions_of_a_prompt_are_side_by_side_with_the_reference_policys_rewards():
    rows = groups(method(completions=3, num_ref_rewards=2, data="half"), 2, [1.0, 2.0, 3.0, 4.0]).completed(0, PROMPTS)
    assert [row["reward"] for row in rows] == [1.0, 2.0, 5.0, 3.0, 4.0, 6.0]
    assert [row["prompt_ids"] for row in rows] == [[1]] * 3 + [[2]] * 3
    assert [row["ref_rewards"] for row in rows] == [[0.0, 9.0]] * 3 + [[7.0, 8.0]] * 3


def test_renewed_references_are_the_others_of_the_group():
    prompts = [prompt | {"before": []} for prompt in PROMPTS]
    rows = groups(method(completions=3, references="renewed"), 3, [1.0, 2.0, 2.0, 4.0, 5.0, 6.0]).completed(0, prompts)
    expected = [[2.0, 2.0], [1.0, 2.0], [1.0, 2.0], [5.0, 6.0], [4.0, 6.0], [4.0, 5.0]]
    assert [row["ref_rewards"] for row in rows] == expected
