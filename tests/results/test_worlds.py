import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from qrpo_lib.paper import claims
from qrpo_lib.results import worlds
from qrpo_lib.results.statistics import Interval

ARMS = {world: f"chat-world-{world}" for world in range(5)}


@pytest.fixture
def figures(tmp_path):
    """Verdicts of five worlds, written as their notebooks write them."""

    def write(claim, estimates, *, untrained=(), names=None, predicted=None, scale=0.2):
        for world, estimate in enumerate(estimates):
            ledger = claims.Ledger(tmp_path / f"mine/{ARMS[world]}", f"mine, {ARMS[world]}", "chat")
            name = names[world] if names else "QRPO - DPO"
            ledger.judge(
                claim,
                {name: Interval(estimate, estimate - 1, estimate + 1, 96, 3)},
                scale=scale if claims.get(claim).effect else None,
                predicted={name: predicted[world]} if predicted else None,
                untrained=["QRPO"] if world in untrained else (),
            )
        return worlds.recorded(tmp_path, "mine", ARMS)[claim]

    return write


def judged(tmp_path, claim, of_worlds):
    return claims.Ledger(tmp_path / "mine/chat", "mine, chat", "chat").judge(claim, **worlds.pooled(of_worlds))


def test_the_pool_is_students_interval_of_the_worlds(figures, tmp_path):
    estimates = [0.30, 0.35, 0.25, 0.31, 0.29]
    pool = judged(tmp_path, "dpo-raises-reward", figures("dpo-raises-reward", estimates))
    theirs = stats.ttest_1samp(estimates, 0).confidence_interval(0.95)
    assert (pool.values["QRPO - DPO"]["low"], pool.values["QRPO - DPO"]["high"]) == pytest.approx(
        tuple(theirs), rel=1e-4
    )
    assert (pool.verdict, pool.profile) == ("supported", "mine, chat")  # each world alone was undecided
    assert pool.effect == pytest.approx(0.01)  # 5 % of 0.2 in each world
    assert "5 worlds" in pool.measured


def test_one_untrained_world_is_left_out_and_two_are_too_many(figures, tmp_path):
    estimates = [0.30, 0.35, 0.25, 0.31, -9.0]
    pool = judged(tmp_path, "dpo-raises-reward", figures("dpo-raises-reward", estimates, untrained=[4]))
    assert pool.verdict == "supported"
    assert "world 4 left out" in pool.measured
    pool = judged(tmp_path, "dpo-raises-reward", figures("dpo-raises-reward", estimates, untrained=[0, 4]))
    assert (pool.verdict, pool.reason[:25]) == ("not testable", "testable in 3 of 5 worlds")


def test_worlds_that_nobody_has_made_are_named(figures, tmp_path):
    of_worlds = figures("dpo-raises-reward", [0.30, 0.35, 0.25, 0.31], untrained=[1])
    pool = worlds.pooled(of_worlds, ARMS)
    assert "world 1 left out: " in pool["measured"]
    assert pool["measured"].endswith("; world 4 not made")
    few = worlds.pooled({world: of_worlds[world] for world in (0, 2)}, ARMS)
    assert few["absent"] == "testable in 2 of 5 worlds; world 1, 3, 4 not made"
    assert "not made" not in worlds.pooled(of_worlds, of_worlds)["measured"]


def test_an_estimate_of_one_seed_counts_in_the_pool(tmp_path):
    """Alone in its world it decides nothing."""
    for world, seeds in enumerate((1, 3, 3)):
        reach = np.inf if seeds == 1 else 0.1
        ledger = claims.Ledger(tmp_path / f"mine/{ARMS[world]}", f"mine, {ARMS[world]}", "chat")
        values = {
            "a": Interval(-1.0 - world / 9, -1.0 - reach, -1.0 + reach, 0, seeds),
            "b": Interval(-2, -3, -1, 0, 3),
        }
        judged_alone = ledger.judge("off-policy-probabilities-fall", values, predicted=dict.fromkeys(values, -1))
        assert judged_alone.verdict == "supported"
    of_worlds = worlds.recorded(tmp_path, "mine", ARMS)["off-policy-probabilities-fall"]
    pool = judged(tmp_path, "off-policy-probabilities-fall", of_worlds)
    assert pool.values["a"]["estimate"] == pytest.approx(-1 - 1 / 9, rel=1e-5)
    assert pool.verdict == "supported"


def test_three_worlds_are_the_least(figures, tmp_path):
    of_worlds = figures("dpo-raises-reward", [0.3, 0.3])
    assert judged(tmp_path, "dpo-raises-reward", of_worlds).verdict == "not testable"


def test_names_are_matched_without_what_one_world_knows(figures, tmp_path):
    names = [f"offline, chosen (R_q 0.8{world})" for world in range(5)]
    of_worlds = figures("chosen-rise-above-threshold", [0.1, 0.2, 0.1, 0.2, 0.1], names=names, predicted=[1] * 5)
    pool = judged(tmp_path, "chosen-rise-above-threshold", of_worlds)
    assert (list(pool.values), pool.verdict) == (["offline, chosen"], "supported")
    of_worlds = figures("chosen-rise-above-threshold", [0.1] * 5, names=names, predicted=[1, 1, -1, 1, 1])
    pool = judged(tmp_path, "chosen-rise-above-threshold", of_worlds)
    assert pool.values["offline, chosen, times its predicted sign"]["estimate"] == pytest.approx(0.06)


def test_a_cell_that_contradicts_where_its_sign_is_predicted_otherwise_stays_in(figures, tmp_path):
    """Thrown out because one world predicts the other sign, it would leave the pool supported by nothing."""
    of_worlds = figures("chosen-rise-above-threshold", [1.3, -1.2, -1.3, -1.2, -1.25], predicted=[-1, 1, 1, 1, 1])
    pool = judged(tmp_path, "chosen-rise-above-threshold", of_worlds)
    assert (pool.verdict, pool.values["QRPO - DPO, times its predicted sign"]["predicted"]) == ("contradicted", 1)


def test_an_interval_that_one_world_lacks_leaves_a_claim_untested(tmp_path):
    """Its other worlds contradict by it; without it the pool would be supported."""
    for world, arm in ARMS.items():
        ledger = claims.Ledger(tmp_path / f"mine/{arm}", f"mine, {arm}", "chat")
        gaps = {"QRPO - DPO": 0.1} | ({} if world == 4 else {"QRPO - SimPO": -1.0})
        gaps = {name: Interval(gap + world / 1000, gap - 0.01, gap + 0.01, 96, 3) for name, gap in gaps.items()}
        ledger.judge("qrpo-first-or-ties", gaps, scale=1.0)
    pool = judged(tmp_path, "qrpo-first-or-ties", worlds.recorded(tmp_path, "mine", ARMS)["qrpo-first-or-ties"])
    assert (pool.verdict, pool.reason) == ("not testable", "not measured in every world: QRPO - SimPO")


def test_a_gain_is_over_the_start_that_each_world_selects(figures, tmp_path):
    names = ["gain over SFT"] * 4 + ["gain over initial policy"]
    pool = judged(
        tmp_path, "dpo-raises-reward", figures("dpo-raises-reward", [0.3, 0.35, 0.25, 0.31, 0.29], names=names)
    )
    assert (list(pool.values), pool.verdict) == (["gain over its start"], "supported")


def test_the_smallest_effect_is_the_mean_of_the_worlds_that_are_pooled(figures, tmp_path):
    """One world is left out, and its effect with it, however large."""
    scales = [0.2, 0.4, 0.6, 1.2, 400.0]
    for world, arm in ARMS.items():
        claims.Ledger(tmp_path / f"mine/{arm}", f"mine, {arm}", "chat").judge(
            "dpo-raises-reward",
            {"gain": Interval(0.3, 0.2, 0.4, 96, 3)},
            scale=scales[world],
            untrained=["DPO"] if world == 4 else (),
        )
    pool = judged(tmp_path, "dpo-raises-reward", worlds.recorded(tmp_path, "mine", ARMS)["dpo-raises-reward"])
    assert pool.effect == pytest.approx(0.05 * 0.6)  # the mean; the median is 0.5


def test_worlds_that_decide_otherwise_are_named(figures, tmp_path):
    of_worlds = figures("dpo-raises-reward", [2.0, 0.1, 0.2, 0.1, -2.0])
    pool = judged(tmp_path, "dpo-raises-reward", of_worlds)
    table = worlds.spread({"dpo-raises-reward": of_worlds}, [pool]).iloc[0]
    said = [table[verdict] for verdict in ("pool", "supported", "contradicted", "undecided", "not testable")]
    assert said == ["undecided", "0", "4", "1, 2, 3", ""]
    rows = worlds.estimates({"dpo-raises-reward": of_worlds})
    assert rows["estimate"].tolist() == [2.0, 0.1, 0.2, 0.1, -2.0]
    assert np.allclose(rows["effect"], 0.01)


def test_without_a_scale_in_any_world_the_pool_is_not_testable(tmp_path):
    for arm in ARMS.values():
        claims.Ledger(tmp_path / f"mine/{arm}", f"mine, {arm}", "chat").judge("dpo-raises-reward", absent="no DPO")
    of_worlds = worlds.recorded(tmp_path, "mine", ARMS)["dpo-raises-reward"]
    assert judged(tmp_path, "dpo-raises-reward", of_worlds).verdict == "not testable"


def test_the_picture_has_every_world_and_the_pool_in_units_of_the_smallest_effect(figures, tmp_path):
    estimates = [0.30, 0.35, 0.25, 0.31, 0.29]
    of_worlds = {"dpo-raises-reward": figures("dpo-raises-reward", estimates)}
    # A rule of signs has no smallest effect, and an untrained pool no interval.
    of_worlds["off-policy-probabilities-fall"] = figures("off-policy-probabilities-fall", estimates, predicted=[-1] * 5)
    of_worlds["qrpo-raises-reward"] = figures("qrpo-raises-reward", estimates, untrained=range(5))
    pools = [judged(tmp_path, claim, of) for claim, of in of_worlds.items()]
    (axis,) = worlds.draw(worlds.estimates(of_worlds), pools).axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["qrpo-raises-reward: QRPO - DPO", "dpo-raises-reward: QRPO - DPO"]
    points = [line.get_xdata() for line in axis.lines if line.get_marker() == "o"]
    assert all(of_claim == pytest.approx(np.array(estimates) / 0.01) for of_claim in points)
    (pool,) = [line.get_xdata() for line in axis.lines if line.get_marker() == "D"]
    assert pool == pytest.approx([0.30 / 0.01])
    plt.close("all")
