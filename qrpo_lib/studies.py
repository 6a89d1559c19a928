"""The studies beside the grid: scaling with reference rewards (Figure 3), transformations, training (Figure 6).

Each cell of a study is reported at the checkpoint with the best selection reward, mean over its seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from qrpo_lib import sweep
from qrpo_lib.profiles import Profile
from qrpo_lib.results import matrix
from qrpo_lib.statistics import mean_interval
from qrpo_lib.sweep import Run

_SCALING = ["setting", "beta", "learning_rate", "num_ref_rewards", "partition"]


@dataclass(frozen=True)
class Cell:
    """The step that a cell is reported at, its mean selection reward there, its reporting rewards (seeds, prompts)."""

    step: int
    selection: float
    values: np.ndarray


# (setting, beta, learning rate, number of reference rewards, partition): what identifies a cell of the scaling studies.
ScalingCells = dict[tuple[str, float, float, int, str], Cell]
# (transformation, beta)
TransformationCells = dict[tuple[str, float], Cell]


def scaling_cells(profile: Profile) -> ScalingCells:
    """The cells of the scaling studies; the setting is "offline" or "off-policy"."""
    found = sweep.evaluations(profile, sweep.scaling(profile))
    found["setting"] = found["setting"].map(lambda name: "offline" if name.endswith("offline") else "off-policy")
    return {key: _best_checkpoint(rows) for key, rows in found.groupby(_SCALING, sort=False)}


def scaling_rows(cells: ScalingCells) -> pd.DataFrame:
    """What Figure 3 plots: what identifies a cell, and `step, reward, error, low, high, prompts, seeds`."""
    return pd.DataFrame([dict(zip(_SCALING, key, strict=True)) | _reported(cell) for key, cell in cells.items()])


def told_unmoved(rows: pd.DataFrame) -> str:
    """For people: how many cells of `scaling_rows` are reported at the initial policy, and where."""
    unmoved = rows[rows["step"] == 0]
    where = sorted(unmoved.groupby(["setting", "beta"]).groups)
    told = f"{len(unmoved)} of {len(rows)} cells are the initial policy's: no checkpoint had a higher selection reward"
    return told + "".join(f"; {setting}, beta {beta:g}" for setting, beta in where) + "."


def best_rates(cells: ScalingCells) -> pd.DataFrame:
    """`scaling_rows` of the learning rates with the best selection reward, partition function "exact"."""
    best: ScalingCells = {}
    for key in sorted(cells, key=lambda key: -cells[key].selection):
        setting, beta, _, n, partition = key
        if partition == "exact" and not any((known[0], known[1], known[3]) == (setting, beta, n) for known in best):
            best[key] = cells[key]
    return scaling_rows(best)


def best_transformations(profile: Profile) -> dict[str, Run]:
    """Of each transformation the run of its grid with the best checkpoint by selection reward: its beta."""
    best: dict[str, tuple[float, Run]] = {}
    for run in sweep.transformations(profile):
        if run.seed == profile.experiment.seeds[0] and run.step(profile).folder.is_dir():
            value = _best_checkpoint(sweep.evaluations(profile, [run])).selection
            name = sweep.transform_label(run.transform)
            if name not in best or value > best[name][0]:
                best[name] = (value, run)
    return {name: run for name, (_, run) in best.items()}


def transformation_cells(profile: Profile) -> TransformationCells:
    """The best checkpoint of each transformation's best run, with all seeds."""
    return {
        (name, run.beta): _best_checkpoint(sweep.evaluations(profile, sweep.more_seeds(profile, [run])))
        for name, run in best_transformations(profile).items()
    }


def transformation_rows(cells: TransformationCells) -> pd.DataFrame:
    """Columns `transform, beta, step, reward, error, low, high, prompts, seeds`."""
    return pd.DataFrame([{"transform": name, "beta": beta} | _reported(cell) for (name, beta), cell in cells.items()])


def log_ratio_curves(profile: Profile, runs: Sequence[Run]) -> pd.DataFrame:
    """What Figure 6 plots: log-ratios and quantile rewards of the validation pairs over training, by beta and seed."""
    found = sweep.histories(profile, runs)
    names = ["beta", "seed", "step", "chosen_log_ratio", "rejected_log_ratio", "chosen_quantile", "rejected_quantile"]
    return found.loc[found["split"] == "validation", names].reset_index(drop=True)


def training_curves(profile: Profile, runs: Sequence[Run]) -> pd.DataFrame:
    """`algorithm, seed, step`, mean reward over all held-out completions, both log-ratios of the validation pairs."""
    keys = ["algorithm", "seed", "step"]
    rewards = sweep.evaluations(profile, runs).groupby(keys, as_index=False)["reward"].mean()
    found = sweep.histories(profile, runs)
    validation = found.loc[found["split"] == "validation", [*keys, "chosen_log_ratio", "rejected_log_ratio"]]
    return rewards.merge(validation, on=keys, validate="1:1")


def _best_checkpoint(rows: pd.DataFrame) -> Cell:
    means = rows[rows["split"] == "selection"].groupby("step")["reward"].mean()
    step = int(means.idxmax())
    reporting = rows[(rows["split"] == "reporting") & (rows["step"] == step)]
    return Cell(step, float(means.max()), matrix(reporting, "reward"))


def _reported(cell: Cell) -> dict[str, float]:
    interval = mean_interval(cell.values)
    values = {"step": cell.step, "reward": interval.mean, "error": interval.error}
    return values | {"low": interval.low, "high": interval.high, "prompts": interval.n, "seeds": interval.seeds}
