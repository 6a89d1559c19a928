"""What the notebook `target_error` tabulates and draws."""

import numpy as np
import pandas as pd
import pytest

from qrpo_lib.paper import style
from qrpo_lib.theory import constant_error, estimated_partition, target_error, tied_targets


@pytest.fixture(scope="module")
def constants():
    return target_error.constant_error_table([0.1, 0.5], [-1.0, -0.1, 0.01, 3.0], completions=8, seed=0)


def test_predicted_and_simulated_errors_of_z_agree_and_others_do_not(monkeypatch):
    agreed = target_error.estimated_z_table([0.3], [4], repeats=2000, seed=0)
    assert agreed["standard_errors"].max() < 5
    assert agreed["p_value"].min() > 1e-4
    at_half = estimated_partition.simulate
    monkeypatch.setattr(estimated_partition, "simulate", lambda law, n, *rest: at_half(law, n // 2, *rest))
    wrong = target_error.estimated_z_table([0.3], [4], repeats=2000, seed=0)
    assert wrong["standard_errors"].min() > 5
    assert wrong["p_value"].min() < 1e-4


def test_tied_targets_of_every_kind_agree(monkeypatch):
    table = target_error.tied_table([0.05], [5], repeats=1000, seed=0)
    assert set(table["partition"]) == set(tied_targets.PARTITIONS)
    assert table["standard_errors"].max() < 5
    with monkeypatch.context() as patched:
        patched.setattr(tied_targets, "PARTITIONS", ("exact",))
        shifted = tied_targets.errors
        patched.setattr(tied_targets, "errors", lambda p, n, *rest: shifted(p, n + 3, *rest))
        assert target_error.tied_table([0.05], [5], repeats=1000, seed=0)["standard_errors"].max() > 5


def test_pass_or_fail_table_and_figure():
    table = target_error.pass_or_fail_table([0.2, 0.6], [0.01, 0.1], [4, 8])
    assert len(table) == 2 * 2 * 2 * 3
    axes, looks = target_error.pass_or_fail_figure(table, 8).axes, style.looks(tied_targets.PARTITIONS)
    assert len(axes) == 2
    for axis, beta in zip(axes, (0.01, 0.1), strict=True):
        of_color = {line.get_color(): line for line in axis.lines}
        lines = {partition: of_color.pop(look.color) for partition, look in looks.items()}
        assert not of_color
        expected = [tied_targets.errors([1 - r, r], 8, beta, "discrete").constant_rms / beta for r in (0.2, 0.6)]
        np.testing.assert_allclose(lines["discrete"].get_ydata(), expected)


def test_constant_errors_table_is_of_the_best_policy(constants):
    row = constants.query("beta == 0.5 and data == 'offline' and dose == 3.0").iloc[0]
    optimum, data = target_error.prompt(0.5, 8, 0)
    best = constant_error.best_policy(optimum, data["offline"], 3.0).log_policy
    kl = np.exp(best) @ (best - data["offline"])
    assert row["kl_to_data"] == pytest.approx(kl, rel=1e-9)
    assert not row["alone"]
    differences = target_error.minimiser_differences([0.5], [-0.1, 3.0], completions=8, seed=0)
    assert len(differences) == 4
    assert differences["kl"].max() < 1e-8


def test_wrong_orders_are_counted(constants):
    assert target_error.wrong_order(constants) == 0
    turned = constants.assign(kl_to_data=constants["kl_to_data"].where(constants["beta"] > 0.2, 1.0))
    assert target_error.wrong_order(turned) == 2


def test_a_constant_is_nothing_online_and_something_elsewhere():
    assert target_error.online_gradient_change([0.1, 1.0], 10.0, completions=8, seed=0) < 1e-9


def test_the_policy_of_an_estimated_z():
    """Of so many references that Z is known, the optimum: normal about 1/beta, KL 1/(2 beta^2)."""
    table = target_error.estimated_z_policy_table([1.0], [2, 100_000]).set_index("n")
    assert table.loc[100_000, "reward"] == pytest.approx(1, abs=1e-3)
    assert table.loc[100_000, "kl"] == pytest.approx(0.5, abs=1e-3)
    assert table.loc[100_000, "share_of_objective"] == pytest.approx(1, abs=1e-4)
    assert table.loc[2, "share_of_objective"] < 0.99
    assert (table["share_of_frontier"] <= 1 + 1e-6).all()


def test_figures_draw_the_tables(constants):
    left, right = target_error.constant_error_figure(constants).axes
    assert len(left.lines) == 4 + 4  # of beta and data, with the second order
    rows = constants.query("beta == 0.1 and data == 'offline'")
    assert any(np.array_equal(line.get_ydata(), rows["kl_to_data"]) for line in right.lines)
    rows = [
        {"rewards": "normal", "beta": beta, "n": n, "bias": -beta, "std": 0.5, "simulated_bias": -beta / 2}
        | {"simulated_std": 0.4, "jackknife_bias": -beta / 4}
        for beta in (0.1, 1.0)
        for n in (2, 20)
    ]
    bias, left_over, noise = target_error.target_error_figure(pd.DataFrame(rows)).axes
    np.testing.assert_allclose([line.get_ydata()[0] for line in bias.lines], [0.1, 0.05, 1, 0.5])
    np.testing.assert_allclose([line.get_ydata()[0] for line in left_over.lines], [0.25, 0.25])
    np.testing.assert_allclose([line.get_ydata()[0] for line in noise.lines], [0.5, 0.4] * 2)
