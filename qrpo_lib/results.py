"""Results of trained policies, from their run folders: Figure 6, the table of online rewards, and how each looks."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from qrpo_lib import plots, policy_training
from qrpo_lib.statistics import Interval, mean_interval

_PANELS = {
    "reward": "mean online reward (held-out prompts)",
    "chosen_log_ratio": "log-ratio of chosen completions (validation set)",
    "rejected_log_ratio": "log-ratio of rejected completions (validation set)",
}


def collect(folders: dict[tuple[str, int], Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Histories and online evaluations of all runs, `folders` by (algorithm, seed), with columns for these two."""
    histories, evaluations = [], []
    for (algorithm, seed), folder in folders.items():
        history, online = policy_training.load(folder)
        histories.append(history.assign(algorithm=algorithm, seed=seed))
        evaluations.append(online.assign(algorithm=algorithm, seed=seed))
    return pd.concat(histories, ignore_index=True), pd.concat(evaluations, ignore_index=True)


def training_curves(histories: pd.DataFrame, evaluations: pd.DataFrame) -> pd.DataFrame:
    """What Figure 6 plots: `algorithm, seed, step`, mean reward over all held-out completions, both log-ratios."""
    keys = ["algorithm", "seed", "step"]
    rewards = evaluations.groupby(keys, as_index=False)["reward"].mean()
    validation = histories[histories["split"] == "validation"]
    return rewards.merge(validation[[*keys, "chosen_log_ratio", "rejected_log_ratio"]], on=keys, validate="1:1")


def draw_training_curves(curves: pd.DataFrame) -> plt.Figure:
    """Figure 6, with the reward beside it: a thin line a seed, a thick one for their mean."""
    with plots.style():
        figure, axes = plt.subplots(1, 3, figsize=(15, 4.2))
        for axis, (column, title) in zip(axes, _PANELS.items(), strict=True):
            for algorithm, of_algorithm in curves.groupby("algorithm"):
                look = plots.ALGORITHMS[algorithm]
                for _, run in of_algorithm.groupby("seed"):
                    axis.plot(run["step"], run[column], color=look.color, alpha=0.35, linewidth=1)
                mean = of_algorithm.groupby("step")[column].mean()
                axis.plot(mean.index, mean, color=look.color, marker=look.marker, linewidth=2.2, label=look.label)
            axis.set(title=title, xlabel="gradient update steps")
        axes[0].legend()
    return figure


def select_checkpoints(evaluations: pd.DataFrame) -> pd.DataFrame:
    """Of each run, the checkpoint (not step 0) with the best mean reward on the selection split.

    Returns the columns `algorithm, seed, step`.
    """
    candidates = evaluations[(evaluations["split"] == "selection") & (evaluations["step"] > 0)]
    means = candidates.groupby(["algorithm", "seed", "step"])["reward"].mean()
    best = means.groupby(["algorithm", "seed"]).idxmax()
    return pd.DataFrame(best.tolist(), columns=["algorithm", "seed", "step"])


def per_prompt(evaluations: pd.DataFrame, selected: pd.DataFrame) -> pd.DataFrame:
    """Reporting-split reward and length of each prompt, a mean over repeats and seeds: prompts x (what, policy).

    The policies are "initial" (step 0 of all runs) and each algorithm at its selected checkpoints. Prompts are the
    independent units of every interval here; seeds of the training are averaged over, and their spread is shown apart.
    """
    reporting = evaluations[evaluations["split"] == "reporting"]
    initial = reporting[reporting["step"] == 0].assign(policy="initial")
    chosen = reporting.merge(selected, on=["algorithm", "seed", "step"])
    both = pd.concat([initial, chosen.assign(policy=chosen["algorithm"])])
    return both.pivot_table(index="prompt_id", columns="policy", values=["reward", "length"], aggfunc="mean")


def reward_table(prompts: pd.DataFrame, evaluations: pd.DataFrame, selected: pd.DataFrame) -> pd.DataFrame:
    """Initial, DPO, QRPO: mean reward with its 95 % interval over prompts, the gain over initial with its own."""
    rewards, lengths = prompts["reward"], prompts["length"]
    reporting = evaluations[evaluations["split"] == "reporting"].merge(selected, on=["algorithm", "seed", "step"])
    of_seeds = reporting.groupby(["algorithm", "seed"])["reward"].mean()
    rows = []
    for policy in [name for name in plots.ALGORITHMS if name in rewards.columns]:
        mean, gain = mean_interval(rewards[policy].to_numpy()), gain_over(rewards, policy, "initial")
        seeds = of_seeds[policy] if policy != "initial" else pd.Series(dtype=float)
        row = {"policy": plots.ALGORITHMS[policy].label, "reward": mean.mean, "low": mean.low, "high": mean.high}
        row |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
        rows.append(
            row | {"prompts": mean.n, "seeds": len(seeds), "seed_std": seeds.std(), "length": lengths[policy].mean()}
        )
    return pd.DataFrame(rows)


def gain_over(rewards: pd.DataFrame, policy: str, baseline: str) -> Interval:
    """Mean paired difference over prompts, with its 95 % interval."""
    return mean_interval((rewards[policy] - rewards[baseline]).to_numpy())


def reward_table_markdown(table: pd.DataFrame) -> str:
    """The table as people read it: mean [95 % interval]."""
    rows = []
    for row in table.itertuples():
        gain = f"{row.gain:+.4f} [{row.gain_low:+.4f}, {row.gain_high:+.4f}]" if row.seeds else "–"
        spread = f"{row.seed_std:.4f}" if row.seeds > 1 else "–"
        rows.append(
            {
                "policy": row.policy,
                "mean reward [95 % interval]": f"{row.reward:.4f} [{row.low:.4f}, {row.high:.4f}]",
                "gain over initial": gain,
                "std over seeds": spread,
                "prompts x seeds": f"{row.prompts} x {row.seeds or '–'}",
                "mean length": f"{row.length:.1f}",
            }
        )
    return plots.markdown_table(rows)
