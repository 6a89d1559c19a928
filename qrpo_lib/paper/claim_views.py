"""How the claims ledger is shown: a card for each verdict in a notebook, tables, and the page docs/claims.md."""

from __future__ import annotations

import html
from collections.abc import Sequence

from qrpo_lib.paper import claims
from qrpo_lib.paper.claims import Claim, Judgement

# Dark enough for white letters on them, and for themselves on white.
COLORS = {"supported": "#1a7f37", "contradicted": "#b3261e", "undecided": "#8a6100", "not testable": "#57606a"}
_OURS = "our own question"
_HEADER = """# Claims

Written by `qrpo claims` from what the notebooks recorded under `figures/*/claims/`; do not edit it. The claims, their
rules and the smallest effects that matter are in `qrpo_lib/paper/claims.toml`, written before the results they judge.

*Supported* and *contradicted* are what the claim's rule says of the measured intervals (95 %). *Undecided*: the sample
cannot tell. *Not testable*: a compared policy is untrained, or what the claim is about does not occur at this scale.
"""


def badge(verdict: str) -> str:
    """A verdict as a coloured word, in HTML that JupyterLab and a page without style sheets show."""
    style = f"background-color: {COLORS[verdict]}; color: #ffffff; padding: 2px 8px; font-weight: bold"
    return f'<span style="{style}">{html.escape(verdict)}</span>'


def card(judgement: Judgement) -> str:
    """One verdict as a cell shows it: coloured, beside the rule and what was measured."""
    origin = "" if judgement.origin == "paper" else f", {_OURS}"
    rows = {
        "rule": _rule(judgement),
        "smallest effect": _effect(judgement),
        "the paper's number": judgement.number,
        "measured": judgement.measured,
        "decided by": judgement.reason,
        "see": judgement.evidence,
    }
    style = "text-align: left; vertical-align: top"
    lines = [
        f'<tr><th style="{style}">{name}</th><td style="{style}">{html.escape(text)}</td></tr>'
        for name, text in rows.items()
        if text
    ]
    title = f"<b>{html.escape(judgement.statement)}</b> ({html.escape(judgement.section)}{origin}; {judgement.profile})"
    return f'<p>{badge(judgement.verdict)} {title}</p>\n<table class="claim">{"".join(lines)}</table>'


def to_markdown(judgements: Sequence[Judgement], *, rules: bool = False) -> str:
    """Verdicts as a Markdown table, with the rules if asked for. What contradicts the paper is bold."""
    from qrpo_lib.paper.style import markdown_table

    return markdown_table(
        [
            {
                "section": one.section,
                "claim": one.statement if one.origin == "paper" else f"({_OURS}) {one.statement}",
                **({"rule": _rule(one), "smallest effect": _effect(one)} if rules else {}),
                "measured": one.measured + (f" – {one.reason}" if one.reason else ""),
                "profile": one.profile,
                "verdict": f"**{one.verdict}**" if one.verdict == "contradicted" else one.verdict,
                "see": one.evidence,
            }
            for one in judgements
        ]
    )


def summary(judgements: Sequence[Judgement]) -> str:
    """How many verdicts there are of each kind, the paper's claims apart from the suite's own questions."""
    parts = []
    for origin, name in (("paper", "verdicts on claims of the paper"), ("ours", "on our own questions")):
        counted = claims.counts(judgements, origin)
        listed = ", ".join(f"{count} {verdict}" for verdict, count in counted.items())
        parts.append(f"{sum(counted.values())} {name}" + (f": {listed}" if listed else ""))
    return "; ".join(parts) + "."


def page(judgements: Sequence[Judgement], stale: int = 0) -> str:
    """docs/claims.md: every verdict, what is not examined and why, every rule."""
    from qrpo_lib.paper.style import markdown_table

    parts = [_HEADER, summary(judgements)]
    if stale:
        parts.append(f"{stale} recorded verdicts are by earlier rules and left out: run `qrpo reproduce`.")
    for origin, title in (("paper", "Verdicts on claims of the paper"), ("ours", "Verdicts on our own questions")):
        chosen = [one for one in judgements if one.origin == origin]
        if chosen:
            parts += [f"## {title}", to_markdown(chosen)]
    rows = [
        {"section": claim.section, "the paper's claim": claim.statement, "why not": claim.not_examined}
        for claim in claims.not_examined()
    ]
    parts += ["## Claims of the paper that are not examined", markdown_table(rows)]
    examined = [claim for claim in claims.catalogue().values() if not claim.not_examined]
    parts += ["## Rules", rules(examined)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


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


def table_html(judgements: Sequence[Judgement]) -> str:
    """The ledger of a results site."""
    if not judgements:
        return "<p>None is recorded yet.</p>"
    rows = []
    for one in judgements:
        statement = one.statement if one.origin == "paper" else f"({_OURS}) {one.statement}"
        measured = one.measured + (f" – {one.reason}" if one.reason else "")
        texts = [one.section, statement, _rule(one), _effect(one), measured, one.profile]
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in texts)
        rows.append(f"<tr>{cells}<td>{badge(one.verdict)}</td></tr>")
    names = ("section", "claim", "rule, stated beforehand", "smallest effect", "measured here", "profile", "verdict")
    header = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    table = f'<div class="scroll"><table class="ledger"><tr>{header}</tr>{"".join(rows)}</table></div>'
    return f"<p>{html.escape(summary(judgements))}</p>{table}"


def _rule(one: Judgement) -> str:
    return f"{one.kind}: {one.rule}" + (f"; {one.limits}" if one.limits else "")


def _effect(one: Judgement) -> str:
    number = "" if one.effect is None else f"{one.effect:.4g}"
    return f"{number} ({one.effect_words})" if number and one.effect_words else number or one.effect_words
