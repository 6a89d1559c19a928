import itertools

import numpy as np
import pytest
from scipy import integrate, stats

from qrpo_lib.objective import transforms
from qrpo_lib.theory import optimal_policy, tabular

pytestmark = pytest.mark.filterwarnings("error")
NAMES = ["identity", "log", "square", "sqrt", "normal"]


# the normal at beta = 0.1 has its mass above reward 9, where the distribution function rounds to 1
@pytest.mark.parametrize(
    ("name", "beta"), [*itertools.product(NAMES[:-1], [1.0, 0.1, 0.01]), ("normal", 1.0), ("normal", 0.5)]
)
def test_reward_densities_integrate_to_one(name, beta):
    rewards = np.linspace(-9, 8, 40_001)
    density = optimal_policy.reward_density(name, beta, stats.norm(), rewards)
    assert integrate.trapezoid(density, rewards) == pytest.approx(1, abs=1e-5)


def test_the_normal_transformation_shifts_a_normal_reward_by_one_over_beta():
    rewards = np.linspace(-2, 5, 15)
    density = optimal_policy.reward_density("normal", 0.5, stats.norm(), rewards)
    np.testing.assert_allclose(density, stats.norm(2).pdf(rewards), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_shares_above_the_threshold_by_counting(name):
    f = transforms.get(name)
    quantiles = (np.arange(1_000_000) + 0.5) / 1_000_000
    for beta in (1.0, 0.3):
        counted = (f(quantiles) > optimal_policy.threshold(f, beta)).mean()
        assert optimal_policy.share_above(f, beta) == pytest.approx(counted, abs=2e-6)


def test_share_above_of_a_scaled_normal_and_of_many_betas():
    f = transforms.get("scaled-normal", mu=3.0, sigma=0.5)
    assert optimal_policy.share_above(f, 0.25) == pytest.approx(optimal_policy.share_above("normal", 0.5))
    assert optimal_policy.share_above("identity", np.array([0.1, 0.01])).shape == (2,)


@pytest.mark.parametrize(("beta", "percent"), [(0.1, 23), (0.01, 5), (0.001, 1)])
def test_the_papers_shares(beta, percent):
    assert round(100 * optimal_policy.share_above("identity", beta)) == percent


def test_best_of_n_is_the_optimum_of_log_t():
    t = np.linspace(0.01, 1, 50)
    for n in (2, 11, 1000):
        beta = optimal_policy.best_of_n_log_beta(n)
        np.testing.assert_allclose(
            optimal_policy.quantile_density("log", beta, t),
            optimal_policy.best_of_n_density(n, t),
            rtol=1e-10,
            atol=1e-300,
        )
    best = np.random.default_rng(0).random((20_000, 11)).max(-1)
    assert stats.kstest(best, lambda t: t ** (1 / optimal_policy.best_of_n_log_beta(11) + 1)).pvalue > 1e-3
    with pytest.raises(ValueError, match="N >= 2"):
        optimal_policy.best_of_n_log_beta(1)


def test_requantiled_rounds_against_enumerated_completions():
    log_ref, rewards = np.full(20_000, -np.log(20_000)), np.arange(20_000.0)
    policy = tabular.rounds(transforms.get("log"), log_ref, rewards, beta=0.5, count=2, requantile=True)
    n = optimal_policy.requantiled_best_of(0.5, 2)
    assert n == 4  # (1 + 1/1)^2, where fixed rewards give 1 + 1/0.5 = 3
    np.testing.assert_allclose(np.cumsum(np.exp(policy)), tabular.quantiles(log_ref, rewards) ** n, atol=1e-3)
