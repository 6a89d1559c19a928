"""Power: the effect that a sample could have found with 80 %, beside the smallest one that matters.

    power.table(judged)     # one row for each interval of each claim, from recorded verdicts

Let h be the half-width of a 95 % interval and d its standard error. An interval lies above 0 with 80 % where the truth
is at least `found`: h + 0.84 d for a normal estimate, and by the noncentral t law for the pool of a few worlds. It lies
inside of +-delta with 80 % where the truth is 0 and delta at least h + 1.28 d. Computed from the intervals that were
measured: a plan for more data, not evidence for what the verdict leaves open. Of a claim with several intervals it is
the power of the widest one, if it is undecided of those that leave it so: that all support together has a smaller
chance.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import ticker
from scipy import optimize, stats

from qrpo_lib.paper import claim_views, rules, style
from qrpo_lib.paper.claims import Judgement

POWER, LEVEL = 0.8, 0.95
MOST_WORLDS = 10_000  # nobody makes more
# Kinds that ask whether something is larger, and kinds that ask whether something is nearly nothing.
_ONE_SIDED, _INSIDE = ("superiority", "trend", "sign", "non-inferiority"), ("equivalence",)


def found(half_width: float, kind: str, freedom: float = math.inf) -> float:
    """The smallest effect (margin, for equivalence) that such an interval decides with 80 %, in its unit.

    half_width: of the 95 % interval. freedom: degrees of freedom of its standard error. For a margin (non-inferiority,
    equivalence) the truth is taken to be 0.
    """
    if not (half_width >= 0 and math.isfinite(half_width)):
        return math.inf
    quantile = stats.t.ppf((1 + LEVEL) / 2, freedom)
    error = half_width / quantile
    return float(error * _in_errors(kind, freedom, quantile))


def _in_errors(kind: str, freedom: float, quantile: float) -> float:
    if kind in _INSIDE:
        # P(|estimate| + h < delta); with the error estimated too, h varies with it.
        if math.isinf(freedom):
            return quantile + stats.norm.ppf((1 + POWER) / 2)
        return optimize.brentq(lambda delta: _inside(delta, freedom, quantile) - POWER, quantile, 100)
    if math.isinf(freedom):
        return quantile + stats.norm.ppf(POWER)
    return optimize.brentq(lambda shift: stats.nct.sf(quantile, freedom, shift) - POWER, 0, 100)


def _inside(delta: float, freedom: float, quantile: float) -> float:
    """P(|z| + quantile s < delta), z normal and s^2 chi-square over its degrees of freedom."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    s = np.sqrt(stats.chi2.ppf((nodes + 1) / 2, freedom) / freedom)  # by its quantiles, which any freedom has in (0, 1)
    chance = np.maximum(2 * stats.norm.cdf(delta - quantile * s) - 1, 0.0)
    return float(weights @ chance / 2)


def worlds_needed(half_width: float, kind: str, worlds: int, effect: float) -> float:
    """How many worlds that differ as these do would decide an effect with 80 %; inf for more than `MOST_WORLDS`.

    Parameters
    ----------
    half_width: of the 95 % interval of the worlds there are.
    kind: of the claim's rule.
    worlds: how many there are, at least 2.
    effect: the smallest one that matters, in the interval's unit.
    """
    spread = half_width / stats.t.ppf((1 + LEVEL) / 2, worlds - 1) * math.sqrt(worlds)

    def enough(count: int) -> bool:
        freedom = count - 1
        return found(stats.t.ppf((1 + LEVEL) / 2, freedom) * spread / math.sqrt(count), kind, freedom) <= effect

    if not enough(MOST_WORLDS):
        return math.inf
    return 2 + bisect.bisect_left(range(2, MOST_WORLDS), True, key=enough)


def table(judged: Sequence[Judgement], worlds: Mapping[str, int] | None = None) -> pd.DataFrame:
    """One row for each claim that rests on intervals: its widest one, if it is undecided of those that leave it so.

    worlds: of each claim's id, how many worlds its intervals are Student's of; None for verdicts of one world.

    Columns `claim, profile, kind, verdict, interval, estimate, half_width, found, smallest_effect, times, worlds`:
    `times` is how many times as much data (of what varies: worlds, or prompts and seeds) would find the smallest effect
    with 80 %.
    """
    rows = []
    for claim in judged:
        if claim.kind not in (*_ONE_SIDED, *_INSIDE):
            continue
        row = {"claim": claim.id, "profile": claim.profile, "kind": claim.kind, "verdict": claim.verdict}
        intervals = {name: value for name, value in claim.values.items() if None not in (value["low"], value["high"])}
        if intervals:
            half_width, name = max((_reach(value), name) for name, value in _that_leave_open(claim, intervals).items())
            count = None if worlds is None else worlds[claim.id]
            row |= {"interval": name, "estimate": intervals[name]["estimate"], "half_width": half_width}
            row |= {"found": found(half_width, claim.kind, math.inf if count is None else count - 1)}
            row |= {"smallest_effect": claim.effect, "worlds": count}
            if claim.effect and count is None:
                row["times"] = (row["found"] / claim.effect) ** 2
            elif claim.effect:
                row["times"] = worlds_needed(half_width, claim.kind, count, claim.effect) / count
        rows.append(row)
    columns = ["claim", "profile", "kind", "verdict", "interval", "estimate", "half_width", "found"]
    return pd.DataFrame(rows, columns=[*columns, "smallest_effect", "times", "worlds"])


def _that_leave_open(claim: Judgement, intervals: dict[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """Those of an undecided claim's intervals that by themselves decide nothing; of another claim all of them."""
    if claim.verdict != "undecided" or (claim.effect is None and claim.kind != "sign"):
        return intervals

    def is_open(interval: Mapping[str, float]) -> bool:
        values = {"": SimpleNamespace(low=interval["low"], high=interval["high"])}
        predicted = {"": interval.get("predicted", 1)}
        return rules.apply(claim.kind, values, effect=claim.effect, predicted=predicted).verdict == "undecided"

    return {name: interval for name, interval in intervals.items() if is_open(interval)} or intervals


def _reach(interval: Mapping[str, float]) -> float:
    """The longer side of an interval: a distance's ends at 0, which makes the other one no shorter."""
    return max(interval["high"] - interval["estimate"], interval["estimate"] - interval["low"])


def draw(rows: pd.DataFrame) -> plt.Figure:
    """Of `table`, the effect that would have been found over the smallest one that matters; left of 1 is enough."""
    detectable, smallest = (pd.to_numeric(rows[name]) for name in ("found", "smallest_effect"))  # None is NaN
    shown = rows.assign(ratio=detectable / smallest)
    shown = shown[np.isfinite(shown["ratio"]) & (shown["ratio"] > 0)].sort_values("ratio")
    with style.style():
        figure, axis = plt.subplots(figsize=(8, 1 + 0.3 * max(len(shown), 1)))
        for height, row in enumerate(shown.itertuples()):
            color = claim_views.COLORS[row.verdict]
            axis.plot([1, row.ratio], [height, height], color=color, linewidth=1)
            axis.plot(row.ratio, height, claim_views.MARKERS[row.verdict], color=color)
        axis.axvline(1, color="dimgray", linestyle="--", linewidth=1)
        axis.set_yticks(range(len(shown)), [f"{row.claim} ({row.profile})" for row in shown.itertuples()])
        axis.set(xscale="log", ylim=(-0.7, None), xlabel="effect found with 80 %,\nover the smallest that matters")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        present = [verdict for verdict in claim_views.COLORS if verdict in set(shown["verdict"])]
        handles = [
            plt.Line2D([], [], marker=claim_views.MARKERS[name], linestyle="", color=claim_views.COLORS[name])
            for name in present
        ]
        if handles:
            figure.legend(handles, present, fontsize="small", loc="outside upper center", ncols=4, frameon=False)
    return figure


def needed(rows: pd.DataFrame) -> list[str]:
    """Of `table`, what would decide each undecided claim, in words."""
    said = []
    for row in rows[rows["verdict"] == "undecided"].itertuples():
        if pd.isna(row.found):
            said.append(f"{row.claim} ({row.profile}): nothing was measured.")
        elif pd.isna(row.times):
            said.append(f"{row.claim} ({row.profile}): an effect of {row.found:.3g} or more would have been seen.")
        elif row.times > 1:
            if pd.isna(row.worlds):
                more = f"{math.ceil(10 * row.times) / 10:g} times as much data"
            elif math.isinf(row.times):
                more = f"more than {MOST_WORLDS:,} worlds"
            else:
                more = f"{row.times * row.worlds:.0f} worlds in place of {row.worlds:.0f}"
            said.append(
                f"{row.claim} ({row.profile}): {more}; {row.found:.3g} is found now, {row.smallest_effect:.3g} matters."
            )
        else:
            said.append(f"{row.claim} ({row.profile}): as much data once more; the truth is near the edge.")
    return said
