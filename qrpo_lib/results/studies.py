"""The studies beside the grid: scaling with reference rewards (Figure 3), transformations, training (Figure 6).

Each cell of a study is reported at the checkpoint with the best selection reward, mean over its seeds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from qrpo_lib.experiment import grid, read, train
from qrpo_lib.experiment.grid import Run
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.results.best_models import best_checkpoints, further_runs, matrix
from qrpo_lib.results.statistics import mean_interval

_SCALING = ["setting", "beta", "learning_rate", "num_ref_rewards", "partition"]


@dataclass(frozen=True)
class ReportedCell:
    """The step that a cell is reported at, its mean selection reward there, its reporting rewards (seeds, prompts)."""

    step: int
    selection: float
    values: np.ndarray


# (setting, beta, learning rate, number of reference rewards, partition): what identifies a cell of the scaling studies.
ScalingCells = dict[tuple[str, float, float, int, str], ReportedCell]
# (transformation, beta)
TransformationCells = dict[tuple[str, float], ReportedCell]


def scaling_cells(profile: Profile) -> ScalingCells:
    """The cells of the scaling studies; the setting is "offline" or "off-policy"."""
    runs_of: dict[tuple, list[Run]] = {}
    for run in grid.scaling(profile):
        setting = "offline" if run.setting.endswith("offline") else "off-policy"
        key = (setting, *(getattr(run, name) for name in _SCALING[1:]))
        runs_of.setdefault(key, []).append(run)
    return _cells(profile, runs_of)


def scaling_rows(cells: ScalingCells) -> pd.DataFrame:
    """What Figure 3 plots: what identifies a cell, and `step, reward, error, low, high, prompts, seeds`."""
    return pd.DataFrame([dict(zip(_SCALING, key, strict=True)) | _reported(cell) for key, cell in cells.items()])


def told_unmoved(rows: pd.DataFrame) -> str:
    """For people: how many cells of `scaling_rows` are reported at the initial policy, and where."""
    unmoved = rows[rows["step"] == 0]
    where = sorted(unmoved.groupby(["setting", "beta"]).groups)
    text = f"{len(unmoved)} of {len(rows)} cells are the initial policy's: no checkpoint had a higher selection reward"
    return text + "".join(f"; {setting}, beta {beta:g}" for setting, beta in where) + "."


def best_rates(cells: ScalingCells) -> pd.DataFrame:
    """`scaling_rows` of the learning rates with the best selection reward, partition function "exact"."""
    best: ScalingCells = {}
    for key in sorted(cells, key=lambda key: -cells[key].selection):
        setting, beta, _, n, partition = key
        if partition == "exact" and not any((known[0], known[1], known[3]) == (setting, beta, n) for known in best):
            best[key] = cells[key]
    return scaling_rows(best)


def main_rates(profile: Profile, cells: ScalingCells) -> pd.DataFrame:
    """`scaling_rows` of Figure 3: of each beta the learning rate that the profile names; without any `best_rates`."""
    pairs = {
        (beta, rate)
        for study in profile.experiment.scaling
        for beta, rate in zip(study.betas, study.main_learning_rates, strict=False)
    }
    if not pairs:
        return best_rates(cells)
    return scaling_rows({key: cell for key, cell in cells.items() if (key[1], key[2]) in pairs and key[4] == "exact"})


def scaling_slopes(cells: ScalingCells) -> dict[str, np.ndarray]:
    """Of each setting the slope of the reward in log n over all numbers n of references, times the range of log n.

    So it reads as the gain from the fewest to the most references, of a straight line through all of them. (seeds,
    prompts), mean over betas and learning rates; partition function "exact". Raises ValueError for a single n.
    """
    curves: dict[tuple, dict[int, np.ndarray]] = {}
    for (setting, beta, rate, n, partition), cell in cells.items():
        if partition == "exact":
            curves.setdefault((setting, beta, rate), {})[n] = cell.values
    gains: dict[str, list[np.ndarray]] = {}
    for (setting, *_), curve in curves.items():
        if len(curve) < 2:
            raise ValueError("A slope in log n needs at least two numbers of reference rewards.")
        log_n = np.log(sorted(curve))
        centred = log_n - log_n.mean()
        slope = np.tensordot(centred, np.stack([curve[n] for n in sorted(curve)]), axes=1) / (centred @ centred)
        gains.setdefault(setting, []).append(slope * (log_n[-1] - log_n[0]))
    return {setting: np.mean(of_setting, axis=0) for setting, of_setting in gains.items()}


def slopes_by_beta(cells: ScalingCells) -> pd.DataFrame:
    """Columns `setting, beta, gain, low, high`: `scaling_slopes` of each beta, with intervals over prompts and seeds.

    A beta with a single number of references has no slope and is left out.
    """
    rows = []
    for beta in sorted({key[1] for key in cells}):
        of_beta = {key: cell for key, cell in cells.items() if key[1] == beta and key[-1] == "exact"}
        if len({key[3] for key in of_beta}) > 1:
            for setting, values in scaling_slopes(of_beta).items():
                gain = mean_interval(values.round(12))  # of untrained cells exactly 0, on every machine
                rows.append({"setting": setting, "beta": beta, "gain": gain.mean, "low": gain.low, "high": gain.high})
    return pd.DataFrame(rows, columns=["setting", "beta", "gain", "low", "high"])


def mean_over(cells: ScalingCells, setting: str, beta: float, numbers: Collection[int]) -> np.ndarray:
    """Reporting rewards of a setting at one beta: (seeds, prompts), mean over learning rates and numbers of references.

    Parameters
    ----------
    cells: of the scaling studies; those with partition "exact" count.
    setting: "offline" or "off-policy".
    beta: the strength.
    numbers: of reference rewards, those that count.

    Raises
    ------
    ValueError
        There is no such cell.
    """
    chosen = [
        cell.values
        for key, cell in cells.items()
        if key[:2] == (setting, beta) and key[3] in numbers and key[-1] == "exact"
    ]
    if not chosen:
        raise ValueError(f"There is no cell of {setting} at beta {beta:g} with {sorted(numbers)} references.")
    return np.mean(chosen, axis=0)


def untrained_cells(cells: ScalingCells, settings: Collection[str], betas: Collection[float] = ()) -> list[str]:
    """Cells of partition "exact" whose reported checkpoint is the policy before training, in words."""
    return [
        f"{setting}, beta {beta:g}, n = {n}"
        for (setting, beta, _, n, partition), cell in cells.items()
        if cell.step == 0 and partition == "exact" and setting in settings and (not betas or beta in betas)
    ]


def smallest_beta_courses(profile: Profile) -> pd.DataFrame:
    """Rewards over training at the scaling studies' smallest beta, with the most references (App. A).

    Columns `setting, learning_rate, beta, step, seed, prompt_id, reward`: of every checkpoint and of the policy before
    training (step 0), on the selection prompts, means over answers.
    """
    runs = [run for run in grid.scaling(profile) if run.partition == "exact"]
    smallest, most = min(run.beta for run in runs), max(run.num_ref_rewards for run in runs)
    rows = read.evaluations(profile, [run for run in runs if (run.beta, run.num_ref_rewards) == (smallest, most)])
    keys = ["setting", "learning_rate", "beta", "step", "seed", "prompt_id"]
    return rows.groupby(keys, as_index=False)["reward"].mean()


def best_transformations(profile: Profile) -> dict[str, Run]:
    """Of each transformation the run of its grid with the best checkpoint by selection reward: its beta."""
    best: dict[str, tuple[float, Run]] = {}
    for run in grid.transformations(profile):
        if run.seed == profile.experiment.seeds[0] and run.step(profile).folder.is_dir():
            value = _best_checkpoint(read.evaluations(profile, [run]))[1]
            name = grid.transform_label(run.transform)
            if name not in best or value > best[name][0]:
                best[name] = (value, run)
    return {name: run for name, (_, run) in best.items()}


def missed_beta(profile: Profile) -> float | None:
    """The identity's best beta in the grid, if the study of transformations lacks it: what another transformation does
    there nobody knows. What is missing of the grid is trained."""
    runs = grid.identity_of_grid(profile)
    if not runs:
        return None
    train.train(profile, runs, "grid")
    best = best_checkpoints(profile, ["qrpo"])
    beta = float(best.loc[best["setting"] == runs[0].setting, "beta"].iloc[0])
    return None if beta in profile.experiment.transformations.betas else beta


def transformation_cells(profile: Profile) -> TransformationCells:
    """The best checkpoint of each transformation's best run, with all seeds."""
    best = best_transformations(profile)
    return _cells(profile, {(name, run.beta): grid.more_seeds(profile, [run]) for name, run in best.items()})


def transformation_rows(cells: TransformationCells) -> pd.DataFrame:
    """Columns `transform, beta, step, reward, error, low, high, prompts, seeds`."""
    return pd.DataFrame([{"transform": name, "beta": beta} | _reported(cell) for (name, beta), cell in cells.items()])


def log_ratio_curves(profile: Profile, runs: Sequence[Run]) -> pd.DataFrame:
    """What Figure 6 plots: log-ratios and quantile rewards of the validation pairs over training, by beta and seed."""
    history = read.histories(profile, runs)
    names = ["beta", "seed", "step", "chosen_log_ratio", "rejected_log_ratio", "chosen_quantile", "rejected_quantile"]
    return history.loc[history["split"] == "validation", names].reset_index(drop=True)


def threshold_runs(profile: Profile) -> list[Run]:
    """`grid.threshold_runs`, which must be trained, and the further seeds that some of these cells have: each setting's
    best, and the identity's best in the study of transformations."""
    runs = grid.threshold_runs(profile)
    if not runs:
        return []
    known = {grid.with_seed(run, 0) for run in runs}
    further = further_runs(profile, best_checkpoints(profile, ["qrpo"]))
    identity = best_transformations(profile).get("identity")
    further += grid.more_seeds(profile, [identity] if identity else [])
    return list(dict.fromkeys([*runs, *(run for run in further if grid.with_seed(run, 0) in known)]))


def last_log_ratios(profile: Profile, runs: Sequence[Run]) -> pd.DataFrame:
    """Of each setting, beta, learning rate, number of references and seed the log-ratios and quantile rewards of the
    validation pairs at the last step."""
    keys = ["setting", "beta", "learning_rate", "num_ref_rewards", "seed"]
    history = read.histories(profile, runs)
    history = history[history["split"] == "validation"]
    last = history.loc[history.groupby(keys, dropna=False)["step"].idxmax()]
    columns = ["chosen_log_ratio", "rejected_log_ratio", "chosen_quantile", "rejected_quantile"]
    return last[[*keys, "step", *columns]].sort_values(keys).reset_index(drop=True)


def training_curves(profile: Profile, runs: Sequence[Run]) -> pd.DataFrame:
    """`algorithm, seed, step`, mean reward on the selection prompts, both log-ratios of the validation pairs."""
    keys = ["algorithm", "seed", "step"]
    rewards = read.evaluations(profile, runs).groupby(keys, as_index=False)["reward"].mean()
    history = read.histories(profile, runs)
    validation = history.loc[history["split"] == "validation", [*keys, "chosen_log_ratio", "rejected_log_ratio"]]
    return rewards.merge(validation, on=keys, validate="1:1")


def _cells(profile: Profile, runs_of: Mapping[Any, Sequence[Run]]) -> dict[Any, ReportedCell]:
    """Of each cell, whose runs differ in the seed alone, its best checkpoint on the reporting prompts.

    Runs that are not complete are left out, and cells without any. Raises MissingRunsError if there are none at all.
    """
    there = {key: [run for run in runs if run.step(profile).folder.is_dir()] for key, runs in runs_of.items()}
    there = {key: runs for key, runs in there.items() if runs}
    if not there:
        read.evaluations(profile, [run for runs in runs_of.values() for run in runs])  # says why
    best = {key: _best_checkpoint(read.evaluations(profile, runs)) for key, runs in there.items()}
    train.report(profile, {run: {best[key][0]} for key, runs in there.items() for run in runs})
    answers = {key: read.answers(profile, {run: {best[key][0]} for run in runs}) for key, runs in there.items()}
    return {key: ReportedCell(*best[key], matrix(answers[key], "reward")) for key in there}


def _best_checkpoint(rows: pd.DataFrame) -> tuple[int, float]:
    """The step with the best mean selection reward, and that reward."""
    means = rows.groupby("step")["reward"].mean()
    return int(means.idxmax()), float(means.max())


def _reported(cell: ReportedCell) -> dict[str, float]:
    interval = mean_interval(cell.values)
    values = {"step": cell.step, "reward": interval.mean, "error": interval.error}
    return values | {"low": interval.low, "high": interval.high, "prompts": interval.n, "seeds": interval.seeds}
