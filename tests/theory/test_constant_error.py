"""The best policy under a constant error against numerical minimisation, its expansion and its limits."""

import math

import numpy as np
import pytest
from scipy import special

from qrpo_lib.objective import transforms
from qrpo_lib.theory import constant_error, tabular

BETA = 0.3


@pytest.fixture(scope="module")
def prompt():
    """log pi*, and two laws of data: the reference's, and an unrelated policy's; 10 completions."""
    log_ref, raw = tabular.random_prompt(10, 0, 5.0)
    rewards = tabular.quantile_rewards(transforms.get("identity"), log_ref, raw)
    optimum = tabular.optimal_policy(log_ref, rewards, BETA)
    return optimum, {"reference": log_ref, "other": tabular.random_prompt(10, 1, 5.0)[0]}


@pytest.mark.parametrize("data", ["reference", "other"])
@pytest.mark.parametrize("c", [-5.0, -1.0, -0.3, -0.05, -5e-17, 0.0, 5e-17, 0.05, 1.0, 10.0])
def test_the_closed_form_is_the_least_of_all_minima_found(data, c, prompt):
    """By BFGS from pi* and, where there are several minima, from near every completion alone."""
    optimum, log_data = prompt[0], prompt[1][data]
    starts = [optimum]
    if c < 0:
        starts += [optimum + 5 * row for row in np.eye(10)]
    found = [constant_error.numerical_policy(optimum, log_data, c, start) for start in starts]
    errors = [constant_error.squared_error(one, optimum, np.exp(log_data), c) for one in found]
    best = constant_error.best_policy(optimum, log_data, c)
    assert np.exp(best.log_policy).sum() == pytest.approx(1, abs=1e-12)
    assert tabular.kl(found[int(np.argmin(errors))], best.log_policy) < 1e-8


@pytest.mark.parametrize("c", [-0.01, 0.01])
@pytest.mark.parametrize("data", ["reference", "other"])
def test_second_order(data, c, prompt):
    optimum, log_data = prompt[0], prompt[1][data]
    policy = constant_error.connected_policy(optimum, log_data, c).log_policy
    second = constant_error.second_order_kl(optimum, log_data, c)
    assert tabular.kl(policy, optimum) == pytest.approx(second, rel=0.03)
    assert tabular.kl(optimum, policy) == pytest.approx(second, rel=0.03)


def test_a_sixth_on_the_references_data():
    assert constant_error.reference_data_factor(0.01) == pytest.approx(1 / 6, rel=1e-9)
    # many completions are as good as continuous rewards
    log_ref = np.full(4000, -math.log(4000))
    optimum = tabular.optimal_policy(log_ref, np.arange(1, 4001) / 4000, 0.2)
    second = constant_error.second_order_kl(optimum, log_ref, 0.1)
    assert second == pytest.approx(constant_error.reference_data_factor(0.2) * 0.01, rel=0.01)


def test_on_the_optimal_policys_own_completions_a_constant_is_nothing(prompt):
    optimum = prompt[0]
    for c in (-0.5, 0.5, 10.0):
        assert tabular.kl(constant_error.connected_policy(optimum, optimum, c).log_policy, optimum) < 1e-12


def test_far_too_high_targets_are_imitation_weighted_linearly(prompt):
    optimum, log_data = prompt[0], prompt[1]["other"]
    policy = constant_error.best_policy(optimum, log_data, 1e4).log_policy
    assert tabular.kl(policy, log_data) < 1e-6
    tilt = (np.exp(policy - log_data) - 1) * 1e4
    wanted = optimum - log_data
    np.testing.assert_allclose(tilt, wanted - np.exp(log_data) @ wanted, atol=1e-2)


def test_what_the_data_does_not_hold_takes_the_rest_of_too_low_targets(prompt):
    optimum, c = prompt[0], -0.7
    log_data = prompt[1]["reference"].copy()
    log_data[3] = -200.0
    log_data = special.log_softmax(log_data)
    best = constant_error.best_policy(optimum, log_data, c)
    assert best.alone == 3
    seen = np.arange(10) != 3
    np.testing.assert_allclose((best.log_policy - optimum)[seen], c, atol=1e-9)
    optimum_rest = np.exp(optimum[3] + c)
    assert np.exp(best.log_policy[3]) - optimum_rest == pytest.approx(-math.expm1(c), rel=1e-9)


def test_outcome():
    log_ref, rewards = np.log([0.5, 0.5]), np.array([0.0, 1.0])
    found = constant_error.outcome(np.log([0.2, 0.8]), log_ref, rewards, 0.1)
    assert found.reward == pytest.approx(0.3)
    assert found.kl == pytest.approx(0.2 * math.log(0.4) + 0.8 * math.log(1.6))
    assert found.objective == pytest.approx(0.3 - 0.1 * found.kl)
