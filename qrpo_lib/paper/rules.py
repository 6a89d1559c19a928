"""How verdicts are decided: one function for each kind of rule in claims.toml. Intervals and limits in, verdicts out.

    superiority({"QRPO - DPO": interval}, effect=0.02).verdict

An interval is any object with finite or infinite `low` and `high`, at 95 % here. Errors then are at most 2.5 % an
interval: of support where the truth is at the edge of what would support (0, or the smallest effect), of contradiction
where it is at the edge of what would contradict. Of several intervals that must all support, each must do so on its
own, so that false support stays at 2.5 %; one is enough to contradict, so that false contradiction is at most 2.5 %
times their number. `tests/paper/test_rules.py` shows the rates by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Verdict = Literal["supported", "contradicted", "undecided", "not testable"]
Kind = Literal["superiority", "non-inferiority", "equivalence", "trend", "sign", "exact"]
Over = Literal["all", "any"]
KINDS = get_args(Kind)
VERDICTS = get_args(Verdict)
LIMITS: dict[str, Callable[[float, float], bool]] = {
    "at_most": lambda value, limit: value <= limit,
    "below": lambda value, limit: value < limit,
    "at_least": lambda value, limit: value >= limit,
    "above": lambda value, limit: value > limit,
}


@dataclass(frozen=True)
class Decision:
    """A verdict, and in a few words what decided it."""

    verdict: Verdict
    reason: str = ""


def superiority(intervals: Mapping[str, Any], effect: float, over: Over = "all") -> Decision:
    """Something is larger than 0. Supported: above 0. Contradicted: the upper end is below the smallest effect.

    An interval above 0 whose upper end is below the smallest effect supports; the reason says that it is too small to
    matter. One that contradicts with 0 in it says no more than that nothing matters; the reason says so.
    """
    _check(intervals, effect)

    def judged(interval) -> Verdict:
        if interval.low > 0:
            return "supported"
        return "contradicted" if interval.high < effect else "undecided"

    outcome = _over(intervals, judged, over)
    small = [name for name, interval in intervals.items() if interval.low > 0 and interval.high < effect]
    if outcome.verdict == "supported" and small:
        return Decision("supported", f"smaller than what matters: {_listed(small)}")
    if outcome.verdict == "contradicted" and all(interval.high >= 0 for interval in intervals.values()):
        return Decision("contradicted", ": ".join(filter(None, (outcome.reason, "nothing that matters"))))
    return outcome


def non_inferiority(intervals: Mapping[str, Any], effect: float, over: Over = "all") -> Decision:
    """Something ties or is larger. Supported: the lower end is above -effect. Contradicted: the upper is below it."""
    _check(intervals, effect)

    def judged(interval) -> Verdict:
        if interval.low > -effect:
            return "supported"
        return "contradicted" if interval.high < -effect else "undecided"

    return _over(intervals, judged, over)


def equivalence(intervals: Mapping[str, Any], effect: float, over: Over = "all") -> Decision:
    """Something is 0 for all that matters. Supported: inside +-effect. Contradicted: outside."""
    _check(intervals, effect)

    def judged(interval) -> Verdict:
        if -effect < interval.low and interval.high < effect:
            return "supported"
        return "contradicted" if interval.low > effect or interval.high < -effect else "undecided"

    return _over(intervals, judged, over)


def trend(intervals: Mapping[str, Any], effect: float, over: Over = "all") -> Decision:
    """Something grows with log n: `superiority` of slopes over all n, as gains from the fewest to the most."""
    return superiority(intervals, effect, over)


def sign(intervals: Mapping[str, Any], predicted: Mapping[str, int], over: Over = "all") -> Decision:
    """Each value has the predicted sign (1 or -1). Supported: on that side of 0. Contradicted: on the other.

    An interval without ends, as of one seed, decides nothing, and keeps nothing open where others have theirs.
    """
    _check(intervals, 0.0)
    unknown = set(intervals) ^ set(predicted)
    if unknown or not set(predicted.values()) <= {1, -1}:
        raise ValueError(f"Each interval needs a predicted sign, 1 or -1; {sorted(unknown) or dict(predicted)}.")
    sides = {
        name: (interval.low, interval.high) if predicted[name] > 0 else (-interval.high, -interval.low)
        for name, interval in intervals.items()
    }
    bounded = {name: side for name, side in sides.items() if not (math.isinf(side[0]) and math.isinf(side[1]))}

    def judged(side: tuple[float, float]) -> Verdict:
        return "supported" if side[0] > 0 else "contradicted" if side[1] < 0 else "undecided"

    return _over(bounded or sides, judged, over)


def exact(values: Mapping[str, float], limits: Mapping[str, Mapping[str, float]]) -> Decision:
    """Each measured number is within its stated limit (`LIMITS`): of theory and numerics, where nothing is sampled or
    the sample is as large as one likes. There is no undecided."""
    unknown = set(values) ^ set(limits)
    if unknown:
        raise ValueError(f"Measured numbers and limits differ in {', '.join(sorted(unknown))}.")
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"The measured number {name!r} is {value}: a limit needs a finite one.")
    broken = [
        name
        for name, limit in limits.items()
        if not all(LIMITS[comparison](values[name], bound) for comparison, bound in limit.items())
    ]
    return Decision("contradicted", f"outside its limit: {_listed(broken)}") if broken else Decision("supported")


def apply(
    kind: str,
    values: Mapping[str, Any],
    *,
    effect: float | None = None,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    predicted: Mapping[str, int] | None = None,
    over: Over = "all",
) -> Decision:
    """The outcome of a rule of this kind (`KINDS`).

    Parameters
    ----------
    kind: one of `KINDS`.
    values: intervals by name; numbers by name for "exact".
    effect: the smallest that matters, in the unit of the values, where the kind has one.
    limits: of "exact", by the names of its numbers.
    predicted: of "sign", 1 or -1 by the names of its intervals.
    over: whether all intervals have to agree, or any.

    Raises
    ------
    ValueError
        The kind is unknown, or something that it needs is missing.
    """
    if kind == "exact":
        return exact(values, limits or {})
    if kind == "sign":
        return sign(values, predicted or {}, over)
    rules = {"superiority": superiority, "non-inferiority": non_inferiority, "equivalence": equivalence, "trend": trend}
    if kind not in rules:
        raise ValueError(f"There is no kind of rule {kind!r}: use one of {', '.join(KINDS)}.")
    if effect is None:
        raise ValueError(f"A rule of kind {kind!r} needs the smallest effect that matters.")
    return rules[kind](values, effect, over)


def _over(intervals: Mapping[str, Any], judged: Callable[[Any], Verdict], over: Over) -> Decision:
    if over not in get_args(Over):
        raise ValueError(f'A rule is over "all" or "any" of its intervals, not {over!r}.')
    verdicts = {name: judged(interval) for name, interval in intervals.items()}
    # What one interval decides alone, and what takes all of them.
    decisive, every = ("contradicted", "supported") if over == "all" else ("supported", "contradicted")
    deciding = [name for name, verdict in verdicts.items() if verdict == decisive]
    if deciding:
        return Decision(decisive, _listed(deciding) if len(verdicts) > 1 else "")
    open_ones = [name for name, verdict in verdicts.items() if verdict != every]
    return Decision("undecided", _listed(open_ones) if len(verdicts) > 1 else "") if open_ones else Decision(every)


def _check(intervals: Mapping[str, Any], effect: float) -> None:
    if not intervals:
        raise ValueError("A rule needs at least one interval.")
    if not (math.isfinite(effect) and effect >= 0):
        raise ValueError(f"The smallest effect that matters is a finite number of at least 0, not {effect}.")
    for name, interval in intervals.items():
        if not interval.low <= interval.high:  # also if one is not a number
            raise ValueError(f"The interval {name!r} from {interval.low} to {interval.high} is none.")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
