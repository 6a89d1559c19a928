"""Reading the runs of a grid back: what is there, what failed, their evaluations and histories."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qrpo_lib.experiment.grid import COLUMNS, FAILED, Run, transform_label
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import evaluation, fitting, reference_evaluation
from qrpo_lib.steps import log_ratios as log_ratio_step

if TYPE_CHECKING:
    import pandas as pd

    from qrpo_lib.experiment import train


def overview(profile: Profile, wanted: Sequence[Run], outcome: train.SweepOutcome) -> pd.DataFrame:
    """For each algorithm and setting: how many runs are done, how many failed; if any was trained now, mean seconds."""
    import pandas as pd

    rows = []
    for run in dict.fromkeys(wanted):
        done = run.step(profile).folder.is_dir()
        row = {"algorithm": run.algorithm, "setting": run.setting, "runs": 1, "done": int(done)}
        rows.append(row | {"failed": int(run.name in outcome.failed), "seconds": outcome.seconds.get(run.name)})
    frame = pd.DataFrame(rows).groupby(["algorithm", "setting"], sort=False)
    counts = frame[["runs", "done", "failed"]].sum()
    if outcome.seconds:
        counts["seconds"] = frame["seconds"].mean().astype(float).round(1)
    return counts.reset_index()


def missing(profile: Profile, wanted: Sequence[Run]) -> str:
    """A sentence for tables that rest on fewer runs than planned; empty if none is missing."""
    lost = [run.name for run in dict.fromkeys(wanted) if not run.step(profile).folder.is_dir()]
    if not lost:
        return ""
    return f"**{len(lost)} of {len(dict.fromkeys(wanted))} runs are missing**, such as {lost[0]}: see the sweep."


def failures(outcome: train.SweepOutcome) -> pd.DataFrame:
    """The runs that failed twice, with the first error of each."""
    import pandas as pd

    return pd.DataFrame(list(outcome.failed.items()), columns=["run", "error"])


def evaluations(profile: Profile, wanted: Sequence[Run], text: bool = False) -> pd.DataFrame:
    """Every answer to the selection prompts, of all checkpoints and of the policy before training (step 0).

    Of the runs that are complete, with the columns of the run beside it.
    """
    import pandas as pd

    columns = [name for name in evaluation.RECORDED if text or name != "text"]
    starts: dict[Path, pd.DataFrame] = {}  # many runs have the same

    def load(run: Run) -> pd.DataFrame:
        start = reference_evaluation.step(run.settings(profile), run.seed, "selection").folder
        if start not in starts:
            starts[start] = evaluation.load(start, columns)
        return pd.concat([starts[start], evaluation.load(run.step(profile).folder, columns)], ignore_index=True)

    return _of_complete_runs(profile, wanted, load)


def answers(
    profile: Profile,
    wanted: Mapping[Run, Collection[int]],
    split: str = "reporting",
    *,
    text: bool = False,
    log_ratios: bool = False,
) -> pd.DataFrame:
    """The answers of these runs after these steps to the prompts of a split, with the columns of the run beside them.

    Parameters
    ----------
    profile: whose runs they are.
    wanted: of each run the steps after which its policy answered; the answers must be there (`train.report`).
    split: "selection" or "reporting".
    text: whether the texts are read too.
    log_ratios: with `logp` and `ref_logp` of `qrpo_lib.steps.log_ratios`, in nats.
    """
    import pandas as pd

    parts = []
    for run, steps in wanted.items():
        for step in sorted(steps):
            answered = run.report(profile, step) if split == "reporting" else run.step(profile)
            if step == 0:
                answered = reference_evaluation.step(run.settings(profile), run.seed, split)
            rows = evaluation.load(answered.folder, [name for name in evaluation.RECORDED if text or name != "text"])
            rows = rows[rows["step"] == step].reset_index(drop=True)
            if log_ratios:
                rows = _with_log_ratios(profile, run, step, split, rows)
            parts.append(rows.assign(**_columns(run)))
    return pd.concat(parts, ignore_index=True)


def histories(profile: Profile, wanted: Sequence[Run]) -> pd.DataFrame:
    """Losses and metrics of training of the runs that are complete, with the columns of the run beside them."""
    return _of_complete_runs(profile, wanted, lambda run: fitting.load_history(run.training(profile).folder))


def _with_log_ratios(profile: Profile, run: Run, step: int, split: str, rows: pd.DataFrame) -> pd.DataFrame:
    if step == 0:  # the policy is its own reference
        return rows.assign(ref_logp=rows["logp"])
    source = log_ratio_step.step(run.settings(profile), run.algorithm, run.seed, step, split)
    computed = log_ratio_step.load(source.folder)
    return rows.drop(columns="logp").merge(computed, on=["prompt_id", "repeat"], validate="1:1")


def _of_complete_runs(profile: Profile, wanted: Sequence[Run], load: Callable[[Run], pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    there = [run for run in dict.fromkeys(wanted) if run.step(profile).folder.is_dir()]
    if not there:
        raise _none_complete(wanted)
    return pd.concat([load(run).assign(**_columns(run)) for run in there], ignore_index=True)


def _columns(run: Run) -> dict[str, object]:
    values = {name: getattr(run, name) for name in COLUMNS if getattr(run, name) is not None}
    return values | ({"transform": transform_label(run.transform)} if run.transform is not None else {})


class MissingRunsError(InputError):
    """None of the results that were asked for is there."""


def _none_complete(wanted: Sequence[Run]) -> MissingRunsError:
    failed = {run: FAILED[run] for run in wanted if run in FAILED}
    if failed:
        run, error = next(iter(failed.items()))
        return MissingRunsError(f"None of these runs is complete, since their training failed. {run.name}: {error}")
    return MissingRunsError("None of these runs is complete: train them first.")
