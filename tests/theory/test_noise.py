import math

import mpmath as mp
import numpy as np
import pytest
from scipy import stats

from qrpo_lib.objective import transforms
from qrpo_lib.theory import noise

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize(("beta", "n", "sigma"), [(1.0, 1, 1.0), (0.1, 50, 0.7), (0.01, 10_000, 1.0)])
def test_the_formula_of_the_partition_noise(beta, n, sigma):
    with mp.workdps(30):
        truth = mp.log(mp.mpf(beta) * mp.sqrt((mp.exp((mp.mpf(sigma) / mp.mpf(beta)) ** 2) - 1) / n))
    assert noise.log_partition_noise(beta, n, sigma) == pytest.approx(float(truth), rel=1e-12)


def test_the_formula_of_the_quantile_noise_is_the_binomials():
    for n, quantile in [(1, 0.3), (7, 0.99)]:
        assert noise.quantile_noise(quantile, n) == pytest.approx(stats.binom(n, quantile).std() / n)


def test_simulated_partition_noise_meets_the_formula_where_it_holds():
    errors = noise.simulate_log_partition([1.0], [100, 1000], repeats=4000, seed=0)
    std, error = noise.standard_deviation(errors)
    assert errors.shape == (1, 2, 4000)
    assert abs(std[0, 1] - np.exp(noise.log_partition_noise(1.0, 1000))) < 4 * error[0, 1] + 0.001


def test_simulated_partition_noise_against_a_direct_computation():
    errors = noise.simulate_log_partition([0.5], [3, 10], repeats=5, seed=3, sigma=2.0)
    rewards = np.random.default_rng(3).normal(scale=2.0, size=(5, 10))
    direct = 0.5 * np.log(np.exp(rewards / 0.5).mean(-1)) - 4.0
    np.testing.assert_allclose(errors[0, 1], direct, rtol=1e-12)


def test_one_sample_has_the_rewards_own_noise_at_every_beta():
    std, _ = noise.standard_deviation(noise.simulate_log_partition([1.0, 0.1, 0.01], [1], repeats=20_000, seed=1))
    np.testing.assert_allclose(std[:, 0], 1.0, atol=0.03)  # beta log Z-hat = r: Eq. 17 would say e^5000


def test_the_extreme_value_limit():
    """At small beta beta log Z-hat is the largest reward minus beta log n."""
    errors = noise.simulate_log_partition([0.01], [10, 1000], repeats=5000, seed=2)[0]
    for column, n in enumerate((10, 1000)):
        assert errors[column].mean() == pytest.approx(noise.extreme_value_bias(0.01, n), abs=0.03)
        assert errors[column].std() == pytest.approx(noise.extreme_value_std(n), rel=0.05)
    assert noise.extreme_value_std(1) == pytest.approx(1, rel=1e-9)
    assert noise.extreme_value_std(2) == pytest.approx(math.sqrt(1 - 1 / math.pi), rel=1e-9)
    assert noise.extreme_value_bias(0.5, 2) == pytest.approx(1 / math.sqrt(math.pi) - 0.5 * math.log(2) - 1, rel=1e-9)


def test_simulated_quantile_noise_meets_the_formula_everywhere():
    quantiles, counts = [0.05, 0.5, 0.9], [1, 7, 300]
    errors = noise.simulate_quantile(quantiles, counts, repeats=4000, seed=0)
    std, error = noise.standard_deviation(errors)
    formula = noise.quantile_noise(np.array(quantiles)[:, None], counts)
    assert (np.abs(std - formula) < 5 * error + 1e-3).all()
    assert (np.abs(errors.mean(-1)) < 5 * formula / math.sqrt(4000)).all()


def test_standard_deviation_and_its_error():
    samples = np.random.default_rng(0).normal(size=(200, 1000))
    std, error = noise.standard_deviation(samples)
    assert std.std() == pytest.approx(error.mean(), rel=0.2)
    assert noise.standard_deviation(np.ones((2, 3)))[1].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["identity", "log", "square", "sqrt", "normal"])
def test_target_moments_against_simulation(name):
    f, n, quantile = transforms.get(name), 5, 0.8
    ranks = np.random.default_rng(0).binomial(n, quantile, size=200_000)
    values = f(f.clamp(ranks / n, n)) - f(quantile)
    bias, std = noise.target_moments(f, n, quantile)
    assert bias == pytest.approx(values.mean(), abs=5 * values.std() / math.sqrt(200_000))
    assert std == pytest.approx(values.std(), rel=0.02)


def test_the_identity_target_is_unbiased_and_its_noise_the_formula():
    bias, std = noise.target_moments(transforms.get("identity"), 7, np.array([0.1, 0.6]))
    np.testing.assert_allclose(bias, 0, atol=1e-15)
    np.testing.assert_allclose(std, noise.quantile_noise([0.1, 0.6], 7), rtol=1e-12)
    mean, bias, std = noise.mean_target_errors(transforms.get("identity"), 7)
    assert abs(mean) < 1e-12
    assert bias < 1e-12
    assert std == pytest.approx(math.sqrt(1 / 6 / 7), rel=1e-12)  # the mean of F(1 - F) is 1/6


@pytest.mark.parametrize("name", ["log", "square", "normal"])
def test_mean_target_errors_against_simulation(name):
    f, n = transforms.get(name), 4
    rng = np.random.default_rng(1)
    quantiles = rng.random(400_000)
    errors = f(f.clamp(rng.binomial(n, quantiles) / n, n)) - f(quantiles)
    mean, bias, std = noise.mean_target_errors(f, n)
    assert mean == pytest.approx(errors.mean(), abs=5 * errors.std() / math.sqrt(400_000))
    assert math.hypot(bias, std) == pytest.approx(math.sqrt((errors**2).mean()), rel=0.01)


def test_the_variance_of_an_exponentiated_reward():
    rewards = np.random.default_rng(2).normal(scale=0.5, size=1_000_000)
    assert noise.log_exponential_variance(1.0, 0.5) == pytest.approx(np.log(np.exp(rewards).var()), abs=0.02)
    assert noise.log_exponential_variance(0.01) == pytest.approx(20_000)


def test_the_partition_gap_at_small_beta():
    """Z_f,n is then e^(1/beta)/(n+1), Z_f is beta e^(1/beta): the gap in nats is log(beta (n + 1))."""
    for n in (1, 3, 20):
        gap = noise.partition_gap(transforms.get("identity"), 3e-4, n) / 3e-4
        assert gap == pytest.approx(math.log(3e-4 * (n + 1)), abs=1e-9)


@pytest.mark.parametrize("distribution", [stats.norm(), stats.expon(), stats.t(2)], ids=["normal", "exponential", "t"])
@pytest.mark.parametrize("name", ["identity", "log", "normal"])
def test_the_finite_partition_is_free_of_the_distribution(distribution, name):
    f = transforms.get(name)
    estimate, error = noise.simulate_finite_partition(f, 0.5, 3, distribution, prompts=100_000, seed=4)
    assert abs(estimate - transforms.finite_log_partition(f, 0.5, 3)) < 5 * error


def test_the_finite_partition_is_the_mean_over_prompts():
    f, beta, n = transforms.get("identity"), 0.3, 3
    errors = noise.given_references_spread(f, beta, n, repeats=200_000, seed=0)
    ratios = np.exp(errors / beta)  # Z of one prompt over Z_f,n
    assert ratios.mean() == pytest.approx(1, abs=5 * ratios.std() / math.sqrt(200_000))
    assert errors.mean() < 0  # Jensen
