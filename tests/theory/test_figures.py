import math

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import same_color
from scipy import integrate, stats

from qrpo_lib.objective import transforms
from qrpo_lib.theory import asymptotics, figures, tables


@pytest.fixture(autouse=True)
def _close_figures():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def _texts(axes):
    return [text.get_text() for text in axes.texts]


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
    assert (len(simulated.lines), len(formulas.lines)) == (3, 2)


def test_quantiles_with_the_same_noise_share_a_name():
    table = tables.noise_table([1.0], [0.1, 0.25, 0.9], [1, 10], repeats=50, seed=0)
    axes = figures.noise_figure(table, simulated=False).axes[0]
    assert set(_texts(axes)) == {r"$\beta$ = 1", "F = 0.1, 0.9", "F = 0.25"}
    noise = axes.lines[2].get_ydata()[0]
    assert noise == pytest.approx(np.log10(np.sqrt(0.25 * 0.75)))


def test_kl_figure_names_pairs_by_the_constant_that_they_level_off_at():
    """The constant is 5/2 (f'' - g'')^2 where f' = 1 at 1: of identity, square, log and the exponential 0, 1, -1, 1."""
    profiles = {name: asymptotics.PROFILES[name] for name in ("identity", "log", "square", "exponential")}
    table = tables.kl_table(profiles, list(np.logspace(-4, -1, 9)))
    axes = figures.kl_figure(table, tables.power_table(profiles, table, 1e-2)).axes[0]
    names = {frozenset(text.split("\n")) for text in _texts(axes)}
    assert frozenset({"log | square", "exponential | log"}) in names  # 10
    assert frozenset({"identity | square", "identity | log", "exponential | identity"}) in names  # 2.5
    assert frozenset({"exponential | square: of order 4"}) in names
    levels = {line.get_label(): line.get_ydata()[np.argmin(line.get_xdata())] for line in axes.lines}
    assert levels["log | square"] == pytest.approx(10, rel=1e-3)
    assert levels["identity | log"] == pytest.approx(2.5, rel=1e-3)
    assert sorted(line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":") == pytest.approx([2.5, 10])
    assert axes.get_xlim()[0] > axes.get_xlim()[1]  # beta falls to the right


def _lines(axes):
    """The lines of an axes that have a label, as (x, y)."""
    return {
        line.get_label(): (line.get_xdata(), line.get_ydata())
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def test_partition_gap_figure_draws_each_n_and_marks_the_betas():
    """Against sums over the ranks, which are uniform on 0, 1/n, ..., 1, and the integral of e^(t/beta)."""
    betas = [1e-3, 0.1, 1.0]
    axes = figures.partition_gap_figure(tables.partition_gap_table([1, 3, 20], betas), [0.1, 0.3]).axes[0]
    lines = _lines(axes)
    assert list(lines) == sorted(_texts(axes), key=lambda text: int(text[4:])) == ["n = 1", "n = 3", "n = 20"]
    for n, (x, y) in zip((1, 3, 20), lines.values(), strict=True):
        ranks = [np.logaddexp.reduce(np.arange(n + 1) / n / beta) - np.log(n + 1) for beta in betas]
        continuous = [1 / beta + np.log(beta * -np.expm1(-1 / beta)) for beta in betas]
        np.testing.assert_allclose(x, betas)
        np.testing.assert_allclose(y, np.subtract(ranks, continuous), rtol=1e-6)
    upright = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2 and line.get_ydata()[1] == 1]
    assert upright == [0.1, 0.3]
    assert axes.get_xscale() == "log"


def test_quantile_law_figure_draws_each_law():
    """Binomial(4, 0.4) has its steps at its distribution function; of n = 3 each of four values is as likely."""
    samples = 4000
    axes = figures.quantile_law_figure(tables.quantile_law_table(samples, n=3, seed=0)).axes[0]
    lines = _lines(axes)
    assert list(lines) == ["continuous", "5 tied values", "estimated, n = 3", "uniform"]
    ends = np.cumsum([math.comb(4, k) * 0.4**k * 0.6 ** (4 - k) for k in range(5)])
    expected = {
        "continuous": lambda q: q,
        "5 tied values": lambda q: np.r_[0, ends][np.searchsorted(ends, q + 1e-9, side="right")],
        "estimated, n = 3": lambda q: (np.floor(3 * q + 1e-9) + 1) / 4,
        "uniform": lambda q: q,
    }
    for label, (x, y) in lines.items():
        assert (x[0], x[-1], y[-1]) == (0, 1, 1)
        bound = 0 if label == "uniform" else 1.95 / np.sqrt(samples)  # of Kolmogorov's distance, at 0.001
        assert np.abs(y - expected[label](np.asarray(x))).max() <= bound
    assert {line.get_drawstyle() for line in axes.lines if line.get_label() != "uniform"} == {"steps-post"}


def test_target_figure_draws_bias_and_noise_at_one_beta():
    """The mean over t of the variance t (1 - t)/n is 1/(6 n); the rest by quadrature over the binomial law."""
    beta, counts = 0.1, [3, 10]
    left, right = figures.target_figure(tables.target_table(["identity", "log"], [0.5, beta], counts), beta).axes
    lines, noise = _lines(left), {label: y for label, (_, y) in _lines(right).items()}
    assert (list(lines), list(noise)) == (["log"], ["identity", "log"])
    assert "none: identity" in left.get_title()
    assert (_texts(left), set(_texts(right))) == (["log"], {"identity", "log"})
    np.testing.assert_allclose(noise["identity"], [np.sqrt(1 / (6 * n)) / beta for n in counts], rtol=1e-6)
    f = transforms.get("log")
    for i, n in enumerate(counts):
        values = f(f.clamp(np.arange(n + 1) / n, n))

        def moment(t, power, centre, n=n, values=values):
            return stats.binom.pmf(np.arange(n + 1), n, t) @ (values - centre) ** power

        squared, _ = integrate.quad(lambda t, m=moment: m(t, 1, np.log(t)) ** 2, 0, 1, limit=200)
        variance, _ = integrate.quad(lambda t, m=moment: m(t, 2, m(t, 1, 0.0)), 0, 1, limit=200)
        assert lines["log"][0][i] == n
        assert lines["log"][1][i] == pytest.approx(np.sqrt(squared) / beta, rel=1e-4)
        assert noise["log"][i] == pytest.approx(np.sqrt(variance) / beta, rel=1e-4)


def test_estimator_figure_draws_densities_and_moments():
    """From one reference reward, beta log Z-hat is that reward: 1/(2 beta) below beta log Z, with deviation 1."""
    betas, repeats = [0.1, 1.0], 5000
    moments = tables.noise_table(betas, [0.5], [1, 10], repeats=repeats, seed=0)
    errors = tables.histograms(tables.estimator_errors(betas, n=10, repeats=repeats, seed=1))
    left, right = figures.estimator_figure(errors, moments, 10).axes
    assert left.get_title() == "n = 10"
    labels = [rf"$\beta$ = {beta:g}" for beta in betas]
    assert set(_texts(right)) == set(labels)
    solid, dashed = ([line for line in right.lines if line.get_linestyle() == style] for style in ("-", "--"))
    for beta, label, bias, spread, density in zip(betas, labels, solid, dashed, left.patches, strict=True):
        assert (bias.get_label(), density.get_label()) == (label, label)
        assert same_color(bias.get_color(), spread.get_color())
        assert same_color(bias.get_color(), density.get_edgecolor())
        assert list(bias.get_xdata()) == list(spread.get_xdata()) == [1, 10]
        assert bias.get_ydata()[0] == pytest.approx(1 / (2 * beta), abs=4 / np.sqrt(repeats))
        assert spread.get_ydata()[0] == pytest.approx(1, abs=3 / np.sqrt(repeats))
        heights, edges, _ = density.get_data()
        shares = heights * np.diff(edges)
        assert shares.sum() == pytest.approx(1)
        middles = (edges[1:] + edges[:-1]) / 2
        mean = shares @ middles  # of other draws than the moments at n = 10
        assert -mean == pytest.approx(bias.get_ydata()[1], abs=0.05)
        assert np.sqrt(shares @ (middles - mean) ** 2) == pytest.approx(spread.get_ydata()[1], abs=0.05)
