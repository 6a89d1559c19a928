"""The command line: `qrpo reproduce | status | plan | download | report | claims | clean`; each has `--help`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from qrpo_lib import (
    claims,
    dispatch,
    dispatch_table,
    download,
    failures,
    plan,
    profiles,
    publishing,
    runs,
    suite,
    tasks,
)
from qrpo_lib.errors import InputError

console = Console(highlight=False)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a notebook failed, 2 unusable input."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (ValueError, OSError) as error:
        said = str(error) if isinstance(error, ValueError) else failures.sentence(error, runs.runs_folder())
        console.print(f"[red]qrpo: {escape(said)}[/red]", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on from here. Jobs that were dispatched go on without it.")
        return 130


def reproduce(options: argparse.Namespace) -> int:
    """Execute the notebooks of a profile that are not complete yet."""
    started = time.monotonic()
    profile = _absolute(options.profile)
    every = suite.jobs(profile)
    selected = suite.select(every, options.only)
    _check_packages(profile)
    suite.check(selected)
    failure, unready = _dispatch(profile, selected)
    selected = [job for job in selected if job.id not in unready]
    with _Display(len(selected)) as display:
        state = suite.reproduce(selected, force=options.force, cores=options.cores, on_change=display.update)
    if failure:
        console.print(f"[red]failed[/red] {escape(failure)}", soft_wrap=True)
    state.blocked += unready
    for id, error in state.failed.items():
        console.print(f"[red]failed[/red] {escape(id)}: {escape(error)}", soft_wrap=True)
    for id in state.blocked:
        console.print(f"not run: {escape(id)}, which needs what failed")
    console.print(
        f"{len(state.done)} executed, {len(state.skipped)} skipped (complete), {len(state.failed)} failed, "
        f"{len(state.blocked)} not run, in {time.monotonic() - started:.0f} s. "
        f"Figures: {runs.project_root() / 'figures'}",
        soft_wrap=True,
    )
    return 1 if state.failed or failure else 0


def _dispatch(profile: str, selected: list[suite.Job]) -> tuple[str, list[str]]:
    """Make the steps that the notebooks read where the profile says.

    Returns what failed (or nothing), and the ids of notebooks that read it. What is no task of the pipeline
    (iterative rounds) the notebook makes itself.
    """
    settings = profiles.load(profile).dispatch
    if settings.where == "here":  # each notebook makes its own
        return "", []
    failure, wanted = "", plan.needed(profile, selected)
    try:
        with dispatch_table.live(console) as show:
            dispatch.run(wanted, settings, on_change=show)
    except dispatch.DispatchError as error:
        failure = str(error)
    missing = {task.name for task in wanted if not task.step.folder.is_dir()}
    return failure, [job.id for job in selected if missing & {step.folder_name for step in job.inputs}]


def status(options: argparse.Namespace) -> int:
    """Show which notebooks are complete, and their run folders."""
    whole: set[str] = set()
    refused: dict[str, None] = {}
    try:
        publishing.read_manifest(runs.project_root() / "figures")
    except InputError as error:
        refused[str(error)] = None
    for job in suite.jobs(_absolute(options.profile)):
        step = job.step
        try:
            suite.check_folders(job, whole)
            mark = "[green]complete[/green]" if suite.is_complete(job, whole) else "to do   "
        except InputError as error:
            mark, refused = "[red]corrupted[/red]", {**refused, str(error): None}
        if mark.startswith("to do") and (step.partial.exists() or step.shards.exists()):
            mark = "[yellow]interrupted or running[/yellow]"
        console.print(f"{mark}  {escape(job.id)}  [dim]{step.folder}[/dim]", soft_wrap=True)
    for error in refused:  # what `reproduce` would refuse
        console.print(f"[red]{escape(error)}[/red]", soft_wrap=True)
    return 1 if refused else 0


def show_plan(options: argparse.Namespace) -> int:
    """Show what would run: stages, jobs, tokens, hours, disk, and what is done. Changes nothing."""
    values = {field.name: getattr(options, field.name) for field in fields(plan.Assumptions)}
    assumed = plan.Assumptions(**{name: value for name, value in values.items() if value is not None})
    profile = _absolute(options.profile)
    console.print(plan.render(profile, plan.stages(profile, assumed), assumed))
    return 0


def fetch(options: argparse.Namespace) -> int:
    """Download the profile's models and datasets into $QRPO_DATA, each at its revision, and check every file."""
    for source in download.sources(_absolute(options.profile)):
        download.fetch(source, tell=lambda text: console.print(escape(text), soft_wrap=True))
    return 0


def clean(options: argparse.Namespace) -> int:
    """Remove run folders: one, all, or (by default) those that neither this profile nor the suite's own use now."""
    folder = runs.runs_folder()
    if options.run:
        path = folder / options.run
        if path.parent != folder or not path.is_dir():
            raise ValueError(f"There is no run folder {options.run!r} in {folder}; `qrpo status` lists them.")
        removed = [path]
    else:
        kept = [] if options.all else {*profiles.names(), _absolute(options.profile)}
        used: set[str] = set()
        for profile in kept:
            with plan.anywhere(profile):
                used |= suite.needed_folders(suite.jobs(profile))
        # An interrupted attempt at what is still needed holds work that the next one goes on from.
        interrupted = [*(folder / ".partial").glob("*"), *(folder / ".shards").glob("*")]
        found = [*sorted(folder.glob("*-*")), *sorted(interrupted)]
        removed = [path for path in found if path.is_dir() and path.name not in used]
        removed += [runs.cache_folder("")] if options.all and runs.cache_folder("").exists() else []
    for path in removed:
        shutil.rmtree(path)
        console.print(f"removed {path}", soft_wrap=True)
    console.print(f"{len(removed)} run folders removed.")
    return 0


def write_claims(options: argparse.Namespace) -> int:
    """Write the table of claims in README.md from what the notebooks recorded under figures/."""
    ledger = claims.ledger(runs.project_root() / "figures")
    if not ledger:
        raise ValueError("No claims are recorded under figures/ yet: run `qrpo reproduce` first.")
    changed = claims.write_into(runs.project_root() / "README.md", ledger)
    console.print(f"{len(ledger)} claims; README.md {'updated' if changed else 'was up to date'}.")
    return 0


def build_report(options: argparse.Namespace) -> int:
    """Write the executed notebooks, figures, tables and claims as a static site that opens from disk."""
    from qrpo_lib import report

    page = report.build(_absolute(options.profile), Path(options.output).resolve())
    console.print(f"Open {page}", soft_wrap=True)
    return 0


class _Display:
    """A progress bar over notebooks on a terminal; a line for each event elsewhere."""

    def __init__(self, total: int):
        self._seen: set[str] = set()
        self._progress = Progress(
            TextColumn("{task.fields[now]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("notebooks"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total, now="")

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def update(self, state: suite.State) -> None:
        for running in state.running:
            self._tell("running", running.job.id, shown=not console.is_terminal)
        for id in state.done:
            self._tell("[green]done[/green]   ", id)
        for id in state.skipped:
            self._tell("skipped", id, shown=not console.is_terminal)
        for id in state.failed:
            self._tell("[red]failed[/red] ", id)
        ended = len(state.done) + len(state.skipped) + len(state.failed) + len(state.blocked)
        now = " | ".join(escape(running.doing()) for running in state.running)
        self._progress.update(self._task, completed=ended, now=now)

    def _tell(self, what: str, id: str, *, shown: bool = True) -> None:
        if shown and what + id not in self._seen:
            console.print(f"{what} {escape(id)}", soft_wrap=True)
        self._seen.add(what + id)


def _check_packages(profile_name: str) -> None:
    for profile in (profiles.load(profile_name, arm) for arm in profiles.arms(profile_name)):
        tasks.check_available(profile)
        if profile.policy.source == "smollm2":
            from qrpo_lib import pretrained

            pretrained.check_wheels()


def _absolute(profile: str) -> str:
    """A profile's file by its absolute path, since notebooks run in folders of their own."""
    return str(Path(profile).resolve()) if profile.endswith(".toml") else profile


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qrpo", description="Replicate Quantile Reward Policy Optimization.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(command, name: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        made.set_defaults(command=command)
        made.add_argument("--profile", default="tiny", help=f"{', '.join(profiles.names())}, or a .toml file")
        return made

    reproduced = add(reproduce, "reproduce")
    reproduced.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK", help="these notebooks alone")
    reproduced.add_argument("--force", action="store_true", help="execute notebooks again that are complete")
    reproduced.add_argument("--cores", type=int, default=os.cpu_count(), help="how many to use at most (default: all)")
    add(status, "status")
    add(fetch, "download")
    planned = add(show_plan, "plan")
    for field in fields(plan.Assumptions):
        planned.add_argument(f"--{field.name.replace('_', '-')}", type=float, help="assumed for the estimates")
    add(write_claims, "claims")
    reported = add(build_report, "report")
    reported.add_argument("--output", default="report", metavar="FOLDER", help="where to write it (default: report)")
    cleaned = add(clean, "clean")
    cleaned.add_argument("--run", metavar="FOLDER", help="remove this run folder")
    cleaned.add_argument("--all", action="store_true", help="remove every run folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
