"""Figures of the notebooks `beyond_...`: rewards against KL, by method, with intervals over prompts and seeds."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from qrpo_lib.paper import style

_MARKERS = "osD^vPX*"


def frontier(rows: pd.DataFrame, start: float, columns: int = 1) -> plt.Figure:
    """Reward against KL to the reference policy: a line of each method through its betas, a panel for each n.

    Parameters
    ----------
    rows: `beyond.table`.
    start: mean reward of the policy before training.
    columns: 1 for all in one panel, else a panel for each number of references, as many as there are.
    """
    numbers = sorted(rows["references"].unique()) if columns > 1 else [None]
    looks = {name: (f"C{i}", _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(rows["method"].unique())}
    with style.style():
        figure, axes = plt.subplots(1, len(numbers), figsize=(7.5 if len(numbers) == 1 else 12, 4.6), sharey=True)
        for axis, number in zip(np.atleast_1d(axes), numbers, strict=True):
            shown = rows if number is None else rows[rows["references"] == number]
            for name, of_method in shown.groupby("method", sort=False):
                ordered = of_method.sort_values("kl")
                color, marker = looks[name]
                errors = [ordered["reward"] - ordered["low"], ordered["high"] - ordered["reward"]]
                look = {"color": color, "marker": marker, "linewidth": 1, "capsize": 3, "markersize": 6}
                axis.errorbar(ordered["kl"], ordered["reward"], yerr=errors, label=name, **look)
            axis.axhline(start, color="dimgray", linestyle="--", label="before training")
            title = "" if number is None else f"n = {number}" if number else "no references"
            axis.set(xlabel=r"KL($\pi_\theta$ || $\pi_\mathrm{ref}$) in nats", title=title)
            axis.legend(fontsize="x-small")
        np.atleast_1d(axes)[0].set_ylabel("mean online reward (95 % intervals)")
    return figure


def target_errors(rows: pd.DataFrame) -> plt.Figure:
    """Bias and spread of estimated targets, measured (dots) beside predicted (lines), by beta. rows: `error_table`."""
    with style.style():
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
        for axis, what in zip(axes, ("bias", "std"), strict=True):
            shown = rows if what == "bias" else rows[rows["estimate"] == "plain"]
            for index, ((n, estimate), part) in enumerate(shown.groupby(["n", "estimate"], sort=False)):
                label, color = f"{estimate}, n = {n}", f"C{index}"
                part = part.sort_values("beta")
                axis.plot(part["beta"], part[f"predicted_{what}"] / part["beta"], color=color, label=label)
                axis.plot(part["beta"], part[f"measured_{what}"] / part["beta"], "o", color=color)
            axis.set(xscale="log", xlabel=r"$\beta$ in units of the reward")
        axes[0].set(ylabel=r"bias of $\log\hat Z$ in nats", title="bias")
        axes[1].set(ylabel=r"standard deviation of $\log\hat Z$ in nats", title="noise")
        axes[0].legend(fontsize="x-small")
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
