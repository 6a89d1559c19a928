"""Figures of the notebooks `beyond_...`: gains against KL, by method, and the differences that verdicts rest on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from qrpo_lib.paper import claim_views, style
from qrpo_lib.paper.claims import Judgement

_MARKERS = "osD^vPX*"


def frontier(rows: pd.DataFrame, by_references: bool = False) -> plt.Figure:
    """What was gained over the policy before training, against KL to the reference policy, a line for each method.

    A line goes through a method's betas in the order of their KL. Intervals are of the gain, prompt by prompt, so that
    what makes prompts differ is not in them.

    Parameters
    ----------
    rows: `beyond.table`.
    by_references: a panel for each number of references, else one for all.
    """
    numbers = sorted(rows["references"].unique()) if by_references else [None]
    looks = {name: (f"C{i}", _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(rows["method"].unique())}
    with style.style():
        width = 7.5 if len(numbers) == 1 else 12
        figure, axes = plt.subplots(1, len(numbers), figsize=(width, 4.6), sharex=True, sharey=True, squeeze=False)
        for axis, number in zip(axes[0], numbers, strict=True):
            shown = rows if number is None else rows[rows["references"] == number]
            for name, of_method in shown.groupby("method", sort=False):
                ordered = of_method.sort_values("kl")
                color, marker = looks[name]
                errors = [ordered["gain"] - ordered["gain_low"], ordered["gain_high"] - ordered["gain"]]
                look = {"color": color, "marker": marker, "linewidth": 1, "capsize": 3, "markersize": 6}
                axis.errorbar(ordered["kl"], ordered["gain"], yerr=errors, label=name, **look)
            axis.axhline(0, color="dimgray", linestyle="--")
            title = "" if number is None else f"n = {number}" if number else "no references"
            axis.set(xlabel=r"KL($\pi_\theta$ || $\pi_\mathrm{ref}$) in nats", title=title)
        axes[0, 0].set_ylabel("reward, less that before training\n(95 % intervals)")
        _legend_below(figure, axes[0])
    return figure


def _legend_below(figure: plt.Figure, axes: Iterable[plt.Axes]) -> None:
    """One legend for all panels, where no mark can be under it."""
    marks = {label: mark for axis in axes for mark, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=4, fontsize="small", frameon=False)


def difference_table(judged: Sequence[Judgement]) -> pd.DataFrame:
    """What rules were applied to: a row for each interval, with the smallest effect that matters and the verdict."""
    rows = [
        {"claim": one.id, "difference": name, **interval, "smallest_effect": one.effect, "verdict": one.verdict}
        for one in judged
        for name, interval in one.values.items()
        if isinstance(interval, Mapping)
    ]
    return pd.DataFrame(rows)


def differences(rows: pd.DataFrame) -> plt.Figure:
    """The differences that the verdicts rest on, with their intervals. rows: `difference_table`.

    A difference within the grey band is one that matters to nobody by the rule that was fixed before.
    """
    with style.style():
        figure, axis = plt.subplots(figsize=(9, 0.8 + 0.42 * len(rows)))
        for place, row in enumerate(rows.itertuples()):
            color = claim_views.COLORS[row.verdict]
            if pd.notna(row.smallest_effect):
                band = {"color": "0.88", "height": 0.7, "zorder": 0}
                axis.barh(place, 2 * row.smallest_effect, left=-row.smallest_effect, **band)
            errors = [[row.estimate - row.low], [row.high - row.estimate]]
            axis.errorbar(row.estimate, place, xerr=errors, fmt="o", color=color, capsize=4)
            axis.annotate(row.verdict, (1.01, place), xycoords=("axes fraction", "data"), va="center", color=color)
        axis.axvline(0, color="black", linewidth=1)
        axis.set_yticks(range(len(rows)), rows["difference"])
        axis.set(ylim=(len(rows) - 0.5, -0.5), xlabel="difference (95 %; grey: less than the smallest effect)")
        axis.grid(False, axis="y")
    return figure


def target_errors(rows: pd.DataFrame) -> plt.Figure:
    """Bias and spread of estimated targets, measured (dots) beside predicted (lines), by beta. rows: `error_table`."""
    with style.style():
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.6))
        groups = list(rows.groupby(["n", "estimate"], sort=False))
        for axis, what in zip(axes, ("bias", "std"), strict=True):
            for index, ((n, estimate), part) in enumerate(groups):
                part = part.sort_values("beta")
                look = {"color": f"C{index}", "linestyle": "-" if estimate == "plain" else "--"}
                axis.plot(part["beta"], part[f"predicted_{what}"] / part["beta"], **look)
                marks = {"label": f"{estimate}, n = {n}", "marker": _MARKERS[index], "linestyle": "none"}
                axis.plot(part["beta"], part[f"measured_{what}"] / part["beta"], color=f"C{index}", **marks)
            axis.set(xscale="log", xlabel=r"$\beta$ in units of the reward")
            betas = sorted(rows["beta"].unique())
            axis.set_xticks(betas, [f"{beta:g}" for beta in betas])
            axis.minorticks_off()
        axes[0].set(ylabel=r"bias of $\log\hat Z$ in nats", title="bias")
        axes[1].set(ylabel=r"standard deviation of $\log\hat Z$ in nats", title="noise")
        _legend_below(figure, axes[:1])
    return figure


def win_rates(rows: pd.DataFrame) -> plt.Figure:
    """Win rates over the reference policy by N: trained ones with intervals, and those of best-of-N itself.

    rows: columns `best_of, win_rate, low, high, known`.
    """
    with style.style():
        figure, axis = plt.subplots(figsize=(6.5, 4.2))
        errors = [rows["win_rate"] - rows["low"], rows["high"] - rows["win_rate"]]
        look = style.ALGORITHMS["qrpo"]
        places = np.arange(len(rows))
        trained = {"fmt": look.marker, "color": look.color, "capsize": 5, "markersize": 9}
        axis.errorbar(places, rows["win_rate"], yerr=errors, label=r"trained, $f=\log$", **trained)
        axis.plot(places, rows["known"], "_", color="black", markersize=26, label="best of N, $N/(N+1)$")
        axis.axhline(0.5, color="dimgray", linestyle="--", label="reference policy")
        axis.set_xticks(places, [f"N = {n}" for n in rows["best_of"]])
        axis.set(ylabel="win rate over the reference (95 % intervals)", ylim=(0.45, 1))
        axis.legend(fontsize="small")
    return figure


def log_sums(rows: pd.DataFrame) -> plt.Figure:
    """How far targets are from a policy's, of each prompt, by partition function and beta. rows: `partition_table`."""
    with style.style():
        betas = sorted(rows["beta"].unique())
        figure, axes = plt.subplots(1, len(betas), figsize=(5.5 * len(betas), 4.2), sharey=True)
        for axis, beta in zip(np.atleast_1d(axes), betas, strict=True):
            names = list(rows["partition"].unique())
            parts = [rows.loc[(rows["partition"] == name) & (rows["beta"] == beta), "log_sum"] for name in names]
            axis.boxplot(parts, tick_labels=names, whis=(5, 95), showfliers=False)
            axis.axhline(0, color="dimgray", linestyle="--")
            axis.set(title=rf"$\beta$ = {beta:g}")
        np.atleast_1d(axes)[0].set_ylabel(r"$\log$ mean $e^{\mathrm{target}/\beta}$ in nats (5 to 95 %)")
    return figure
