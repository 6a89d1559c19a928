import numpy as np
import pandas as pd
import pytest

from qrpo_lib.results import rounds, statistics
from qrpo_lib.steps.rounds import Plan

ONE, TWO = Plan(), Plan(2, "fixed")


def by_prompt(shift_of_seeds, prompts=40):
    """Rewards after the last round of two plans; in each seed the second is higher by what that seed has."""
    rows = []
    for plan in (ONE, TWO):
        for seed, shift in enumerate(shift_of_seeds):
            for prompt in range(prompts):
                reward = 0.1 * prompt + (shift if plan == TWO else 0.0) + 0.01 * np.sin(prompt * (seed + 2))
                row = {"plan": plan.label, "round": plan.rounds, "last": plan.rounds, "seed": seed}
                rows.append(row | {"prompt_id": f"p{prompt:02d}", "reward": reward})
    return pd.DataFrame(rows)


def test_a_difference_of_plans_is_paired_and_holds_the_variation_of_seeds():
    steady = rounds.difference(by_prompt([0.2, 0.2, 0.2]), TWO, ONE, "reward")
    assert steady.mean == pytest.approx(0.2)
    assert steady.high - steady.low < 0.02  # prompts, which differ by up to 4, cancel
    assert (steady.n, steady.seeds) == (40, 3)
    varying = rounds.difference(by_prompt([0.0, 0.2, 0.4]), TWO, ONE, "reward")
    students = statistics.seed_interval([0.0, 0.2, 0.4])
    assert varying.mean == pytest.approx(0.2)
    assert (varying.low, varying.high) == pytest.approx((students.low, students.high), rel=0.1)


def test_two_seeds_that_disagree_decide_nothing():
    found = rounds.difference(by_prompt([0.5, -0.1]), TWO, ONE, "reward")
    assert found.low < 0 < found.high
