"""Cells of the studies beyond the paper: what is matched with what, interpolation, best of N, theory beside draws."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qrpo_lib.paper import style
from qrpo_lib.results import beyond, beyond_figures

SMALLEST = Path(__file__).parents[1] / "data" / "smallest-beyond.toml"


def cell(label, beta, n=None, reward=0.0, kl=0.0, selection=0.0):
    """A cell of two seeds and three prompts that are all alike but for a little."""
    shape = np.array([[0.0, 0.1, -0.1], [0.1, -0.1, 0.0]])
    same = {"length": shape + 10, "length_correlation": shape}
    return beyond.Cell(label, beta, n, (0, 1), shape + reward, shape * 0 + kl, selection=selection, **same)


def study(*cells):
    return {(one.label, one.beta, one.num_ref_rewards): one for one in cells}


MADE = study(
    cell("A", 0.1, 3, 1.0, 0.2, selection=0.3),
    cell("A", 0.3, 3, 2.0, 0.4, selection=0.9),
    cell("A", 0.1, 50, 3.0, 0.6, selection=0.5),
    cell("A", 0.3, 50, 4.0, 0.8, selection=0.1),
    cell("B", 0.28, 50, 7.0, 0.1),
    cell("B", 0.83, 50, 6.0, 0.5),
    cell("B", 0.28, 3, 5.0, 0.3),
    cell("B", 0.83, 3, 4.5, 0.2),
    cell("V", 0.28, None, 9.0, 0.3),
    cell("V", 0.83, None, 8.0, 0.9),
)


def named(pairs):
    return [(one.name, other.name) for one, other in pairs]


def test_cells_are_matched_by_references_and_by_the_rank_of_beta():
    assert named(beyond.matched(MADE, "B", "A")) == [
        ("B, beta 0.28, n = 3", "A, beta 0.1, n = 3"),
        ("B, beta 0.83, n = 3", "A, beta 0.3, n = 3"),
        ("B, beta 0.28, n = 50", "A, beta 0.1, n = 50"),
        ("B, beta 0.83, n = 50", "A, beta 0.3, n = 50"),
    ]
    without = named(beyond.matched(MADE, "V", "A"))
    assert without == [("V, beta 0.28", "A, beta 0.1, n = 3"), ("V, beta 0.83", "A, beta 0.3, n = 3")]
    assert named(beyond.at_most_and_fewest(MADE, "B"))[0] == ("B, beta 0.28, n = 50", "B, beta 0.28, n = 3")


def test_a_mean_difference_is_over_all_pairs():
    gap = beyond.mean_difference(beyond.matched(MADE, "B", "A"))
    assert gap.mean == pytest.approx(np.mean([5 - 1, 4.5 - 2, 7 - 3, 6 - 4]))
    assert (gap.n, gap.seeds) == (3, 2)


def test_the_selection_prompts_choose_beta():
    assert beyond.best(MADE, "A").name == "A, beta 0.3, n = 3"
    assert beyond.gain(MADE, "A", np.full((1, 3), 0.5)) == pytest.approx(1.5)
    with pytest.raises(KeyError, match="no method 'C'"):
        beyond.best(MADE, "C")


def test_rewards_at_a_kl_lie_between_the_cells_around_it():
    """From the policy before training at 0 nats on; a reward that grows as the root of the KL is met at every KL."""
    start = np.full((1, 3), 0.5)
    kls = {0.3: 0.2, 0.1: 0.6, 0.05: 0.6}  # by beta
    made = study(*(cell("A", beta, None, 0.5 + 2 * kl**0.5, kl) for beta, kl in kls.items()))
    for kl in (0.0, 0.1, 0.2, 0.5, 0.6):
        assert beyond.at_kl(made, "A", kl, start).mean() == pytest.approx(0.5 + 2 * kl**0.5)
    assert beyond.largest_common_kl(made | study(cell("B", 1, None, 0.0, 0.5)), ["A", "B"]) == 0.5
    with pytest.raises(ValueError, match="reaches a KL of"):
        beyond.at_kl(made, "A", 0.7, start)


def test_a_beta_at_an_end_of_those_tried_is_told():
    three = [cell("A", beta, 3, selection=abs(beta - 0.3)) for beta in (0.1, 0.3, 0.4)]
    assert beyond.chosen(study(*three), "A") == "A, beta 0.1, n = 3 (the smallest tried)"
    assert beyond.chosen(study(*three[1:]), "A") == "A, beta 0.4, n = 3 (the largest tried)"
    assert beyond.chosen(study(cell("A", 0.3, 3, selection=1.0), three[0], three[2]), "A") == "A, beta 0.3, n = 3"
    assert beyond.chosen(study(three[1]), "A") == "A, beta 0.3, n = 3"


def test_best_of_n_by_order_statistics():
    """Against every subset of a few rewards; and the win rate of the best of N of a continuous law is N/(N + 1)."""
    from itertools import combinations

    rewards = np.array([0.5, -1.0, 2.0, 2.0, 7.0])
    expected = np.mean([max(some) for some in combinations(rewards, 3)])
    assert beyond.sampled_best_of({"a": rewards}, 3) == pytest.approx([expected])
    drawn = np.random.default_rng(0).random((40_000, 4)).max(1)
    many = np.random.default_rng(1).random(2000)
    answers = pd.DataFrame({"prompt_id": "a", "reward": drawn})
    assert beyond.win_rates(answers, {"a": many})[0] == pytest.approx(beyond.known_win_rate(4), abs=0.01)


def test_ties_count_half_in_a_win_rate():
    answers = pd.DataFrame({"prompt_id": ["b", "a", "a"], "reward": [1.0, 1.0, 3.0]})
    rates = beyond.win_rates(answers, {"a": np.array([1.0, 2.0]), "b": np.array([1.0])})
    assert rates.tolist() == [(0.25 + 1) / 2, 0.5]


def test_gains_are_by_prompt():
    """What makes prompts differ before and after training alike is not in the interval of the gain."""
    level = np.array([[0.0, 50.0, -50.0]])
    one = cell("A", 0.1, 3)
    moved = beyond.Cell("A", 0.1, 3, (0, 1), one.reward + level + 2, one.kl, one.length, one.length_correlation, 0.0)
    (row,) = beyond.table(study(moved), level).to_dict("records")
    assert row["gain"] == pytest.approx(2)
    assert row["gain_high"] - row["gain_low"] < 1 < row["high"] - row["low"]


def test_a_line_has_its_methods_look_and_name_and_a_larger_mark_for_a_larger_beta():
    rows = beyond.table(MADE, np.zeros((1, 3)))
    rows["method"] = rows["method"].replace({"A": "QRPO", "B": "RPO", "V": "somebody's own"})
    figure = beyond_figures.frontier(rows[rows["references"] != 50])
    figure.canvas.draw()
    (axis,) = figure.axes
    orange = [line for line in axis.lines if line.get_color() == style.ALGORITHMS["qrpo"].color]
    marks = [line for line in orange if line.get_marker() == style.ALGORITHMS["qrpo"].marker]
    by_kl = sorted(marks, key=lambda mark: mark.get_xdata()[0])  # beta 0.1 at 0.2 nats, 0.3 at 0.4
    assert by_kl[0].get_markersize() < by_kl[1].get_markersize()
    assert [text.get_text() for text in axis.texts] == ["QRPO", "RPO", "somebody's own"]
    assert axis.get_legend() is None
    assert not figure.legends
    assert "95 % intervals" in axis.get_ylabel()
    panels = beyond_figures.frontier(rows, by_references=True).axes
    assert [panel.get_title() for panel in panels] == ["no references", "3 references", "50 references"]
