"""Targets with an estimated log Z against mpmath, against sums over values, and as policies that are normalised."""

import mpmath
import numpy as np
import pytest
import torch

from qrpo_lib.objective import losses, partitions, transforms

REWARDS = torch.tensor([[0.3, -1.2, 0.3, 2.0, 0.1], [1.0, 1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)


def _log_mean_exp(rewards, beta):
    beta = mpmath.mpf(beta)
    return mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(float(r)) / beta) for r in rewards) / len(rewards))


@pytest.mark.parametrize("beta", [2.0, 0.1, 3e-4])
def test_log_z_of_the_raw_reward_and_its_jackknife(beta):
    whole, corrected = (function(REWARDS, beta=beta) for function in (partitions.log_mean_exp, partitions.jackknife))
    for i, row in enumerate(REWARDS.tolist()):
        expected = _log_mean_exp(row, beta)
        without = [_log_mean_exp(row[:j] + row[j + 1 :], beta) for j in range(5)]
        assert float(whole[i]) == pytest.approx(float(expected), rel=1e-12)
        assert float(corrected[i]) == pytest.approx(float(5 * expected - 4 * mpmath.fsum(without) / 5), rel=1e-9)


def test_the_raw_target_in_float32_is_that_of_the_numbers():
    rewards = torch.tensor([0.5, 1.0])
    target = partitions.raw_target(rewards, REWARDS.float(), beta=0.1)
    expected = [
        float(r) - 0.1 * float(_log_mean_exp(row, 0.1)) for r, row in zip(rewards, REWARDS.float(), strict=True)
    ]
    np.testing.assert_allclose(target, expected, rtol=1e-9)
    corrected = partitions.raw_target(rewards, REWARDS.float(), beta=0.1, corrected=True)
    assert not np.allclose(corrected, expected)


@pytest.mark.parametrize("transform", ["identity", "log", "square", "normal"])
def test_the_discrete_partition_is_the_sum_over_values(transform):
    """App. E by `transforms.discrete_log_partition`, which takes each value's share; clamped as the loss clamps."""
    f, beta = transforms.get(transform), 0.2
    log_z = partitions.discrete_log_partition(REWARDS, beta=beta, transform=transform)
    for i, row in enumerate(REWARDS.numpy()):
        shares = np.unique(row, return_counts=True)[1] / 5
        expected = transforms.discrete_log_partition(lambda t: f(f.clamp(t, 5)), beta, shares)
        assert float(log_z[i]) == pytest.approx(expected, rel=1e-12)


def test_any_leading_dimensions_are_kept():
    """One prompt, and prompts of several kinds, give what each prompt gives in a list."""
    rewards = torch.tensor([0.3, 0.5], dtype=torch.float64)
    for function in (
        lambda r, refs: partitions.log_mean_exp(refs, beta=0.1),
        lambda r, refs: partitions.jackknife(refs, beta=0.1),
        lambda r, refs: partitions.raw_target(r, refs, beta=0.1),
        lambda r, refs: partitions.discrete_log_partition(refs, beta=0.1, transform="log"),
        lambda r, refs: partitions.discrete_target(r, refs, beta=0.1, transform="log"),
    ):
        listed = function(rewards, REWARDS)
        assert listed.shape == (2,)
        for i in range(2):
            torch.testing.assert_close(function(rewards[i], REWARDS[i]), listed[i])
        torch.testing.assert_close(
            function(rewards.expand(3, 2)[..., None], REWARDS.expand(3, 2, 5)[:, :, None]),
            listed.expand(3, 2)[..., None],
        )


def test_two_references_are_enough_for_the_jackknife():
    """2 log Z - (r_1 + r_2) / (2 beta): without one of two, log Z is that of the other."""
    references = torch.tensor([[0.3, 1.1]], dtype=torch.float64)
    expected = 2 * float(partitions.log_mean_exp(references, beta=0.5)) - (0.3 + 1.1) / (2 * 0.5)
    assert float(partitions.jackknife(references, beta=0.5)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("transform", ["identity", "log", "square"])
def test_a_discrete_target_is_the_transformed_quantile_less_its_log_z(transform):
    f, beta = transforms.get(transform), 0.2
    rewards = torch.tensor([0.2, 1.0], dtype=torch.float64)
    target = partitions.discrete_target(rewards, REWARDS, beta=beta, transform=transform)
    log_z = partitions.discrete_log_partition(REWARDS, beta=beta, transform=transform)
    for i, quantile in enumerate((2 / 5, 1.0)):
        assert float(target[i]) == pytest.approx(float(f(quantile)) - beta * float(log_z[i]), rel=1e-12)


@pytest.mark.parametrize("beta", [1.0, 0.01, 3e-4])
def test_discrete_targets_of_the_references_are_a_policys(beta):
    """The mean of exp(target / beta) over a prompt's references is 1: log-ratios that sum to one, whatever the ties."""
    rng = np.random.default_rng(0)
    ref_rewards = torch.tensor(rng.integers(0, 4, size=(50, 8)) / 3)
    each = torch.stack([partitions.discrete_target(ref_rewards[:, i], ref_rewards, beta=beta) for i in range(8)], -1)
    np.testing.assert_allclose(torch.logsumexp(each / beta, -1) - np.log(8), 0, atol=1e-9)
    assert bool((each <= beta * np.log(8) + 1e-12).all())


def test_without_any_pass_nothing_is_asked_for():
    assert float(partitions.discrete_target(torch.zeros(1), torch.zeros(1, 6), beta=0.003)) == 0


def test_untied_rewards_differ_from_the_finite_partition_by_the_rank_0():
    """n untied references have ranks 1..n; a fresh completion, which the finite one is for, 0..n."""
    ref_rewards, beta = torch.arange(6.0), 0.05
    finite = np.exp(losses.log_partition("identity", beta, 6, "finite")) * 7
    assert np.exp(float(partitions.discrete_log_partition(ref_rewards, beta=beta))) * 6 == pytest.approx(finite - 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: partitions.log_mean_exp(torch.zeros(2, 0), beta=1.0), "at least one reference"),
        (lambda: partitions.log_mean_exp(torch.zeros(2, 3), beta=0.0), "beta must be"),
        (lambda: partitions.jackknife(torch.zeros(2, 1), beta=1.0), "at least 2"),
        (lambda: partitions.jackknife(torch.tensor([[1e308, 0.0]], dtype=torch.float64), beta=1e-3), "beyond what"),
        (lambda: partitions.raw_target(torch.zeros(3), torch.zeros(2, 3), beta=1.0), "same shape"),
        (lambda: partitions.raw_target(torch.zeros(2), torch.full((2, 3), torch.nan), beta=1.0), "NaN"),
        (lambda: partitions.discrete_target(torch.zeros(2), torch.zeros(2, 1), beta=1.0, transform="log"), "1 ref"),
    ],
)
def test_what_cannot_be_used_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
