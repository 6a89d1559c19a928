import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from qrpo_lib.paper import rules
from qrpo_lib.paper.claims import Judgement
from qrpo_lib.results import power, statistics
from qrpo_lib.results.statistics import Interval


def test_of_a_normal_estimate_it_is_the_textbooks():
    assert power.found(1.96, "superiority") == pytest.approx(1.96 + 0.8416, abs=1e-3)
    assert power.found(1.96, "equivalence") == pytest.approx(1.96 + 1.2816, abs=1e-3)
    assert power.found(math.inf, "superiority") == math.inf


@pytest.mark.parametrize(
    ("kind", "truth_is_0"), [("superiority", False), ("non-inferiority", True), ("equivalence", True)]
)
def test_over_five_worlds_four_in_five_samples_decide(kind, truth_is_0):
    """With an effect (or a margin) of that size, rules support in 80 % of samples; their mean width gives the size."""
    generator = np.random.default_rng(0)
    error, worlds = 1 / np.sqrt(5), 5
    size = power.found(stats.t.ppf(0.975, 4) * error, kind, worlds - 1)
    means = generator.normal(0.0 if truth_is_0 else size, 1.0, size=(4000, worlds))
    said = [rules.apply(kind, {"gap": statistics.over_worlds(of)}, effect=size).verdict for of in means]
    assert said.count("supported") / len(said) == pytest.approx(0.8, abs=0.02)


def judgement(claim, kind, values, effect, verdict="undecided"):
    empty = dict.fromkeys(
        ("section", "origin", "statement", "number", "rule", "limits", "rule_version", "measured"), ""
    )
    empty |= dict.fromkeys(("effect_words", "reason", "evidence"), "")
    values = {n: {"estimate": i.mean, "low": i.low, "high": i.high} for n, i in values.items()}
    return Judgement(id=claim, kind=kind, values=values, effect=effect, profile="tiny, chat", verdict=verdict, **empty)


def test_the_table_has_the_widest_interval_of_each_claim_and_what_is_needed():
    rows = power.table(
        [
            judgement("wide", "superiority", {"a": Interval(0, -1, 1, 9), "b": Interval(0, -2, 2, 9)}, 1.0),
            judgement("narrow", "equivalence", {"a": Interval(0, -0.1, 0.1, 9)}, 1.0),
            judgement("signs", "sign", {"a": Interval(0, -1, 1, 9)}, None),
            judgement("theory", "exact", {}, None, "supported"),
            judgement("nothing", "trend", {}, 1.0, "undecided"),
        ]
    )
    assert rows["claim"].tolist() == ["wide", "narrow", "signs", "nothing"]
    wide = rows.iloc[0]
    assert (wide["interval"], wide["half_width"]) == ("b", 2)
    assert wide["times"] == pytest.approx((2 * 2.8016 / 1.96) ** 2, rel=1e-3)
    said = power.needed(rows)
    assert said[0].startswith("wide (tiny, chat): 8.2 times as much data")
    assert "once more" in said[1]
    assert "1.43 or more would have been seen" in said[2]
    assert "nothing was measured" in said[3]


def test_of_an_undecided_claim_it_is_the_widest_interval_that_leaves_it_so():
    decided, still_open = Interval(9, 5, 13, 9), Interval(0.5, -0.5, 1.5, 9)
    rows = power.table([judgement("gain", "superiority", {"gain": decided, "fall": still_open}, 1.0)])
    assert rows.loc[0, "interval"] == "fall"
    rows = power.table([judgement("gain", "superiority", {"gain": decided, "fall": still_open}, 1.0, "supported")])
    assert rows.loc[0, "interval"] == "gain"
    signs = judgement("sign", "sign", {"chosen": Interval(-9, -13, -5, 9), "rejected": still_open}, None)
    signs.values["chosen"]["predicted"] = -1
    assert power.table([signs]).loc[0, "interval"] == "rejected"


@pytest.mark.parametrize(
    ("kind", "size_matters"), [("superiority", True), ("non-inferiority", False), ("equivalence", False)]
)
@pytest.mark.parametrize("effect", [0.9, 2.5])
def test_so_many_worlds_decide_with_80_percent_and_one_fewer_do_not(kind, size_matters, effect):
    """Worlds that differ by 1: the half-width of few of them says how many are needed; draws of so many confirm it."""
    few = 4
    half_width = stats.t.ppf(0.975, few - 1) / np.sqrt(few)
    needed = power.worlds_needed(half_width, kind, few, effect)
    generator = np.random.default_rng(0)

    def decided(count):
        means = generator.normal(effect if size_matters else 0.0, 1.0, size=(4000, int(count)))
        said = [rules.apply(kind, {"gap": statistics.over_worlds(of)}, effect=effect).verdict for of in means]
        return said.count("supported") / len(said)

    assert decided(needed) > 0.78
    assert decided(needed - 1) < 0.81
    assert power.worlds_needed(half_width, kind, few, 1e-9) == math.inf


def test_the_table_counts_the_worlds_of_each_claim():
    """A claim that one world less could test has another law."""
    values = {"gap": Interval(0.3, -1.0, 1.6, 4)}
    judged = [judgement("all", "superiority", values, 0.5), judgement("one less", "superiority", values, 0.5)]
    rows = power.table(judged, {"all": 4, "one less": 3}).set_index("claim")
    for claim, worlds in (("all", 4), ("one less", 3)):
        row = rows.loc[claim]
        assert row["found"] == pytest.approx(power.found(1.3, "superiority", worlds - 1))
        assert row["worlds"] == worlds
        assert row["times"] * worlds == power.worlds_needed(1.3, "superiority", worlds, 0.5)
    said = power.needed(
        power.table([judged[0], judgement("hopeless", "trend", values, 1e-9)], {"all": 4, "hopeless": 4})
    )
    assert f"{power.worlds_needed(1.3, 'superiority', 4, 0.5)} worlds in place of 4" in said[0]
    assert "more than 10,000 worlds" in said[1]


def test_the_reach_of_a_distance_is_its_longer_side():
    """A distance of 0.01 with a low end of 0 reaches as far up as it would have down."""
    rows = power.table([judgement("uniform", "equivalence", {"distance": Interval(0.01, 0.0, 0.07, 96)}, 0.1)])
    assert rows["half_width"].item() == pytest.approx(0.06)


def test_the_picture_has_a_point_for_each_claim_that_could_be_measured():
    values = {"gap": Interval(0.0, -0.2, 0.2, 96, 3)}
    judged = [judgement("wide", "superiority", values, 0.05), judgement("narrow", "superiority", values, 5.0)]
    judged += [judgement("unmeasured", "superiority", {}, 0.05)]
    judged += [judgement("nothing matters", "superiority", values, 0.0)]  # of a scale that came out as 0
    figure = power.draw(power.table(judged))
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["narrow (tiny, chat)", "wide (tiny, chat)"]
    points = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "s"]
    assert points == pytest.approx([0.2 / 1.96 * 2.8016 / 5, 0.2 / 1.96 * 2.8016 / 0.05], rel=1e-3)
    assert power.draw(power.table([])).axes  # nothing to show is no error
    plt.close("all")
