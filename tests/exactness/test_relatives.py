"""Optima of the relatives against their pure losses, equalities between methods, and what figures draw."""

import numpy as np
import pandas as pd
import pytest

from qrpo_lib.exactness import enumerated, relatives
from qrpo_lib.theory import tabular

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
        rows = response[response["data"] == axis.get_title().removesuffix(" data (dots: trained)")]
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
