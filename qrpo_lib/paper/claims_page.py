"""The ledger as a whole: its counts, and the page docs/claims.md."""

from __future__ import annotations

from collections.abc import Sequence

from qrpo_lib.paper import claim_views, claims
from qrpo_lib.paper.claims import Judgement

_HEADER = """# Claims

Written by `qrpo claims` from what the notebooks recorded under `figures/*/claims/`; do not edit it. The claims, their
rules and the smallest effects that matter are in `qrpo_lib/paper/claims.toml`, written before the results they judge.

*Supported* and *contradicted* are what the claim's rule says of the measured intervals (95 %). *Undecided*: the sample
cannot tell. *Not testable*: a compared policy is untrained, or what the claim is about does not occur at this scale.
"""


def summary(judgements: Sequence[Judgement]) -> str:
    """How many verdicts there are of each kind, the paper's claims apart from the suite's own questions.

    A claim has a verdict for each profile and arm that examines it.
    """
    parts = []
    for origin, before, after in (
        ("paper", "verdicts on", "claims of the paper"),
        ("ours", "on", "questions of our own"),
    ):
        counted = claims.counts(judgements, origin)
        different = len({judgement.id for judgement in judgements if judgement.origin == origin})
        listed = ", ".join(f"{count} {verdict}" for verdict, count in counted.items())
        parts.append(f"{sum(counted.values())} {before} {different} {after}" + (f": {listed}" if listed else ""))
    return "; ".join(parts) + "."


def page(judgements: Sequence[Judgement], stale: int = 0) -> str:
    """docs/claims.md: every verdict, what is not examined and why, every rule."""
    from qrpo_lib.paper.style import markdown_table

    parts = [_HEADER, summary(judgements)]
    if stale:
        parts.append(f"{stale} recorded verdicts are by earlier rules and left out: run `qrpo reproduce`.")
    for origin, title in (("paper", "Verdicts on claims of the paper"), ("ours", "Verdicts on our own questions")):
        chosen = [judgement for judgement in judgements if judgement.origin == origin]
        if chosen:
            parts += [f"## {title}", claim_views.to_markdown(chosen)]
    rows = [
        {"section": claim.section, "the paper's claim": claim.statement, "why not": claim.not_examined}
        for claim in claims.not_examined()
    ]
    parts += ["## Claims of the paper that are not examined", markdown_table(rows)]
    examined = [claim for claim in claims.catalogue().values() if not claim.not_examined]
    parts += ["## Rules", claim_views.rules(examined)]
    return "\n\n".join(part.strip() for part in parts) + "\n"
