import dataclasses
import json

import pytest

from qrpo_lib import claims, runs
from qrpo_lib.errors import InputError

CLAIM = claims.Claim("a-b", "App. C", "Z is known", "error < 1", "0.1", "theory", "reproduced", "table4")


def test_recorded_claims_are_read_back_in_the_papers_order(tmp_path):
    others = [
        dataclasses.replace(CLAIM, id="c", section="4.2"),
        dataclasses.replace(CLAIM, id="d", section="3", verdict="not reproduced"),
        dataclasses.replace(CLAIM, id="e", section="App. A"),
    ]
    for claim in [CLAIM, *others]:
        claims.record(claim, tmp_path / "theory")
    assert [claim.id for claim in claims.ledger(tmp_path)] == ["d", "c", "e", "a-b"]
    assert claims.ledger(tmp_path)[-1] == CLAIM


def test_a_later_verdict_replaces_the_earlier_one(tmp_path):
    claims.record(CLAIM, tmp_path / "tiny")
    claims.record(dataclasses.replace(CLAIM, verdict="not reproduced"), tmp_path / "tiny")
    assert [claim.verdict for claim in claims.ledger(tmp_path)] == ["not reproduced"]


@pytest.mark.parametrize("change", [{"verdict": "maybe"}, {"id": "A b"}, {"rule": " "}])
def test_malformed_claims_are_refused(change):
    with pytest.raises(ValueError, match="Claim"):
        dataclasses.replace(CLAIM, **change)


def test_failures_stand_out_in_the_table():
    text = claims.to_markdown([CLAIM, dataclasses.replace(CLAIM, verdict="not reproduced", measured="a | b")])
    assert text.count("**not reproduced**") == 1
    assert "a \\| b" in text


def test_the_readmes_table_is_the_recorded_ledger(tmp_path):
    root = runs.PACKAGE.parent
    copy = tmp_path / "README.md"
    copy.write_text((root / "README.md").read_text())
    assert not claims.write_into(copy, claims.ledger(root / "figures"))


def test_a_document_without_the_markers_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("# Title")
    with pytest.raises(ValueError, match="has no place for the claims"):
        claims.write_into(tmp_path / "README.md", [CLAIM])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"id": "a', "no whole JSON"),
        ("[]", "a list where a table"),
        ("null", "nothing"),
        (b"\xff", "not UTF-8"),
        ('{"id": "a-b", "section": "3"}', "see evidence, measured, profile, rule, statement, verdict"),
        (json.dumps(dataclasses.asdict(CLAIM) | {"power": "0.8"}), "see power"),
        (json.dumps(dataclasses.asdict(CLAIM) | {"verdict": "maybe"}), "'maybe'"),
        (json.dumps(dataclasses.asdict(CLAIM) | {"rule": 3}), "rule must be a text"),
    ],
)
def test_a_damaged_claim_is_one_sentence_with_its_file(tmp_path, content, why):
    path = claims.record(CLAIM, tmp_path / "theory")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        claims.ledger(tmp_path)
    assert str(path) in str(caught.value)
    assert why in str(caught.value)
    assert "Remove it and run `qrpo reproduce`" in str(caught.value)
