"""Errors of targets under ties against the losses' own targets on drawn references, and by hand for pass or fail."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from qrpo_lib.objective import losses, partitions, transforms
from qrpo_lib.theory import tied_targets


@pytest.mark.parametrize("partition", tied_targets.PARTITIONS)
@pytest.mark.parametrize("transform", ["identity", "log"])
def test_against_the_losses_own_targets_on_drawn_references(partition, transform):
    p, n, beta, prompts = np.array([0.5, 0.2, 0.3]), 6, 0.1, 20_000
    refs = torch.tensor(np.random.default_rng(0).choice(3, p=p, size=(prompts, n)) / 2)
    f = transforms.get(transform)
    true_log_z = special.logsumexp(f(np.cumsum(p)) / beta, b=p)
    errors = tied_targets.errors(p, n, beta, partition, transform)
    squares = 0.0
    for k in range(3):
        rewards = torch.full((prompts,), k / 2)
        if partition == "discrete":
            target = partitions.discrete_target(rewards, refs, beta=beta, transform=transform)
        else:
            target = losses.calibrated_target(rewards, refs, beta=beta, transform=transform, partition=partition)
        drawn = target.double().numpy() - (f(p[: k + 1].sum().clip(max=1)) - beta * true_log_z)
        assert drawn.mean() == pytest.approx(errors.bias[k], abs=5 * errors.std[k] / math.sqrt(prompts) + 1e-7)
        assert drawn.std() == pytest.approx(errors.std[k], rel=0.05, abs=1e-6)
        squares += p[k] * (drawn**2).mean()
    assert errors.rms == pytest.approx(math.sqrt(squares), rel=0.02)


def test_pass_or_fail_by_hand():
    """Without any pass among n references all targets are 0; with k of them log Z is that of k/n."""
    rate, n, beta = 0.3, 4, 0.05

    def log_z(share):
        return special.logsumexp(np.array([1 - share, 1.0]) / beta, b=[1 - share, share]) if share else 1 / beta

    weights = stats.binom.pmf(np.arange(n + 1), n, rate)
    constant = np.array([-beta * (log_z(k / n) - log_z(rate)) for k in range(n + 1)])
    errors = tied_targets.errors([1 - rate, rate], n, beta, "discrete")
    assert errors.constant_bias == pytest.approx(weights @ constant, rel=1e-9)
    assert errors.constant_rms == pytest.approx(math.sqrt(weights @ constant**2), rel=1e-9)
    assert errors.bias[1] == pytest.approx(weights @ constant, rel=1e-9)
    fail = np.array([1 - k / n for k in range(n + 1)]) - (1 - rate)
    variance = weights @ (fail + constant - weights @ (fail + constant)) ** 2
    assert errors.std[0] == pytest.approx(math.sqrt(variance), rel=1e-9)
    exact = tied_targets.errors([1 - rate, rate], n, beta, "exact")
    assert exact.constant_rms == abs(exact.constant_bias)
    assert exact.constant_bias == pytest.approx(beta * (log_z(rate) - transforms.get("identity").log_partition(beta)))


def test_of_many_values_the_three_agree_with_continuous_rewards():
    """Twelve equally likely values and few references: hardly a tie, so the finite one is nearly without error."""
    finite = tied_targets.errors(np.full(12, 1 / 12), 3, 0.5, "finite")
    discrete = tied_targets.errors(np.full(12, 1 / 12), 3, 0.5, "discrete")
    assert abs(finite.constant_bias) < 0.05 < discrete.constant_rms


def test_what_cannot_be_summed_is_refused():
    with pytest.raises(ValueError, match="take fewer"):
        tied_targets.errors(np.full(20, 0.05), 50, 0.1, "exact")
    with pytest.raises(ValueError, match="unknown partition"):
        tied_targets.errors([0.5, 0.5], 5, 0.1, "asymptotic")
