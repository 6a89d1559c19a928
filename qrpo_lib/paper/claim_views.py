"""How claims are shown: a card for each verdict in a notebook, and tables."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qrpo_lib.paper.claims import Claim, Judgement

# Dark enough for white letters on them, and for themselves on white.
COLORS = {"supported": "#1a7f37", "contradicted": "#b3261e", "undecided": "#8a6100", "not testable": "#57606a"}
# So that a verdict in a figure is told without colours.
MARKERS = {"supported": "o", "contradicted": "X", "undecided": "s", "not testable": "D"}
OURS = "our own question"
WORLDS = "several worlds"


def badge(verdict: str) -> str:
    """A verdict as a coloured word, in HTML that JupyterLab and a page without style sheets show."""
    style = f"background-color: {COLORS[verdict]}; color: #ffffff; padding: 2px 8px; font-weight: bold"
    return f'<span style="{style}">{html.escape(verdict)}</span>'


def card(judgement: Judgement) -> str:
    """One verdict as a cell shows it: coloured, beside the rule and what was measured."""
    origin = "" if judgement.origin == "paper" else f", {OURS}"
    rows = {
        "rule": rule_words(judgement),
        "smallest effect": effect_words(judgement),
        "the paper's number": judgement.number,
        "measured": judgement.measured,
        "decided by": judgement.reason,
        "see": judgement.evidence,
        WORLDS: worlds_words(judgement),
    }
    style = "text-align: left; vertical-align: top"
    lines = [
        f'<tr><th style="{style}; width: 8em">{name}</th><td style="{style}">{html.escape(text)}</td></tr>'
        for name, text in rows.items()
        if text
    ]
    place = html.escape(section_words(judgement.section))
    title = f"<b>{html.escape(judgement.statement)}</b> ({place}{origin}; {judgement.profile})"
    return (
        f'<p>{badge(judgement.verdict)} {title}</p>\n<table class="claim" style="width: 100%">{"".join(lines)}</table>'
    )


# What a verdict says of the claims that got it, in the words of a conclusion.
_LESSONS = {
    "supported": "It holds here that",
    "contradicted": "It does not hold here that",
    "undecided": "This sample cannot tell whether",
    "not testable": "Not put to the test here:",
}
_LONGEST_REASON = 160


def lessons(judgements: Sequence[Judgement]) -> str:
    """What a notebook's verdicts come to, in sentences: what holds, what does not, what is open, with the numbers."""
    parts, several = [], len({one.profile for one in judgements}) > 1
    for verdict, words in _LESSONS.items():
        of_verdict = [one for one in judgements if one.verdict == verdict]
        texts = [f"{f'[{one.profile}] ' if several else ''}{_lesson(one)}" for one in of_verdict]
        items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
        if items:
            parts.append(f"<p>{badge(verdict)} {words}</p>\n<ul>{items}</ul>")
    return "\n".join(parts) or "<p>Nothing was judged.</p>"


def _lesson(one: Judgement) -> str:
    """A claim with what was measured, or with why it was not, cut where it grows long: its card has all."""
    told = one.reason if one.verdict == "not testable" else one.measured
    if len(told) > _LONGEST_REASON:
        start = told[:_LONGEST_REASON]
        told = f"{start.rpartition('; ')[0] or start.rpartition(' ')[0]} …"  # between two measurements if it can be
    origin = "" if one.origin == "paper" else f" ({OURS})"
    return f"{one.statement}{origin}{f': {told}' if told else ''}"


def to_markdown(judgements: Sequence[Judgement], *, rules: bool = False) -> str:
    """Verdicts as a Markdown table; what contradicts the paper is bold.

    rules: with the rules, and with what several worlds say of the same claims, where that is published.
    """
    from qrpo_lib.paper.style import markdown_table

    several = [worlds_words(one) if rules else "" for one in judgements]
    return markdown_table(
        [
            {
                "section": one.section,
                "claim": one.statement if one.origin == "paper" else f"({OURS}) {one.statement}",
                **({"rule": rule_words(one), "smallest effect": effect_words(one)} if rules else {}),
                "measured": one.measured + (f" – {one.reason}" if one.reason else ""),
                "profile": one.profile,
                "verdict": f"**{one.verdict}**" if one.verdict == "contradicted" else one.verdict,
                "see": one.evidence,
                **({WORLDS: words} if any(several) else {}),
            }
            for one, words in zip(judgements, several, strict=True)
        ]
    )


def rules(chosen: Sequence[Claim]) -> str:
    """Rules as a Markdown table, without the columns that are empty or the same for all."""
    from qrpo_lib.paper.style import markdown_table

    rows = [
        {
            "claim": claim.id,
            "kind": claim.kind + (" (any)" if claim.over == "any" else ""),
            "rule": claim.rule + (f"; {claim.stated_limits}" if claim.limits else ""),
            "smallest effect": claim.effect,
            "testable if": claim.testable_if,
            "the paper's number": claim.number,
            "notebook": claim.notebook,
        }
        for claim in chosen
    ]
    said = [name for name in rows[0] if any(row[name] for row in rows)]
    if len({row["notebook"] for row in rows}) == 1:
        said.remove("notebook")
    return markdown_table([{name: row[name] for name in said} for row in rows])


def section_words(section: str) -> str:
    """A place in the paper as a sentence says it: 'section 4.2', 'App. G'."""
    return section if section.startswith("App.") else f"section {section}"


def rule_words(one: Judgement) -> str:
    return f"{one.kind}: {one.rule}" + (f"; {one.limits}" if one.limits else "")


def effect_words(one: Judgement) -> str:
    number = "" if one.effect is None else f"{one.effect:.4g}"
    return f"{number} ({one.effect_words})" if number and one.effect_words else number or one.effect_words


def worlds_words(judgement: Judgement) -> str:
    """What several worlds together say of the claim, with what was measured; empty where nothing is published."""
    return "; ".join(f"{one.profile}: {one.verdict}, {one.measured or one.reason}" for one in judgement.over_worlds())
