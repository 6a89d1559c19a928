"""The claims ledger: what the paper claims (claims.toml), what a notebook measured, and the verdict by the rule.

    ledger = claims.Ledger(folder, "theory")
    ledger.judge("kl-linear", {"deviation_of_the_order": 1.0}, measured="order 2.000 in 18 pairs")

A notebook says only what it measured. Each verdict is written to `folder/claims/<id>.json`; `recorded(figures)` reads
what all notebooks wrote.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from qrpo_lib.paper import rules
from qrpo_lib.runs import files, paths
from qrpo_lib.runs.code_version import package_file
from qrpo_lib.runs.errors import InputError

ORIGINS = ("paper", "ours")
_FOLDER = "claims"
# Profiles of one world, and the profile that has several of the same kind; how a world's own arms are named there.
SEVERAL = {"tiny": "tiny-full", "tiny-beyond": "tiny-full-beyond"}
_ONE_WORLD = "-world-"


class UnknownClaimError(InputError):
    """A notebook judges a claim that claims.toml does not have."""


@dataclass(frozen=True)
class Claim:
    """One claim as claims.toml has it; see there for what each field means."""

    id: str
    section: str
    origin: str
    statement: str
    number: str = ""
    numbers: tuple[float, ...] = ()
    kind: str = ""
    over: str = "all"
    rule: str = ""
    effect: str = ""
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    testable_if: str = ""
    notebook: str = ""
    evidence: str = ""
    not_examined: str = ""

    @property
    def stated_limits(self) -> str:
        """The limits of an exact rule in words: "kl below 1e-08"."""
        return ", ".join(
            f"{name.replace('_', ' ')} {comparison.replace('_', ' ')} {bound:g}"
            for name, limit in self.limits.items()
            for comparison, bound in limit.items()
        )


@dataclass(frozen=True)
class Judgement:
    """The verdict on a claim in one profile's arm, with all that it rests on.

    verdict: one of `rules.VERDICTS`.   reason: what decided it, where that is not the rule alone.
    measured: in words, with intervals and sample.   values: the numbers that the rule was applied to, by name; an
        interval as `estimate, low, high` and, for signs, `predicted`; an infinite end is None.
    effect: the smallest effect that matters, as a number; None for rules without one.   effect_words: where it is from.
    profile: "theory" where no model is involved, else the profile and its arm.
    rule_version: of the rule with its limits and smallest effect; a verdict by another version is `stale`.
    The other fields are the claim's.
    """

    id: str
    section: str
    origin: str
    statement: str
    number: str
    kind: str
    rule: str
    limits: str
    rule_version: str
    measured: str
    values: dict[str, Any]
    effect: float | None
    effect_words: str
    profile: str
    verdict: str
    reason: str
    evidence: str

    def over_worlds(self) -> list[Judgement]:
        """The published verdicts of several worlds together on the same claim, to be shown beside that of one.

        Of the same arm, or where that has none of all arms; none for a profile that is no world of another one.
        """
        name, _, arm = self.profile.partition(", ")
        if name not in SEVERAL:
            return []
        try:
            published = recorded(paths.project_root() / "figures" / SEVERAL[name], self.id)
        except InputError:  # the ledger's notebook says so; here another verdict is shown
            return []
        pools = of_ledger(published)
        return [pool for pool in pools if pool.profile == f"{SEVERAL[name]}, {arm}"] or pools

    def _repr_html_(self) -> str:
        from qrpo_lib.paper import claim_views

        return claim_views.card(self)

    def _repr_markdown_(self) -> str:
        from qrpo_lib.paper import claim_views

        return claim_views.to_markdown([self], rules=True)


@dataclass(frozen=True)
class Rules:
    """The rules of the claims that a notebook judges, shown where it states them: before its results."""

    notebook: str

    def _repr_markdown_(self) -> str:
        from qrpo_lib.paper import claim_views

        return claim_views.rules(judged_by(self.notebook))


def judged_by(notebook: str) -> list[Claim]:
    """The claims that a notebook ("theory/noise") judges. Raises InputError if there are none."""
    judged = [claim for claim in catalogue().values() if claim.notebook == notebook]
    if not judged:
        raise InputError(f"No claim of claims.toml is judged by a notebook {notebook!r}.")
    return judged


@dataclass(frozen=True)
class Learnt:
    """What verdicts come to, shown where a notebook ends: in words, and always those of this execution."""

    judged: Sequence[Judgement]

    def _repr_html_(self) -> str:
        from qrpo_lib.paper import claim_views

        return claim_views.lessons(self.judged)


_TEXTS = [column.name for column in fields(Judgement) if column.name not in ("values", "effect")]


@functools.cache
def catalogue() -> dict[str, Claim]:
    """All claims of claims.toml by id, in the file's order. Raises InputError where the file is malformed."""
    by_id: dict[str, Claim] = {}
    for entry in _content()["claim"]:
        claim = _parsed(entry, _effects())
        if claim.id in by_id:
            raise InputError(f"claims.toml has two claims {claim.id!r}.")
        by_id[claim.id] = claim
    return by_id


@functools.cache
def _content() -> dict[str, Any]:
    return tomllib.loads(package_file("claims.toml").read_text(encoding="utf-8"))


def _effects() -> dict[str, dict[str, Any]]:
    return _content()["effects"]


def get(claim_id: str) -> Claim:
    """The claim with this id. Raises UnknownClaimError."""
    if claim_id not in catalogue():
        raise UnknownClaimError(f"claims.toml has no claim {claim_id!r}: add it there, with its rule.")
    return catalogue()[claim_id]


class Ledger:
    """What one notebook judges; shown at the end of a cell, all of it.

    folder: where the notebook's figures go; verdicts go into `claims/` in it.
    profile: "theory", "enumerated", or a profile's label ("tiny, chat").
    task: "chat" or "code", which smallest effects go by; may be missing where none is needed.
    """

    def __init__(self, folder: str | Path, profile: str, task: str = ""):
        self.folder, self.profile, self.task = Path(folder), profile, task
        self.judged: list[Judgement] = []

    @classmethod
    def of_arm(cls, folder: str | Path, settings: Any) -> Ledger:
        """The ledger of a profile's arm, as `profiles.load` returns it."""
        return cls(folder, settings.label, "code" if settings.task.completions == "solution" else "chat")

    def judge(
        self,
        claim_id: str,
        values: Mapping[str, Any] | float | None = None,
        measured: str = "",
        *,
        scale: float | None = None,
        effect: float | None = None,
        predicted: Mapping[str, int] | None = None,
        untrained: Sequence[str] = (),
        absent: str = "",
        evidence: str = "",
    ) -> Judgement:
        """Apply a claim's rule to what was measured, write the verdict down, and return it to be shown.

        Parameters
        ----------
        claim_id: of claims.toml.
        values: intervals by name or, for exact rules, numbers by name; a number alone where the rule has one limit.
        measured: in words, beside the values.
        scale: what the smallest effect is a share of, where it is one: DPO's gain, a KL in nats.
        effect: the smallest effect itself, where it was worked out before: of worlds, for their pool.
        predicted: of a rule of signs, 1 or -1 for each interval.
        untrained: compared policies that are not trained (their selected step is 0); the claim is then not testable.
        absent: which precondition is absent, so that the claim is not testable.
        evidence: the figure or table, where it is not the claim's.

        Raises UnknownClaimError where claims.toml has no such claim, ValueError where the values do not fit its rule.
        """
        claim = get(claim_id)
        if claim.not_examined:
            raise InputError(f"Claim {claim_id!r} has no rule: claims.toml says why the suite does not examine it.")
        if not isinstance(values, Mapping):
            values = {} if values is None else dict.fromkeys(claim.limits, float(values))
        if effect is None:
            effect, effect_words, without_scale = self._effect(claim, scale)
        else:
            effect, effect_words, without_scale = _rounded(effect), "mean of the worlds'", ""
        if untrained:
            absent = f"untrained, the selected step is 0: {', '.join(untrained)}"
        absent = absent or without_scale
        applied = {"effect": effect, "limits": claim.limits, "predicted": predicted, "over": claim.over}
        decided = rules.apply(claim.kind, values, **applied) if not absent else rules.Decision("not testable", absent)
        judgement = Judgement(
            id=claim.id,
            measured=_in_words(claim, values, measured),
            values={name: _plain(value, (predicted or {}).get(name)) for name, value in values.items()},
            effect=effect,
            effect_words=effect_words,
            profile=self.profile,
            verdict=decided.verdict,
            reason=decided.reason,
            evidence=evidence or claim.evidence,
            **_described(claim),
        )
        record(judgement, self.folder)
        self.judged = [known for known in self.judged if known.id != judgement.id] + [judgement]
        return judgement

    def learnt(self) -> Learnt:
        """What was judged so far, as conclusions."""
        return Learnt(tuple(self.judged))

    def _effect(self, claim: Claim, scale: float | None) -> tuple[float | None, str, str]:
        """The smallest effect that matters here, where it is from, and why there is none if there should be one."""
        if not claim.effect:
            return None, "", ""
        table = _effects()[claim.effect]
        choices = [table[name] for name in (self.profile, self.task, "any") if name in table]
        if not choices:
            raise ValueError(f"claims.toml has no smallest effect {claim.effect!r} for {self.profile!r}.")
        if "absolute" in choices[0]:
            return float(choices[0]["absolute"]), "", ""
        share, base = choices[0]["share"], table["of"]
        nothing = "nothing to measure the smallest effect by"
        if scale is None:
            return None, f"{share:.0%} of {base}", f"{nothing}: {base} is not known"
        if not math.isfinite(scale):
            raise ValueError(f"Claim {claim.id!r}: the scale of the smallest effect is {scale}.")
        words = f"{share:.0%} of {base}, {scale:.4g}"
        if scale <= 0 and claim.kind in ("non-inferiority", "equivalence"):  # else 0 is the strictest effect
            return None, words, f"{nothing}: {base} is {scale:.4g}"
        return _rounded(share * max(scale, 0.0)), words, ""

    def _repr_html_(self) -> str:
        return "\n".join(judgement._repr_html_() for judgement in self.judged) or "Nothing was judged."

    def _repr_markdown_(self) -> str:
        from qrpo_lib.paper import claim_views

        return claim_views.to_markdown(self.judged, rules=True) if self.judged else "Nothing was judged."


def record(judgement: Judgement, folder: str | Path) -> Path:
    """Write one verdict to `folder/claims/<id>.json`, where the ledger finds it; an earlier verdict is replaced."""
    path = Path(folder) / _FOLDER / f"{judgement.id}.json"
    content = json.dumps(asdict(judgement), indent=2, ensure_ascii=False, allow_nan=False)
    files.write_atomically(path, f"{content}\n".encode())
    return path


def recorded(figures: str | Path, claim_id: str = "*") -> list[Judgement]:
    """All verdicts under a figures folder, or those on one claim, by section, then id, then profile; no `stale` ones.

    Raises `files.UnreadableFileError` for a file that is not a verdict as `record` writes it.
    """
    judgements = [judgement for path in _paths(figures, claim_id) if (judgement := _read(path)) is not None]
    return sorted(judgements, key=lambda known: (_section_order(known.section), known.id, known.profile))


def of_ledger(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Without those of single worlds of a profile that has several: there the pool of the worlds counts."""
    return [judgement for judgement in judgements if _ONE_WORLD not in judgement.profile]


def stale(figures: str | Path) -> list[Path]:
    """Files under a figures folder that were judged by other rules than today's: run their notebooks again."""
    return [path for path in _paths(figures) if _read(path) is None]


def of_profile(judgements: Sequence[Judgement], name: str) -> list[Judgement]:
    """Those of a profile, whatever its arm, and those without a model."""
    return [judgement for judgement in judgements if judgement.profile.split(",")[0] in (name, "theory", "enumerated")]


def to_frame(judgements: Sequence[Judgement]):
    """Verdicts as a data frame, one column for each field but the values."""
    import pandas as pd

    names = [column.name for column in fields(Judgement) if column.name != "values"]
    return pd.DataFrame([{name: getattr(judgement, name) for name in names} for judgement in judgements], columns=names)


def counts(judgements: Sequence[Judgement], origin: str) -> dict[str, int]:
    """How many verdicts of each kind there are on claims of an origin; only those that there are."""
    of_origin = [judgement.verdict for judgement in judgements if judgement.origin == origin]
    return {verdict: of_origin.count(verdict) for verdict in rules.VERDICTS if verdict in of_origin}


def not_examined() -> list[Claim]:
    """The paper's claims that the suite does not examine, in the paper's order."""
    left_out = [claim for claim in catalogue().values() if claim.not_examined]
    return sorted(left_out, key=lambda claim: (_section_order(claim.section), claim.id))


def _paths(figures: str | Path, claim_id: str = "*") -> list[Path]:
    return sorted(Path(figures).glob(f"**/{_FOLDER}/{claim_id}.json"))


def _read(path: Path) -> Judgement | None:
    """What is recorded in a file, or None if it was judged by another rule than today's."""
    remedy = "Remove it and run `qrpo reproduce` with its profile again: it is published anew."
    content = files.read_json(path, remedy)
    if "rule_version" not in content:  # from before there were versions
        return None
    wrong = sorted({column.name for column in fields(Judgement)} ^ set(content))
    wrong = wrong or [name for name in _TEXTS if not isinstance(content[name], str)]
    if wrong:
        raise files.unreadable(path, f"it is not a verdict as they are recorded (see {', '.join(wrong)})", remedy)
    if content["verdict"] not in rules.VERDICTS:
        raise files.unreadable(path, f"there is no verdict {content['verdict']!r}", remedy)
    claim = catalogue().get(content["id"])
    if claim is None or claim.not_examined or content["rule_version"] != _described(claim)["rule_version"]:
        return None
    return Judgement(**content | _described(claim))


def _described(claim: Claim) -> dict[str, str]:
    """What a verdict says of its claim. The version is of all that decides: kind, rule, limits, smallest effect."""
    decides = ("kind", "over", "rule", "limits", "testable_if")
    content = {name: getattr(claim, name) for name in decides} | {"effects": _effects().get(claim.effect)}
    version = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    names = ("section", "origin", "statement", "number", "kind", "rule")
    described = {name: getattr(claim, name) for name in names}
    return described | {"limits": claim.stated_limits, "rule_version": version}


def _in_words(claim: Claim, values: Mapping[str, Any], measured: str) -> str:
    """What was measured: the words alone for exact rules, else the intervals, their sample, and the words."""
    if claim.kind == "exact":
        return measured or ", ".join(f"{name.replace('_', ' ')} {value:.2g}" for name, value in values.items())
    if not values:
        return measured or "nothing"
    listed = "; ".join(f"{name}: {interval}" for name, interval in values.items())
    some = next(iter(values.values()))
    sample = f"{some.n} prompts x {some.seeds} seeds" if getattr(some, "n", 0) else ""
    sample += f"{' x ' if sample else ''}{some.worlds} worlds" if getattr(some, "worlds", 1) > 1 else ""
    notes = "; ".join(note for note in (measured, sample) if note)
    return f"{listed} ({notes})" if notes else listed


def _plain(value: Any, predicted: int | None) -> Any:
    if not hasattr(value, "low"):
        return _rounded(value)
    ends = {"estimate": value.mean, "low": value.low, "high": value.high}
    shown = {name: _rounded(end) if math.isfinite(end) else None for name, end in ends.items()}
    return shown if predicted is None else shown | {"predicted": predicted}


def _rounded(value: float) -> float:
    # What lies beyond these digits differs between processors, and says nothing.
    return float(f"{value:.6g}")


def _parsed(entry: dict[str, Any], effects: Mapping[str, Any]) -> Claim:
    name = entry.get("id", "without id")

    def refuse(what: str) -> None:
        raise InputError(f"claims.toml, claim {name!r}: {what}.")

    unknown = set(entry) - {known.name for known in fields(Claim)}
    if unknown:
        refuse(f"there is no field {', '.join(sorted(unknown))}")
    for needed in ("id", "section", "origin", "statement"):
        if not str(entry.get(needed, "")).strip():
            refuse(f"{needed} is missing")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        refuse("an id is lower-case words joined by hyphens")
    if entry["origin"] not in ORIGINS:
        refuse(f"origin is {' or '.join(ORIGINS)}, not {entry['origin']!r}")
    claim = Claim(**entry | {"numbers": tuple(entry.get("numbers", ()))})
    if bool(claim.not_examined) == bool(claim.notebook):
        refuse("it has either a notebook that judges it or a reason in not_examined")
    if claim.not_examined:
        return claim
    if claim.kind not in rules.KINDS:
        refuse(f"kind is one of {', '.join(rules.KINDS)}, not {claim.kind!r}")
    if not claim.rule or not claim.evidence:
        refuse("an examined claim has a rule and evidence")
    if (claim.kind == "exact") != bool(claim.limits):
        refuse("limits belong to exact rules, and those need them")
    if any(set(limit) - set(rules.LIMITS) or not limit for limit in claim.limits.values()):
        refuse(f"a limit is one of {', '.join(rules.LIMITS)}")
    if (claim.kind in ("exact", "sign")) == bool(claim.effect) or (claim.effect and claim.effect not in effects):
        refuse(f"effect is one of {', '.join(effects)}, and exact rules and signs have none")
    return claim


def _section_order(section: str) -> tuple:
    # Numbered sections come before the appendices ("4.2" < "App. A"), each in the paper's order.
    appendix = section.startswith("App.")
    return (appendix, [part.zfill(3) for part in re.findall(r"\d+|[A-Z]", section.removeprefix("App."))])
