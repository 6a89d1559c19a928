import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from qrpo_lib.results import length_bias


def made(slope, *, prompts=150, seeds=3, repeats=3, seed=0, noise=1.0):
    """Points whose y depends on x with a known slope."""
    generator = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([range(prompts), range(seeds), range(repeats)], names=["prompt_id", "seed", "r"])
    frame = index.to_frame(index=False)
    frame["x"] = generator.normal(0.5, 1.0, size=len(frame))
    frame["y"] = slope * frame["x"] + generator.normal(0, noise, size=len(frame))
    return frame


def test_points_are_standardised_lengths_and_log_ratios():
    evaluations = pd.DataFrame(
        {
            "prompt_id": ["a", "b", "c"],
            "seed": 0,
            "reward": 1.0,
            "length": [9, 30, 5],
            "logp": [-5.0, -9.0, 0],
            "ref_logp": [-8.0, -7, 0],
        }
    )
    lengths = {"a": [4, 6, 8], "b": [10, 20, 30], "c": [7, 7, 7]}
    references = pd.DataFrame([{"prompt_id": p, "length": n} for p, values in lengths.items() for n in values])
    points = length_bias.points(evaluations, references)
    assert points["prompt_id"].tolist() == ["a", "b"]  # c's references all have one length
    np.testing.assert_allclose(points["x"], [3 / 2, 1.0])
    assert points["y"].tolist() == [3.0, -2.0]


def test_what_is_kept():
    index = np.arange(100)
    inside = length_bias.kept(np.linspace(-1, 1, 100), index)
    assert index[inside].tolist() == list(range(3, 97))  # the percentiles of 0..99 are 2.97 and 96.03
    x = np.linspace(-4, 8, 100)
    inside = length_bias.kept(x, np.random.default_rng(0).permutation(100))
    assert x[inside].min() > -2
    assert x[inside].max() < 5
    assert 48 <= inside.sum() <= 57  # 57 have -2 < x < 5; the percentiles of y take at most 6, and fall on any x


def test_rho_agrees_with_scipy_also_with_ties():
    generator = np.random.default_rng(0)
    x, y = generator.integers(-1, 4, size=500).astype(float), generator.normal(size=500)
    y += 0.3 * x
    mask = length_bias.kept(x, y)
    assert length_bias.spearman(x, y) == pytest.approx(stats.spearmanr(x[mask], y[mask]).statistic, rel=1e-12)


def test_interval_holds_the_known_correlation_and_tells_two_policies_apart():
    many = made(1.0, prompts=20_000)
    truth = length_bias.spearman(many["x"].to_numpy(), many["y"].to_numpy())
    assert truth < 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2)  # a bivariate normal's rho, which trimming lowers
    intervals = [length_bias.correlation(made(1.0, seed=seed)) for seed in range(1, 5)]
    assert sum(rho.low < truth < rho.high for rho in intervals) >= 3
    assert all(rho.high - rho.low < 0.4 for rho in intervals)  # of three seeds, which cannot show how much seeds vary
    biased, unbiased = made(1.0), made(0.0, seed=1)
    none = length_bias.correlation(unbiased)
    assert none.low < 0 < none.high
    policies = {"a": biased, "b": unbiased, "c": made(1.0, seed=2)}
    assert length_bias.contrast(policies, ("a", "c"), ("b",)).low > 0.4
    same = length_bias.contrast(policies, ("c",), ("a",))
    assert same.low < 0 < same.high


def test_without_variation_there_is_no_correlation():
    assert length_bias.spearman(np.ones(10), np.arange(10.0)) == 0.0


def test_the_figure_shows_every_algorithm_in_a_panel_of_its_own():
    drawn = {"dpo": made(1.0), "qrpo": made(0.0, seed=1)}
    figure = length_bias.draw(drawn)
    plt.close(figure)
    slopes = {}
    for axis, (name, points), label in zip(figure.axes, drawn.items(), ("DPO", "QRPO"), strict=True):
        x, y = points["x"].to_numpy(), points["y"].to_numpy()
        assert axis.get_title() == f"{label}, $\\rho = {length_bias.spearman(x, y):.2f}$"
        mask = length_bias.kept(x, y)
        np.testing.assert_allclose(axis.collections[0].get_offsets(), np.column_stack([x[mask], y[mask]]))
        (line,) = [line for line in axis.lines if line.get_linewidth() == 4]
        (ends, heights), slopes[name] = line.get_data(), np.polyfit(x[mask], y[mask], 1)[0]
        assert np.diff(heights)[0] / np.diff(ends)[0] == pytest.approx(slopes[name])
        (other,) = [line for line in axis.lines if line.get_color() == "dimgray"]
        assert len(other.get_xdata()) == 2
        (middle,) = [line for line in axis.lines if len(line.get_xdata()) == 1]
        np.testing.assert_allclose(middle.get_xydata(), [[x[mask].mean(), y[mask].mean()]])
