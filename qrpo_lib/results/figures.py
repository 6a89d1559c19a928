"""The paper's figures of trained policies, from data frames: Figure 1, Figure 3 and its versions, Figure 6.

Figure 4 is in `qrpo_lib.results.length_bias`. Each function draws one frame, which is saved beside the figure.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from qrpo_lib.paper import style

# The order and the colours of the paper's figures.
BARS = ("rebel", "dpo", "simpo", "qrpo")
_SCALING = {"off-policy": "#8f1d4c", "offline": "#2b6b66"}
_LOG_RATIO = "#7e57b8"
_PANELS = {
    "chosen_log_ratio": "log-ratio of chosen completions (validation set)",
    "rejected_log_ratio": "log-ratio of rejected completions (validation set)",
}
_CURVES = {"reward": "mean online reward (selection prompts)"} | _PANELS


def draw_best_models(
    rows: pd.DataFrame, title: str, ylabel: str, digits: int = 3, published: pd.DataFrame | None = None
) -> plt.Figure:
    """Figure 1: a bar for the best model of each algorithm, the significantly best in bold; beside it the paper's own.

    Parameters
    ----------
    rows
        Columns `method, value, error` (standard error), `bold` and `trained`: a model that was selected before its
        first step is hatched. Of "initial" the value is drawn as a line.
    title, ylabel
        Of the panel. The y axis does not begin at 0.
    digits
        Decimals of the values above the bars.
    published
        The paper's numbers, with the same columns but `trained`, and `title`.
    """
    panels = [rows.assign(title=title)]
    if published is not None:
        panels.append(published.assign(trained=True))
    with style.style(), plt.rc_context({"axes.grid.axis": "y", "grid.linestyle": "--"}):
        figure, axes = plt.subplots(1, len(panels), figsize=(6.2 * len(panels), 4.4), squeeze=False)
        for axis, shown in zip(axes[0], panels, strict=True):
            _bars(axis, shown.set_index("method"), digits if shown is panels[0] else None)
            axis.set(title=shown["title"].iloc[0], ylabel=ylabel if shown is panels[0] else "")
    return figure


def _bars(axis: plt.Axes, rows: pd.DataFrame, digits: int | None) -> None:
    """One panel of Figure 1. digits: None prints the paper's numbers as they are."""
    names = [name for name in BARS if name in rows.index]
    low, high = (rows["value"] - rows["error"]).min(), (rows["value"] + rows["error"]).max()
    margin = 0.25 * (high - low) or 0.1 * abs(high) or 1.0
    bottom = low - margin
    for position, name in enumerate(names):
        value, error, bold, trained = rows.loc[name, ["value", "error", "bold", "trained"]]
        look = {"color": style.ALGORITHMS[name].color, "edgecolor": "black", "alpha": 0.8}
        axis.bar(position, value - bottom, bottom=bottom, width=0.62, hatch=None if trained else "//", **look)
        axis.errorbar(position, value, yerr=error, color="black", capsize=6, linewidth=1.2)
        said = f"{value:g}" if digits is None else f"{value:.{digits}f}"
        above = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
        axis.annotate(said, (position, value + error), weight="bold" if bold else "normal", **above)
        if not trained:
            inside = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": "small"}
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 1.5}
            axis.annotate("untrained", (position, bottom), bbox=box, **inside)
    axis.set_xticks(range(len(names)), [style.ALGORITHMS[name].label for name in names], fontsize="large")
    for name, label in zip(names, axis.get_xticklabels(), strict=True):
        label.set_weight("bold" if name == "qrpo" else "normal")
    axis.set(ylim=(bottom, high + margin), xlim=(-0.5, len(names) - 0.5))
    if "initial" in rows.index:
        level = rows.loc["initial", "value"]
        axis.axhline(level, color="tomato", linestyle="--", linewidth=1.5)
        style.label_ends(axis, [(level, "initial\npolicy", "#c0392b")])
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def draw_scaling(rows: pd.DataFrame) -> plt.Figure:
    """Figure 3: reward against the number of reference rewards, off-policy and offline, a panel for each beta.

    rows: columns `setting` ("off-policy", "offline"), `beta, num_ref_rewards, reward, error` (standard error).
    """
    betas, counts = sorted(rows["beta"].unique()), sorted(rows["num_ref_rewards"].unique())
    with style.style():
        figure, axes = plt.subplots(1, len(betas), figsize=(4.4 * len(betas), 3.4), squeeze=False)
        for axis, beta in zip(axes[0], betas, strict=True):
            ends = []
            for setting, color in _SCALING.items():
                line = rows[(rows["beta"] == beta) & (rows["setting"] == setting)].sort_values("num_ref_rewards")
                if line.empty:
                    continue
                look = {"color": color, "marker": "o", "markersize": 4, "linewidth": 2.4, "elinewidth": 1.2}
                axis.errorbar(line["num_ref_rewards"], line["reward"], yerr=line["error"], capsize=3, **look)
                ends.append((line["reward"].iloc[-1], setting, color))
            axis.set_xscale("log")
            axis.set_xticks(counts, [f"{count:g}" for count in counts], minor=False)
            axis.minorticks_off()
            axis.set(title=f"$\\beta$ = {beta:g}", xlabel="Number of references")
            axis.grid(True, which="both", linestyle=":", linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            style.label_ends(axis, ends)
        axes[0][0].set_ylabel("Reward (± standard error)")
    return figure


def draw_log_ratios(curves: pd.DataFrame) -> plt.Figure:
    """Figure 6: log-ratios of chosen and rejected completions over training, a row of panels for each beta.

    curves: columns `beta, seed, step, chosen_log_ratio, rejected_log_ratio`, and optionally `title` of a beta.
    A thin line for each seed, a thick one for their mean.
    """
    betas = sorted(curves["beta"].unique(), reverse=True)
    with style.style(), plt.rc_context({"axes.grid.axis": "y"}):
        figure, axes = plt.subplots(len(betas), 2, figsize=(12, 3.5 * len(betas)), squeeze=False)
        for row, beta in zip(axes, betas, strict=True):
            of_beta = curves[curves["beta"] == beta]
            note = of_beta["title"].iloc[0] if "title" in of_beta else f"$\\beta$ = {beta:g}"
            for axis, (column, title) in zip(row, _PANELS.items(), strict=True):
                _lines(axis, of_beta, column, _LOG_RATIO, None)
                axis.axhline(0, color="dimgray", linewidth=0.8)
                axis.set(title=f"{title}\n{note}", xlabel="gradient update steps")
                axis.set_ylabel("nats; thin: one seed")
                axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_training_curves(curves: pd.DataFrame) -> plt.Figure:
    """Reward and log-ratios over training, one colour for each algorithm: a thin line a seed, a thick one their mean.

    curves: columns `algorithm, seed, step, reward, chosen_log_ratio, rejected_log_ratio`.
    """
    with style.style():
        figure, axes = plt.subplots(1, 3, figsize=(15, 4.2))
        for axis, (column, title) in zip(axes, _CURVES.items(), strict=True):
            ends = []
            for algorithm, of_algorithm in curves.groupby("algorithm"):
                look = style.ALGORITHMS[algorithm]
                _lines(axis, of_algorithm, column, look.color, look.marker)
                ends.append((of_algorithm.groupby("step")[column].mean().iloc[-1], look.label, look.color))
            axis.set(title=title, xlabel="gradient update steps")
        axes[0].set_ylabel("thin: one seed; thick: their mean")
        style.label_ends(axes[-1], ends)
    return figure


def draw_transformations(rows: pd.DataFrame, level: float) -> plt.Figure:
    """The reward that QRPO reaches with each transformation of the quantile, and the initial policy's as a line.

    rows: columns `transform, reward, low, high`.
    """
    with style.style():
        figure, axis = plt.subplots(figsize=(7.5, 4))
        errors = np.array([rows["reward"] - rows["low"], rows["high"] - rows["reward"]])
        look = style.ALGORITHMS["qrpo"]
        positions = np.arange(len(rows))
        axis.errorbar(
            positions, rows["reward"], yerr=errors, fmt=look.marker, color=look.color, capsize=5, markersize=9
        )
        axis.axhline(level, color="dimgray", linestyle="--")
        axis.set_xticks(positions, rows["transform"].str.replace("(", "\n("))
        axis.set(xlabel="transformation $f$ of the quantile reward", ylabel="mean online reward (95 % intervals)")
        style.label_ends(axis, [(level, "initial\npolicy", "dimgray")])
    return figure


def _lines(axis: plt.Axes, rows: pd.DataFrame, column: str, color: str, marker: str | None) -> None:
    for _, run in rows.groupby("seed"):
        axis.plot(run["step"], run[column], color=color, alpha=0.35, linewidth=1)
    mean = rows.groupby("step")[column].mean()
    axis.plot(mean.index, mean, color=color, marker=marker, linewidth=2.2)
