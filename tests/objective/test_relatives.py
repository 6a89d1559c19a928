"""The relatives' losses against TRL's own and against independent formulas."""

from collections import defaultdict
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
import torch

from qrpo_lib.objective import losses, partitions, relatives

BETA = 0.3


@pytest.fixture
def pairs():
    """Log-probabilities of 6 pairs under a policy and its reference, rewards and 4 reference rewards: float64."""
    generator = torch.Generator().manual_seed(1)
    names = ["chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps", "chosen", "rejected"]
    columns = {name: torch.randn(6, generator=generator, dtype=torch.float64) for name in names}
    return SimpleNamespace(**columns, refs=torch.randn(6, 4, generator=generator, dtype=torch.float64))


def _logps(pairs):
    return [pairs.chosen_logps, pairs.rejected_logps, pairs.ref_chosen_logps, pairs.ref_rejected_logps]


def _trainer(**settings):
    """As much of a trainer as the `_compute_loss` of TRL's takes, with references computed beforehand."""
    same = {"gather_for_metrics": lambda values: values, "gather": lambda values: values}
    accelerator = SimpleNamespace(device="cpu", **same)
    common = {"model": SimpleNamespace(training=False), "accelerator": accelerator, "aux_loss_enabled": False}
    common |= {"precompute_ref_logps": True, "beta": BETA, "_metrics": defaultdict(lambda: defaultdict(list))}
    return SimpleNamespace(**common, _total_train_tokens=0, **settings)


def _forward(logps):
    """A model whose completions of one token, after a prompt of one, have these log-probabilities: (rows,)."""
    shown = dict.fromkeys(("log_probs", "entropy", "mean_logits"), logps[:, None])
    outputs = SimpleNamespace(**shown, is_top1=logps[:, None] > 0)
    return lambda **inputs: outputs


def _tokens(rows):
    return {
        "input_ids": torch.ones(rows, 2, dtype=torch.long),
        "attention_mask": torch.ones(rows, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]] * rows),
    }


def test_ipo_is_trls(pairs):
    """TRL divides log-ratios by lengths: with one token each, the paper's loss."""
    from trl import DPOTrainer

    trainer = _trainer(
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=["ipo"],
        loss_weights=[1.0],
        label_smoothing=0.0,
        use_weighting=False,
    )
    inputs = _tokens(12) | {"ref_chosen_logps": pairs.ref_chosen_logps, "ref_rejected_logps": pairs.ref_rejected_logps}
    model = _forward(torch.cat([pairs.chosen_logps, pairs.rejected_logps]))
    expected = DPOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)
    assert float(relatives.ipo(*_logps(pairs), beta=BETA).mean()) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("shift", [3.0, -3.0], ids=["kl above 0", "kl below 0"])
def test_kto_is_trls(shift, pairs):
    from trl import KTOTrainer

    labels = torch.tensor([1, 0, 1, 1, 0, 0])
    kl_logps, ref_kl_logps = pairs.rejected_logps + shift, pairs.ref_rejected_logps
    trainer = _trainer(
        loss_type="kto",
        calculate_KL=True,
        desirable_weight=1.3,
        undesirable_weight=0.7,
        _compute_kl_logps=lambda model, batch: kl_logps,
    )
    inputs = _tokens(6) | {"label": labels, "ref_logps": pairs.ref_chosen_logps, "ref_KL_logps": ref_kl_logps}
    expected = KTOTrainer._compute_loss(trainer, _forward(pairs.chosen_logps), inputs, return_outputs=False)
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.7}
    kl = (kl_logps - ref_kl_logps).mean()
    loss = relatives.kto(pairs.chosen_logps, pairs.ref_chosen_logps, labels.bool(), kl, beta=BETA, **weights)
    assert float(loss.mean()) == pytest.approx(float(expected), rel=1e-6)


def test_no_gradient_flows_into_ktos_kl(pairs):
    logps = pairs.chosen_logps.requires_grad_()
    kl = (logps - pairs.ref_chosen_logps).mean() + 2
    fixed = relatives.kto(logps, pairs.ref_chosen_logps, pairs.chosen > 0, kl.item(), beta=BETA)
    (expected,) = torch.autograd.grad(fixed.sum(), logps)
    loss = relatives.kto(logps, pairs.ref_chosen_logps, pairs.chosen > 0, kl, beta=BETA)
    assert torch.equal(torch.autograd.grad(loss.sum(), logps)[0], expected)


def test_rpo_by_its_two_distances(pairs):
    """Against mpmath; the squared one is REBEL's, the other falls to 0 where the two logits agree."""
    arguments = [*_logps(pairs), pairs.chosen, pairs.rejected]
    squared = relatives.rpo(*arguments, beta=BETA, eta=2.0)
    rebel = losses.rebel(*arguments, beta=BETA / 2)
    np.testing.assert_allclose(squared, BETA**2 * rebel, rtol=1e-12)
    backward = relatives.rpo(*arguments, beta=BETA, eta=2.0, distance="backward-kl")
    for i, value in enumerate(backward.tolist()):
        a = BETA * float(arguments[0][i] - arguments[2][i] - arguments[1][i] + arguments[3][i])
        p, q = (1 / (1 + mpmath.exp(-x)) for x in (2 * float(pairs.chosen[i] - pairs.rejected[i]), a))
        expected = p * mpmath.log(p / q) + (1 - p) * mpmath.log((1 - p) / (1 - q))
        assert value == pytest.approx(float(expected), rel=1e-9)


def test_backward_rpo_has_dpos_gradient_in_expectation_over_preferences(pairs):
    logps = pairs.chosen_logps.requires_grad_()
    rest = _logps(pairs)[1:]
    loss = relatives.rpo(
        logps, *rest, pairs.chosen, pairs.rejected, beta=BETA, distance="backward-kl"
    )  # the preferences of Bradley and Terry, both orders
    wins = torch.sigmoid(pairs.chosen - pairs.rejected)
    swapped = [rest[0], logps, rest[2], rest[1]]
    dpo = wins * losses.dpo(logps, *rest, beta=BETA) + (1 - wins) * losses.dpo(*swapped, beta=BETA)
    gradients = [torch.autograd.grad(one.sum(), logps)[0] for one in (loss, dpo)]
    np.testing.assert_allclose(*gradients, rtol=1e-9)


def test_regressions_on_a_target(pairs):
    log_ratio = (pairs.chosen_logps - pairs.ref_chosen_logps).tolist()
    logps = pairs.chosen_logps, pairs.ref_chosen_logps
    values = torch.linspace(-1, 1, 6, dtype=torch.float64)
    plain = {
        "raw": relatives.raw_reward(*logps, pairs.chosen, pairs.refs, beta=BETA),
        "a_star_po": relatives.a_star_po(*logps, pairs.chosen, pairs.refs, beta=BETA, value_beta=2.0),
        "dro": relatives.dro(*logps, pairs.chosen, values, beta=BETA),
        "discrete": relatives.discrete_qrpo(*logps, pairs.chosen, pairs.refs, beta=BETA),
    }
    for i in range(6):
        reward, refs = float(pairs.chosen[i]), pairs.refs[i].tolist()
        soft = {b: b * mpmath.log(mpmath.fsum(mpmath.exp(r / b) for r in refs) / 4) for b in (BETA, 2.0)}
        ranks = mpmath.fsum(mpmath.exp(k / 4 / BETA) for k in (1, 2, 3, 4)) / 4
        quantile = sum(r <= reward for r in refs) / 4
        targets = {
            "raw": reward - soft[BETA],
            "a_star_po": reward - soft[2.0],
            "dro": reward - float(values[i]),
            "discrete": quantile - BETA * mpmath.log(ranks),
        }
        for name, target in targets.items():
            assert float(plain[name][i]) == pytest.approx(float((target - BETA * log_ratio[i]) ** 2), rel=1e-9), name


def test_a_star_po_at_one_beta_is_the_raw_reward(pairs):
    arguments = pairs.chosen_logps, pairs.ref_chosen_logps, pairs.chosen, pairs.refs
    same = relatives.a_star_po(*arguments, beta=BETA, value_beta=BETA)
    np.testing.assert_allclose(same, relatives.raw_reward(*arguments, beta=BETA), rtol=1e-12)
    corrected = relatives.raw_reward(*arguments, beta=BETA, corrected=True)
    target = partitions.raw_target(pairs.chosen, pairs.refs, beta=BETA, corrected=True)
    np.testing.assert_allclose(corrected, relatives.regression(*arguments[:2], target, beta=BETA))


def test_dro_at_its_value_has_the_residuals_of_eq_6():
    """Over values of an enumerated prompt the minimum of the value is the mean of R - beta log-ratio."""
    rng = torch.Generator().manual_seed(0)
    log_ref = torch.log_softmax(torch.randn(5, generator=rng, dtype=torch.float64), 0)
    rewards = torch.randn(5, generator=rng, dtype=torch.float64)
    log_z = torch.logsumexp(log_ref + rewards / BETA, 0)
    optimum = log_ref + rewards / BETA - log_z
    value = (BETA * log_z).clone().requires_grad_()
    loss = relatives.dro(optimum, log_ref, rewards, value.expand(5), beta=BETA)
    assert float(loss.detach().max()) < 1e-25
    below = relatives.dro(optimum, log_ref, rewards, value.detach().expand(5) - 0.1, beta=BETA)
    np.testing.assert_allclose(below, 0.01, rtol=1e-9)


@pytest.mark.parametrize("best_of", [2, 5, 16])
def test_best_of_n_asks_for_the_density_of_the_best(best_of):
    """N F^(N - 1), by counting: the loss is 0 where the log-ratio is the log of that."""
    n = 1000
    refs = torch.arange(n, dtype=torch.float64).expand(3, n)
    rewards = torch.tensor([99.0, 499.0, 999.0], dtype=torch.float64)
    quantile = (rewards + 1) / n
    log_ratio = torch.log(best_of * quantile ** (best_of - 1))
    loss = relatives.best_of_n(log_ratio, torch.zeros_like(log_ratio), rewards, refs, best_of=best_of)
    assert float(loss.max()) < 1e-20
    off = relatives.best_of_n(log_ratio + 0.5, torch.zeros_like(log_ratio), rewards, refs, best_of=best_of)
    np.testing.assert_allclose(off, 0.25, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: relatives.ipo(x, x, x, x, beta=0.0), "beta must be"),
        (lambda x: relatives.rpo(x, x, x, x, x, x, beta=1.0, distance="cosine"), "unknown distance"),
        (lambda x: relatives.rpo(x, x, x, x, x, x, beta=1.0, eta=0.0), "eta must be"),
        (lambda x: relatives.best_of_n(x, x, x, x[:, None], best_of=1), "at least 2"),
        (lambda x: relatives.best_of_n(x, x, x, x[:, None], best_of=True), "at least 2, got True"),
        (lambda x: relatives.best_of_n(x, x, x, x[:, None], best_of=2.5), "at least 2, got 2.5"),
        (lambda x: relatives.rpo(x, x, x, x, x, x, beta=1.0, eta=float("inf")), "eta must be"),
        (lambda x: relatives.kto(x, x, x - 1, 0.0, beta=1.0), "1 or 0"),
        (lambda x: relatives.kto(x, x, x, torch.zeros(2, 1), beta=1.0), "must have the same shape"),
        (lambda x: relatives.kto(x, x, x, float("nan"), beta=1.0), "kl hold NaN"),
    ],
)
def test_what_cannot_be_used_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2))


# Of each loss, how many of its first arguments are tensors of one shape, and the rest.
OF_ONE_SHAPE = {
    "regression": (3, {}),
    "raw_reward": (3, {"ref_rewards": torch.ones(2, 3)}),
    "discrete_qrpo": (3, {"ref_rewards": torch.ones(2, 3)}),
    "best_of_n": (3, {"ref_rewards": torch.ones(2, 3), "best_of": 4}),
    "dro": (4, {}),
    "a_star_po": (3, {"ref_rewards": torch.ones(2, 3), "value_beta": 1.0}),
    "kto": (3, {"kl": 0.0}),
    "ipo": (4, {}),
    "rpo": (6, {}),
}


@pytest.mark.parametrize("name", OF_ONE_SHAPE)
def test_shapes_that_would_broadcast_and_what_is_not_finite_are_refused(name):
    count, rest = OF_ONE_SHAPE[name]
    beta = {} if name == "best_of_n" else {"beta": 1.0}
    for place in range(count):
        for wrong in [(2, 1), (1,), (3,), ()]:
            values = [torch.ones(2) for _ in range(count)]
            values[place] = torch.ones(wrong)
            with pytest.raises(ValueError, match=r"must have the same shape|do not fit"):
                getattr(relatives, name)(*values, **rest, **beta)
        values = [torch.ones(2) for _ in range(count)]
        values[place][1] = float("nan")
        with pytest.raises(ValueError, match="hold NaN or infinite values"):
            getattr(relatives, name)(*values, **rest, **beta)


def test_losses_keep_the_precision_of_the_log_probabilities(pairs):
    """Rewards come in float64, for exact ties; the loss is computed in float32."""
    logps = [values.float() for values in _logps(pairs)]
    rewards = pairs.chosen, pairs.rejected
    single = {
        "regression": relatives.regression(*logps[:2], rewards[0], beta=BETA),
        "dro": relatives.dro(*logps[:2], *rewards, beta=BETA),
        "raw": relatives.raw_reward(*logps[:2], rewards[0], pairs.refs, beta=BETA),
        "rpo": relatives.rpo(*logps, *rewards, beta=BETA),
    }
    assert {name: loss.dtype for name, loss in single.items()} == dict.fromkeys(single, torch.float32)


def test_discrete_qrpo_passes_its_transformation_on(pairs):
    arguments = pairs.chosen_logps, pairs.ref_chosen_logps, pairs.chosen, pairs.refs
    target = partitions.discrete_target(pairs.chosen, pairs.refs, beta=BETA, transform="square")
    expected = (target - BETA * (pairs.chosen_logps - pairs.ref_chosen_logps)).square()
    torch.testing.assert_close(relatives.discrete_qrpo(*arguments, beta=BETA, transform="square"), expected)


def test_unweighted_kto_is_one_minus_the_probability_of_being_right(pairs):
    """1 - sigmoid(z) for the desirable, 1 - sigmoid(-z) for the others, z = beta (log-ratio - KL)."""
    z = BETA * ((pairs.chosen_logps - pairs.ref_chosen_logps).numpy() - 0.4)
    desirable = pairs.chosen > 0
    expected = 1 - 1 / (1 + np.exp(-np.where(desirable, z, -z)))
    loss = relatives.kto(pairs.chosen_logps, pairs.ref_chosen_logps, desirable, 0.4, beta=BETA)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


def test_ipo_is_rebel_of_rewards_1_and_0_at_twice_the_beta(pairs):
    ones = torch.ones(6, dtype=torch.float64)
    expected = losses.rebel(*_logps(pairs), ones, 0 * ones, beta=2 * BETA)
    torch.testing.assert_close(relatives.ipo(*_logps(pairs), beta=BETA), expected)
