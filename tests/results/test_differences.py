"""The figure of differences: every interval that was judged, below the verdict that rests on it, units apart."""

import matplotlib.pyplot as plt
import pytest

from qrpo_lib.paper import claim_views, claims
from qrpo_lib.results import differences
from qrpo_lib.results.statistics import Interval


@pytest.fixture
def judged(tmp_path):
    ledger = claims.Ledger(tmp_path, "tiny-beyond, chat", "chat")
    gaps = {"A - B": Interval(0.5, 0.4, 0.6, n=9, seeds=2), "C - B": Interval(-0.5, -0.6, -0.4, n=9, seeds=2)}
    ledger.judge("values-train-as-well", gaps, scale=1.0)
    name = "KL renewed - fixed"
    renewed = {name: Interval(2.0, 1.0, 3.0, n=9, seeds=2)}
    ledger.judge("renewed-references-go-further-online", renewed, predicted={name: 1})
    ledger.judge("estimated-z-error-in-use", 1.0)
    yield ledger.judged
    plt.close("all")


UNITS = {"renewed-references-go-further-online": "KL in nats"}


def test_a_row_for_each_interval_with_its_unit_and_verdict(judged):
    rows = differences.table(judged, UNITS, unit="win rate")
    assert rows["difference"].tolist() == ["A - B", "C - B", "KL renewed - fixed"]
    assert rows["high"].tolist() == [0.6, -0.4, 3.0]
    assert rows["unit"].tolist() == ["win rate", "win rate", "KL in nats"]
    assert rows["verdict"].tolist() == [judged[0].verdict] * 2 + [judged[1].verdict]


def test_units_have_panels_of_their_own_and_claims_their_statement(judged):
    axes = differences.draw(differences.table(judged, UNITS)).axes
    names = [[label.get_text() for label in axis.get_yticklabels()] for axis in axes]
    assert names == [["A - B", "C - B"], ["KL renewed - fixed"]]
    assert ["reward" in axis.get_xlabel() for axis in axes] == [True, False]
    assert all("95 %" in axis.get_xlabel() for axis in axes)
    for axis, one in zip(axes, judged, strict=False):
        (words,) = axis.texts
        assert " ".join(words.get_text().split()) == f"{one.verdict.upper()}: {one.statement}"
        assert words.get_color() == claim_views.COLORS[one.verdict]
    band = axes[0].patches[0]
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((-judged[0].effect, judged[0].effect))
    assert not axes[1].patches  # its rule has no smallest effect


def test_statements_cover_no_mark(judged):
    figure = differences.draw(differences.table(judged, UNITS))
    figure.canvas.draw()
    for axis in figure.axes:
        (words,) = axis.texts
        box = words.get_window_extent()
        heights = [axis.transData.transform((0, place))[1] for place in axis.get_yticks()]
        assert all(height < box.y0 or height > box.y1 for height in heights)
        assert box.x1 <= figure.bbox.x1


def test_nothing_judged_says_so():
    (axis,) = differences.draw(differences.table([])).axes
    assert "No verdict rests on a difference" in axis.texts[0].get_text()
