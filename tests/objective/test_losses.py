import math

import mpmath
import numpy as np
import pytest
import torch

from qrpo_lib.objective import losses, transforms

TRANSFORMATIONS = [*(name for name in transforms.NAMES if name != "scaled-normal")]
TRANSFORMATIONS.append(transforms.get("scaled-normal", mu=0.3, sigma=0.5))


@pytest.fixture
def pairs():
    """Log-probabilities of a policy and its reference, rewards, 5 reference rewards: float64, 7 pairs."""
    generator = torch.Generator().manual_seed(0)
    names = [f"{ref}{side}_logps" for ref in ("", "ref_") for side in ("chosen", "rejected")]
    names += ["chosen_rewards", "rejected_rewards"]
    columns = {name: torch.randn(7, generator=generator, dtype=torch.float64) for name in names}
    return columns | {"ref_rewards": torch.randn(7, 5, generator=generator, dtype=torch.float64)}


def _logps(pairs):
    return [pairs[f"{ref}{side}_logps"] for ref in ("", "ref_") for side in ("chosen", "rejected")]


@pytest.mark.parametrize("partition", ["exact", "finite"])
@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (1, 2, 3)])
def test_targets_have_the_shape_of_the_rewards_whose_references_come_last(shape, partition):
    generator = torch.Generator().manual_seed(1)
    rewards = torch.randn(shape, generator=generator, dtype=torch.float64)
    ref_rewards = torch.randn(*shape, 4, generator=generator, dtype=torch.float64)
    found = losses.calibrated_target(rewards, ref_rewards, beta=0.3, partition=partition)
    assert found.shape == shape
    alone = zip(rewards.reshape(-1), ref_rewards.reshape(-1, 4), found.reshape(-1), strict=True)
    log_z = transforms.get("identity").log_partition(0.3)
    if partition == "finite":
        log_z = transforms.finite_log_partition("identity", 0.3, 4)
    for reward, references, target in alone:
        assert float(target) == pytest.approx(float((references <= reward).double().mean()) - 0.3 * log_z, rel=1e-6)


@pytest.mark.parametrize("beta", [1.0, 0.1, 0.003, 3e-4])
def test_qrpo_is_equation_11(beta, pairs):
    loss = losses.qrpo(
        pairs["chosen_logps"], pairs["ref_chosen_logps"], pairs["chosen_rewards"], pairs["ref_rewards"], beta=beta
    )
    for i in range(7):
        quantile = sum(float(r) <= float(pairs["chosen_rewards"][i]) for r in pairs["ref_rewards"][i]) / 5
        b = mpmath.mpf(beta)
        log_ratio = float(pairs["chosen_logps"][i]) - float(pairs["ref_chosen_logps"][i])
        expected = (quantile - b * mpmath.log(b * (mpmath.exp(1 / b) - 1)) - b * log_ratio) ** 2
        assert float(loss[i]) == pytest.approx(float(expected), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("transform", TRANSFORMATIONS, ids=lambda f: getattr(f, "name", f))
@pytest.mark.parametrize("partition", losses.PARTITIONS)
@pytest.mark.parametrize("error", losses.ERRORS)
def test_qrpo_gradients(transform, partition, error, pairs):
    if partition == "asymptotic" and transforms.get(transform).limit is None:
        pytest.skip("unbounded above: no asymptotic form")

    def loss(logps):
        rewards = pairs["chosen_rewards"], pairs["ref_rewards"]
        settings = {"beta": 0.3, "transform": transform, "partition": partition, "error": error}
        return losses.qrpo(logps, pairs["ref_chosen_logps"], *rewards, **settings)

    assert torch.autograd.gradcheck(loss, pairs["chosen_logps"].requires_grad_())


@pytest.mark.parametrize("name", ["dpo", "rebel", "simpo"])
def test_pair_gradients(name, pairs):
    rest = {
        "dpo": _logps(pairs)[2:],
        "rebel": [*_logps(pairs)[2:], pairs["chosen_rewards"], pairs["rejected_rewards"]],
        "simpo": [torch.arange(1, 8), torch.arange(7, 0, -1)],
    }[name]
    inputs = [pairs["chosen_logps"].requires_grad_(), pairs["rejected_logps"].requires_grad_()]
    assert torch.autograd.gradcheck(lambda *logps: getattr(losses, name)(*logps, *rest, beta=0.7), inputs)


def test_qrpo_gradient_is_equation_14(pairs):
    logps = pairs["chosen_logps"].requires_grad_()
    arguments = pairs["ref_chosen_logps"], pairs["chosen_rewards"], pairs["ref_rewards"]
    losses.qrpo(logps, *arguments, beta=0.05).sum().backward()
    quantile = (pairs["ref_rewards"] <= pairs["chosen_rewards"][:, None]).double().mean(1)
    log_partition = math.log(0.05 * math.expm1(1 / 0.05))
    residual = quantile - 0.05 * log_partition - 0.05 * (logps - pairs["ref_chosen_logps"]).detach()
    torch.testing.assert_close(logps.grad, -2 * 0.05 * residual)


@pytest.mark.parametrize(
    "settings",
    [{}, {"transform": "log"}, {"partition": "finite"}, {"error": "absolute"}, {"transform": {"name": "sqrt"}}],
    ids=str,
)
def test_qrpo_of_a_pair_is_that_of_its_completions(pairs, settings):
    """Of each by itself as a sample, and of both their mean."""
    sides = {
        side: losses.qrpo(
            pairs[f"{side}_logps"], pairs[f"ref_{side}_logps"], pairs[f"{side}_rewards"], pairs["ref_rewards"],
            beta=0.2, **settings
        )
        for side in ("chosen", "rejected")
    }  # fmt: skip
    assert not torch.isclose(sides["chosen"], sides["rejected"]).any()
    expected = sides | {"both": torch.stack(list(sides.values())).mean(0)}
    arguments = [*_logps(pairs), pairs["chosen_rewards"], pairs["rejected_rewards"], pairs["ref_rewards"]]
    for completions, values in expected.items():
        torch.testing.assert_close(losses.qrpo_pair(*arguments, beta=0.2, completions=completions, **settings), values)
    torch.testing.assert_close(losses.qrpo_pair(*arguments, beta=0.2, **settings), expected["both"])
    with pytest.raises(ValueError, match="unknown completions 'first': use one of both, chosen, rejected"):
        losses.qrpo_pair(*arguments, beta=0.2, completions="first")


def test_absolute_error_is_the_root_of_the_squared(pairs):
    arguments = [pairs[name] for name in ("chosen_logps", "ref_chosen_logps", "chosen_rewards", "ref_rewards")]
    squared, absolute = (losses.qrpo(*arguments, beta=0.1, error=error) for error in losses.ERRORS)
    torch.testing.assert_close(absolute.square(), squared)


@pytest.mark.parametrize("transform", TRANSFORMATIONS, ids=lambda f: getattr(f, "name", f))
def test_finite_targets_are_normalised_over_the_ranks(transform):
    """A fresh reference completion has each rank among n with probability 1/(n+1): pi* then sums to one."""
    n, beta = 6, 0.2
    ref_rewards = torch.arange(1.0, n + 1, dtype=torch.float64).expand(n + 1, n)
    rewards = torch.arange(n + 1, dtype=torch.float64) + 0.5
    target = losses.calibrated_target(rewards, ref_rewards, beta=beta, transform=transform, partition="finite")
    assert float(torch.exp(target / beta).mean()) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("transform", ["identity", "log", "square", "sqrt"])
def test_exact_targets_are_normalised_in_the_limit(transform):
    n, beta = 4000, 0.5
    ref_rewards = torch.arange(1.0, n + 1, dtype=torch.float64).expand(n + 1, n)
    rewards = torch.arange(n + 1, dtype=torch.float64) + 0.5
    target = losses.calibrated_target(rewards, ref_rewards, beta=beta, transform=transform)
    assert float(torch.exp(target / beta).mean()) == pytest.approx(1, abs=2e-3)


def test_asymptotic_partition_is_the_papers(pairs):
    arguments = pairs["chosen_rewards"], pairs["ref_rewards"]
    quantile = (pairs["ref_rewards"] <= pairs["chosen_rewards"][:, None]).double().mean(1)
    for beta in (0.1, 0.003):
        target = losses.calibrated_target(*arguments, beta=beta, partition="asymptotic")
        torch.testing.assert_close(target, quantile - (1 + beta * math.log(beta)))


@pytest.mark.parametrize(("beta", "share"), [(0.1, 0.23), (0.01, 0.05), (0.001, 0.01)])
def test_share_above_the_threshold_is_the_papers(beta, share):
    """Figure 5: the share of reference completions whose probability rises."""
    ranks = torch.arange(10_000.0, dtype=torch.float64)
    target = losses.calibrated_target(ranks + 0.5, ranks.expand(10_000, -1), beta=beta)
    assert float((target > 0).double().mean()) == pytest.approx(share, abs=0.005)


def test_qrpo_depends_on_the_order_of_rewards_only(pairs):
    arguments = [pairs["chosen_logps"], pairs["ref_chosen_logps"]]
    plain = losses.qrpo(*arguments, pairs["chosen_rewards"], pairs["ref_rewards"], beta=0.1)
    monotone = losses.qrpo(*arguments, pairs["chosen_rewards"].exp() * 9, pairs["ref_rewards"].exp() * 9, beta=0.1)
    assert torch.equal(plain, monotone)


def test_dpo_against_the_logistic_function(pairs):
    chosen, rejected, ref_chosen, ref_rejected = _logps(pairs)
    margin = (chosen - ref_chosen - rejected + ref_rejected).numpy()
    expected = np.log1p(np.exp(-0.4 * margin))
    np.testing.assert_allclose(losses.dpo(chosen, rejected, ref_chosen, ref_rejected, beta=0.4).numpy(), expected)


def test_dpo_is_finite_for_extreme_margins():
    zero, far = torch.zeros(2), torch.tensor([1e4, -1e4])
    assert losses.dpo(far, zero, zero, zero, beta=1.0).tolist() == [0.0, 1e4]


def test_rebel_vanishes_exactly_at_equation_4(pairs):
    beta = 0.01
    _, rejected, ref_chosen, ref_rejected = _logps(pairs)
    rewards = pairs["chosen_rewards"], pairs["rejected_rewards"]
    margin = (rewards[0] - rewards[1]) / beta
    chosen = ref_chosen + (rejected - ref_rejected) + margin
    arguments = rejected, ref_chosen, ref_rejected, *rewards
    torch.testing.assert_close(
        losses.rebel(chosen, *arguments, beta=beta), torch.zeros_like(margin), atol=1e-18, rtol=0
    )
    torch.testing.assert_close(losses.rebel(chosen + 3, *arguments, beta=beta), torch.full_like(margin, 9.0))


def test_simpo_by_hand():
    loss = losses.simpo(torch.tensor([-6.0]), torch.tensor([-8.0]), torch.tensor([3]), torch.tensor([2]), beta=2.5)
    gamma = 0.5 * 2.5
    assert float(loss) == pytest.approx(-math.log(1 / (1 + math.exp(-(2.5 * (-2 + 4) - gamma)))), rel=1e-6)
    at_target = losses.simpo(
        torch.tensor([-6.0]), torch.tensor([-8.0]), torch.tensor([3]), torch.tensor([2]), beta=2.5, gamma_ratio=2.0
    )
    assert float(at_target) == pytest.approx(math.log(2))
    without = losses.simpo(*[torch.zeros(1)] * 2, torch.ones(1), torch.ones(1), beta=2.5, gamma_ratio=0)
    assert float(without) == pytest.approx(math.log(2))
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="gamma_ratio must be a number of at least 0"):
            losses.simpo(*[torch.ones(1)] * 4, beta=2.5, gamma_ratio=wrong)


def test_losses_keep_the_precision_of_the_log_probabilities():
    """Rewards come in float64, for exact ties; the loss is computed in float32."""
    logps, rewards = torch.zeros(3), torch.rand(3, dtype=torch.float64)
    ref_rewards = torch.rand(3, 4, dtype=torch.float64)
    assert losses.qrpo(logps, logps, rewards, ref_rewards, beta=0.1).dtype == torch.float32
    assert losses.rebel(*[logps] * 4, rewards, rewards, beta=0.1).dtype == torch.float32


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, math.inf])
def test_beta_must_be_positive(beta, pairs):
    one = torch.ones(1)
    with pytest.raises(ValueError, match="beta must be a positive number"):
        losses.qrpo(one, one, one, torch.ones(1, 2), beta=beta)
    for loss, count in ((losses.dpo, 4), (losses.rebel, 6), (losses.simpo, 4)):
        with pytest.raises(ValueError, match="beta must be a positive number"):
            loss(*[one] * count, beta=beta)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transform": "cube"}, "unknown transformation 'cube'"),
        ({"partition": "approximate"}, "unknown partition 'approximate': use one of exact"),
        ({"error": "huber"}, "unknown error 'huber': use one of squared"),
        ({"transform": "normal", "partition": "asymptotic"}, "unbounded above"),
    ],
)
def test_unknown_settings(settings, message):
    one = torch.ones(1)
    with pytest.raises(ValueError, match=message):
        losses.qrpo(one, one, one, torch.ones(1, 3), beta=0.1, **settings)


def test_normal_transformation_needs_two_references():
    one = torch.ones(1)
    with pytest.raises(ValueError, match="at least 2 reference rewards"):
        losses.qrpo(one, one, one, torch.ones(1, 1), beta=0.1, transform="normal")


def of_shapes(*shapes):
    return [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("wrong", [(2, 1), (1,), (3,), ()])
def test_shapes_that_would_broadcast_are_refused(wrong):
    """(2, 1) against (2,) would be (2, 2): a loss of completions against those of other prompts."""
    right = (2,)
    for place in range(1, 4):
        shapes = [right] * 4
        shapes[place] = wrong
        with pytest.raises(ValueError, match="the same shape"):
            losses.dpo(*of_shapes(*shapes), beta=0.1)
        with pytest.raises(ValueError, match="the same shape"):
            losses.simpo(*(one.abs() + 1 for one in of_shapes(*shapes)), beta=0.1)
    for place in range(1, 6):
        shapes = [right] * 6
        shapes[place] = wrong
        with pytest.raises(ValueError, match="the same shape"):
            losses.rebel(*of_shapes(*shapes), beta=0.1)
    for place in range(1, 3):
        shapes = [right] * 3
        shapes[place] = wrong
        with pytest.raises(ValueError, match="the same shape"):
            losses.qrpo(*of_shapes(*shapes, (2, 5)), beta=0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_every_loss(bad):
    for loss, count in ((losses.dpo, 4), (losses.simpo, 4), (losses.rebel, 6)):
        for place in range(count):
            values = [one.abs() + 1 for one in of_shapes(*[(3,)] * count)]
            values[place][1] = bad
            with pytest.raises(ValueError, match="NaN or infinite"):
                loss(*values, beta=0.1)
    for place in range(4):
        values = of_shapes((3,), (3,), (3,), (3, 4))
        values[place][1] = bad
        with pytest.raises(ValueError, match="NaN or infinite"):
            losses.qrpo(*values, beta=0.1)


@pytest.mark.parametrize(("transform", "n"), [("log", 1), ("normal", 2)])
def test_a_transformation_without_a_signal_is_refused(transform, n):
    """Every target would be the same: the quantile is clamped to one point."""
    f = transforms.get(transform)
    assert len(set(f(f.clamp(torch.arange(n + 1) / n, n)).tolist())) == 1
    arguments = of_shapes((4,), (4,), (4,), (4, n))
    with pytest.raises(ValueError, match="the same target"):
        losses.qrpo(*arguments, beta=0.1, transform=transform)
    losses.qrpo(*arguments[:3], torch.randn(4, n + 1), beta=0.1, transform=transform)


def test_a_completion_has_a_length():
    with pytest.raises(ValueError, match="at least one token"):
        losses.simpo(torch.ones(2), torch.ones(2), torch.tensor([1, 0]), torch.ones(2), beta=1.0)
