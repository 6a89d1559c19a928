"""Targets before training, from rewards written by hand, and their errors beside draws."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import beyond_targets

REFERENCES = {"b": [1.0, 2.0, 3.0, 4.0], "a": [0.0, 0.0, 1.0, 1.0]}
CANDIDATES = {"b": [2.5, 9.0], "a": [0.0, 1.0]}


@pytest.fixture
def sampled(monkeypatch):
    """Two train prompts, and one of another split that must not count."""
    rows = [(name, "train", reward) for name, rewards in CANDIDATES.items() for reward in rewards]
    rows.append(("other", "selection", 7.0))
    frame = pd.DataFrame(rows, columns=["prompt_id", "split", "reward"])
    loaded = {"load": lambda folder, columns, role: frame[columns], "reference_rewards": lambda folder: REFERENCES}
    for name, function in loaded.items():
        monkeypatch.setattr(beyond_targets.reference_sampling, name, function)


def by_hand(prompt, beta, n, partition):
    """log of the mean of exp(target/beta) over the candidates, from quantiles counted by loops."""
    references = REFERENCES[prompt][:n]

    def quantile(reward):
        return sum(other <= reward for other in references) / n

    if partition == "discrete":
        log_z = np.log(np.mean([np.exp(quantile(one) / beta) for one in references]))
    elif partition == "finite":
        log_z = np.log(np.mean([np.exp(k / n / beta) for k in range(n + 1)]))
    else:
        log_z = np.log(beta * np.expm1(1 / beta))
    return np.log(np.mean([np.exp(quantile(one) / beta - log_z) for one in CANDIDATES[prompt]]))


def test_log_sums_are_those_of_each_prompts_own_references(sampled):
    profile = profiles.load("tiny-beyond", "code")
    keys = [(partition, 0.3, n) for partition in ("exact", "finite", "discrete") for n in (2, 4)]
    found = beyond_targets.partition_table(profile, dict.fromkeys(keys))
    assert len(found) == len(keys) * 2
    expected = [by_hand(prompt, beta, n, partition) for partition, beta, n in keys for prompt in ("a", "b")]
    order = [prompt for _ in keys for prompt in ("a", "b")]
    assert found["prompt"].tolist() == order
    np.testing.assert_allclose(found["log_sum"], expected, rtol=1e-9, atol=1e-12)


def test_distances_are_of_one_beta_with_prompts_in_one_order():
    rows = pd.DataFrame(
        [
            ("exact", 0.1, "b", -2.0),
            ("exact", 0.1, "a", 1.0),
            ("finite", 0.1, "a", -3.0),
            ("finite", 0.1, "b", 4.0),
            ("exact", 0.3, "a", 50.0),
        ],
        columns=["partition", "beta", "prompt", "log_sum"],
    )
    found = beyond_targets.distances(rows, 0.1)
    assert {name: values.tolist() for name, values in found.items()} == {"exact": [1.0, 2.0], "finite": [3.0, 4.0]}


def test_measured_errors_of_targets_are_the_predicted_ones():
    """On laws with ties and a tail; a wrong prediction would be far off."""
    generator = np.random.default_rng(0)
    references = np.round(generator.gumbel(size=(6, 20)), 1)
    rows = beyond_targets.error_table(references, [0.3, 1.0], [2, 5], repeats=3000, seed=1)
    assert len(rows) == 2 * 2 * 2
    assert rows["standard_errors"].max() < 5
    plain = rows[rows["estimate"] == "plain"]
    assert (plain["measured_bias"] < 0).all()  # Jensen
    half = plain.assign(predicted_bias=plain["predicted_bias"] / 2)
    gaps = (half["measured_bias"] - half["predicted_bias"]).abs() * np.sqrt(6 * 3000) / half["measured_std"]
    assert gaps.min() > 5


def test_targets_of_a_policy_sum_to_one():
    """On the references themselves "discrete" is a policy's; "exact" of tied rewards is above."""
    references = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    expanded = references[:, None].expand(1, 8, 8)
    assert beyond_targets.log_sum(references, expanded, 0.1, "discrete").item() == pytest.approx(0, abs=1e-9)
    low, high = 3 / 8, 1.0
    expected = np.log((3 * np.exp(low / 0.1) + 5 * np.exp(high / 0.1)) / 8) - np.log(0.1 * special.expm1(10))
    assert beyond_targets.log_sum(references, expanded, 0.1, "exact").item() == pytest.approx(expected)
