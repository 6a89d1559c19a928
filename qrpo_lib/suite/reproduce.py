"""A reproduction: as many notebooks at once as the cores carry, each in a kernel of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qrpo_lib.cluster import dispatch
from qrpo_lib.cluster.scheduler import Retries, Scheduler
from qrpo_lib.cluster.task import Progress, ScheduledTask
from qrpo_lib.cluster.workers import Workers
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import account, keys, paths, records
from qrpo_lib.runs.code_version import package_file
from qrpo_lib.suite import execution, kernel_server, plan, publishing
from qrpo_lib.suite.notebooks import Job, is_complete, is_there


@dataclass(frozen=True, eq=False)
class Notebook(ScheduledTask):
    """The task of executing a notebook and publishing what it made.

    job: what is executed. force: whether it is even if it is complete. whole: as in `notebooks.check_folders`.
    """

    looks_itself = True

    job: Job = None
    force: bool = False
    whole: set[str] = field(default_factory=set)

    def is_complete(self) -> bool:
        """Whether the notebook is executed already; then it is published."""
        if self.force or not is_complete(self.job, self.whole):
            return False
        publishing.publish(self.job.id, self.job.step.folder)
        return True

    def could_start(self) -> bool:
        """Whether all that it reads is there, though a notebook that should have made it has failed."""
        try:
            return all(is_there(step.folder_name, self.whole) for step in keys.with_inputs(*self.job.inputs))
        except records.CorruptedRunError:
            return False

    def accept(self) -> bool:
        """Publish what it made, which stands only if the notebook is still the same."""
        step = self.arguments[1]
        execution.check_unedited(self.job, step)
        publishing.publish(self.job.id, step.folder)
        return True

    @property
    def told(self) -> Path:
        """Where its kernel tells how far it is."""
        return paths.runs_folder() / ".status" / f"{self.arguments[1].key}.json"


def reproduce(selected: list[Job], *, force: bool, cores: int, on_change: Callable[[Progress], None]) -> Progress:
    """Execute what is not complete, as many jobs at once as the cores carry, and publish all figures.

    Of the jobs that could start, those that most others wait for come first. A failed job does not stop those that do
    not need it, nor those whose inputs are there all the same.

    Parameters
    ----------
    selected: in an order in which each comes after those that it needs.
    force: execute them even if they are complete.
    cores: how many all jobs together may use.
    on_change: `on_change(progress)` is called whenever there is news.
    """
    workers = Workers(cores, idle_seconds=24 * 3600)  # they end with the command
    # The accounts of this command's notebooks (`qrpo_lib.runs.account`): one that starts later reads the earlier ones'.
    with tempfile.TemporaryDirectory(prefix="qrpo-accounts-") as accounts:
        try:
            notebooks = tasks(selected, cores, Path(accounts), force)
            return Scheduler(notebooks, workers, Retries(errors=0, losses=0)).run(on_change)
        finally:
            workers.interrupt()


def tasks(selected: list[Job], cores: int, accounts: Path, force: bool = False) -> list[Notebook]:
    """A task for each job, which needs those before it in the list that its job comes after.

    Parameters
    ----------
    selected: in an order in which each comes after those that it needs.
    cores: how many all jobs together may use.
    accounts: a folder for what the notebooks note of the work that they made (`qrpo_lib.runs.account`).
    force: execute notebooks even if they are complete.
    """
    whole: set[str] = set()
    by_id: dict[str, Notebook] = {}
    for job in selected:
        step, busy = job.step, max(cores, job.threads) if job.all_cores else job.threads
        environment = {
            "OMP_NUM_THREADS": str(job.threads),
            "QRPO_CORES": str(busy),
            account.VARIABLE: str(accounts / f"{step.key}.jsonl"),
            # Figures are shown in the notebook and look as published, whatever the user has set for other work.
            "MATPLOTLIBRC": str(package_file("matplotlibrc")),
            "PYTHONIOENCODING": "utf-8",
            kernel_server.WANTED: "1",
        }
        needs = tuple(by_id[needed] for needed in job.after if needed in by_id)
        known = {"cores": busy, "environment": environment, "job": job, "force": force, "whole": whole}
        by_id[job.id] = Notebook(job.id, execution.execute, (job, step, force), needs, **known)
    return list(by_id.values())


def make_steps(profile: str, selected: list[Job]) -> tuple[str, list[str]]:
    """Make the steps that the notebooks read where the profile says, unless that is here, where each makes its own.

    Returns what failed (or nothing), and the ids of notebooks that read it.
    """
    settings = profiles.load(profile).dispatch
    if settings.where == "here":
        return "", []
    failure, wanted = "", plan.needed(profile, selected)
    try:
        dispatch.make(wanted, settings)
    except dispatch.DispatchError as error:
        failure = str(error)
    missing = {task.name for task in wanted if not task.step.folder.is_dir()}
    return failure, [job.id for job in selected if missing & {step.folder_name for step in job.inputs}]
