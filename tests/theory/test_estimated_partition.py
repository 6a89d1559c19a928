"""Error of beta log Z-hat against enumeration, quadrature in two dimensions, limits and draws."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from qrpo_lib.objective import partitions
from qrpo_lib.theory import estimated_partition as estimated
from qrpo_lib.theory import noise

LAWS = [estimated.normal(), estimated.uniform(), estimated.pass_rate(5, 0.3)]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("beta", [2.0, 0.05])
def test_of_one_reference_it_is_the_reward_itself(law, beta):
    mean, std = {"normal": (0, 1), "uniform": (0.5, 1 / math.sqrt(12))}.get(law.name, (0.3, math.sqrt(0.21 / 5)))
    error = estimated.error(law, 1, beta)
    assert error.bias == pytest.approx(mean - beta * law.log_partition(beta), abs=1e-8)
    assert error.std == pytest.approx(std, rel=1e-6)


@pytest.mark.parametrize("beta", [0.5, 0.02])
def test_of_few_values_it_is_a_sum_over_all_draws(beta):
    law, n = LAWS[2], 4
    draws = np.array(list(itertools.product(law.values, repeat=n)))
    weights = np.prod(list(itertools.product(law.probabilities, repeat=n)), axis=1)
    errors = beta * (np.logaddexp.reduce(draws / beta, axis=1) - math.log(n) - law.log_partition(beta))
    error = estimated.error(law, n, beta)
    assert error.bias == pytest.approx(weights @ errors, abs=1e-9)
    assert error.std == pytest.approx(math.sqrt(weights @ (errors - weights @ errors) ** 2), rel=1e-6)


def test_of_two_normal_references_it_is_a_double_integral():
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights, beta = weights / weights.sum(), 0.5
    values = beta * (np.logaddexp(nodes[:, None] / beta, nodes / beta) - math.log(2)) - 1 / (2 * beta)
    mean = weights @ values @ weights
    error = estimated.error(LAWS[0], 2, beta)
    assert error.bias == pytest.approx(mean, abs=1e-6)
    assert error.std == pytest.approx(math.sqrt(weights @ (values - mean) ** 2 @ weights), rel=1e-5)


def test_limits_of_small_beta_and_of_many_references():
    small = estimated.error(LAWS[0], 20, 0.01)
    assert small.bias == pytest.approx(noise.extreme_value_bias(0.01, 20), abs=0.02)
    assert small.std == pytest.approx(noise.extreme_value_std(20), rel=0.02)
    many = estimated.error(LAWS[0], 10_000, 1.0)  # Eq. 17
    assert many.std == pytest.approx(math.exp(noise.log_partition_noise(1.0, 10_000)), rel=0.01)
    assert many.bias == pytest.approx(-math.expm1(1.0) / 2 / 10_000, rel=0.01)


def test_the_law_with_a_gumbels_noise():
    law, beta, repeats = LAWS[0], 0.1, 20_000
    log_z = estimated.simulate(law, 5, beta, repeats, seed=0) / beta + law.log_partition(beta)
    noisy = log_z + np.random.default_rng(1).gumbel(size=repeats)
    assert stats.kstest(noisy, lambda x: estimated.noisy_cdf(law, 5, beta, x)).pvalue > 1e-3
    assert stats.kstest(noisy + 0.5, lambda x: estimated.noisy_cdf(law, 5, beta, x)).pvalue < 1e-6


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_the_jackknifes_bias(beta):
    rewards = torch.tensor(np.random.default_rng(0).normal(size=(40_000, 6)))
    drawn = beta * partitions.jackknife(rewards, beta=beta).numpy() - 1 / (2 * beta)
    error = 5 * drawn.std() / 200
    assert drawn.mean() == pytest.approx(estimated.jackknife_bias(LAWS[0], 6, beta), abs=error)
    assert abs(drawn.mean()) < abs(estimated.error(LAWS[0], 6, beta).bias) - error
