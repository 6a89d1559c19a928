"""The one thing to play with at the end of a notebook of theory: a slider that draws its figure anew.

    play.slider(play.optimum, "β", [1.0, 0.3, 0.1, 0.03], start=0.1)

In JupyterLab there is a slider; an executed copy, which has no kernel behind it, shows the picture at `start`. Nothing
is saved: what a notebook publishes does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qrpo_lib.paper import frontend, style
from qrpo_lib.theory import asymptotics, optimal_policy, tables
from qrpo_lib.theory import figures as theory_figures

if TYPE_CHECKING:
    import matplotlib.pyplot as plt


_DRAWS = 4000  # of an estimate, for one picture


def slider(draw: Callable[[float], plt.Figure], name: str, values: Sequence[float], start: float) -> None:
    """Show `draw(value)` for the value that a slider has; without a person at it, for `start`.

    Parameters
    ----------
    draw: gives the figure at a value.
    name: of what is moved.
    values: what it can be, in the slider's order.
    start: the one of them that it stands at first.

    Raises
    ------
    ValueError
        `start` is none of the values.
    """
    from IPython.display import HTML, display

    if start not in values:
        raise ValueError(f"The slider {name!r} starts at {start}, which is none of its values {list(values)}.")
    if not frontend.is_live():
        _show(draw(start))
        others = ", ".join(f"{value:g}" for value in values)
        display(HTML(f"<p>{name} = {start:g}. In JupyterLab (<code>make lab</code>) a slider moves it: {others}.</p>"))
        return
    import ipywidgets

    choices = [(f"{value:g}", value) for value in values]
    chosen = ipywidgets.SelectionSlider(options=choices, value=start, description=name, continuous_update=False)
    display(ipywidgets.interactive(lambda value: _show(draw(value)), value=chosen))


def _show(figure: plt.Figure) -> None:
    import matplotlib.pyplot as plt
    from IPython.display import display

    display(figure)
    plt.close(figure)


# --- what the notebooks draw ------------------------------------------------------------------------------------------


def optimum(beta: float) -> plt.Figure:
    """Figure 5 at one beta: which way probabilities move, and the density of rewards that QRPO's optimum has."""
    figure = theory_figures.density_figure(tables.density_table([beta]), [beta])
    share, threshold = optimal_policy.share_above("identity", beta), optimal_policy.threshold("identity", beta)
    figure.suptitle(
        rf"$\beta$ = {beta:g}: {share:.2%} of reference completions lie above the threshold {threshold:.4f}"
    )
    for axes in figure.axes:  # a small beta gathers all probability in a narrow peak
        axes.set_ylim(0, 1.1 * max(line.get_ydata().max() for line in axes.lines))
    return figure


def partition_gap(n: int) -> plt.Figure:
    """How far log Z for n reference rewards lies from the exact one, at every beta."""
    betas = list(np.logspace(-4, 0, 41))
    return theory_figures.partition_gap_figure(tables.partition_gap_table([n], betas), [])


def estimated_log_z(n: int, betas: Sequence[float] = (0.1, 0.3, 1.0), seed: int = 0) -> plt.Figure:
    """Errors of beta log Z-hat from n Gaussian rewards: where their mean is 0, the estimate is unbiased."""
    import matplotlib.pyplot as plt

    errors = tables.estimator_errors(list(betas), n, _DRAWS, seed)
    colors = style.ordered_colors(len(betas))
    with style.style():
        figure, axes = plt.subplots(figsize=(9, 3.6))
        for index, (beta, of_beta) in enumerate(errors.groupby("beta")):
            words = rf"$\beta$ = {beta:g}: bias {of_beta['error'].mean():.2f}, std {of_beta['error'].std():.2f}"
            axes.hist(of_beta["error"], bins=60, density=True, histtype="step", color=colors[index], label=words)
        axes.axvline(0, color="dimgray", linestyle="--", linewidth=1)
        axes.set(xlabel=r"$\beta\log\hat{Z}-\beta\log Z$, in standard deviations of the reward", ylabel="density")
        axes.set_xlim(-4 - 1 / (2 * min(betas)), 3)  # of one reward: the same scale at every n
        axes.set_title(f"{n} reference reward{'' if n == 1 else 's'}, {_DRAWS} draws")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def transformed_optima(beta: float) -> plt.Figure:
    """Densities of the quantile under the optima of all transformations, over the distance to 1 in units of beta."""
    import matplotlib.pyplot as plt

    distance = np.linspace(0, min(6.0, 0.999 / beta), 400)
    profiles = asymptotics.PROFILES
    furthest, pair = max(
        (asymptotics.kl_divergence(profiles[f], profiles[g], beta), (f, g)) for f, g in _pairs(profiles)
    )
    with style.style():
        figure, axes = plt.subplots(figsize=(7, 3.6))
        for index, (name, profile) in enumerate(profiles.items()):
            log_density = profile(beta * distance) / beta - asymptotics.scaled_log_partition(profile, beta)
            axes.plot(distance, np.exp(log_density), f"C{index}", label=name, linewidth=2)
        axes.set(xlabel=r"$(1-t)/\beta$", ylabel=r"$\beta\,\times$ density of the quantile $t$")
        axes.set_title(rf"$\beta$ = {beta:g}: largest KL {furthest:.2g} nats, of {pair[0]} and {pair[1]}")
        axes.legend()
    return figure


def reference_sets(candidates: int) -> plt.Figure:
    """What a model that generalises converges to, where best and worst are taken from so many candidates."""
    counts = sorted({candidates, 2 * candidates, 4 * candidates, 50, 200})
    table = tables.reference_sets_table([0.03, 0.1, 0.3], counts, candidates)
    figure = theory_figures.reference_sets_figure(table)
    figure.suptitle(f"{candidates} candidates for a pair")
    return figure


def _pairs(names) -> list[tuple[str, str]]:
    return [(f, g) for f in names for g in names if f != g]
