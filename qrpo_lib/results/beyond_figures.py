"""Figures of the notebooks `beyond_...`: gains against KL, by method; targets; win rates.

The differences that their verdicts rest on are drawn by `qrpo_lib.results.differences`.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from qrpo_lib.paper import style

_KL = r"KL($\pi_\theta$ || $\pi_\mathrm{ref}$) in nats"
_SMALLEST, _LARGEST = 6, 11  # of marks, in points
_LONGEST_NAME = 16  # in one line
_ESTIMATES = {"plain": ("#332288", "o"), "jackknife": ("#2a9d8f", "s")}


def frontier(rows: pd.DataFrame, by_references: bool = False, unit: str = "reward") -> plt.Figure:
    """What was gained over the policy before training, against KL to the reference policy, a line for each method.

    A line goes through a method's betas in the order of their KL; a larger beta has a larger mark. Intervals are of the
    gain, prompt by prompt, so that what makes prompts differ is not in them.

    Parameters
    ----------
    rows: `beyond.table`.
    by_references: a panel for each number of references, else one for all.
    unit: of what was gained.
    """
    numbers = sorted(rows["references"].unique()) if by_references else [None]
    looks = style.looks(list(rows["method"]))
    with style.style():
        width = 7.5 if len(numbers) == 1 else 4.6 * len(numbers)
        figure, axes = plt.subplots(1, len(numbers), figsize=(width, 4.4), sharex=True, sharey=True, squeeze=False)
        for axis, number in zip(axes[0], numbers, strict=True):
            shown = rows if number is None else rows[rows["references"] == number]
            for name, of_method in shown.groupby("method", sort=False):
                _line(axis, of_method.sort_values("kl"), looks[name])
            title = "" if number is None else f"{number} references" if number else "no references"
            axis.set(xlabel=_KL, title=title)
            axis.locator_params(axis="x", nbins=5)
        betas = "" if rows.groupby("method")["beta"].nunique().max() == 1 else "; larger marks: larger $\\beta$"
        axes[0, 0].set_ylabel(f"{unit} gained in training\n(95 % intervals{betas})")
        if rows["gain_low"].min() < 0:
            axes[0, 0].axhline(0, color="dimgray", linewidth=1)
        for axis, number in zip(axes[0], numbers, strict=True):
            _name_lines(axis, rows if number is None else rows[rows["references"] == number], looks)
    return figure


def _line(axis: plt.Axes, ordered: pd.DataFrame, look: style.Identity) -> None:
    """One method: its intervals faint, so that those of others can be seen through them, and its marks."""
    errors = [ordered["gain"] - ordered["gain_low"], ordered["gain_high"] - ordered["gain"]]
    axis.errorbar(ordered["kl"], ordered["gain"], yerr=errors, fmt="none", ecolor=look.color, alpha=0.5, capsize=3)
    axis.plot(ordered["kl"], ordered["gain"], color=look.color, linewidth=1.4)
    ranks = ordered["beta"].rank() - 1
    sizes = np.linspace(_SMALLEST, _LARGEST, len(ordered)) if len(ordered) > 1 else [(_SMALLEST + _LARGEST) / 2]
    for kl, gain, rank in zip(ordered["kl"], ordered["gain"], ranks, strict=True):
        axis.plot(kl, gain, look.marker, color=look.color, markersize=sizes[int(rank)], markeredgecolor="white")


def _name_lines(axis: plt.Axes, rows: pd.DataFrame, looks: dict[str, style.Identity]) -> None:
    """Each method's name right of the panel, at the height of its last mark."""
    last = rows.sort_values("kl").groupby("method", sort=False).tail(1)
    names = [name.replace(", ", ",\n") if len(name) > _LONGEST_NAME else name for name in last["method"]]
    ends = [
        (gain, name, looks[method].color)
        for gain, name, method in zip(last["gain"], names, last["method"], strict=True)
    ]
    style.label_ends(axis, ends, at=list(last["kl"]))


def target_errors(rows: pd.DataFrame) -> plt.Figure:
    """Bias and spread of estimated targets, measured (marks) beside predicted (lines), by beta. rows: `error_table`.

    The spread of the jackknife is not predicted.
    """
    betas = sorted(rows["beta"].unique())
    with style.style():
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
        for axis, what in zip(axes, ("bias", "std"), strict=True):
            ends = []
            for (n, estimate), part in rows.groupby(["n", "estimate"], sort=False):
                part = part.sort_values("beta")
                color, marker = _ESTIMATES.get(estimate, ("black", "o"))
                measured = part[f"measured_{what}"] / part["beta"]
                filled = {"markerfacecolor": color if n == rows["n"].min() else "white"}
                axis.plot(part["beta"], part[f"predicted_{what}"] / part["beta"], color=color, linewidth=1.4)
                axis.plot(part["beta"], measured, marker, color=color, markersize=7, **filled)
                ends.append((measured.iloc[0], f"{estimate}, n = {n}", color))
            axis.set(xscale="log", xlabel=r"$\beta$ in units of the reward, falling")
            axis.set_xticks(betas, [f"{beta:g}" for beta in betas])
            axis.minorticks_off()
            axis.invert_xaxis()
            style.label_ends(axis, ends)
        axes[0].set(ylabel=r"bias of $\log\hat Z$ in nats", title="bias: measured (marks), predicted (lines)")
        axes[1].set(
            ylabel=r"standard deviation of $\log\hat Z$ in nats", title="noise: of the jackknife, measured only"
        )
    return figure


def win_rates(rows: pd.DataFrame) -> plt.Figure:
    """Win rates over the reference policy by N: trained ones with intervals, and those of best-of-N itself.

    rows: columns `best_of, win_rate, low, high, known`.
    """
    with style.style():
        figure, axis = plt.subplots(figsize=(6.5, 4.2))
        errors = [rows["win_rate"] - rows["low"], rows["high"] - rows["win_rate"]]
        look, places = style.ALGORITHMS["qrpo"], np.arange(len(rows))
        axis.errorbar(places, rows["win_rate"], yerr=errors, fmt=look.marker, color=look.color, capsize=5, markersize=9)
        axis.plot(places, rows["known"], "_", color="black", markersize=30, markeredgewidth=2)
        axis.axhline(0.5, color="dimgray", linestyle="--")
        axis.set_xticks(places, [f"N = {n}" for n in rows["best_of"]])
        axis.set(ylabel="win rate over the reference (95 % intervals)", ylim=(0.45, 1), xlim=(-0.4, len(rows) - 0.6))
        ends = [
            (rows["known"].iloc[-1], "best of N sampled,\n$N/(N+1)$", "black"),
            (rows["win_rate"].iloc[-1], "trained, $f=\\log$", look.color),
            (0.5, "reference policy", "dimgray"),
        ]
        style.label_ends(axis, ends, at=[places[-1], places[-1], axis.get_xlim()[1]])
    return figure


def log_sums(rows: pd.DataFrame) -> plt.Figure:
    """How far targets are from a policy's, of each prompt, by partition function and beta. rows: `partition_table`."""
    betas, names = sorted(rows["beta"].unique()), list(rows["partition"].unique())
    looks = style.looks(names)
    with style.style():
        figure, axes = plt.subplots(1, len(betas), figsize=(5 * len(betas), 4.2), sharey=True, squeeze=False)
        for axis, beta in zip(axes[0], betas, strict=True):
            for place, name in enumerate(names):
                of_name = rows.loc[(rows["partition"] == name) & (rows["beta"] == beta), "log_sum"]
                line = {"color": looks[name].color, "linewidth": 1.6}
                parts = {f"{part}props": line for part in ("box", "whisker", "cap", "median")}
                axis.boxplot([of_name], positions=[place], widths=0.5, whis=(5, 95), showfliers=False, **parts)
            axis.axhline(0, color="dimgray", linestyle="--", zorder=0)
            axis.set_xticks(range(len(names)), [f"{name} Z" for name in names])
            axis.set(title=rf"$\beta$ = {beta:g}", xlim=(-0.5, len(names) - 0.5))
        axes[0, 0].set_ylabel(
            r"$\log$ mean $e^{\mathrm{target}/\beta}$ in nats" "\n(boxes: half of the prompts, whiskers: 90 %)"
        )
        style.label_ends(axes[0, -1], [(0, "a policy's\ntargets", "dimgray")])
    return figure
