"""Verdicts on the site: their counts, what contradicts the paper, and that no text is markup."""

import html
import re

import pytest

from qrpo_lib.paper import claims
from qrpo_lib.results.statistics import Interval
from qrpo_lib.suite.site import ledger


@pytest.fixture
def judged(tmp_path):
    """Of the paper's claims one that holds and one that does not, and a question of our own."""
    made = claims.Ledger(tmp_path, "tiny, chat", "chat")
    made.judge("qrpo-raises-reward", {"gain": Interval(0.5, 0.4, 0.6, 9)}, scale=1.0)
    made.judge("qrpo-first-or-ties", {"QRPO - DPO <b>": Interval(-0.5, -0.6, -0.4, 9)}, scale=1.0)
    theory = claims.Ledger(tmp_path, "theory")
    theory.judge("kl-derived", {"deviation_of_the_order": 0.0, "deviation_of_the_constant": 0.0})
    return [*made.judged, *theory.judged]


def test_counts_and_failures_are_of_claims_of_the_paper(judged):
    counted = dict(re.findall(r"verdict=([a-z-]+)\"><strong>(\d)</strong>", ledger.counts(judged)))
    assert counted == {"supported": "1", "contradicted": "1", "undecided": "0", "not-testable": "0"}
    assert ledger.failures(judged).count("<li>") == 1
    assert claims.get("qrpo-first-or-ties").section in ledger.failures(judged)
    assert ledger.failures(judged[:1]) == "No claim of the paper is contradicted."
    filled = ledger.filled_in("a <!-- verdict counts --> b <!-- failures --> c", judged)
    assert filled == f"a {ledger.counts(judged)} b {ledger.failures(judged)} c"


def test_what_leads_to_a_verdict_leads_to_its_card(judged):
    page = ledger.page(judged)
    anchors = re.findall(r'<div class="verdict [a-z-]+" id="([^"]+)"', page)
    assert len(set(anchors)) == len(judged)
    (target,) = re.findall(r'href="ledger.html#([^"]+)"', ledger.failures(judged))
    assert target in anchors
    assert "QRPO - DPO &lt;b&gt;" in page
    assert "DPO <b>" not in page
    for claim in claims.not_examined():
        assert html.escape(claim.not_examined) in page
