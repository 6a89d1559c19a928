"""The claims ledger: each claim of the paper that the suite examined, what was measured, and the verdict.

A notebook ends with `claims.record(Claim(...), folder)`; `claims.ledger(figures)` reads what all notebooks recorded.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from qrpo_lib import files
from qrpo_lib.plots import markdown_table

Verdict = Literal["reproduced", "not reproduced", "beyond this scale"]
_FOLDER = "claims"
_START, _END = "<!-- claims: written by `qrpo claims` -->", "<!-- end of claims -->"


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and what became of it.

    id: kebab-case, unique within a profile's arm.   section: where the paper makes the claim ("App. C", "4.2").
    statement: the paper's statement, with its number where it has one.
    rule: the test that decides the verdict, fixed before the result was seen.
    measured: what was measured, with its confidence interval or error and its sample size.
    profile: "theory" where no model is involved, else the profile and its arm.
    evidence: figure or table that shows it, such as "table4".
    """

    id: str
    section: str
    statement: str
    rule: str
    measured: str
    profile: str
    verdict: Verdict
    evidence: str

    def __post_init__(self):
        for field in fields(self):
            if not isinstance(getattr(self, field.name), str) or not getattr(self, field.name).strip():
                raise ValueError(f"Claim {self.id!r}: {field.name} must be a text that is not empty.")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.id):
            raise ValueError(f"Claim {self.id!r}: an id is lower-case words joined by hyphens.")
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"Claim {self.id!r}: the verdict {self.verdict!r} is none of {get_args(Verdict)}.")


def verdict(holds: bool) -> Verdict:
    """The verdict of a rule that could be applied."""
    return "reproduced" if holds else "not reproduced"


def record(claim: Claim, folder: str | Path) -> Path:
    """Write one claim to `folder/claims/<id>.json`, where the ledger finds it; an earlier verdict is replaced."""
    path = Path(folder) / _FOLDER / f"{claim.id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(claim), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def ledger(figures: str | Path) -> list[Claim]:
    """All claims under a figures folder, by section, then id, then profile.

    Raises `files.UnreadableFileError` for a file that is not a claim as `record` writes it.
    """
    recorded = [_read(path) for path in sorted(Path(figures).glob(f"**/{_FOLDER}/*.json"))]
    return sorted(recorded, key=lambda claim: (_section_order(claim.section), claim.id, claim.profile))


def _read(path: Path) -> Claim:
    remedy = "Remove it and run `qrpo reproduce` with its profile again: it is published anew."
    values = files.read_json(path, remedy)
    names = {field.name for field in fields(Claim)}
    if values.keys() != names:
        wrong = ", ".join(sorted(values.keys() ^ names))
        raise files.unreadable(path, f"it is not a claim of this version of the suite (see {wrong})", remedy)
    try:
        return Claim(**values)
    except ValueError as error:
        raise files.unreadable(path, str(error).rstrip("."), remedy) from None


def of_profile(ledger: list[Claim], name: str) -> list[Claim]:
    """Those of a profile, whatever its arm, and those of the theory."""
    return [claim for claim in ledger if claim.profile.split(",")[0] in (name, "theory")]


def to_frame(ledger: list[Claim]):
    """The ledger as a data frame, one column for each field."""
    import pandas as pd

    return pd.DataFrame([asdict(claim) for claim in ledger], columns=[field.name for field in fields(Claim)])


def to_markdown(ledger: list[Claim], *, rules: bool = False) -> str:
    """The ledger as a Markdown table; the README's is without the rules, that of `notebooks/results/claims` with."""
    return markdown_table(
        [
            {
                "section": claim.section,
                "the paper's claim": claim.statement,
                **({"rule": claim.rule} if rules else {}),
                "measured here": claim.measured,
                "profile": claim.profile,
                "verdict": f"**{claim.verdict}**" if claim.verdict == "not reproduced" else claim.verdict,
                "see": claim.evidence,
            }
            for claim in ledger
        ]
    )


def write_into(document: Path, ledger: list[Claim]) -> bool:
    """Put the ledger's table between the two marker comments of a Markdown file. Returns whether the file changed."""
    text = document.read_text(encoding="utf-8")
    if _START not in text or _END not in text:
        raise ValueError(f"{document} has no place for the claims: a line {_START} and a line {_END}.")
    before, _, rest = text.partition(_START)
    _, _, after = rest.partition(_END)
    counts = {verdict: sum(claim.verdict == verdict for claim in ledger) for verdict in get_args(Verdict)}
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    written = f"{before}{_START}\n{len(ledger)} claims: {summary}.\n\n{to_markdown(ledger)}\n{_END}{after}"
    document.write_text(written, encoding="utf-8")
    return written != text


def _section_order(section: str) -> tuple:
    # Numbered sections come before the appendices ("4.2" < "App. A"), each in the paper's order.
    appendix = section.startswith("App.")
    return (appendix, [part.zfill(3) for part in re.findall(r"\d+|[A-Z]", section.removeprefix("App."))])
