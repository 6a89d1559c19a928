import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from qrpo_lib.paper import style
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import best_models, figures


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_bars_end_at_the_values_in_the_papers_order():
    rows = pd.DataFrame({"method": ["qrpo", "dpo", "rebel"], "value": [3.0, 2.0, 1.0], "error": 0.1})
    rows = pd.concat([rows, pd.DataFrame({"method": ["initial"], "value": [0.5], "error": [0.1]})], ignore_index=True)
    rows["bold"], rows["trained"] = rows["method"] == "qrpo", rows["method"] != "dpo"
    axis = figures.draw_best_models(rows, "title", "reward").axes[0]
    bars = [patch for patch in axis.patches if patch.get_width() < 1]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["REBEL", "DPO", "QRPO"]
    np.testing.assert_allclose([bar.get_y() + bar.get_height() for bar in bars], [1.0, 2.0, 3.0])
    assert axis.get_ylim()[0] < 0.5
    weights = {text.get_text(): text.get_weight() for text in axis.texts}
    assert (weights["3.000"], weights["2.000"]) == ("bold", "normal")
    assert [bool(bar.get_hatch()) for bar in bars] == [False, True, False]  # DPO's model is untrained
    assert [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"] == [0.5]


def test_the_papers_own_figure_1_is_drawn_beside_ours():
    rows = pd.DataFrame({"method": ["qrpo", "dpo"], "value": [3.0, 2.0], "error": 0.1, "bold": False, "trained": True})
    papers = best_models.published_figure_1_rows(profiles.load("tiny", "code"))
    ours, theirs = figures.draw_best_models(rows, "title", "reward", 1, papers).axes
    assert ours.get_title() == "title"
    assert "Table 2" in theirs.get_title()
    bars = [patch for patch in theirs.patches if patch.get_width() < 1]
    np.testing.assert_allclose([bar.get_y() + bar.get_height() for bar in bars], [26.1, 30.2, 22.3, 32.7])
    weights = {text.get_text(): text.get_weight() for text in theirs.texts}
    assert (weights["32.7"], weights["26.1"]) == ("bold", "normal")
    chat = best_models.published_figure_1_rows(profiles.load("tiny", "chat")).set_index("method")["value"]
    assert (chat["qrpo"], chat["initial"]) == (0.2005, 0.1518)


def test_each_algorithm_is_drawn_in_its_own_look():
    rows = pd.DataFrame({"method": ["qrpo", "simpo", "dpo", "rebel"], "value": 1.0, "error": 0.1})
    rows["bold"], rows["trained"] = False, True
    axis = figures.draw_best_models(rows, "title", "reward").axes[0]
    bars = [patch for patch in axis.patches if patch.get_width() < 1]
    drawn = {label.get_text(): bar.get_facecolor() for label, bar in zip(axis.get_xticklabels(), bars, strict=True)}
    curves = pd.DataFrame(
        [
            {"algorithm": name, "seed": 0, "step": step, "reward": level + step}
            | {"chosen_log_ratio": -level, "rejected_log_ratio": 2 * level}
            for level, name in enumerate(("qrpo", "dpo", "simpo", "rebel"), start=1)
            for step in (0, 1)
        ]
    )
    panels = figures.draw_training_curves(curves).axes
    for level, name in enumerate(("qrpo", "dpo", "simpo", "rebel"), start=1):
        look = style.ALGORITHMS[name]
        assert drawn[look.label] == mpl.colors.to_rgba(look.color, alpha=0.8)
        for panel, values in zip(panels, ([level, level + 1], [-level] * 2, [2 * level] * 2), strict=True):
            lines = [line for line in panel.lines if list(line.get_ydata()) == values]
            assert {(line.get_color(), line.get_marker()) for line in lines} == {
                (look.color, "None"), (look.color, look.marker)
            }  # fmt: skip
    labels = [text.get_text() for text in panels[-1].texts]
    assert sorted(labels) == ["DPO", "QRPO", "REBEL", "SimPO"]


def test_scaling_has_a_panel_for_each_beta_with_both_lines():
    rows = pd.DataFrame(
        [
            {"setting": setting, "beta": beta, "num_ref_rewards": n, "reward": n * beta, "error": 0.1}
            for setting in ("off-policy", "offline")
            for beta in (0.1, 0.01)
            for n in (50, 1, 10)
        ]
    )
    axes = figures.draw_scaling(rows).axes
    assert len(axes) == 2
    for axis, beta in zip(axes, (0.01, 0.1), strict=True):
        assert axis.get_xscale() == "log"
        assert {text.get_text() for text in axis.texts} == {"off-policy", "offline"}
        assert axis.get_title() == f"$\\beta$ = {beta}"
        assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "10", "50"]
        line = axis.containers[0].lines[0]
        np.testing.assert_allclose(np.asarray(line.get_xdata(), dtype=float), [1, 10, 50])
        np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), [beta, 10 * beta, 50 * beta])


def test_log_ratios_have_a_row_for_each_side_of_the_threshold():
    curves = pd.DataFrame(
        [
            {"beta": b, "seed": s, "step": step, "chosen_log_ratio": b * step + s, "rejected_log_ratio": -step}
            for b in (0.1, 0.001)
            for s in (0, 1)
            for step in (0, 10)
        ]
    )
    axes = figures.draw_log_ratios(curves).axes
    assert len(axes) == 4
    means = [line for line in axes[0].lines if line.get_linewidth() > 2]
    np.testing.assert_allclose(means[0].get_ydata(), [0.5, 1.5])


def test_figures_are_the_same_byte_for_byte(tmp_path):
    rows = pd.DataFrame({"transform": ["identity", "log"], "reward": [1.0, 2.0], "low": [0.9, 1.8], "high": [1.1, 2.3]})
    made = [
        [p.read_bytes() for p in style.save(figures.draw_transformations(rows, 0.8), "f", rows, tmp_path / name)]
        for name in ("a", "b")
    ]
    assert made[0] == made[1]
