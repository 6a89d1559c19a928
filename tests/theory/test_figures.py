import numpy as np
import pytest
from matplotlib import pyplot as plt

from qrpo_lib.theory import asymptotics, figures, tables


@pytest.fixture(autouse=True)
def _close_figures():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def _texts(axes):
    legend = axes.get_legend() or axes.figure.legends[0]
    return [text.get_text() for text in [*axes.texts, *legend.get_texts()]]


def test_figure_5_shows_the_shares_and_where_the_arrows_turn():
    table = tables.density_table([0.1, 0.01, 0.001])
    figure = figures.density_figure(table, [0.1, 0.01, 0.001])
    left, right = figure.axes
    assert {"77%", "23%"} <= set(_texts(left))
    assert len(right.get_legend().get_texts()) == 4
    arrows = [text for text in left.texts if text.get_text() == ""]
    for arrow in arrows:
        rises = arrow.xy[1] > arrow.xyann[1]
        assert rises == (arrow.xy[0] > 0.738)  # the 77 % quantile of the standard normal


def test_table_4_figure_has_a_row_for_each_transformation():
    table = tables.table_4([1.0, 0.1], 0.5, 0.2)
    grid = figures.table_4_figure(table).axes[0].tables[0]
    assert max(row for row, _ in grid.get_celld()) == 6
    assert grid[1, 2].get_text().get_text() == f"{np.log(0.1 * np.expm1(10)):.6g}"


def test_noise_figure_draws_what_fits_and_names_what_does_not():
    table = tables.noise_table([0.01, 1.0], [0.5], [1, 10], repeats=50, seed=0)
    formulas, simulated = (figures.noise_figure(table, simulated=flag).axes[0] for flag in (False, True))
    assert any("off the chart" in text for text in _texts(formulas))
    assert not any("off the chart" in text for text in _texts(simulated))
    assert len([line for line in simulated.lines if len(line.get_xdata())]) == 3
    assert len([line for line in formulas.lines if len(line.get_xdata())]) == 2


def test_kl_figure_draws_each_unordered_pair_and_its_leading_term():
    profiles = {name: asymptotics.PROFILES[name] for name in ("identity", "log", "square")}
    table = tables.kl_table(profiles, list(np.logspace(-4, -1, 9)))
    axes = figures.kl_figure(table, tables.power_table(profiles, table, 1e-2)).axes[0]
    assert len(axes.lines) == 3 * 2 + 1
    assert len(axes.get_legend().get_texts()) == 4


def test_the_other_figures_label_their_cases():
    gaps = tables.partition_gap_table([1, 3, 20], [1e-3, 0.1])
    assert _texts(figures.partition_gap_figure(gaps, [0.1]).axes[0]) == ["n = 1", "n = 3", "n = 20"]
    laws = tables.quantile_law_table(100, n=3, seed=0)
    assert "uniform" in _texts(figures.quantile_law_figure(laws).axes[0])
    target = tables.target_table(["identity", "log"], [0.1], [3, 10])
    assert _texts(figures.target_figure(target, 0.1).axes[0]) == ["identity", "log"]
    moments = tables.noise_table([0.1, 1.0], [0.5], [1, 10], repeats=50, seed=0)
    errors = tables.histograms(tables.estimator_errors([0.1, 1.0], n=10, repeats=50, seed=0))
    left, right = figures.estimator_figure(errors, moments).axes
    assert len(left.get_legend().get_texts()) == 2
    assert len(right.lines) == 4
