"""Which checkpoints are kept once they have been evaluated (`evaluation.kept` in the profile).

What is reported of a cell is the best of its checkpoints by the selection prompts, mean over seeds (of the grid's among
those whose answers are short enough, of a study's among all), and the last one. So these are kept of every seed, once
all seeds that decide are there; nothing that this arm reports is ever missing. What another arm reports of the same
training may be: `train.report` then has it made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from qrpo_lib.experiment import grid, read
from qrpo_lib.experiment.grid import Run
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import folders
from qrpo_lib.steps import answer_lengths, fitting

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

# Means of equal checkpoints may differ by rounding, as they are summed.
_ROUNDING = 1e-9


def remove_others(profile: Profile, runs: Iterable[Run]) -> None:
    """Remove the checkpoints that nothing will read any more; none of a run that is not evaluated yet."""
    if profile.evaluation.kept == "all":
        return
    seeds, longest = profile.experiment.seeds, profile.evaluation.max_mean_length
    in_grid = {grid.with_seed(run, seeds[0]) for run in grid.grid(profile)}
    in_studies = {grid.with_seed(run, seeds[0]) for run in (*grid.scaling(profile), *grid.transformations(profile))}
    for cell in dict.fromkeys(grid.with_seed(run, seeds[0]) for run in runs):
        # Which seeds choose a checkpoint, and how long its answers may be: of the grid its own, of a study all.
        deciding = [(seeds[: profile.experiment.grid_seeds], longest)] if cell in in_grid else []
        deciding += [(seeds, None)] if cell in in_studies else []
        deciding = deciding or [(seeds, longest)]
        of_seeds = {seed: grid.with_seed(cell, seed) for seed in seeds}
        there = [run for run in of_seeds.values() if run.step(profile).folder.is_dir()]
        removable = [run for run in there if len(_saved(profile, run)) > 1]
        if not removable or any(of_seeds[seed] not in there for some, _ in deciding for seed in some):
            continue
        chosen = (_best(profile, [of_seeds[seed] for seed in some], limit) for some, limit in deciding)
        wanted = set[int]().union(*chosen)
        for run in removable:
            parts = [f"{fitting.CHECKPOINTS}/{step}" for step in _saved(profile, run) if step not in wanted]
            with contextlib.suppress(OSError):  # what cannot be removed stays
                folders.remove_parts(run.training(profile).folder, parts)


def steps(profile: Profile, run: Run) -> set[int]:
    """The steps whose policies a complete run still has, among them 0, the policy before training."""
    return {0, *fitting.checkpoints(run.training(profile).folder)}


def _saved(profile: Profile, run: Run) -> list[int]:
    """Those before the last."""
    return sorted(int(path.name) for path in (run.training(profile).folder / fitting.CHECKPOINTS).glob("*"))


def _best(profile: Profile, runs: Sequence[Run], limit: float | None) -> set[int]:
    """The best steps by the selection prompts, step 0 aside, among those with answers of at most `limit` on average."""
    rows = answer_lengths.counted(profile, read.evaluations(profile, runs, text=answer_lengths.are_papers(profile)))
    means = rows.groupby("step")[["reward", "length"]].mean().drop(0)
    rewards = (means if limit is None else means[means["length"] <= limit])["reward"]
    return set(rewards.index[rewards >= rewards.max() - _ROUNDING])
