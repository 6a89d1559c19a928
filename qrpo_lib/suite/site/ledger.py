"""Verdicts on the site: all of them with filters, their counts, and what contradicts the paper first."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from qrpo_lib.paper import claim_views, claims, claims_page
from qrpo_lib.paper.claims import Judgement
from qrpo_lib.suite.site import gallery
from qrpo_lib.suite.site.gallery import Evidence
from qrpo_lib.suite.site.pages import FENCED, outside

_COUNTS, _FAILURES = "<!-- verdict counts -->", "<!-- failures -->"
_ID = re.compile(r"(?<!`)`([a-z0-9-]+)`(?!`)")
# Links, which can hold no other link: [text](place) and [text][name].
_LINK = re.compile(r"\[[^\[\]]*\](?:\([^()]*\)|\[[^\[\]]*\])")
_VERDICTS = ("supported", "contradicted", "undecided", "not testable")
# What the paper's sections are about, for readers who do not have it at hand.
_SUBJECTS = {
    "3": "the method",
    "4.1": "reference rewards",
    "4.2": "the best models",
    "4.3": "length bias",
    "6": "discussion",
    "App. A": "loss, optimum and gradient",
    "App. B": "transformations of the quantile",
    "App. C": "Z as a moment generating function",
    "App. D": "the law of the quantile",
    "App. E": "Z in closed form",
    "App. F": "transformations with a finite Z",
    "App. G": "noise of the target",
    "App. H": "noise of an estimated Z",
    "App. I": "noise of an estimated quantile",
    "App. J": "optima at a small beta",
    "App. J.2": "how fast optima meet",
    "App. K": "Z at a small beta",
    "App. L.7": "training pairs",
}
_HEADER = """# Verdicts

Every claim that a notebook judged. Rules and the smallest effects that matter were written before the results that
they judge. *Supported* and *contradicted* are what the rule says of the measured 95 % intervals; *undecided*: the
sample cannot tell; *not testable*: a compared policy is untrained, or what the claim is about does not occur at this
scale.
"""


def filled_in(text: str, judged: Sequence[Judgement]) -> str:
    """A page's text with the counts of verdicts and the contradicted claims in the places kept for them."""
    return text.replace(_COUNTS, counts(judged)).replace(_FAILURES, failures(judged))


def with_links(text: str, judged: Sequence[Judgement], place: str) -> str:
    """Markdown whose ids of claims, written as code, lead to their verdicts; blocks of code and links stay.

    place: of the page of verdicts.
    """
    # Of several profiles the first in the order of the page of figures: the last one to be entered stays.
    ordered = sorted(judged, key=lambda one: gallery.place(tuple(one.profile.split(", "))), reverse=True)
    anchors = {one.id: _anchor(one) for one in ordered}

    def linked(match: re.Match) -> str:
        return f"[{match[0]}]({place}#{anchors[match[1]]})" if match[1] in anchors else match[0]

    def without_links(piece: str) -> str:
        return outside(_LINK, piece, lambda words: _ID.sub(linked, words))

    return outside(FENCED, text, without_links)


def first_page(title: str, judged: Sequence[Judgement]) -> str:
    """For a project without a first page of its own."""
    return f"# {title}\n\n{counts(judged)}\n\n## What does not hold\n\n{failures(judged)}\n"


def counts(judged: Sequence[Judgement]) -> str:
    """The number of verdicts of each kind on claims of the paper, as boxes that lead to the ledger."""
    counted = claims.counts(judged, "paper")
    boxes = "".join(
        f'<a class="count {_class(verdict)}" href="ledger.html?verdict={_class(verdict)}">'
        f"<strong>{counted.get(verdict, 0)}</strong> {verdict}</a>"
        for verdict in _VERDICTS
    )
    return f'<p class="counts">{boxes}</p>'


def failures(judged: Sequence[Judgement]) -> str:
    """The paper's claims that came out otherwise, each a line that leads to the ledger."""
    items = [
        f"<li><strong>{_place(one.section)}</strong>: "
        f'<a href="ledger.html#{_anchor(one)}">{html.escape(one.statement)}</a> ({html.escape(one.profile)})</li>'
        for one in judged
        if one.origin == "paper" and one.verdict == "contradicted"
    ]
    return f"<ul>{''.join(items)}</ul>" if items else "No claim of the paper is contradicted."


def page(judged: Sequence[Judgement], evidence: Sequence[Evidence]) -> str:
    """The ledger by section, the paper's claims first, with filters, and what is not examined.

    evidence: of each verdict what it rests on.
    """
    parts = [_HEADER, claims_page.summary(judged), _filters(judged)]
    with_evidence = sorted(zip(judged, evidence, strict=True), key=lambda pair: pair[0].origin != "paper")
    for section in dict.fromkeys(one.section for one in judged):
        subject = f": {_SUBJECTS[section]}" if section in _SUBJECTS else ""
        cards = "\n".join(_card(one, seen) for one, seen in with_evidence if one.section == section)
        parts.append(f"## {_place(section)}{subject}\n\n{cards}")
    items = [
        f"<li><strong>{_place(one.section)}</strong>: {html.escape(one.statement)}. "
        f"<em>{html.escape(one.not_examined)}</em></li>"
        for one in claims.not_examined()
    ]
    parts.append(f"## Not examined\n\n<ul>{''.join(items)}</ul>")
    return "\n\n".join(parts) + "\n"


def _filters(judged: Sequence[Judgement]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" name="verdict" value="{verdict}" checked> {verdict}</label>'
        for verdict in _VERDICTS
    )
    names = dict.fromkeys(one.profile for one in judged)
    options = "".join(f"<option>{html.escape(name)}</option>" for name in names)
    origins = '<option value="paper">the paper\'s</option><option value="ours">our own questions</option>'
    return (
        f'<form class="filters" hidden><fieldset><legend>Verdict</legend>{boxes}</fieldset>'
        f'<label>Profile <select name="profile"><option value="">all</option>{options}</select></label>'
        f'<label>Claims <select name="origin"><option value="">all</option>{origins}</select></label>'
        '<label>Words <input type="search" name="words"></label>'
        '<output aria-live="polite"></output></form>'
    )


def _card(one: Judgement, evidence: Evidence) -> str:
    """A verdict: statement, measurement and the way to its evidence in sight, the rule behind a click."""
    origin = "" if one.origin == "paper" else f" · {claim_views.OURS}"
    rows = {
        "rule": claim_views.rule_words(one),
        "smallest effect": claim_views.effect_words(one),
        "the paper's number": one.number,
        "decided by": one.reason,
        "see": "" if evidence.address else evidence.name,
    }
    address, name = (html.escape(words) for words in evidence)
    seen = f' <a href="{address}">{name}</a>' if address else ""
    listed = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in rows.items() if text)
    return (
        f'<div class="verdict {_class(one.verdict)}" id="{_anchor(one)}" data-verdict="{one.verdict}" '
        f'data-profile="{html.escape(one.profile)}" data-origin="{one.origin}">'
        f'<p><span class="badge">{one.verdict}</span> <strong>{html.escape(one.statement)}</strong> '
        f"<small>{html.escape(one.profile)}{origin}</small></p>"
        f"<p>{html.escape(one.measured)}{seen}</p>"
        f"<details><summary>the rule</summary><dl>{listed}</dl></details></div>"
    )


def _place(section: str) -> str:
    words = html.escape(claim_views.section_words(section))
    return words[0].upper() + words[1:]


def _class(verdict: str) -> str:
    return verdict.replace(" ", "-")


def _anchor(one: Judgement) -> str:
    return "-".join([one.id, *re.findall(r"[a-z0-9]+", one.profile.lower())])
