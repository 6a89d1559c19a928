"""The page of all claims, and its counts."""

from qrpo_lib.paper import claims, claims_page
from qrpo_lib.runs import paths

ROOT = paths.PACKAGE.parent


def test_the_papers_claims_are_counted_apart_from_our_questions(tmp_path):
    theory = claims.Ledger(tmp_path, "theory")
    theory.judge("z-is-the-mgf", 0.0)
    theory.judge("kl-linear", 1.0)
    theory.judge("kl-derived", {"deviation_of_the_order": 0.0, "deviation_of_the_constant": 0.0})
    assert claims_page.summary(theory.judged) == (
        "2 verdicts on 2 claims of the paper: 1 supported, 1 contradicted; 1 on 1 questions of our own: 1 supported."
    )
    page = claims_page.page(theory.judged, stale=2)
    assert "2 recorded verdicts" in page
    for claim in claims.catalogue().values():
        assert (claim.not_examined or claim.rule).replace("|", "\\|") in page


def test_the_committed_page_is_what_the_committed_verdicts_give():
    figures = ROOT / "figures"
    expected = claims_page.page(claims.of_ledger(claims.recorded(figures)), len(claims.stale(figures)))
    assert (ROOT / "docs" / "claims.md").read_text() == expected
