"""The rules of verdicts: what they say of single intervals, and how often they are wrong where the truth is known."""

from dataclasses import dataclass

import numpy as np
import pytest

from qrpo_lib.paper import rules
from qrpo_lib.results import statistics

EFFECT = 0.1
DRAWS = 4000


@dataclass(frozen=True)
class Ends:
    low: float
    high: float


def verdict(kind, *ends, over="all", effect=EFFECT, **extras):
    intervals = {f"interval {i}": Ends(*pair) for i, pair in enumerate(ends)}
    return rules.apply(kind, intervals, effect=effect, over=over, **extras).verdict


@pytest.mark.parametrize(
    ("kind", "ends", "expected"),
    [
        ("superiority", (0.01, 0.30), "supported"),
        ("superiority", (-0.05, 0.30), "undecided"),
        ("superiority", (-0.05, 0.09), "contradicted"),
        ("superiority", (0.0, 0.3), "undecided"),
        ("superiority", (-0.05, 0.1), "undecided"),
        ("superiority", (0.0, 0.0), "contradicted"),
        ("trend", (0.01, 0.30), "supported"),
        ("trend", (-0.30, -0.01), "contradicted"),
        ("non-inferiority", (-0.09, 0.30), "supported"),
        ("non-inferiority", (-0.2, -0.05), "undecided"),
        ("non-inferiority", (-0.2, 0.3), "undecided"),  # no difference could be seen: not a tie
        ("non-inferiority", (-0.3, -0.11), "contradicted"),
        ("equivalence", (-0.09, 0.09), "supported"),
        ("equivalence", (0.01, 0.09), "supported"),
        ("equivalence", (-0.2, 0.05), "undecided"),
        ("equivalence", (-0.5, 0.5), "undecided"),
        ("equivalence", (0.11, 0.2), "contradicted"),
        ("equivalence", (-0.2, -0.11), "contradicted"),
    ],
)
def test_what_a_rule_says_of_one_interval(kind, ends, expected):
    assert verdict(kind, ends) == expected


def test_all_must_support_and_one_contradicts():
    supports, open_one, contradicts = (0.2, 0.4), (-0.1, 0.4), (-0.2, 0.05)
    assert verdict("superiority", supports, supports) == "supported"
    assert verdict("superiority", supports, open_one) == "undecided"
    assert verdict("superiority", supports, open_one, contradicts) == "contradicted"


def test_over_any_one_supports_and_all_contradict():
    supports, open_one, contradicts = (0.2, 0.4), (-0.1, 0.4), (-0.2, 0.05)
    assert verdict("superiority", supports, contradicts, over="any") == "supported"
    assert verdict("superiority", open_one, contradicts, over="any") == "undecided"
    assert verdict("superiority", contradicts, contradicts, over="any") == "contradicted"


def test_the_reason_names_the_interval_that_decided():
    intervals = {"QRPO - DPO": Ends(-0.3, -0.2), "QRPO - REBEL": Ends(0.1, 0.2)}
    outcome = rules.non_inferiority(intervals, EFFECT)
    assert (outcome.verdict, outcome.reason) == ("contradicted", "QRPO - DPO")


def test_an_effect_that_is_there_and_too_small_is_told():
    outcome = rules.superiority({"gap": Ends(0.01, 0.02)}, EFFECT)
    assert outcome.verdict == "supported"
    assert "smaller than what matters" in outcome.reason


def test_a_contradiction_that_says_only_that_nothing_matters_is_told():
    assert rules.superiority({"gap": Ends(-0.1, 0.02)}, EFFECT).reason == "nothing that matters"
    two = {"first": Ends(-0.1, 0.02), "second": Ends(0.2, 0.3)}
    assert rules.superiority(two, EFFECT).reason == "first: nothing that matters"
    assert rules.superiority({"gap": Ends(-0.2, -0.1)}, EFFECT).reason == ""
    assert rules.superiority({"first": Ends(-0.2, -0.1), "second": Ends(0.2, 0.3)}, EFFECT).reason == "first"


@pytest.mark.parametrize(
    ("ends", "predicted", "expected"),
    [
        ((0.1, 0.2), 1, "supported"),
        ((0.1, 0.2), -1, "contradicted"),
        ((-0.2, -0.1), -1, "supported"),
        ((-0.1, 0.2), 1, "undecided"),
        ((-np.inf, np.inf), -1, "undecided"),
    ],
)
def test_signs(ends, predicted, expected):
    assert rules.sign({"a": Ends(*ends)}, {"a": predicted}).verdict == expected
    without_ends = {"a": Ends(*ends), "b": Ends(-np.inf, np.inf)}
    assert rules.sign(without_ends, dict.fromkeys(without_ends, predicted)).verdict == expected
    assert rules.sign({"b": without_ends["b"]}, {"b": predicted}).verdict == "undecided"


@pytest.mark.parametrize(
    ("limit", "value", "expected"),
    [
        ({"at_most": 1.0}, 1.0, "supported"),
        ({"below": 1.0}, 1.0, "contradicted"),
        ({"at_least": 1.0}, 1.0, "supported"),
        ({"above": 1.0}, 1.0, "contradicted"),
        ({"above": 0.0, "below": 1.0}, 0.5, "supported"),
        ({"above": 0.0, "below": 1.0}, 2.0, "contradicted"),
    ],
)
def test_limits(limit, value, expected):
    assert rules.exact({"kl": value}, {"kl": limit}).verdict == expected


def test_one_number_outside_its_limit_is_enough():
    limits = {"kl": {"below": 1.0}, "ratio": {"above": 2.0}}
    outcome = rules.exact({"kl": 0.5, "ratio": 1.0}, limits)
    assert outcome == rules.Decision("contradicted", "outside its limit: ratio")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: verdict("superiority"), "at least one interval"),
        (lambda: verdict("superiority", (float("nan"), 1.0)), "is none"),
        (lambda: verdict("superiority", (1.0, 0.0)), "is none"),
        (lambda: verdict("superiority", (0.0, 1.0), effect=-1.0), "at least 0"),
        (lambda: verdict("superiority", (0.0, 1.0), effect=None), "needs the smallest effect"),
        (lambda: verdict("superiority", (0.0, 1.0), over="some"), "over"),
        (lambda: verdict("guess", (0.0, 1.0)), "no kind of rule"),
        (lambda: rules.sign({"a": Ends(0, 1)}, {}), "predicted sign"),
        (lambda: rules.sign({"a": Ends(0, 1)}, {"a": 2}), "predicted sign"),
        (lambda: rules.exact({"kl": float("nan")}, {"kl": {"below": 1}}), "finite"),
        (lambda: rules.exact({"kl": 1.0}, {"ratio": {"below": 1}}), "differ in kl, ratio"),
    ],
)
def test_what_does_not_fit_a_rule_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def rates(kind, truths, *, error=0.03, over="all", draws=DRAWS, **extras):
    """How often a rule says what, of 95 % intervals of normal estimates of these true effects."""
    generator = np.random.default_rng(0)
    estimates = generator.normal(truths, error, size=(draws, len(truths)))
    said = [
        verdict(kind, *[(value - 1.96 * error, value + 1.96 * error) for value in row], over=over, **extras)
        for row in estimates
    ]
    return {name: said.count(name) / draws for name in ("supported", "contradicted", "undecided")}


# Three standard errors of a rate of 2.5 % in 4,000 draws.
SLACK = 3 * np.sqrt(0.025 * 0.975 / DRAWS)


@pytest.mark.parametrize(
    ("kind", "no_support", "no_contradiction"),
    [
        # Where the truth is at the edge of what would not support, and of what would not contradict.
        ("superiority", 0.0, EFFECT),
        ("trend", 0.0, EFFECT),
        ("non-inferiority", -EFFECT, -EFFECT),
        ("equivalence", EFFECT, EFFECT),
        ("equivalence", -EFFECT, -EFFECT),
    ],
)
def test_error_rates_at_the_boundary(kind, no_support, no_contradiction):
    assert rates(kind, [no_support])["supported"] == pytest.approx(0.025, abs=SLACK)
    assert rates(kind, [no_contradiction])["contradicted"] == pytest.approx(0.025, abs=SLACK)


def test_error_rates_of_several_intervals():
    """False support stays at 2.5 % whatever the others are; false contradiction grows with their number."""
    assert rates("non-inferiority", [-EFFECT, 0.5, 0.5])["supported"] == pytest.approx(0.025, abs=SLACK)
    assert rates("non-inferiority", [-EFFECT] * 3)["supported"] < 0.025
    at_the_edge = rates("non-inferiority", [-EFFECT] * 3)["contradicted"]
    assert at_the_edge == pytest.approx(1 - 0.975**3, abs=3 * SLACK)
    # Over any: the other way round.
    assert rates("superiority", [0.0, 0.0], over="any")["supported"] == pytest.approx(1 - 0.975**2, abs=2 * SLACK)
    assert rates("superiority", [EFFECT, EFFECT], over="any")["contradicted"] < 0.025


def test_a_small_sample_is_undecided_and_a_large_one_decides():
    small, large = ({"error": error} for error in (0.2, 0.01))
    assert rates("non-inferiority", [0.0] * 3, **small)["undecided"] > 0.9
    assert rates("equivalence", [0.0], **small)["undecided"] > 0.9
    assert rates("non-inferiority", [0.0] * 3, **large)["supported"] > 0.99
    assert rates("equivalence", [0.0], **large)["supported"] > 0.99
    assert rates("superiority", [2 * EFFECT], **large)["supported"] > 0.99
    assert rates("superiority", [-EFFECT], **large)["contradicted"] > 0.99


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_error_rates_of_signs_over_few_seeds(seeds):
    """A value that is 0 has neither sign: each side is said in 2.5 % of the cases, at any number of seeds."""
    generator = np.random.default_rng(0)
    said = []
    for values in generator.normal(0, 0.3, size=(DRAWS, seeds)):
        said.append(rules.sign({"a": statistics.seed_interval(values)}, {"a": 1}).verdict)
    assert said.count("supported") / DRAWS == pytest.approx(0.025, abs=SLACK)
    assert said.count("contradicted") / DRAWS == pytest.approx(0.025, abs=SLACK)


def test_error_rates_with_the_intervals_that_verdicts_use():
    """Paired differences of 96 prompts and three seeds that differ: false verdicts at the boundaries are rare."""
    generator = np.random.default_rng(0)
    draws, said = 500, {0.0: [], EFFECT: []}
    for truth, verdicts in said.items():
        for _ in range(draws):
            of_seeds = generator.normal(truth, 0.05, size=(3, 1))
            interval = statistics.mean_interval(of_seeds + generator.normal(0, 0.5, size=(3, 96)))
            verdicts.append(rules.superiority({"gap": interval}, EFFECT).verdict)
    assert 0 < said[0.0].count("supported") / draws < 0.05  # an interval that is too wide decides nothing
    assert 0 < said[EFFECT].count("contradicted") / draws < 0.05


def test_error_rates_over_five_worlds():
    """Worlds that differ, one mean each: each false verdict is said in 2.5 % of the cases."""
    generator = np.random.default_rng(0)
    said = []
    for means in generator.normal(0, 1.0, size=(DRAWS, 5)):
        said.append(rules.superiority({"gap": statistics.over_worlds(means)}, 0.0).verdict)
    assert said.count("supported") / DRAWS == pytest.approx(0.025, abs=SLACK)
    assert said.count("contradicted") / DRAWS == pytest.approx(0.025, abs=SLACK)


def test_the_interval_of_a_distance_covers_it():
    """Of uniform draws of 11 values, whose distance is 0, and of a law at a distance of 0.2."""
    generator = np.random.default_rng(0)
    n, draws = 200, 2000
    uniform, shifted = np.full(11, 1 / 11), np.full(11, 1 / 11)
    shifted[0], shifted[-1] = shifted[0] - 1 / 11, shifted[-1] + 1 / 11
    expected = np.cumsum(uniform)
    for law in (uniform, shifted):
        truth = np.abs(np.cumsum(law) - expected).max()
        covered = 0
        for counts in generator.multinomial(n, law, size=draws):
            interval = statistics.distance_interval(float(np.abs(np.cumsum(counts / n) - expected).max()), n)
            covered += interval.low <= truth <= interval.high
        assert covered / draws > 0.94
    assert statistics.distance_interval(0.0, n).high == pytest.approx(np.sqrt(np.log(40) / (2 * n)))


def test_a_single_seed_has_no_interval():
    assert (statistics.seed_interval([0.3]).low, statistics.seed_interval([0.3]).high) == (-np.inf, np.inf)
    with pytest.raises(ValueError, match="finite number a seed"):
        statistics.seed_interval([])
    # Against the textbook: mean 2, standard deviation 1, t = 4.303 with two degrees of freedom.
    interval = statistics.seed_interval([1.0, 2.0, 3.0])
    assert interval.high - 2.0 == pytest.approx(4.3027 / np.sqrt(3), rel=1e-4)
