"""Figures of the studies beyond the paper show what was judged."""

import pytest

from qrpo_lib.paper import claims
from qrpo_lib.results import beyond_figures
from qrpo_lib.results.statistics import Interval


def test_the_figure_of_differences_shows_every_interval_that_was_judged(tmp_path):
    ledger = claims.Ledger(tmp_path, "tiny-beyond, chat", "chat")
    gaps = {"A - B": Interval(0.5, 0.4, 0.6, n=9, seeds=2), "C - B": Interval(-0.5, -0.6, -0.4, n=9, seeds=2)}
    judged = ledger.judge("values-train-as-well", gaps, scale=1.0)
    rows = beyond_figures.difference_table([judged])
    assert rows["difference"].tolist() == ["A - B", "C - B"]
    assert rows["high"].tolist() == [0.6, -0.4]
    assert (rows["smallest_effect"] == judged.effect).all()
    (axis,) = beyond_figures.differences(rows).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["A - B", "C - B"]
    assert [text.get_text() for text in axis.texts] == [judged.verdict] * 2
    band = axis.patches[0]
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((-judged.effect, judged.effect))
