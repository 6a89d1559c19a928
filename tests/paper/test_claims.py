"""The catalogue of claims, the ledger, and how verdicts are kept."""

import ast
import dataclasses
import json
import re
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from scipy import stats

from qrpo_lib.paper import claims, rules
from qrpo_lib.results.statistics import Interval
from qrpo_lib.runs import paths
from qrpo_lib.runs.errors import InputError

ROOT = paths.PACKAGE.parent
GAP = Interval(0.05, 0.02, 0.08, 96, 3)


def interval(low, high):
    return Interval((low + high) / 2, low, high, 96, 3)


@pytest.fixture
def ledger(tmp_path):
    return claims.Ledger(tmp_path / "tiny" / "chat", "tiny, chat", "chat")


def judged_in_notebooks():
    """Of each notebook the ids that it judges: literal ones, and patterns of those that it puts together.

    But of `results/worlds`, which judges again, over all worlds, what the others judged in each.
    """
    found = {}
    for path in sorted(set((ROOT / "notebooks").glob("*/*.ipynb")) - {ROOT / "notebooks" / "results" / "worlds.ipynb"}):
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        name = str(path.relative_to(ROOT / "notebooks").with_suffix(""))
        for cell in cells:
            code = "\n".join(line for line in cell.splitlines() if not line.startswith("%"))
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "judge":
                    found.setdefault(name, []).append(_pattern(node.args[0]))
    return found


def _pattern(node):
    if isinstance(node, ast.Constant):
        return re.escape(node.value)
    assert isinstance(node, ast.JoinedStr), "an id is a text, or an f-string with the algorithm's name"
    algorithms = "(dpo|simpo|rebel|qrpo)"
    return "".join(re.escape(part.value) if isinstance(part, ast.Constant) else algorithms for part in node.values)


def test_notebooks_judge_what_the_catalogue_says_and_nothing_else():
    judged = judged_in_notebooks()
    of_catalogue = {}
    for claim in claims.catalogue().values():
        if claim.notebook:
            of_catalogue.setdefault(claim.notebook, []).append(claim.id)
    assert set(judged) == set(of_catalogue)
    for notebook, ids in of_catalogue.items():
        patterns = judged[notebook]
        assert [i for i in ids if not any(re.fullmatch(p, i) for p in patterns)] == [], notebook
        assert [p for p in patterns if not any(re.fullmatch(p, i) for i in ids)] == [], notebook


def test_every_notebook_that_judges_shows_its_rules():
    for name in judged_in_notebooks():
        assert f'claims.Rules(\\"{name}\\")' in (ROOT / "notebooks" / f"{name}.ipynb").read_text(), name


def test_the_catalogue_is_complete_and_whole():
    """Every section of the paper that makes claims is there, in claims that are examined or say why they are not."""
    of_paper = [claim.section for claim in claims.catalogue().values() if claim.origin == "paper"]
    sections = {section.split(".")[0] if section[0].isdigit() else section[:6] for section in of_paper}
    assert {"1", "3", "4", "6"} <= sections
    assert {f"App. {letter}" for letter in "ABCDEFGHIJKLM"} <= sections
    for claim in claims.catalogue().values():
        assert bool(claim.notebook) != bool(claim.not_examined), claim.id
    assert all(claim.origin == "paper" for claim in claims.not_examined())


def test_the_smallest_effects_are_those_that_were_fixed():
    def effect(name, profile, task, scale=None):
        claim = next(claim for claim in claims.catalogue().values() if claim.effect == name)
        return claims.Ledger(".", profile, task)._effect(claim, scale)[0]

    assert effect("ties", "tiny, chat", "chat", 0.2) == pytest.approx(0.02)
    assert effect("reward", "tiny, chat", "chat", 0.2) == pytest.approx(0.01)
    assert effect("reward", "tiny, chat", "chat", -0.2) == 0.0
    assert effect("ties", "tiny, code", "code") == effect("reward", "smol, code", "code") == 0.02
    assert effect("ties", "smol, chat", "chat") == effect("reward", "smol, chat", "chat") == 0.005
    assert effect("rho", "tiny, chat", "chat") == 0.13
    assert effect("kl", "tiny, chat", "chat", 0.4) == pytest.approx(0.04)


def test_a_verdict_is_written_with_all_that_it_rests_on(ledger, tmp_path):
    judgement = ledger.judge("qrpo-raises-reward", {"gain over SFT": GAP}, "step 14 of 14", scale=0.2, evidence="gains")
    assert (judgement.verdict, judgement.profile, judgement.section) == ("supported", "tiny, chat", "4.2")
    assert judgement.effect == pytest.approx(0.01)
    assert "5% of DPO's gain" in judgement.effect_words
    assert judgement.measured == "gain over SFT: 0.0500 [0.0200, 0.0800] (step 14 of 14; 96 prompts x 3 seeds)"
    content = json.loads((tmp_path / "tiny" / "chat" / "claims" / "qrpo-raises-reward.json").read_text())
    assert content["values"] == {"gain over SFT": {"estimate": 0.05, "low": 0.02, "high": 0.08}}
    assert claims.recorded(tmp_path) == [judgement]
    assert claims.stale(tmp_path) == []


@pytest.mark.parametrize(
    ("ends", "expected"), [((-0.01, 0.1), "supported"), ((-0.1, 0.1), "undecided"), ((-0.1, -0.03), "contradicted")]
)
def test_a_tie_is_shown_and_not_assumed(ledger, ends, expected):
    judged = ledger.judge("qrpo-first-or-ties", {"QRPO - DPO": interval(*ends)}, scale=0.2)
    assert judged.verdict == expected


@pytest.mark.parametrize("gain", [0.0, -0.1])
def test_ties_are_not_judged_by_a_gain_that_is_none(ledger, gain):
    """An effect of 0 would make every difference matter; whether something is larger than 0 needs no such effect."""
    ties = ledger.judge("qrpo-first-or-ties", {"QRPO - DPO": interval(-0.2, -0.1)}, scale=gain)
    assert ties.verdict == "not testable"
    assert "DPO's gain" in ties.reason
    assert ledger.judge("flat-offline", {"slope": interval(0.1, 0.2)}, scale=gain).verdict == "not testable"
    assert ledger.judge("dpo-raises-reward", {"gain": interval(-0.2, -0.1)}, scale=gain).verdict == "contradicted"
    assert ledger.judge("dpo-raises-reward", {"gain": interval(-0.2, 0.1)}, scale=gain).verdict == "undecided"


def test_what_cannot_be_tested_is_said(ledger):
    untrained = ledger.judge("qrpo-raises-reward", {"gain": interval(0.0, 0.0)}, scale=0.2, untrained=["QRPO"])
    assert untrained.verdict == "not testable"
    assert untrained.reason == "untrained, the selected step is 0: QRPO"
    absent = ledger.judge("less-length-bias", {"difference of rho": GAP}, absent="no positive length bias")
    assert (absent.verdict, absent.reason) == ("not testable", "no positive length bias")
    nothing = ledger.judge("qrpo-first-or-ties", {"QRPO - REBEL": GAP})
    assert nothing.verdict == "not testable"
    assert "DPO's gain" in nothing.reason


def test_a_rule_of_signs_keeps_what_was_predicted(ledger):
    values = {"beta 0.3": interval(0.1, 0.2), "beta 0.01": Interval(-1.0, -float("inf"), float("inf"), 0)}
    predicted = {"beta 0.3": 1, "beta 0.01": -1}
    judged = ledger.judge("chosen-rise-above-threshold", values, predicted=predicted)
    assert judged.verdict == "supported"  # an interval without ends decides nothing
    assert judged.values["beta 0.01"] == {"estimate": -1.0, "low": None, "high": None, "predicted": -1}


def test_an_exact_rule_takes_a_number_alone(tmp_path):
    ledger = claims.Ledger(tmp_path, "theory")
    assert ledger.judge("z-is-the-mgf", 1e-12, "tiny").verdict == "supported"
    assert ledger.judge("z-is-the-mgf", 1e-9).verdict == "contradicted"
    assert [one.verdict for one in ledger.judged] == ["contradicted"]  # a later verdict replaces the earlier one
    with pytest.raises(ValueError, match="differ in"):
        ledger.judge("z-is-the-mgf", {"other": 1.0})


def test_only_claims_with_a_rule_can_be_judged(ledger):
    with pytest.raises(claims.UnknownClaimError, match="add it there, with its rule"):
        ledger.judge("no-such-claim", 1.0)
    with pytest.raises(InputError, match="why the suite does not examine it"):
        ledger.judge("qrpo-top-on-alpaca-eval", 1.0)


def test_verdicts_are_read_back_in_the_papers_order(tmp_path):
    theory, arm = claims.Ledger(tmp_path / "theory", "theory"), claims.Ledger(tmp_path / "a", "tiny, chat", "chat")
    theory.judge("laplace-leading-term", 1.0)
    theory.judge("z-is-the-mgf", 0.0)
    theory.judge("simplification", 0.0)
    arm.judge("qrpo-raises-reward", {"gain": GAP}, scale=1.0)
    judged = claims.recorded(tmp_path)
    order = ["simplification", "qrpo-raises-reward", "z-is-the-mgf", "laplace-leading-term"]
    assert [one.id for one in judged] == order
    assert [one.id for one in claims.of_profile(judged, "smol")] == [judged[0].id, judged[2].id, judged[3].id]


def test_the_ledger_has_the_pool_of_the_worlds_and_no_single_one(tmp_path):
    for label in ("tiny-full, chat-world-0", "tiny-full, chat-world-11", "tiny-full, chat", "tiny, chat-long"):
        claims.Ledger(tmp_path / label, label, "chat").judge("qrpo-raises-reward", {"gain": GAP}, scale=1.0)
    of_ledger = claims.of_ledger(claims.recorded(tmp_path))
    assert [one.profile for one in of_ledger] == ["tiny, chat-long", "tiny-full, chat"]


@pytest.mark.parametrize("change", [{"rule_version": "0123"}, {"id": "no-such-claim"}])
def test_verdicts_by_other_rules_are_stale(ledger, tmp_path, change):
    ledger.judge("qrpo-raises-reward", {"gain": GAP}, scale=1.0)
    path = tmp_path / "tiny" / "chat" / "claims" / "qrpo-raises-reward.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert claims.recorded(tmp_path) == []
    assert claims.stale(tmp_path) == [path]


@pytest.mark.parametrize(
    "change", [{"rule": "another"}, {"over": "any"}, {"effect": "ties"}, {"kind": "trend"}, {"testable_if": "it rains"}]
)
def test_a_changed_rule_makes_verdicts_stale_and_a_changed_wording_does_not(ledger, tmp_path, monkeypatch, change):
    ledger.judge("qrpo-raises-reward", {"gain": GAP}, scale=1.0)
    claim = claims.get("qrpo-raises-reward")
    reworded = {claim.id: dataclasses.replace(claim, statement="in other words")}
    monkeypatch.setattr(claims, "catalogue", lambda: reworded)
    assert [one.statement for one in claims.recorded(tmp_path)] == ["in other words"]
    monkeypatch.setattr(claims, "catalogue", lambda: {claim.id: dataclasses.replace(claim, **change)})
    assert claims.recorded(tmp_path) == []


def test_another_smallest_effect_makes_verdicts_stale(ledger, tmp_path, monkeypatch):
    ledger.judge("qrpo-raises-reward", {"gain": GAP}, scale=1.0)
    effects = {"reward": claims._effects()["reward"] | {"chat": {"share": 0.5}}}
    monkeypatch.setattr(claims, "_effects", lambda: effects)
    assert len(claims.stale(tmp_path)) == 1


def test_verdicts_from_before_there_were_versions_are_stale(ledger, tmp_path):
    path = tmp_path / "tiny" / "chat" / "claims" / "qrpo-raises-reward.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"id": "qrpo-raises-reward", "verdict": "reproduced"}))
    assert (claims.recorded(tmp_path), claims.stale(tmp_path)) == ([], [path])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (None, "no whole JSON"),
        ("[]", "a list where a table"),
        ("null", "nothing"),
        (b"\xff", "not UTF-8"),
        ({"power": "0.8"}, "see power"),
        ({"verdict": "maybe"}, "'maybe'"),
        ({"reason": 3}, "see reason"),
    ],
)
def test_a_damaged_verdict_is_one_sentence_with_its_file(ledger, tmp_path, change, why):
    ledger.judge("qrpo-raises-reward", {"gain": GAP}, scale=1.0)
    path = tmp_path / "tiny" / "chat" / "claims" / "qrpo-raises-reward.json"
    content = path.read_text()
    if isinstance(change, dict):
        change = json.dumps(json.loads(content) | change)
    change = content[:40] if change is None else change
    path.write_bytes(change if isinstance(change, bytes) else change.encode())
    with pytest.raises(InputError) as caught:
        claims.recorded(tmp_path)
    assert str(path) in str(caught.value)
    assert why in str(caught.value)
    assert "Remove it and run `qrpo reproduce`" in str(caught.value)


ENTRY = {
    "id": "a-b", "section": "4.2", "origin": "paper", "statement": "it is", "kind": "superiority",
    "rule": "first less other", "effect": "ties", "notebook": "results/tables", "evidence": "table-3",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "A b"}, "lower-case words"),
        ({"origin": "us"}, "origin is paper or ours"),
        ({"statement": " "}, "statement is missing"),
        ({"verdict": "supported"}, "no field verdict"),
        ({"not_examined": "too far"}, "either a notebook"),
        ({"notebook": ""}, "either a notebook"),
        ({"kind": "guess"}, "kind is one of"),
        ({"rule": ""}, "has a rule"),
        ({"effect": ""}, "effect is one of"),
        ({"effect": "large"}, "effect is one of"),
        ({"limits": {"kl": {"below": 1}}}, "limits belong to exact rules"),
        ({"kind": "exact", "effect": "", "limits": {"kl": {"under": 1}}}, "a limit is one of"),
        ({"kind": "exact", "effect": ""}, "limits belong to exact rules"),
        ({"kind": "sign"}, "effect is one of"),
    ],
)
def test_a_malformed_catalogue_is_refused(change, message):
    assert claims._parsed(ENTRY, {"ties": {}}).id == "a-b"
    with pytest.raises(InputError, match=message):
        claims._parsed(ENTRY | change, {"ties": {}})


def test_a_frame_has_a_row_for_each_verdict(ledger):
    ledger.judge("qrpo-raises-reward", {"gain": GAP}, scale=1.0)
    frame = claims.to_frame(ledger.judged)
    assert frame["verdict"].tolist() == ["supported"]
    assert "values" not in frame


def test_committed_verdicts_follow_from_their_numbers():
    """The rule, applied again to the recorded values, gives the recorded verdict."""
    for judged in claims.recorded(ROOT / "figures"):
        if judged.verdict == "not testable":
            continue
        claim = claims.get(judged.id)
        infinite = {"low": -float("inf"), "high": float("inf")}
        values, predicted = dict(judged.values), None
        if claim.kind != "exact":
            ends = {
                name: {end: value[end] if value[end] is not None else infinite[end] for end in infinite}
                for name, value in judged.values.items()
            }
            values = {name: Interval(0.0, end["low"], end["high"], 1) for name, end in ends.items()}
            predicted = {name: value.get("predicted") for name, value in judged.values.items()}
        outcome = rules.apply(
            claim.kind, values, effect=judged.effect, limits=claim.limits, predicted=predicted, over=claim.over
        )
        assert outcome.verdict == judged.verdict, (judged.id, judged.profile)


def test_committed_pools_follow_from_the_worlds_estimates():
    """Each pool's interval is Student's, by SciPy, of the worlds' estimates as their table has them."""
    compared = 0
    for table in sorted((ROOT / "figures").glob("*/*/worlds.csv")):
        of_worlds = pd.read_csv(table, keep_default_na=False)
        for judged in claims.recorded(table.parent):
            for name, pool in judged.values.items():
                rows = of_worlds[(of_worlds["claim"] == judged.id) & (of_worlds["interval"] == name)]
                testable = rows.loc[rows["verdict"] != "not testable", "estimate"].astype(float)
                if testable.empty:  # its sign was predicted otherwise in some world
                    assert name.endswith("times its predicted sign")
                    continue
                low, high = stats.ttest_1samp(testable, 0).confidence_interval(0.95)
                assert (pool["low"], pool["high"]) == pytest.approx((low, high), rel=1e-4, abs=1e-6), (judged.id, name)
                compared += 1
    assert compared >= 60


def test_the_catalogue_needs_no_heavy_import():
    code = (
        "import sys; from qrpo_lib.paper import claims; claims.catalogue();"
        "print([name for name in ('pandas', 'matplotlib', 'seaborn', 'torch', 'numpy') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
