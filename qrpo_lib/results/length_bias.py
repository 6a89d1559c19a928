"""Length bias (Figure 4, App. M): the implicit reward of a trained policy's own answers against their length.

x is the length of an answer, standardised by the reference completions of its prompt; y is the sequence log-ratio
log pi_theta(y|x) / pi_ref(y|x), the implicit reward without beta. Spearman's rho of the two, with an interval from a
jackknife over prompts and seeds in which the points are trimmed anew each time.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from qrpo_lib.paper import style
from qrpo_lib.results import length_control
from qrpo_lib.results.statistics import Interval, clustered_interval
from qrpo_lib.steps import evaluation

# Points outside these percentiles of x or of y, or outside this range of x, are not shown, as in the paper's figure.
PERCENTILES = (3.0, 97.0)
RANGE = (-2.0, 5.0)


def points(evaluations: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """x and y of each recorded completion, beside its reward: columns `prompt_id, seed, reward, x, y`.

    evaluations: columns `prompt_id, seed, reward, length, logp, ref_logp`. references: the reference policy's
    completions, columns `prompt_id, length`, as many for every prompt. Prompts whose references all have one length
    fall out.
    """
    lengths = length_control.by_prompt(references, "length").loc[evaluations["prompt_id"]].to_numpy()
    x = length_control.standardised(evaluations["length"].to_numpy(), lengths)
    standardised = evaluations[["prompt_id", "seed", "reward"]].assign(x=x, y=evaluation.log_ratio(evaluations))
    return standardised[np.isfinite(standardised["x"])].reset_index(drop=True)


def kept(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points are inside the percentiles of both and the range of x: a mask (n,)."""
    inside = (x > RANGE[0]) & (x < RANGE[1])
    for values in (x, y):
        low, high = np.percentile(values, PERCENTILES)
        inside &= (values >= low) & (values <= high)
    return inside


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho of the points that are kept; 0 where one of the two does not vary."""
    mask = kept(x, y)
    x, y = stats.rankdata(x[mask]), stats.rankdata(y[mask])
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else 0.0


def correlation(of_policy: pd.DataFrame) -> Interval:
    """Spearman's rho of `points`, with its 95 % interval over prompts and seeds."""
    x, y = of_policy["x"].to_numpy(), of_policy["y"].to_numpy()
    return clustered_interval(lambda rows: spearman(x[rows], y[rows]), of_policy["prompt_id"], of_policy["seed"])


def contrast(of_policies: dict[str, pd.DataFrame], first: tuple[str, ...], second: tuple[str, ...]) -> Interval:
    """Mean rho of the `first` policies less that of the `second`, left out together: the same prompts and seeds."""
    names = [*first, *second]
    both = pd.concat([of_policies[name].assign(policy=i) for i, name in enumerate(names)], ignore_index=True)
    x, y, policy = both["x"].to_numpy(), both["y"].to_numpy(), both["policy"].to_numpy()

    def statistic(rows: np.ndarray) -> float:
        parts = [rows[policy[rows] == i] for i in range(len(names))]
        rhos = [spearman(x[part], y[part]) for part in parts]
        return float(np.mean(rhos[: len(first)]) - np.mean(rhos[len(first) :]))

    return clustered_interval(statistic, both["prompt_id"], both["seed"])


def shown(of_algorithms: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The points that Figure 4 shows, with a column `algorithm`."""
    parts = []
    for algorithm, of_policy in of_algorithms.items():
        inside = kept(of_policy["x"].to_numpy(), of_policy["y"].to_numpy())
        parts.append(of_policy.loc[inside, ["prompt_id", "seed", "x", "y"]].assign(algorithm=algorithm))
    return pd.concat(parts, ignore_index=True)


def draw(of_algorithms: dict[str, pd.DataFrame]) -> plt.Figure:
    """Figure 4, a panel for each algorithm so that no cloud hides another: the kept points, a least-squares line with a
    large marker at the mean of x, and the other algorithms' lines in grey."""
    with style.style():
        figure, axes = plt.subplots(
            1, len(of_algorithms), figsize=(3.6 * len(of_algorithms), 3.9), sharex=True, sharey=True, squeeze=False
        )
        for axis, (algorithm, of_policy) in zip(axes[0], of_algorithms.items(), strict=True):
            look = style.ALGORITHMS[algorithm]
            x, y, rho = _kept_points(of_policy)
            axis.scatter(x, y, s=9, alpha=0.25, marker=look.marker, color=look.color, linewidth=0)
            for other in of_algorithms:
                ends, heights = _least_squares(*_kept_points(of_algorithms[other])[:2])
                if other == algorithm:  # a line in its own cloud needs an edge
                    axis.plot(ends, heights, color="black", linewidth=6, zorder=3)
                    axis.plot(ends, heights, color=look.color, linewidth=4, zorder=3)
                else:
                    axis.plot(ends, heights, color="dimgray", linewidth=1, zorder=2)
            middle = (x.mean(), y.mean())  # a least-squares line goes through it
            axis.plot(*middle, look.marker, color=look.color, markeredgecolor="black", markersize=11, zorder=4)
            axis.set(title=f"{look.label}, $\\rho = {rho:.2f}$", xlabel="Completion length (normalized)")
        axes[0][0].set_ylabel("Implicit reward (log-ratio)\ngrey: the others' lines")
    return figure


def _kept_points(of_policy: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, float]:
    """x and y of the points that are drawn, and their rank correlation."""
    x, y = of_policy["x"].to_numpy(), of_policy["y"].to_numpy()
    mask = kept(x, y)
    return x[mask], y[mask], spearman(x, y)


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the least-squares line through points: their x and y."""
    slope, intercept = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max()])
    return ends, slope * ends + intercept
