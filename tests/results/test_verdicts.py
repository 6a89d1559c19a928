"""Verdicts from made-up measurements: each rule meets what it is to find, and its opposite."""

import numpy as np
import pandas as pd
import pytest

from qrpo_lib.paper import claims
from qrpo_lib.results import studies, verdicts


@pytest.fixture
def judge(tmp_path):
    """The verdict on a claim of the made-up arm, from what a function of `verdicts` measured."""
    ledger = claims.Ledger(tmp_path, "made, chat", "chat")
    return lambda claim_id, measured: ledger.judge(claim_id, **measured)


def test_which_data_are_best_at_which_beta(judge):
    def cells(rewards):
        generator = np.random.default_rng(0)
        return {
            (setting, beta, 1e-4, n, "exact"): studies.ReportedCell(
                4, 0.0, generator.normal(reward, 0.02, size=(3, 50))
            )
            for (setting, beta), reward in rewards.items()
            for n in (1, 3, 50)
        }

    papers = {("offline", 0.01): 1.0, ("offline", 0.3): 0.2, ("off-policy", 0.01): 0.7, ("off-policy", 0.3): 0.5}
    measured = verdicts.offline_at_small_beta(cells(papers), 1.0)
    assert len(measured["values"]) == 4
    assert judge("offline-best-at-small-beta", measured).verdict == "supported"
    assert judge("off-policy-best-at-large-beta", verdicts.off_policy_at_large_beta(cells(papers), 1.0)).verdict == (
        "supported"
    )
    other = papers | {("off-policy", 0.3): 0.1, ("offline", 0.3): 1.2}
    measured = judge("offline-best-at-small-beta", verdicts.offline_at_small_beta(cells(other), 1.0))
    assert (measured.verdict, measured.reason) == ("contradicted", "less offline, beta 0.3")
    assert judge("off-policy-best-at-large-beta", verdicts.off_policy_at_large_beta(cells(other), 1.0)).verdict == (
        "contradicted"
    )


def log_ratios(**changes):
    """Three seeds of an offline and an off-policy cell on both sides of the threshold, as App. A predicts them."""
    rows = []
    for setting in ("offline", "off-policy-random"):
        for beta, chosen in ((0.3, 0.5), (0.01, -1.0)):
            for seed in range(3):
                row = {"setting": setting, "beta": beta, "learning_rate": 1e-4, "num_ref_rewards": 50, "seed": seed}
                row |= {"step": 4, "chosen_log_ratio": chosen + 0.01 * seed, "rejected_log_ratio": -2.0 - 0.01 * seed}
                rows.append(row | {"chosen_quantile": 0.9, "rejected_quantile": 0.4})
    return pd.DataFrame(rows).assign(**changes)


def test_completions_rise_above_the_threshold_only(judge):
    last = log_ratios()
    table = verdicts.threshold_table(last)
    expected = [beta * np.log(beta * np.expm1(1 / beta)) for beta in table["beta"]]
    np.testing.assert_allclose(table["threshold"], expected, rtol=1e-9)
    held = judge("chosen-rise-above-threshold", verdicts.threshold(last))
    assert (held.verdict, len(held.values)) == ("supported", 8)
    # A beta in between whose chosen completions fall although they are above its threshold: no longer left out.
    between = log_ratios()[lambda rows: rows["beta"] == 0.3].assign(beta=0.1, chosen_log_ratio=[-0.3, -0.31, -0.32] * 2)
    broken = judge("chosen-rise-above-threshold", verdicts.threshold(pd.concat([last, between])))
    assert broken.verdict == "contradicted"
    assert "beta 0.1" in broken.reason
    one_side = last[last["beta"] == 0.3]
    assert judge("chosen-rise-above-threshold", verdicts.threshold(one_side)).verdict == "not testable"
    noisy = log_ratios(rejected_log_ratio=[-1.0, 0.1, 1.0] * 4)
    assert judge("chosen-rise-above-threshold", verdicts.threshold(noisy)).verdict == "undecided"


def test_off_policy_the_probabilities_of_training_samples_fall(judge):
    held = judge("off-policy-probabilities-fall", verdicts.off_policy_falls(log_ratios()))
    assert (held.verdict, len(held.values)) == ("supported", 2)  # offline is another question
    rising = log_ratios(chosen_log_ratio=[3.0, 3.01, 3.02] * 4)
    assert judge("off-policy-probabilities-fall", verdicts.off_policy_falls(rising)).verdict == "contradicted"
    one_seed = log_ratios()[lambda rows: rows["seed"] == 0]
    alone = judge("off-policy-probabilities-fall", verdicts.off_policy_falls(one_seed))
    assert (alone.verdict, alone.reason) == ("not testable", "no cell has more than one seed")


@pytest.mark.parametrize(
    ("shares", "prompts", "expected"),
    [
        (np.full(11, 1 / 11), 2000, "supported"),
        (np.full(11, 1 / 11), 50, "undecided"),  # no difference could be seen
        (np.r_[np.zeros(5), np.full(6, 1 / 6)], 2000, "contradicted"),
    ],
)
def test_uniform_quantiles_are_shown_and_not_assumed(judge, shares, prompts, expected):
    quantiles = pd.DataFrame({"quantile": np.arange(11) / 10, "share": shares, "expected": 1 / 11})
    assert judge("quantile-reward-uniform-in-use", verdicts.uniformity(quantiles, prompts)).verdict == expected
