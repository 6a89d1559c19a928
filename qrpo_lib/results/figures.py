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
_CURVES = {"reward": "mean online reward (held-out prompts)"} | _PANELS


def draw_best_models(
    rows: pd.DataFrame, title: str, ylabel: str, level: float | None = None, level_label: str = "", digits: int = 3
) -> plt.Figure:
    """Figure 1: a bar for the best model of each algorithm, with its error, the significantly best in bold.

    Parameters
    ----------
    rows: columns `method, value, error, bold`.
    title, ylabel: the texts above and beside it.
    level, level_label: a dashed line, such as the initial policy's, and what is written on it.
    digits: decimals of the values above the bars.
    """
    rows = rows.set_index("method")
    names = [name for name in BARS if name in rows.index]
    low, high = (rows["value"] - rows["error"]).min(), (rows["value"] + rows["error"]).max()
    if level is not None:
        low, high = min(low, level), max(high, level)
    margin = 0.25 * (high - low) or 0.1 * abs(high) or 1.0
    with style.style(), plt.rc_context({"axes.grid.axis": "y", "grid.linestyle": "--"}):
        figure, axis = plt.subplots(figsize=(6.5, 4.6))
        for position, name in enumerate(names):
            value, error, bold = rows.loc[name, ["value", "error", "bold"]]
            color = style.ALGORITHMS[name].color
            look = {"width": 0.62, "color": color, "alpha": 0.8, "edgecolor": "black"}
            axis.bar(position, value - (low - margin), bottom=low - margin, **look)
            axis.errorbar(position, value, yerr=error, color="black", capsize=6, linewidth=1.2)
            look = {"textcoords": "offset points", "ha": "center", "weight": "bold" if bold else "normal"}
            axis.annotate(f"{value:.{digits}f}", (position, value + error), (0, 7), **look)
        if level is not None:
            axis.axhline(level, color="tomato", linestyle="--", linewidth=1.5)
            axis.annotate(
                level_label,
                (len(names) - 1.5, level),
                (0, 5),
                textcoords="offset points",
                ha="center",
                color="tomato",
                style="italic",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 1.5},
            )
        axis.set_xticks(range(len(names)), [style.ALGORITHMS[name].label for name in names], fontsize="large")
        for name, label in zip(names, axis.get_xticklabels(), strict=True):
            label.set_weight("bold" if name == "qrpo" else "normal")
        axis.set(title=title, ylabel=ylabel, ylim=(low - margin, high + margin))
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_scaling(rows: pd.DataFrame) -> plt.Figure:
    """Figure 3: reward against the number of reference rewards, off-policy and offline, a panel for each beta.

    rows: columns `setting` ("off-policy", "offline"), `beta, num_ref_rewards, reward, error`.
    """
    betas = sorted(rows["beta"].unique())
    with style.style():
        figure, axes = plt.subplots(1, len(betas), figsize=(5.2 * len(betas), 3.8), squeeze=False)
        for axis, beta in zip(axes[0], betas, strict=True):
            for setting, color in _SCALING.items():
                line = rows[(rows["beta"] == beta) & (rows["setting"] == setting)].sort_values("num_ref_rewards")
                if line.empty:
                    continue
                axis.errorbar(
                    line["num_ref_rewards"],
                    line["reward"],
                    yerr=line["error"],
                    color=color,
                    marker="o",
                    markersize=4,
                    linewidth=2.4,
                    elinewidth=1.2,
                    capsize=3,
                    label=f"{setting}, $\\beta$={beta:g}",
                )
            axis.set_xscale("log")
            axis.set_xlabel("Number of references", fontsize="large")
            axis.set_ylabel("Reward", fontsize="large")
            axis.grid(True, which="both", linestyle=":", linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            low, high = axis.get_ylim()
            axis.set_ylim(low - 0.4 * (high - low), high)  # room for the legend
            axis.legend(loc="lower right")
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
                axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_training_curves(curves: pd.DataFrame) -> plt.Figure:
    """Reward and log-ratios over training, one colour for each algorithm: a thin line a seed, a thick one their mean.

    curves: columns `algorithm, seed, step, reward, chosen_log_ratio, rejected_log_ratio`.
    """
    with style.style():
        figure, axes = plt.subplots(1, 3, figsize=(15, 4.2))
        for axis, (column, title) in zip(axes, _CURVES.items(), strict=True):
            for algorithm, of_algorithm in curves.groupby("algorithm"):
                look = style.ALGORITHMS[algorithm]
                _lines(axis, of_algorithm, column, look.color, look.marker, label=look.label)
            axis.set(title=title, xlabel="gradient update steps")
        axes[0].legend()
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
        axis.axhline(level, color="dimgray", linestyle="--", label="initial policy")
        axis.set_xticks(positions, rows["transform"].str.replace("(", "\n("))
        axis.set(xlabel="transformation $f$ of the quantile reward", ylabel="mean online reward (reporting)")
        axis.legend()
    return figure


def _lines(axis: plt.Axes, rows: pd.DataFrame, column: str, color: str, marker: str | None, **look: str) -> None:
    for _, run in rows.groupby("seed"):
        axis.plot(run["step"], run[column], color=color, alpha=0.35, linewidth=1)
    mean = rows.groupby("step")[column].mean()
    axis.plot(mean.index, mean, color=color, marker=marker, linewidth=2.2, **look)
