"""What the site says verdicts and figures rest on, of this project's own committed results."""

import re
from pathlib import Path

import pytest

from qrpo_lib.paper import claims
from qrpo_lib.runs import paths
from qrpo_lib.suite import publishing
from qrpo_lib.suite.site import gallery, ledger
from qrpo_lib.suite.site.pages import Pages

ROOT = paths.PACKAGE.parent


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The pages of this project of which a notebook was executed here, and its page of figures."""
    executed = {ROOT / "notebooks" / "theory" / "optimal_policy.ipynb": "notebooks/theory-optimal-policy.md"}
    pages = Pages(ROOT, tmp_path_factory.mktemp("site") / "docs", executed)
    for name in executed.values():
        pages.write(name, "# A notebook\n")
    return pages, gallery.page(pages, {})


def test_every_verdict_leads_to_evidence_that_is_there(committed):
    pages, figures = committed
    anchors = set(re.findall(r"\{ #(\S+) \}", figures))
    judged = claims.of_ledger(claims.recorded(ROOT / "figures"))
    evidence = [gallery.evidence(one, pages) for one in judged]
    pages.write_linked_sources()
    assert len(judged) > 100
    for one, (address, name) in zip(judged, evidence, strict=True):
        page, _, anchor = address.partition("#")
        assert anchor in anchors if page == gallery.PAGE else pages.has(Path(page).with_suffix(".md")), one
        assert name == one.evidence or (name == "worlds-estimates" and one.profile.startswith("tiny-full"))
    said = {one.evidence: seen.address for one, seen in zip(judged, evidence, strict=True)}
    assert said["notebook optimal_policy"] == "notebooks/theory-optimal-policy.html"
    assert said["notebook noise"] == "source/notebooks/theory/noise.ipynb.html"


def test_a_pooled_verdict_names_the_figure_that_it_leads_to(committed):
    pages, _ = committed
    judged = claims.recorded(ROOT / "figures" / "tiny-full" / "chat")
    assert "figure-3" in {one.evidence for one in judged}
    text = ledger.page(judged, [gallery.evidence(one, pages) for one in judged])
    assert text.count('">worlds-estimates</a>') == len(judged)
    assert "<dt>see</dt>" not in text


def test_an_id_of_several_profiles_leads_to_the_one_that_needs_no_model_or_is_the_default():
    judged = claims.of_ledger(claims.recorded(ROOT / "figures"))
    profiles = {}
    for one in judged:
        profiles.setdefault(one.id, []).append(one.profile)
    several = {name: of_id for name, of_id in profiles.items() if len(of_id) > 1}
    preferred = re.compile("theory|enumerated|tiny,")
    chosen = {name: next(filter(preferred.match, of_id), of_id[0]) for name, of_id in several.items()}
    assert any(chosen[name] != of_id[0] for name, of_id in several.items())  # the first by alphabet is another one
    text = ledger.with_links("\n".join(f"`{name}`" for name in several), judged, "ledger.md")
    for name, profile in chosen.items():
        anchor = "-".join([name, *re.findall(r"[a-z0-9]+", profile)])
        assert f"(ledger.md#{anchor})" in text, (name, several[name])


def test_below_every_figure_that_a_notebook_made_is_that_notebook(tmp_path):
    manifest = publishing.read_manifest(ROOT / "figures")
    made = manifest["theory/figure-5.png"]
    scaling = ROOT / "notebooks" / "results" / "scaling.ipynb"
    pages = Pages(ROOT, tmp_path / "docs", {scaling: "notebooks/another-execution.md"})
    text = gallery.page(pages, {(made["inputs"], made["made_by"]): "notebooks/executed.md"})
    pages.write_linked_sources()
    parts = dict(re.findall(r"^### [^\n]*\{ #(\S+) \}\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE))
    assert len(parts) > 300
    for anchor, part in parts.items():
        (place,) = re.findall(r"\[(?:source of the )?notebook\]\((\S+)\)", part) or [None]
        assert (place is None) == anchor.startswith("benchmarks-"), anchor
        assert place in (None, "notebooks/executed.md") or pages.has(place), place
    assert "[notebook](notebooks/executed.md)" in parts["theory-figure-5"]
    assert "[source of the notebook](source/notebooks/results/scaling.ipynb.md)" in parts["tiny-chat-figure-3"]
    assert "another-execution" not in text


@pytest.mark.parametrize(
    "text",
    [
        "```\nqrpo claims `kl-linear`\n```\n",
        "[see `kl-linear` there](x.md)",
        "[see `kl-linear` there][there]",
        "````\n```\n`kl-linear`\n```\n````\n",
        "``kl-linear``",
    ],
)
def test_ids_in_blocks_of_code_and_in_links_are_left_alone(text):
    judged = claims.recorded(ROOT / "figures", "kl-linear")
    assert judged
    linked = ledger.with_links(f"`kl-linear` {text} (`kl-linear`)", judged, "ledger.md")
    link = re.match(r"\[`kl-linear`\]\(ledger\.md#[\w-]+\)", linked)[0]
    assert linked == f"{link} {text} ({link})"
