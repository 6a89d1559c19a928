import numpy as np
import pytest
import torch

from qrpo_lib.objective import transforms
from qrpo_lib.theory import tabular

pytestmark = pytest.mark.filterwarnings("error")

PROMPT = tabular.random_prompt(200, seed=0)
TRANSFORMS = [
    transforms.get(name, **({"mu": 0.5, "sigma": 0.2} if name == "scaled-normal" else {})) for name in transforms.NAMES
]


@pytest.mark.parametrize("f", TRANSFORMS, ids=lambda f: f.name)
@pytest.mark.parametrize("beta", [0.1, 0.01])
def test_gradient_descent_reaches_the_closed_form(f, beta):
    log_ref, raw = PROMPT
    rewards = tabular.quantile_rewards(f, log_ref, raw)
    fit = tabular.fit(log_ref, rewards, beta)
    weights = np.exp(log_ref + (rewards - rewards.max()) / beta)
    optimum = np.log(weights / weights.sum())
    assert fit.converged
    assert tabular.kl(optimum, fit.log_policy) < 1e-8
    assert tabular.kl(fit.log_policy, optimum) < 1e-8
    assert fit.losses[-1] < fit.losses[0]


def test_any_data_distribution_that_covers_the_completions_has_the_same_optimum():
    log_ref, raw = tabular.random_prompt(20, seed=1, concentration=5.0)
    rewards = tabular.quantile_rewards(transforms.get("identity"), log_ref, raw)
    fits = [tabular.fit(log_ref, rewards, 0.1, data) for data in (None, np.exp(log_ref), np.arange(1, 21) / 210)]
    for fit in fits:
        assert tabular.kl(tabular.optimal_policy(log_ref, rewards, 0.1), fit.log_policy) < 1e-8
    with pytest.raises(ValueError, match="positive probability"):
        tabular.fit(log_ref, rewards, 0.1, np.eye(20)[0])


def test_fit_says_when_it_stopped_early():
    log_ref, rewards = tabular.random_prompt(50, seed=2)
    assert not tabular.fit(log_ref, rewards, 0.01, max_steps=3).converged


def test_the_gradient_is_the_one_autograd_finds():
    log_ref, raw = tabular.random_prompt(30, seed=3)
    rewards = tabular.quantile_rewards(transforms.get("sqrt"), log_ref, raw)
    rng, beta = np.random.default_rng(4), 0.05
    logits, data = rng.normal(size=30), rng.dirichlet(np.ones(30))
    leaf = torch.tensor(logits, requires_grad=True)
    log_z = torch.logsumexp(torch.tensor(log_ref + rewards / beta), 0)
    residual = torch.tensor(rewards) - beta * log_z - beta * (leaf.log_softmax(0) - torch.tensor(log_ref))
    value = (torch.tensor(data) * residual**2).sum()
    value.backward()
    policy = leaf.detach().log_softmax(0).numpy()
    assert tabular.loss(policy, log_ref, rewards, beta, data) == pytest.approx(value.item(), rel=1e-12)
    np.testing.assert_allclose(
        tabular.gradient(policy, log_ref, rewards, beta, data), leaf.grad.numpy(), rtol=1e-9, atol=1e-12
    )


def test_at_the_start_a_probability_is_pushed_up_iff_the_target_is_positive():
    log_ref, raw = PROMPT
    beta, data = 0.1, np.exp(log_ref)
    rewards = tabular.quantile_rewards(transforms.get("identity"), log_ref, raw)
    above = rewards > beta * tabular.log_partition(log_ref, rewards, beta)
    # the part of Eq. 14 that belongs to completion y itself: -2 beta p(y) residual(y)
    own = tabular.gradient(log_ref, log_ref, rewards, beta, data)
    own = (
        own
        + np.exp(log_ref) * -2 * beta * (data * (rewards - beta * tabular.log_partition(log_ref, rewards, beta))).sum()
    )
    assert np.array_equal(own < 0, above)


def test_beta_log_z_is_the_optimal_policys_mean_regularised_reward_and_the_largest():
    log_ref, raw = PROMPT
    rewards = tabular.quantile_rewards(transforms.get("identity"), log_ref, raw)
    for beta in (0.1, 1e-3):
        baseline = beta * tabular.log_partition(log_ref, rewards, beta)
        optimum = tabular.optimal_policy(log_ref, rewards, beta)
        assert tabular.regularised_reward(optimum, log_ref, rewards, beta) == pytest.approx(baseline, rel=1e-12)
        for seed in range(5):
            other = optimum + 0.1 * np.random.default_rng(seed).normal(size=200)
            other -= np.log(np.exp(other).sum())
            # the objective falls short by beta KL(other || optimum) exactly
            gap = baseline - tabular.regularised_reward(other, log_ref, rewards, beta)
            assert gap == pytest.approx(beta * tabular.kl(other, optimum), rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_rounds_at_k_beta_equal_one_round_at_beta(count):
    log_ref, raw = PROMPT
    f = transforms.get("identity")
    once = tabular.optimal_policy(log_ref, tabular.quantile_rewards(f, log_ref, raw), 0.01)
    np.testing.assert_allclose(tabular.rounds(f, log_ref, raw, 0.01, count, requantile=False), once, atol=1e-10)
    if count > 1:
        assert tabular.kl(tabular.rounds(f, log_ref, raw, 0.01, count, requantile=True), once) > 0.01


def test_quantiles_by_hand_with_a_tie():
    quantiles = tabular.quantiles(np.log([0.1, 0.2, 0.3, 0.4]), [5.0, 1.0, 5.0, 3.0])
    np.testing.assert_allclose(quantiles, [1.0, 0.2, 1.0, 0.6])


def test_the_partition_function_of_quantile_rewards_is_appendix_es():
    log_ref, raw = PROMPT
    f = transforms.get("identity")
    rewards = tabular.quantile_rewards(f, log_ref, raw)
    ordered = np.exp(log_ref)[np.argsort(raw)]
    expected = transforms.discrete_log_partition(f, 0.01, ordered)
    assert tabular.log_partition(log_ref, rewards, 0.01) == pytest.approx(expected, rel=1e-12)


def test_kl_against_the_definition():
    p, q = np.log([0.2, 0.8]), np.log([0.5, 0.5])
    assert tabular.kl(p, q) == pytest.approx(0.2 * np.log(0.4) + 0.8 * np.log(1.6))
    near = np.log([0.2 + 1e-6, 0.8 - 1e-6])
    assert tabular.kl(p, near) == pytest.approx((1e-12 / 0.2 + 1e-12 / 0.8) / 2, rel=1e-4)


def test_random_prompts_are_distributions_without_ties():
    log_ref, rewards = tabular.random_prompt(200, seed=5, concentration=0.01)
    assert np.isfinite(log_ref).all()
    assert np.exp(log_ref).sum() == pytest.approx(1)
    assert len(set(rewards)) == 200
