"""Optima of the relatives against their pure losses, equalities between methods, and the trainer on any targets."""

import numpy as np
import pandas as pd
import pytest
import torch

from qrpo_lib.exactness import enumerated, relatives, targets
from qrpo_lib.objective import losses
from qrpo_lib.theory import constant_error, tabular

BETA = 2.0


@pytest.fixture(scope="module")
def problem():
    return enumerated.problem(seed=0, vocabulary=3, longest=4)


def test_every_optimum_is_where_its_pure_loss_ends(problem):
    optima, of_losses = (function(problem, BETA, 2) for function in (relatives._optima, relatives._losses))
    for name, optimum in optima.items():
        assert np.exp(optimum).sum() == pytest.approx(1, abs=1e-9), name
        assert tabular.kl(problem.log_ref, optimum) > 0.005, name
        # best of N has Table 4's Z, for continuous rewards
        limit = 1e-3 if name == "best of N" else 1e-9
        assert tabular.kl(relatives.minimise(of_losses[name], problem.log_ref), optimum) < limit, name


def test_qrpos_own_loss_takes_any_target(problem):
    """With the grid of `targets` the loss is that of the target, to half a step."""
    asked = np.random.default_rng(0).normal(size=len(problem.rewards))
    low, high = asked.min() - 1e-3, asked.max() + 1e-3
    rows = targets.target_rows(problem, asked, low, high, problem.log_ref)
    rewards, refs = (torch.tensor(np.array([row[name] for row in rows])) for name in ("reward", "ref_rewards"))
    found = losses.calibrated_target(rewards, refs, **targets.target_loss(low, high, 0.3))
    np.testing.assert_allclose(found, asked, atol=(high - low) / 2000 * 1.001)
    np.testing.assert_allclose([row["weight"] for row in rows], len(rows) * np.exp(problem.log_ref))


def test_ipo_nears_qrpo_with_more_completions(problem):
    small, large = (relatives.ipo_table(one, [0.5]) for one in (problem, enumerated.problem(seed=0)))
    assert large["completions"].item() > 3 * small["completions"].item()
    assert large["kl"].item() < small["kl"].item() / 3
    assert max(small["kl_of_halves"].item(), large["kl_of_halves"].item()) < 1e-12


def test_kto_ends_at_the_reference_given_a_pass(problem):
    table = relatives.kto_table(problem, [0.5], pass_rate=0.3, steps=1000)
    assert table["kl"].item() < 1e-3 < table["qrpo_kl"].item()


def test_figures_draw_responses_and_relatives(problem):
    """The line of the best policy, and the trained ones on it; three marks a method, of which one may be missing."""
    response = relatives.response_table(problem, [0.5], list(np.linspace(-0.2, 1.0, 25)))  # some dose is 1e-17
    trained = pd.DataFrame([(0.5, data, 1.0, 0.0, 0.02, 0.02) for data in ("off-policy", "offline")])
    trained.columns = ["beta", "data", "dose", "to_best", "to_optimum", "best_to_optimum"]
    for axis in relatives.dose_figure(response, trained).axes:
        line, dots = axis.lines
        rows = response[response["data"] == axis.get_title().removesuffix(" data")]
        np.testing.assert_array_equal(line.get_ydata(), rows["kl"])
        assert rows["kl"].min() < 1e-9
        assert dots.get_ydata().tolist() == [0.02]
    rows = pd.DataFrame(
        {"method": ["a", "b"], "start": [0.1, 0.2], "by_loss": [1e-9, 1e-8], "by_trainer": [1e-5, np.nan]}
    )
    rows["optimum"] = rows["policy"] = [np.array([-1.0, -2.0]), np.array([-3.0, -1.0])]
    left, right = relatives.figure(rows).axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["a", "b"]
    assert left.lines[2].get_xdata()[0] == 1e-5
    assert right.lines[0].get_ydata().tolist() == [-1.0, -2.0]


@pytest.mark.slow
@pytest.mark.parametrize("dose", [-0.1, 1.0])
def test_the_trainer_ends_at_the_best_normalised_policy(dose, problem):
    optimum = relatives.quantile_optimum(problem, 0.5)
    best = constant_error.best_policy(optimum, problem.log_ref, dose).log_policy
    asked = 0.5 * (optimum - problem.log_ref + dose)
    fit = targets.fit_targets(problem, asked, 0.5, problem.log_ref, learning_rate=7e-3, steps=150)
    assert tabular.kl(fit.log_policy, best) <= 1e-3 < tabular.kl(optimum, best)


@pytest.mark.slow
def test_dro_by_the_trainer_learns_policy_and_value(problem):
    fit, value = targets.fit_dro(problem, BETA, learning_rate=7e-3, steps=150)
    optimum = tabular.optimal_policy(problem.log_ref, problem.rewards, BETA)
    assert tabular.kl(fit.log_policy, optimum) <= 1e-3
    assert value == pytest.approx(BETA * tabular.log_partition(problem.log_ref, problem.rewards, BETA), abs=0.01)
