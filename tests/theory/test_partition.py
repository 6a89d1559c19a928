import itertools

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qrpo_lib.objective import transforms
from qrpo_lib.theory import partition

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("beta", [5.0, 1.5, 0.3, 1e-3])
def test_moment_generating_functions_against_quadrature(beta):
    with mp.workdps(30):
        b = mp.mpf(beta)
        centre = mp.mpf("0.3") + mp.mpf("0.25") / b  # of the Gaussian integrand N(0.3, 0.5) exp(r/beta)
        gaussian = centre / b + mp.log(
            mp.quad(
                lambda r: mp.npdf(r, mp.mpf("0.3"), mp.mpf("0.5")) * mp.exp((r - centre) / b),
                [centre + k for k in range(-6, 7)],
            )
        )
        uniform = 3 / b + mp.log(mp.quad(lambda r: mp.exp((r - 3) / b), [-1, 3 - 20 * min(b, 0.2), 3 - b / 5, 3]) / 4)
    assert partition.gaussian_log_partition(beta, 0.3, 0.5) == pytest.approx(float(gaussian), rel=1e-12)
    assert partition.uniform_log_partition(beta, -1, 3) == pytest.approx(float(uniform), rel=1e-12)
    if beta > 0.5:
        with mp.workdps(30):
            exponential = mp.log(mp.quad(lambda r: 2 * mp.exp(r / b - 2 * r), [0, 5, 50, mp.inf]))
        assert partition.exponential_log_partition(beta, 2.0) == pytest.approx(float(exponential), rel=1e-12)


def test_an_exponential_tail_diverges_below_its_scale():
    for beta in (0.5, 0.1, [1.0, 0.4]):
        with pytest.raises(transforms.DivergentPartitionError, match="need beta >"):
            partition.exponential_log_partition(np.array(beta), 2.0)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.floats(0.01, 10), st.integers(0, 9))
@settings(deadline=None)
def test_grouping_completions_by_reward_keeps_z(rewards, beta, seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(len(rewards)))
    values, grouped = partition.group_by_reward(rewards, probabilities)
    assert list(values) == sorted(set(rewards))
    assert grouped.sum() == pytest.approx(1)
    expected = partition.discrete_reward_log_partition(beta, rewards, probabilities)
    assert partition.discrete_reward_log_partition(beta, values, grouped) == pytest.approx(
        expected, rel=1e-12, abs=1e-12
    )


def test_discrete_rewards_by_hand_and_bad_probabilities():
    expected = np.log(0.25 + 0.75 * np.exp(2.0))
    assert partition.discrete_reward_log_partition(0.5, [0, 1], [0.25, 0.75]) == pytest.approx(expected)
    assert partition.discrete_reward_log_partition(np.array([0.5, 1.0]), [0, 1], [0.25, 0.75]).shape == (2,)
    with pytest.raises(ValueError, match="sum to 1"):
        partition.discrete_reward_log_partition(0.5, [0, 1], [0.25, 0.7])


def test_bad_uniform_bounds():
    with pytest.raises(ValueError, match="low < high"):
        partition.uniform_log_partition(0.1, 1.0, 1.0)


def test_the_exact_quantile_of_continuous_rewards_passes_and_of_tied_rewards_fails():
    assert partition.exact_quantile_test(stats.gamma(2), 20_000, seed=0) > 1e-3
    assert partition.exact_quantile_test(stats.binom(10, 0.4), 20_000, seed=0) < 1e-12


def test_the_tied_law():
    p = np.array([0.1, 0.6, 0.3])
    assert partition.discrete_quantile_test(p, 20_000, seed=1) > 1e-3


def test_the_estimated_quantile_is_uniform_on_its_values():
    assert partition.estimated_quantile_test(stats.t(2), 3, 20_000, seed=2) > 1e-3
    # ties break it: the largest value becomes more likely
    assert partition.estimated_quantile_test(stats.binom(3, 0.5), 3, 20_000, seed=2) < 1e-12


def test_estimated_ranks_are_uniform_by_enumeration():
    """Among n + 1 exchangeable rewards each rank of the first is equally likely: all orders of 4, counted."""
    from qrpo_lib.objective.quantile import quantile_reward

    ranks = [round(3 * quantile_reward(order[0], order[1:])) for order in itertools.permutations(range(4))]
    assert np.array_equal(np.bincount(ranks), [6, 6, 6, 6])


def test_the_simplification_and_its_range():
    for beta in (0.05, 0.1, 1.0):
        with mp.workdps(40):
            b = mp.mpf(beta)
            truth = float((1 + b * mp.log(b)) - b * mp.log(b * mp.expm1(1 / b)))
        assert partition.simplification_error(beta) == pytest.approx(truth, rel=1e-12)
    edge = partition.simplification_range(1e-6)
    assert partition.simplification_error(edge) == pytest.approx(1e-6, rel=1e-6)
    assert partition.simplification_error(edge * 1.01) > 1e-6
    assert partition.simplification_error(1e-5) == 0


def test_estimated_probabilities_converge():
    f, p = transforms.get("identity"), [0.5, 0.3, 0.2]
    few, many = (partition.estimated_discrete_error(f, 0.1, p, n, 4000, seed=0) for n in (10, 1000))
    assert few.shape == (4000,)
    assert many.std() < few.std() / 5
    assert abs(many.mean()) < 1e-3


def test_many_values_approach_the_continuous_partition_function():
    f = transforms.get("identity")
    gaps = [partition.continuous_approximation_error(f, 0.1, k) for k in (10, 100, 1000)]
    # F_k = k/K sits at the right end of its cell: the excess is 1/(2K) to first order
    assert gaps[2] == pytest.approx(1 / 2000, rel=1e-2)
    assert gaps[0] > gaps[1] > gaps[2] > 0
