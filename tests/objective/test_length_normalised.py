"""QRPO at beta / |y|: against `losses.qrpo` one completion at a time, and as policies that are normalised."""

import math

import numpy as np
import pytest
import torch

from qrpo_lib.objective import length_normalised, losses, transforms

TRANSFORMATIONS = ["identity", "log", "sqrt", "normal", {"name": "scaled-normal", "mu": 0.3, "sigma": 0.5}]
LENGTHS = torch.tensor([[1, 2, 3], [10, 100, 1000]])


def completions(dtype=torch.float64):
    """Log-probabilities under policy and reference and rewards of 2 x 3 completions, 4 reference rewards each."""
    generator = torch.Generator().manual_seed(0)
    columns = [torch.randn(2, 3, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]
    return *columns, torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("transform", TRANSFORMATIONS, ids=str)
@pytest.mark.parametrize("partition", losses.PARTITIONS)
@pytest.mark.parametrize("error", losses.ERRORS)
def test_each_completion_has_the_loss_of_its_own_beta(transform, partition, error):
    if partition == "asymptotic" and transforms.get(transform).limit is None:
        pytest.skip("unbounded above: no asymptotic form")
    logps, ref_logps, rewards, references = completions()
    settings = {"transform": transform, "partition": partition, "error": error}
    together = length_normalised.qrpo(logps, ref_logps, LENGTHS, rewards, references, beta=3.0, **settings)
    assert together.shape == (2, 3)
    for place in np.ndindex(2, 3):
        rest = logps[place], ref_logps[place], rewards[place], references[place]
        alone = losses.qrpo(*rest, beta=3.0 / int(LENGTHS[place]), **settings)
        assert float(together[place]) == pytest.approx(float(alone), rel=1e-6, abs=1e-9)


def test_without_settings_it_is_the_papers_loss():
    logps, ref_logps, rewards, references = completions()
    ones = torch.ones(2, 3)
    plain = length_normalised.qrpo(logps, ref_logps, ones, rewards, references, beta=0.2)
    torch.testing.assert_close(plain, losses.qrpo(logps, ref_logps, rewards, references, beta=0.2))
    target = length_normalised.calibrated_target(rewards, ones, references, beta=0.2)
    torch.testing.assert_close(target, losses.calibrated_target(rewards, references, beta=0.2).double())


@pytest.mark.parametrize("transform", TRANSFORMATIONS, ids=str)
def test_targets_of_every_length_are_normalised_over_the_ranks(transform):
    """A fresh reference completion has each rank among n with probability 1/(n+1): exp(target L / beta) averages 1."""
    n, beta = 6, 0.7
    references = torch.arange(1.0, n + 1, dtype=torch.float64).expand(n + 1, n)
    rewards = torch.arange(n + 1, dtype=torch.float64) + 0.5
    for length in (1, 2, 7):
        lengths = torch.full((n + 1,), length)
        settings = {"beta": beta, "transform": transform, "partition": "finite"}
        target = length_normalised.calibrated_target(rewards, lengths, references, **settings)
        assert float(torch.exp(target * length / beta).mean()) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("better", ["neither", "longer", "shorter"])
def test_targets_of_mixed_lengths_are_a_policys_only_where_rewards_are_independent_of_length(better):
    """Half of the completions have 5 tokens, half 20. Of a length L the sum of e^(target L / beta) is the integral of
    e^(t L / beta) over its quantiles t, [0, 1/2] or [1/2, 1] where length decides, divided by that over [0, 1]."""
    n, beta = 4000, 2.0
    ranks = torch.arange(n, dtype=torch.float64) + 0.5
    by_rank = {"longer": [5] * (n // 2) + [20] * (n // 2), "shorter": [20] * (n // 2) + [5] * (n // 2)}
    lengths = torch.tensor(by_rank.get(better, [5, 20] * (n // 2)))
    target = length_normalised.calibrated_target(ranks, lengths, ranks.expand(n, n), beta=beta)
    log_sum = float(torch.logsumexp(target * lengths / beta, 0)) - math.log(n)

    lower = {length: math.expm1(length / beta / 2) / math.expm1(length / beta) for length in (5, 20)}
    sums = {"neither": 1.0, "longer": lower[5] + 1 - lower[20], "shorter": lower[20] + 1 - lower[5]}
    assert log_sum == pytest.approx(math.log(sums[better]), abs=0.01)
    assert (abs(log_sum) < 0.01) == (better == "neither")


def test_gradient_and_precision_are_those_of_the_log_probabilities():
    """d/dlogp (target - (beta / L) log-ratio)^2 = -2 (beta / L) residual; rewards in float64 change no dtype."""
    logps, ref_logps, rewards, references = completions(torch.float32)
    logps.requires_grad_()
    loss = length_normalised.qrpo(logps, ref_logps, LENGTHS, rewards.double(), references, beta=3.0)
    assert loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss.sum(), logps)
    target = length_normalised.calibrated_target(rewards.double(), LENGTHS, references, beta=3.0)
    assert target.dtype == torch.float64
    betas = 3.0 / LENGTHS
    residual = target - betas * (logps - ref_logps).detach()
    torch.testing.assert_close(gradient, (-2 * betas * residual).float())


def test_shapes_and_values_are_checked_as_the_others():
    def arguments():
        logps, ref_logps, rewards, references = (values[0, :2].clone() for values in completions())
        return [logps, ref_logps, torch.tensor([3.0, 4.0]), rewards, references]

    for wrong in [(2, 1), (1,), (3,), ()]:
        for place in range(4):
            values = arguments()
            values[place] = torch.ones(wrong)
            with pytest.raises(ValueError, match="the same shape"):
                length_normalised.qrpo(*values, beta=0.1)
        with pytest.raises(ValueError, match="the same shape"):
            length_normalised.calibrated_target(torch.ones(2), torch.ones(wrong), torch.randn(2, 5), beta=0.1)
    for place in range(5):
        values = arguments()
        values[place][1] = math.nan
        with pytest.raises(ValueError, match="NaN or infinite"):
            length_normalised.qrpo(*values, beta=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": torch.tensor([3, 0])}, "at least one token"),
        ({"beta": 0.0}, "beta must be a positive number"),
        ({"beta": math.inf}, "beta must be a positive number"),
        ({"transform": "cube"}, "unknown transformation 'cube'"),
        ({"partition": "approximate"}, "unknown partition 'approximate'"),
        ({"error": "huber"}, "unknown error 'huber': use one of squared, absolute"),
        ({"transform": "log", "ref_rewards": torch.ones(2, 1)}, "the same target"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_used_is_refused(changes, message):
    names = ("logps", "ref_logps", "lengths", "rewards")
    arguments = {name: torch.ones(2) for name in names} | {"ref_rewards": torch.ones(2, 3), "beta": 0.1} | changes
    with pytest.raises(ValueError, match=message):
        length_normalised.qrpo(**arguments)
