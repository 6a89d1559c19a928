"""The trainer on any targets, constant or moving."""

import numpy as np
import pytest
import torch

from qrpo_lib.exactness import enumerated, relatives, targets
from qrpo_lib.objective import losses
from qrpo_lib.theory import constant_error, tabular

BETA = 2.0


@pytest.fixture(scope="module")
def problem():
    return enumerated.problem(seed=0, vocabulary=3, longest=4)


def test_qrpos_own_loss_takes_any_target(problem):
    """With the grid of `targets` the loss is that of the target, to half a step."""
    asked = np.random.default_rng(0).normal(size=len(problem.rewards))
    low, high = asked.min() - 1e-3, asked.max() + 1e-3
    rows = targets.target_rows(problem, asked, low, high, problem.log_ref)
    rewards, refs = (torch.tensor(np.array([row[name] for row in rows])) for name in ("reward", "ref_rewards"))
    found = losses.calibrated_target(rewards, refs, **targets.target_loss(low, high, 0.3))
    np.testing.assert_allclose(found, asked, atol=(high - low) / 2000 * 1.001)
    np.testing.assert_allclose([row["weight"] for row in rows], len(rows) * np.exp(problem.log_ref))


@pytest.mark.slow
@pytest.mark.parametrize("dose", [-0.1, 1.0])
def test_the_trainer_ends_at_the_best_normalised_policy(dose, problem):
    optimum = relatives.quantile_optimum(problem, 0.5)
    best = constant_error.best_policy(optimum, problem.log_ref, dose).log_policy
    asked = 0.5 * (optimum - problem.log_ref + dose)
    fit = targets.fit_targets(problem, asked, 0.5, problem.log_ref, learning_rate=7e-3, steps=150)
    assert tabular.kl(fit.log_policy, best) < tabular.kl(optimum, best) / 2
    assert tabular.kl(fit.log_policy, best) <= 1e-3


@pytest.mark.slow
def test_dro_by_the_trainer_learns_policy_and_value(problem):
    fit, value = targets.fit_dro(problem, BETA, learning_rate=7e-3, steps=150)
    optimum = tabular.optimal_policy(problem.log_ref, problem.rewards, BETA)
    assert tabular.kl(fit.log_policy, optimum) <= 1e-3
    assert value == pytest.approx(BETA * tabular.log_partition(problem.log_ref, problem.rewards, BETA), abs=0.01)
