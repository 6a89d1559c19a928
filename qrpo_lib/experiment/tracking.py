"""Trackers: the losses, metrics and evaluations of trained models in TensorBoard, Trackio or W&B.

A profile names them (`experiment.report_to`). They are told of a model when it is there, from its results, so that a
tracker changes neither a key nor a number, may be asked for later, and shows models that were trained elsewhere. Each
model is told once; progress is shown while it trains. Below `runs/.trackers`:

    tensorboard --logdir runs/.trackers/tensorboard
    TRACKIO_DIR=runs/.trackers/trackio trackio show
    wandb sync runs/.trackers/wandb/wandb/offline-run-*      # offline unless WANDB_MODE says otherwise
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qrpo_lib.experiment import read
from qrpo_lib.experiment.grid import COLUMNS, Run, transform_label
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import extras, folders, paths
from qrpo_lib.steps import fitting

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

Scalars = dict[int, dict[str, float]]  # of each step, by name


def check(profile: Profile) -> None:
    """Raises MissingExtraError for a tracker that is not installed."""
    for tracker in profile.experiment.report_to:
        if importlib.util.find_spec(tracker) is None:
            raise extras.MissingExtraError(extras.sentence(tracker))


def report(profile: Profile, runs: Sequence[Run]) -> None:
    """Send the complete runs that the profile's trackers have not got yet."""
    if not profile.experiment.report_to:
        return
    project = re.sub(r"[^\w.-]+", "-", str(profile.figures))
    for run in dict.fromkeys(runs):
        step = run.step(profile)
        if not step.folder.is_dir():
            continue
        for tracker in profile.experiment.report_to:
            folder = paths.runs_folder() / ".trackers" / tracker
            told = folder / ".told" / hashlib.sha256(f"{project} {step.folder_name}".encode()).hexdigest()[:16]
            with folders.lock(f"tracker-{tracker}"):  # one process at a time
                if not told.exists():
                    _WRITERS[tracker](folder, project, run, scalars(profile, run))
                    told.parent.mkdir(parents=True, exist_ok=True)
                    told.touch()


def scalars(profile: Profile, run: Run) -> Scalars:
    """The numbers of a complete run, by step: "train/loss", "validation/...", "selection/reward" ..."""
    by_step: Scalars = {}
    for row in fitting.load_history(run.training(profile).folder).to_dict("records"):
        step, split = int(row.pop("step")), row.pop("split")
        values = {f"{split}/{name}": value for name, value in row.items() if value == value}
        by_step.setdefault(step, {}).update(values)
    means = read.evaluations(profile, [run]).groupby(["step", "split"])[["reward", "length"]].mean()
    for (step, split), row in means.iterrows():
        by_step.setdefault(int(step), {}).update({f"{split}/{name}": float(value) for name, value in row.items()})
    return dict(sorted(by_step.items()))


def _settings(run: Run) -> dict[str, str | float | int]:
    """The columns of a run that it has, as plain values."""
    values = {name: getattr(run, name) for name in COLUMNS}
    if run.transform is not None:
        values["transform"] = transform_label(run.transform)
    return {name: value for name, value in values.items() if value is not None}


def _tensorboard(folder: Path, project: str, run: Run, values: Scalars) -> None:
    from torch.utils.tensorboard import SummaryWriter

    target = folder / project / re.sub(r"[^\w.+-]+", "_", run.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".made-", dir=folder))
    with contextlib.closing(SummaryWriter(str(temporary))) as writer:
        writer.add_text("settings", ", ".join(f"{name} {value}" for name, value in _settings(run).items()))
        for step, of_step in values.items():
            for name, value in of_step.items():
                writer.add_scalar(name, value, step)
    shutil.rmtree(target, ignore_errors=True)  # of an older key: the model was made anew
    temporary.chmod(0o755)
    temporary.rename(target)


# In a process of its own: Trackio decides where it writes when it is imported.
_TELL_TRACKIO = """
import json, sys, trackio
told = json.load(sys.stdin)
trackio.init(project=told["project"], name=told["name"], config=told["config"], embed=False,
             auto_log_gpu=False, auto_log_cpu=False)
for step, values in told["values"].items():
    trackio.log(values, step=int(step))
trackio.finish()
"""


def _trackio(folder: Path, project: str, run: Run, values: Scalars) -> None:
    told = {"project": project, "name": run.name, "config": _settings(run), "values": values}
    subprocess.run(
        [sys.executable, "-c", _TELL_TRACKIO],
        input=json.dumps(told),
        env={"TRACKIO_DIR": str(folder)} | os.environ,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _wandb(folder: Path, project: str, run: Run, values: Scalars) -> None:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    mode = os.environ.get("WANDB_MODE", "offline")
    with wandb.init(project=project, name=run.name, dir=folder, mode=mode, config=_settings(run)) as tracked:
        for step, of_step in values.items():
            tracked.log(of_step, step=step)


_WRITERS = {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb}
