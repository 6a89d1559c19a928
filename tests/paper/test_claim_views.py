"""How verdicts are shown: cards, conclusions, tables."""

import html
import re

import pytest

from qrpo_lib.paper import claim_views, claims, rules
from qrpo_lib.results.statistics import Interval

GAP = Interval(0.05, 0.02, 0.08, 96, 3)


def interval(low, high):
    return Interval((low + high) / 2, low, high, 96, 3)


@pytest.fixture
def ledger(tmp_path):
    return claims.Ledger(tmp_path / "tiny" / "chat", "tiny, chat", "chat")


def test_a_verdict_shows_its_colour_rule_and_number(ledger):
    judged = ledger.judge("qrpo-first-or-ties", {"QRPO - DPO <b>": interval(-0.1, -0.05)}, scale=0.2)
    shown = judged._repr_html_()
    assert claim_views.COLORS["contradicted"] in shown
    for text in ("contradicted", "section 4.2", "non-inferiority", "-0.0750 [-0.1000, -0.0500]", "0.02", "0.1972"):
        assert text in shown
    assert "<b>:" not in shown  # what is measured cannot bring markup of its own
    assert judged._repr_markdown_().count("**contradicted**") == 1
    assert "PosixPath" not in repr(ledger._repr_html_())


def test_colours_tell_all_verdicts_apart():
    assert set(claim_views.COLORS) == set(rules.VERDICTS)
    assert len(set(claim_views.COLORS.values())) == 4


def test_a_pipe_does_not_break_a_table(ledger):
    judged = ledger.judge("qrpo-first-or-ties", {"QRPO - DPO": GAP}, "a | b", scale=1.0)
    assert "a \\| b" in claim_views.to_markdown([judged])


def test_a_notebook_ends_in_what_its_verdicts_say(ledger):
    assert "Nothing was judged" in ledger.learnt()._repr_html_()
    ledger.judge("log-not-better", {"identity - log": interval(0.01, 0.2)}, scale=0.2)
    ledger.judge("dpo-raises-reward", {"gain": interval(-0.5, 0.5)}, scale=0.2)
    ledger.judge("qrpo-raises-reward", {"gain": interval(-0.5, -0.4)}, scale=0.2)
    ledger.judge("simpo-raises-reward", {"gain": interval(0.0, 0.0)}, scale=0.2, untrained=["SimPO <b>"] * 90)
    shown = ledger.learnt()._repr_html_()
    parts = re.findall(r"<p><span[^>]*>([a-z ]+)</span>.*?</p>\n<ul>(.*?)</ul>", shown)
    said = {verdict: [html.unescape(item) for item in re.findall("<li>(.*?)</li>", items)] for verdict, items in parts}
    assert list(said) == ["supported", "contradicted", "undecided", "not testable"]
    assert said["supported"][0].startswith(claims.get("log-not-better").statement)
    assert "0.1050 [0.0100, 0.2000]" in said["supported"][0]
    assert said["undecided"] == [f"{claims.get('dpo-raises-reward').statement}: {ledger.judged[1].measured}"]
    (reason,) = said["not testable"]
    assert "SimPO <b>" in reason
    assert "<b>" not in shown.split("not testable")[1]
    assert reason.endswith("…")
    assert len(reason) < 400
    assert all(len(items) == 1 and "[tiny, chat]" not in items[0] for items in said.values())


def test_a_long_lesson_ends_between_two_measurements(ledger):
    many = {f"cell {i}": interval(0.1, 0.2) for i in range(9)}
    ledger.judge("log-not-better", many, scale=0.2)
    (lesson,) = re.findall("<li>(.*?)</li>", ledger.learnt()._repr_html_())
    assert re.search(r"cell \d: 0\.1500 \[0\.1000, 0\.2000\] …$", lesson)


def test_of_several_arms_each_conclusion_names_its_own(ledger, tmp_path):
    code = claims.Ledger(tmp_path / "tiny" / "code", "tiny, code", "code")
    both = [one.judge("dpo-raises-reward", {"gain": GAP}, scale=0.2) for one in (ledger, code)]
    assert re.findall(r"<li>(\[.*?\]) ", claim_views.lessons(both)) == ["[tiny, chat]", "[tiny, code]"]
