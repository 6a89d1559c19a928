"""Reading the runs of a grid back: what is there, what failed, their evaluations and histories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.cluster import pool
from qrpo_lib.experiment.grid import COLUMNS, FAILED, Run, transform_label
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import fitting

if TYPE_CHECKING:
    import pandas as pd


def overview(profile: Profile, wanted: Sequence[Run], outcome: pool.Outcome) -> pd.DataFrame:
    """Of each algorithm and setting: how many runs are done, how many failed, and the mean seconds of a run."""
    import pandas as pd

    rows = []
    for run in dict.fromkeys(wanted):
        done = run.step(profile).folder.is_dir()
        row = {"algorithm": run.algorithm, "setting": run.setting, "runs": 1, "done": int(done)}
        rows.append(row | {"failed": int(run.name in outcome.failed), "seconds": outcome.seconds.get(run.name)})
    frame = pd.DataFrame(rows).groupby(["algorithm", "setting"], sort=False)
    counts = frame[["runs", "done", "failed"]].sum()
    return counts.assign(seconds=frame["seconds"].mean().astype(float).round(1)).reset_index()


def missing(profile: Profile, wanted: Sequence[Run]) -> str:
    """A sentence for tables that rest on fewer runs than planned; empty if none is missing."""
    lost = [run.name for run in dict.fromkeys(wanted) if not run.step(profile).folder.is_dir()]
    if not lost:
        return ""
    return f"**{len(lost)} of {len(dict.fromkeys(wanted))} runs are missing**, such as {lost[0]}: see the sweep."


def failures(outcome: pool.Outcome) -> pd.DataFrame:
    """The runs that failed twice, with the first error of each."""
    import pandas as pd

    return pd.DataFrame(list(outcome.failed.items()), columns=["run", "error"])


def evaluations(profile: Profile, wanted: Sequence[Run], text: bool = False) -> pd.DataFrame:
    """Every recorded completion of the runs that are complete, with the columns of the run beside it."""
    columns = None if text else [name for name in fitting.RECORDED if name != "text"]
    return _of_complete_runs(profile, wanted, lambda folder: fitting.load_evaluation(folder, columns))


def histories(profile: Profile, wanted: Sequence[Run]) -> pd.DataFrame:
    """Losses and metrics of training of the runs that are complete, with the columns of the run beside them."""
    return _of_complete_runs(profile, wanted, fitting.load_history)


def _of_complete_runs(profile: Profile, wanted: Sequence[Run], load: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    folders = {run: run.step(profile).folder for run in dict.fromkeys(wanted)}
    parts = [load(folder).assign(**_columns(run)) for run, folder in folders.items() if folder.is_dir()]
    if not parts:
        raise _none_complete(wanted)
    return pd.concat(parts, ignore_index=True)


def _columns(run: Run) -> dict[str, object]:
    values = {name: getattr(run, name) for name in COLUMNS if getattr(run, name) is not None}
    return values | ({"transform": transform_label(run.transform)} if run.transform is not None else {})


class MissingRunsError(InputError):
    """Results were asked for of which none is there."""


def _none_complete(wanted: Sequence[Run]) -> MissingRunsError:
    failed = {run: FAILED[run] for run in wanted if run in FAILED}
    if failed:
        run, error = next(iter(failed.items()))
        return MissingRunsError(f"None of these runs is complete, since their training failed. {run.name}: {error}")
    return MissingRunsError("None of these runs is complete: train them first.")
