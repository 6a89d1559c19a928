import dataclasses

import pytest

from qrpo_lib.paper import claim_views, claims
from qrpo_lib.results.statistics import Interval


@pytest.fixture
def figures(tmp_path, monkeypatch):
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    return tmp_path / "figures"


def judged(figures, profile, mean=0.05):
    ledger = claims.Ledger(figures / profile.replace(", ", "/"), profile, "chat")
    return ledger.judge(
        "qrpo-first-or-ties", {"QRPO - DPO": Interval(mean, mean - 0.01, mean + 0.01, 96, 3)}, scale=1.0
    )


def test_nothing_is_shown_where_nothing_is_published(figures):
    own = judged(figures, "tiny, chat")
    assert own.over_worlds() == []
    assert claim_views.WORLDS not in claim_views.card(own)
    assert claim_views.WORLDS not in claim_views.to_markdown([own], rules=True)


def test_the_verdict_of_several_worlds_stands_beside_that_of_one(figures):
    own, pool = judged(figures, "tiny, chat"), judged(figures, "tiny-full, chat", -0.5)
    judged(figures, "tiny-full, chat-world-0")
    judged(figures, "tiny-full, code")
    assert own.over_worlds() == [pool]
    card, table = claim_views.card(own), claim_views.to_markdown([own], rules=True)
    for shown in (card, table):
        assert claim_views.WORLDS in shown
        assert "tiny-full, chat: contradicted, QRPO - DPO" in shown
    assert "tiny-full" not in claim_views.to_markdown([own])  # the page of all profiles has it in a row of its own


def test_an_arm_that_the_worlds_have_not_gets_those_of_the_others(figures):
    own, code = judged(figures, "tiny, chat-long"), judged(figures, "tiny-full, code")
    assert own.over_worlds() == [code]


def test_other_profiles_and_other_claims_stay_alone(figures):
    pool = judged(figures, "tiny-full, chat")
    assert pool.over_worlds() == []
    assert judged(figures, "smol, chat").over_worlds() == []
    assert dataclasses.replace(judged(figures, "tiny, chat"), id="scales-off-policy").over_worlds() == []


def test_a_verdict_that_cannot_be_read_hides_no_other(figures):
    own, _ = judged(figures, "tiny, chat"), judged(figures, "tiny-full, chat")
    (figures / "tiny-full" / "chat" / "claims" / f"{own.id}.json").write_text("{")
    assert claim_views.WORLDS not in claim_views.card(own)
