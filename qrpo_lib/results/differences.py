"""The differences that verdicts rest on, as a figure: paired by prompt and seed, which two error bars are not.

rows = differences.table(ledger.judged, {"renewed-rounds-go-further": "KL in nats"})
style.save(differences.draw(rows), "iterative-differences", rows, folder)
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd

from qrpo_lib.paper import claim_views, style
from qrpo_lib.paper.claims import Judgement

_COLUMNS = ("claim", "difference", "estimate", "low", "high", "smallest_effect", "verdict", "unit", "statement")
_WRAPPED = 84  # characters of a statement in a line
_ROW = 0.32  # inches


def table(judged: Sequence[Judgement], units: Mapping[str, str] | None = None, unit: str = "reward") -> pd.DataFrame:
    """What rules were applied to: a row for each interval, with the smallest effect that matters and the verdict.

    Parameters
    ----------
    judged: verdicts; those that rest on no interval have no row.
    units: of the claims whose differences are in another unit than the others, by id ("KL in nats").
    unit: of all other claims.

    Returns
    -------
    Columns `claim, difference, estimate, low, high, smallest_effect, verdict, unit, statement`.
    """
    rows = [
        {"claim": claim.id, "difference": name}
        | {end: interval[end] for end in ("estimate", "low", "high")}
        | {"smallest_effect": claim.effect, "verdict": claim.verdict, "unit": (units or {}).get(claim.id, unit)}
        | {"statement": claim.statement}
        for claim in judged
        for name, interval in claim.values.items()
        if isinstance(interval, Mapping)
    ]
    return pd.DataFrame(rows, columns=_COLUMNS)


def draw(rows: pd.DataFrame) -> plt.Figure:
    """The rows of `table`, below the verdict and the claim that they decide; a panel for each unit.

    A difference within the grey band is one that matters to nobody by the rule that was fixed before. The figure of no
    rows says that there are none.
    """
    panels = [(unit, _lines(of_unit)) for unit, of_unit in rows.groupby("unit", sort=False)]
    heights = [lines[-1][0] + 1 for _, lines in panels] or [1]
    with style.style():
        figure, axes = plt.subplots(
            len(heights), 1, figsize=(9, 0.9 * len(heights) + _ROW * sum(heights)), height_ratios=heights, squeeze=False
        )
        for axis, (unit, lines) in zip(axes[:, 0], panels, strict=False):
            _panel(axis, unit, lines)
        if not panels:
            axes[0, 0].set_axis_off()
            axes[0, 0].annotate("No verdict rests on a difference here.", (0.5, 0.5), ha="center")
    return figure


def _lines(rows: pd.DataFrame) -> list[tuple[float, str, pd.Series]]:
    """What stands below what: (place, text, row), of statements with an empty row's name, of intervals with theirs."""
    lines, place = [], 0.0
    for _, of_claim in rows.groupby("claim", sort=False):
        first = of_claim.iloc[0]
        words = textwrap.fill(f"{first['verdict'].upper()}: {first['statement']}", _WRAPPED)
        extra = words.count("\n") * 0.75
        lines.append((place + extra / 2, words, first))
        for _, row in of_claim.iterrows():
            place += 1
            lines.append((place + extra, "", row))
        place += 1.25 + extra
    return lines


def _panel(axis: plt.Axes, unit: str, lines: list[tuple[float, str, pd.Series]]) -> None:
    axis.axvline(0, color="black", linewidth=1, zorder=1)
    names = [(place, row["difference"]) for place, words, row in lines if not words]
    for place, words, row in lines:
        color = claim_views.COLORS[row["verdict"]]
        if words:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            look = {"va": "center", "color": color, "fontsize": 9.5, "bbox": box, "zorder": 4}
            axis.annotate(words, (0.01, place), xycoords=("axes fraction", "data"), **look)
            continue
        if pd.notna(row["smallest_effect"]):
            band = {"color": "0.88", "height": 0.66, "zorder": 0}
            axis.barh(place, 2 * row["smallest_effect"], left=-row["smallest_effect"], **band)
        errors = [[row["estimate"] - row["low"]], [row["high"] - row["estimate"]]]
        marker = claim_views.MARKERS[row["verdict"]]
        axis.errorbar(row["estimate"], place, xerr=errors, fmt=marker, color=color, capsize=4, zorder=3)
    axis.set_yticks([place for place, _ in names], [name for _, name in names])
    band = "; grey: too small to matter" if any(pd.notna(row["smallest_effect"]) for _, _, row in lines) else ""
    axis.set(ylim=(lines[-1][0] + 0.6, -0.6), xlabel=f"difference of {unit} (95 % interval{band})")
    axis.locator_params(axis="x", nbins=7)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)
