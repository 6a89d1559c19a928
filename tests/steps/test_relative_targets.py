"""Targets of the methods that regress on one, by their formulas."""

import numpy as np
import pytest
import torch

from qrpo_lib.objective import partitions
from qrpo_lib.profiles.relatives import Method
from qrpo_lib.steps import relative_targets

RATE = 2e-4


def method(name, beta=0.3, **values):
    return Method(name=name, beta=beta, learning_rate=RATE, **values)


REFERENCES = {"ref_rewards": [0.0, 1.0, 3.0, 9.0]}
ROWS = [
    {"chosen_ids": [1, 2, 3], "rejected_ids": [4], "chosen_reward": 2.0, "rejected_reward": -1.0} | REFERENCES,
    {"chosen_ids": [1], "rejected_ids": [2, 2, 2], "chosen_reward": 0.5, "rejected_reward": 0.5} | REFERENCES,
]
SUM = 1 + np.exp(1 / 0.5) + np.exp(3 / 0.5)  # of exp(r / beta) over the first three references


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (method("raw-reward", 0.5, num_ref_rewards=3), 2.0 - 0.5 * np.log(SUM / 3)),
        (method("a-star-po", 0.125, num_ref_rewards=3, value_factor=4.0), 2.0 - 0.5 * np.log(SUM / 3)),
        (method("dro", 0.5), 2.0),
        (method("best-of-n", 1 / 3, num_ref_rewards=3, best_of=4), np.log(2 / 3) + np.log(4) / 3),
        # two of three references are at or below 2, each as likely: F of them is 1/3, 2/3 and 1
        (
            method("qrpo", 0.5, num_ref_rewards=3, partition="discrete"),
            2 / 3 - 0.5 * np.log(np.exp([2 / 3, 4 / 3, 2]).mean()),
        ),
        (method("online-qrpo", 0.5, num_ref_rewards=3, completions=2), 2 / 3 - 0.5 * np.log(0.5 * np.expm1(2))),
        # beta |y| = 0.5 x the mean length 2; 3 tokens have beta 1/3
        (method("qrpo-by-length", 0.5, num_ref_rewards=3), 2 / 3 - np.log(np.expm1(3) / 3) / 3),
    ],
    ids=lambda value: value.name if isinstance(value, Method) else "",
)
def test_targets_by_their_formulas(chosen, expected):
    rows = relative_targets.with_targets(ROWS, chosen)
    assert rows[0]["targets"][0] == pytest.approx(expected, rel=1e-9)
    betas = [1 / 3, 1.0, 1.0, 1 / 3] if chosen.name == "qrpo-by-length" else [chosen.beta] * 4
    assert [beta for row in rows for beta in row["betas"]] == pytest.approx(betas)
    assert rows[1]["targets"][0] == pytest.approx(rows[1]["targets"][1], abs=1)
    assert "targets" not in ROWS[0]


def test_the_jackknife_is_the_partitions():
    rows = relative_targets.with_targets(ROWS, method("raw-reward", num_ref_rewards=4, corrected=True))
    refs = torch.tensor([row["ref_rewards"] for row in ROWS], dtype=torch.float64)
    expected = torch.tensor([row["rejected_reward"] for row in ROWS]) - 0.3 * partitions.jackknife(refs, beta=0.3)
    np.testing.assert_allclose([row["targets"][1] for row in rows], expected, rtol=1e-9)


def test_too_few_references_and_methods_without_targets_are_refused():
    with pytest.raises(ValueError, match="row 0 has 4 reference rewards, not 5"):
        relative_targets.with_targets(ROWS, method("raw-reward", num_ref_rewards=5))
    with pytest.raises(ValueError, match="kto is no regression"):
        relative_targets.with_targets(ROWS, method("kto", num_ref_rewards=1))
