"""Figures of the theory notebooks, drawn from the data frames of `tables`; each returns a matplotlib figure."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from scipy import stats

from qrpo_lib.paper import style as plots
from qrpo_lib.theory import optimal_policy

_BETA_COLORS = ("#e0bfcb", "#cc88a0", "#8f1f4f")  # light to dark as beta falls, as in the paper's Figure 5
_FORMULAS = {
    "identity": (r"$t$", r"$\beta(e^{1/\beta}-1)$"),
    "log": (r"$\log t$", r"$\beta/(\beta+1)$"),
    "square": (r"$t^2$", r"$\frac{\sqrt{\pi\beta}}{2}\,\mathrm{erfi}(1/\sqrt{\beta})$"),
    "sqrt": (r"$\sqrt{t}$", r"$2\beta[\beta+(1-\beta)e^{1/\beta}]$"),
    "normal": (r"$\mathtt{CDF}^{-1}_{\mathcal{N}(0,1)}(t)$", r"$\exp(1/(2\beta^2))$"),
    "scaled-normal": (
        r"$\mu+\sigma\,\mathtt{CDF}^{-1}_{\mathcal{N}(0,1)}(t)$",
        r"$\exp(\mu/\beta+\sigma^2/(2\beta^2))$",
    ),
}

# --- partition_function ---------------------------------------------------------------------------------------------


def table_4_figure(table: pd.DataFrame):
    """The paper's Table 4 with two columns more: log Z at the smallest beta, and the largest difference seen."""
    cells, smallest = [], table["beta"].min()
    for name, rows in table.groupby("transformation", sort=False):
        log_z = rows.loc[rows["beta"] == smallest, "log_z"].item()
        cells.append([*_FORMULAS[name], f"{log_z:.6g}", f"{rows['relative_difference'].max():.0e}"])
    with plots.style():
        figure, axes = plt.subplots(figsize=(9, 3.6))
        axes.axis("off")
        heads = ["Transformation $f(t)$", "Partition function $\\tilde{Z}_f(\\beta)$"]
        heads += [rf"$\log\tilde{{Z}}_f$ at {smallest:g}", "difference"]
        grid = axes.table(cells, colLabels=heads, cellLoc="center", colWidths=[0.24, 0.4, 0.2, 0.16], bbox=[0, 0, 1, 1])
        grid.auto_set_font_size(False)
        grid.set_fontsize(13)
        axes.plot([0, 1], [0.999, 0.999], [0, 1], [0.001, 0.001], color="black", linewidth=2, transform=axes.transAxes)
        for (row, _), cell in grid.get_celld().items():
            cell.set(edgecolor="none", facecolor="#f2f2f2" if row and row % 2 == 0 else "white")
            cell.set_text_props(weight="bold" if row == 0 else "normal")
    return figure


def quantile_law_figure(table: pd.DataFrame):
    """Empirical distribution functions against the uniform law of Appendix D."""
    with plots.style():
        figure, axes = plt.subplots(figsize=(5.5, 4))
        for (label, rows), color in zip(
            table.groupby("reward", sort=False), ("darkorange", "seagreen", "cornflowerblue"), strict=True
        ):
            axes.step(rows["quantile"], rows["share"], where="post", label=label, color=color, linewidth=2)
        axes.plot([0, 1], [0, 1], "--", color="dimgray", label="uniform")
        axes.set(xlabel=r"quantile reward $R_q$", ylabel="share at or below", xlim=(-0.02, 1.02), ylim=(0, 1.02))
        axes.legend()
    return figure


def partition_gap_figure(table: pd.DataFrame, used_betas):
    """The excess of the paper's target over the finite-sample one against beta, the paper's betas marked."""
    with plots.style():
        figure, axes = plt.subplots(figsize=(6, 4))
        for (n, rows), line_style in zip(table.groupby("n"), ("-", "--", "-.", ":"), strict=False):
            axes.plot(rows["beta"], rows["excess_nats"], line_style, color="darkorange", label=f"n = {n}", linewidth=2)
        for beta in used_betas:
            axes.axvline(beta, color="lightgray", linewidth=1, zorder=0)
        axes.axhline(0, color="dimgray", linewidth=1)
        axes.set(xscale="log", xlim=(table["beta"].max(), table["beta"].min()), xlabel=r"$\beta$, falling")
        axes.set(ylabel=r"$\log Z_{f,n}-\log Z_f$ (nats of log-ratio)")
        largest = table.loc[table.groupby("n")["beta"].idxmin()]
        plots.label_ends(
            axes, [(y, f"n = {n}", "#b35900") for n, y in zip(largest["n"], largest["excess_nats"], strict=True)]
        )
    return figure


# --- noise ----------------------------------------------------------------------------------------------------------


def noise_figure(table: pd.DataFrame, simulated: bool):
    """Figure 7: standard deviation of beta log Z-hat (by beta) and of R_q-hat (by exact quantile F) against n.

    Quantiles F and 1 - F have the same noise, F (1 - F) / n: they share a name.
    """
    with plots.style():
        figure, axes = plt.subplots(figsize=(8.5, 4.5))
        ends, beyond = [], []
        for kind, colors, name in (("partition", "Reds", r"$\beta$"), ("quantile", "Blues", "F")):
            groups = list(table[table["noise"] == kind].groupby("setting"))
            shades = plt.get_cmap(colors)(np.linspace(0.9, 0.45, len(groups)))
            named: dict[float, tuple[float, list[str], str]] = {}
            for (setting, rows), color in zip(groups, map(to_hex, shades), strict=True):
                y = np.log10(rows["simulated"].where(rows["simulated"] > 0)) if simulated else rows["log10_formula"]
                if y.max() > 8:  # e^50 and e^5000 cannot share an axis with the rest
                    beyond.append((np.inf, f"{name} = {setting:g}: $10^{{{y.max():.0f}}}$, off the chart", color))
                    continue
                axes.plot(rows["n"], y, "-" if kind == "partition" else "--", color=color, linewidth=2)
                same = setting if kind == "partition" else round(setting * (1 - setting), 12)
                named.setdefault(same, (y.iloc[-1], [], color))[1].append(f"{setting:g}")
            ends += [(y, f"{name} = {', '.join(settings)}", color) for y, settings, color in named.values()]
        axes.set(xscale="log", xlabel="reference rewards n", ylabel=r"$\log_{10}$ standard deviation")
        axes.set_title(
            ("simulated: " if simulated else "formulas: ") + r"$\beta\,\log\hat{Z}$ (solid), $\hat{R}_q$ (dashed)"
        )
        axes.margins(x=0.02)
        plots.label_ends(axes, [*ends, *reversed(beyond)])
    return figure


def estimator_figure(table: pd.DataFrame, moments: pd.DataFrame, n: int):
    """Left: densities (`histograms`) of the error of beta log Z-hat from n rewards. Right: bias and noise against n."""
    with plots.style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
        rows = moments[moments["noise"] == "partition"]
        colors = map(to_hex, plt.get_cmap("viridis")(np.linspace(0, 0.85, rows["setting"].nunique())))
        ends = []
        for (beta, group), color in zip(rows.groupby("setting"), colors, strict=True):
            bins = table[np.isclose(table["beta"], beta)]
            edges = [*bins["low"], bins["high"].iloc[-1]]
            left.stairs(bins["density"], edges, color=color, label=rf"$\beta$ = {beta:g}")
            right.plot(group["n"], -group["bias"], color=color, label=rf"$\beta$ = {beta:g}")
            right.plot(group["n"], group["simulated"], "--", color=color)
            ends.append((-group["bias"].iloc[-1], rf"$\beta$ = {beta:g}", color))
        left.set(xlabel=r"$\beta\log\hat{Z}-\beta\log Z$", ylabel="density", xscale="symlog", title=f"n = {n}")
        right.set(xscale="log", yscale="log", xlabel="reference rewards n", title="minus bias (solid), std (dashed)")
        plots.label_ends(right, ends)
    return figure


def target_figure(table: pd.DataFrame, beta: float):
    """Bias (left) and standard deviation (right) of the paper's target against n at one beta, for each f."""
    chosen = table[np.isclose(table["beta"], beta) & (table["partition"] == "exact")]
    panels = {"bias_nats": "bias", "std_nats": "standard deviation"}
    with plots.style():
        figure, axes = plt.subplots(1, 2, figsize=(11, 4))
        for axis, (column, title) in zip(axes, panels.items(), strict=True):
            ends, unbiased = [], []
            for index, (name, rows) in enumerate(chosen.groupby("transformation", sort=False)):
                visible = rows[column].where(rows[column] > 1e-9 / beta)  # the identity is unbiased
                if visible.isna().all():
                    unbiased.append(name)
                    continue
                axis.plot(rows["n"], visible, color=f"C{index}", label=name)
                ends.append((visible.iloc[-1], name, f"C{index}"))
            axis.set(xscale="log", yscale="log", xlabel="reference rewards n", ylabel="nats of log-ratio")
            none = f" (none: {', '.join(unbiased)})" if unbiased else ""
            axis.set_title(rf"{title} of the calibrated target at $\beta$ = {beta:g}{none}", fontsize="medium")
            plots.label_ends(axis, ends)
    return figure


# --- reference_sets ---------------------------------------------------------------------------------------------------


def reference_sets_figure(table: pd.DataFrame):
    """Mean true quantile of what a generalising model converges to, against n: random pairs, best and worst."""
    with plots.style():
        figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
        colors = plots.ordered_colors(table["beta"].nunique())
        for axis, (pair, rows) in zip(axes, table.groupby("pair", sort=False), strict=True):
            ends = []
            for color, (beta, of_beta) in zip(colors, rows.groupby("beta"), strict=True):
                for references, of_references in of_beta.groupby("references"):
                    line = "--" if references == "apart" else "-"
                    axis.plot(of_references["n"], of_references["mean_quantile"], line, color=color, marker=".")
                ends.append((of_beta.sort_values("n")["mean_quantile"].iloc[-1], rf"$\beta$ = {beta:g}", color))
            axis.set(xscale="log", xlabel="reference rewards n", title=f"{pair} pairs: shared solid, apart dashed")
        axes[0].set_ylabel("mean true quantile of the limit")
        plots.label_ends(axes[1], ends)
    return figure


# --- asymptotics ----------------------------------------------------------------------------------------------------


def kl_figure(table: pd.DataFrame, powers: pd.DataFrame):
    """KL over beta squared against falling beta, for every unordered pair of transformations.

    Divided so, a KL of second order levels off, at the constant derived for it (dotted), and a linear one would rise.
    Pairs with the same constant have the same colour and share a name.
    """
    styles = ("-", "--", "-.")
    with plots.style():
        figure, axes = plt.subplots(figsize=(8.5, 4.8))
        pairs = powers[[f < g for f, g in zip(powers["f"], powers["g"], strict=True)]]
        constants = pairs["derived_constant"].where(pairs["derived_order"] == 2).round(9)
        ends = []
        for index, (constant, same) in enumerate(pairs.groupby(constants.fillna(0))):
            color, names = f"C{index}", [f"{pair.f} | {pair.g}" for pair in same.itertuples()]
            for pair, style in zip(same.itertuples(), styles, strict=False):
                rows = table[(table["f"] == pair.f) & (table["g"] == pair.g)]
                label = f"{pair.f} | {pair.g}"
                axes.plot(rows["beta"], rows["kl"] / rows["beta"] ** 2, style, color=color, linewidth=2, label=label)
            if constant:
                axes.axhline(constant, color=color, linestyle=":", linewidth=1)
            else:
                names = [f"{', '.join(names)}: of order {same['derived_order'].iloc[0]:g}"]
            ends.append((constant, "\n".join(names), color))
        beta = np.array([table["beta"].max(), table["beta"].min()])
        seen = [constant for constant, _, _ in ends if constant]
        axes.set(xscale="log", yscale="log", xlim=beta, ylim=(min(seen) / 8, max(seen) * 8))
        axes.set(xlabel=r"$\beta$, falling", ylabel=r"KL$(\pi^*_f\,\|\,\pi^*_g)$ in nats, over $\beta^2$")
        axes.plot(beta, 1 / beta, "--", color="dimgray")
        top = axes.get_ylim()[1] / 2
        axes.annotate(
            r"if it were linear in $\beta$", (1 / top, top), (8, -3), textcoords="offset points", color="dimgray"
        )
        plots.label_ends(axes, ends)
    return figure


# --- optimal_policy -------------------------------------------------------------------------------------------------


def density_figure(table: pd.DataFrame, betas):
    """Figure 5: left, which way probabilities move at the first beta; right, the optimal densities at every beta."""
    with plots.style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4))
        for axes, shown in ((left, betas[:1]), (right, betas)):
            axes.plot(table["reward"], table["reference"], "--", color="dimgray", linewidth=2, label=r"$\pi_{ref}$")
            for beta, color in zip(shown, _BETA_COLORS, strict=False):
                density = table[f"beta_{beta:g}"]
                axes.plot(table["reward"], density, color=color, linewidth=2, label=rf"$\pi^*,\ \beta={beta:g}$")
            axes.set(xlabel=r"Reward $\mathcal{R}$", ylim=(0, None))
            axes.legend()
        left.set(ylabel="Density", xlim=(-3, 4), ylim=(0, 0.75))
        right.set(xlim=(-3, 5), ylim=(0, 1.3))
        _mark_directions(left, table, betas[0])
    return figure


def _mark_directions(axes, table, beta):
    """Shade the shares of reference samples below and above the threshold; arrows lead from pi_ref to pi*."""
    share = optimal_policy.share_above("identity", beta)
    edge = stats.norm.ppf(1 - share)
    reward, reference = table["reward"].to_numpy(), table["reference"].to_numpy()
    for side, color, text, x, y in (
        (reward <= edge, "red", 1 - share, -0.13, 0.19),
        (reward >= edge, "green", share, 1.27, 0.05),
    ):
        axes.fill_between(reward[side], reference[side], color=color, alpha=0.08, linewidth=0)
        axes.text(
            x, y, f"{100 * text:.0f}%", color=color, ha="center", bbox={"facecolor": "white", "edgecolor": "none"}
        )
    axes.vlines(edge, 0, stats.norm.pdf(edge), color="black", linestyle=":")
    for start in np.linspace(-2, 2.8, 16):
        before, after = stats.norm.pdf(start), np.interp(start, reward, table[f"beta_{beta:g}"])
        arrow = {"arrowstyle": "-|>", "color": "tomato" if after < before else "seagreen", "alpha": 0.8}
        axes.annotate("", xy=(start, after), xytext=(start, before), arrowprops=arrow)
