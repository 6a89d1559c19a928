"""GRPO's and RLOO's losses against TRL's own trainers, and their advantages against plain sums."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import optimize

from qrpo_lib.objective import online

BETA, GROUPS, TOKENS = 0.3, (3, 4), 5


class Metrics(defaultdict):
    """Takes whatever a trainer logs."""

    def __init__(self):
        super().__init__(lambda: defaultdict(list))


@pytest.fixture
def drawn():
    """Token log-probabilities of 3 groups of 4 completions under policy and reference, a mask, rewards."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(1, TOKENS + 1, GROUPS, generator=generator)
    mask = (torch.arange(TOKENS) < lengths[..., None]).double()
    logps, ref_logps = (-torch.rand(*GROUPS, TOKENS, generator=generator, dtype=torch.float64) for _ in range(2))
    rewards = torch.randn(GROUPS, generator=generator, dtype=torch.float64)
    return SimpleNamespace(
        logps=(logps * mask).requires_grad_(), ref_logps=ref_logps * mask, mask=mask, rewards=rewards
    )


def trainer(logps, **settings):
    """As much of a trainer as the `_compute_loss` of TRL's takes, whose model has these token log-probabilities."""
    same = dict.fromkeys(("gather", "gather_for_metrics"), lambda values: values)
    accelerator = SimpleNamespace(device="cpu", reduce=lambda values, reduction: values, **same)
    args = SimpleNamespace(use_bias_correction_kl=False, delta=None)
    common = {"model": SimpleNamespace(training=False), "accelerator": accelerator, "args": args, "_metrics": Metrics()}
    common |= {"aux_loss_enabled": False, "epsilon_low": 0.2, "epsilon_high": 0.2, "beta": BETA, "use_vllm": False}
    found = logps, torch.zeros_like(logps).detach(), None
    common |= {"_entropy_bonus_enabled": False, "entropy_coef": 0.0}
    return SimpleNamespace(
        **common,
        _get_per_token_logps_and_entropies=lambda *inputs, **others: found,
        top_entropy_quantile=1.0,
        **settings,
    )


def inputs(drawn, advantages, **others):
    ids = torch.ones(12, TOKENS, dtype=torch.long)
    of_prompt = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids}
    return of_prompt | {"completion_mask": drawn.mask.flatten(0, 1), "advantages": advantages.flatten()} | others


def gradient(loss, drawn):
    return torch.autograd.grad(loss, drawn.logps)[0]


def test_rloo_advantages_are_rewards_less_the_mean_of_the_others(drawn):
    expected = [[r[i] - np.delete(r, i).mean() for i in range(4)] for r in drawn.rewards.numpy()]
    np.testing.assert_allclose(online.rloo_advantages(drawn.rewards), expected, rtol=1e-12)


def test_grpo_advantages_are_trls(drawn):
    from trl.trainer.utils import nanstd

    deviations = nanstd(drawn.rewards, dim=1)[:, None]
    expected = (drawn.rewards - drawn.rewards.mean(1, keepdim=True)) / (deviations + 1e-4)
    torch.testing.assert_close(online.grpo_advantages(drawn.rewards), expected)


def test_equal_rewards_teach_nothing(drawn):
    equal = torch.full(GROUPS, 0.7, dtype=torch.float64)
    assert online.grpo_advantages(equal).abs().max() < 1e-9
    assert online.rloo_advantages(equal).abs().max() < 1e-9


def test_grpo_is_trls(drawn):
    from trl import GRPOTrainer

    flat = drawn.logps.flatten(0, 1)
    settings = {"loss_type": "grpo", "importance_sampling_level": "token", "off_policy_mask_threshold": None}
    given = inputs(drawn, online.grpo_advantages(drawn.rewards), ref_per_token_logps=drawn.ref_logps.flatten(0, 1))
    theirs = trainer(flat, **settings, current_gradient_accumulation_steps=1)
    expected = GRPOTrainer._compute_loss(theirs, None, given)
    loss = online.grpo(drawn.logps, drawn.ref_logps, drawn.mask, drawn.rewards, beta=BETA).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(gradient(loss, drawn), gradient(expected, drawn))


def test_rloo_is_trls(drawn):
    from trl import RLOOTrainer

    logps = (drawn.logps * drawn.mask).sum(-1)
    ref_logps = drawn.ref_logps.sum(-1)
    penalised = drawn.rewards - BETA * (logps - ref_logps).detach()
    given = inputs(drawn, online.rloo_advantages(penalised), old_logps=logps.detach().flatten())
    expected = RLOOTrainer._compute_loss(trainer(drawn.logps.flatten(0, 1)), None, given)
    loss = online.rloo(logps, ref_logps, drawn.rewards, beta=BETA).mean()
    torch.testing.assert_close(gradient(loss, drawn), gradient(expected, drawn))


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2 completions"):
        online.grpo_advantages(torch.zeros(3, 1))


@pytest.mark.parametrize("place", range(4))
def test_shapes_that_would_broadcast_and_what_is_not_finite_are_refused(drawn, place):
    values = [drawn.logps.detach(), drawn.ref_logps, drawn.mask, drawn.rewards]
    fewer = [*values[:place], values[place][:1], *values[place + 1 :]]
    with pytest.raises(ValueError, match="must have the same shape"):
        online.grpo(*fewer, beta=BETA)
    not_finite = [*values[:place], torch.full_like(values[place], torch.nan), *values[place + 1 :]]
    with pytest.raises(ValueError, match="NaN or infinite"):
        online.grpo(*not_finite, beta=BETA)


def test_rewards_may_be_whole_numbers():
    passed = torch.tensor([[1, 0, 1, 0]])
    for advantages in (online.rloo_advantages, online.grpo_advantages):
        torch.testing.assert_close(advantages(passed), advantages(passed.double()))


@pytest.fixture
def enumerated():
    """Three completions of one token: log-probabilities of the reference, rewards, and every group of three of them."""
    ref = torch.log_softmax(torch.tensor([0.3, -0.9, 0.5], dtype=torch.float64), 0)
    rewards = torch.tensor([1.0, 0.2, -0.4], dtype=torch.float64)
    groups = torch.cartesian_prod(*[torch.arange(3)] * 3)
    return SimpleNamespace(ref=ref, rewards=rewards, groups=groups)


def trained(enumerated, loss):
    """Log-probabilities at the end of training on the expected loss over all groups that the policy may draw."""
    logits = enumerated.ref.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.02)
    for _ in range(1500):
        logps = torch.log_softmax(logits, 0)
        of_groups = logps[enumerated.groups]
        chance = of_groups.detach().sum(-1).exp()
        optimizer.zero_grad()
        (
            chance @ loss(of_groups, enumerated.ref[enumerated.groups], enumerated.rewards[enumerated.groups]).sum(-1)
        ).backward()
        optimizer.step()
    return torch.log_softmax(logits.detach(), 0)


def kl(logps, others):
    return float(logps.exp() @ (logps - others))


def test_rloo_ends_at_the_optimum_of_the_kl_regularised_reward(enumerated):
    found = trained(enumerated, lambda logps, ref, rewards: online.rloo(logps, ref, rewards, beta=BETA))
    assert kl(found, torch.log_softmax(enumerated.ref + enumerated.rewards / BETA, 0)) < 1e-3


def test_grpo_ends_at_its_own_optimum(enumerated):
    """pi = beta pi_ref / (beta + lambda - A), A each completion's mean advantage among groups of the policy's own."""
    beta = 0.4

    def loss(logps, ref, rewards):
        return online.grpo(logps[..., None], ref[..., None], torch.ones_like(ref)[..., None], rewards, beta=beta)

    found = trained(enumerated, loss)
    chance = found[enumerated.groups].sum(-1).exp()
    advantages = online.grpo_advantages(enumerated.rewards[enumerated.groups])
    mean = torch.stack(
        [(chance @ (advantages * (enumerated.groups == i)).sum(-1)) / (3 * found[i].exp()) for i in range(3)]
    )
    optimum = optimize.brentq(
        lambda x: float((beta * enumerated.ref.exp() / (x - mean)).sum()) - 1, float(mean.max()) + 1e-9, 99
    )
    expected = torch.log(beta * enumerated.ref.exp() / (optimum - mean))
    assert kl(found, expected) < 1e-6
    assert kl(found, torch.log_softmax(enumerated.ref + mean / beta, 0)) > 1e-2  # not that of the KL's own penalty
