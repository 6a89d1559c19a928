"""The command line: `qrpo reproduce | status | runs | plan | download | report | claims | protocol | train | init |
record | restore | clean`.

Each has `--help`; `qrpo` alone says what to do next. What a command needs is imported when it runs: `qrpo --help`
imports none of the library, `status` and `runs` neither pandas nor matplotlib nor torch.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib.runs import terminal

if TYPE_CHECKING:
    from rich.console import Console

_PROFILES = Path(__file__).parents[1] / "profiles"
_DEFAULT_PROFILE = "tiny"
_REPORT = "report"  # where the site is written, below the working directory
_TABLE_WIDTH_OF_A_FILE = 200


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a notebook failed, 2 unusable input."""
    terminal.escape_what_cannot_be_encoded()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["train"]:  # which needs nothing but the core
        from qrpo_lib.suite import train

        return train.main(arguments[1:])
    options = _parser(arguments).parse_args(arguments)
    try:
        code = options.command(options)
        if sys.stdout:
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # `qrpo runs | head`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ValueError as error:
        _say(f"qrpo: {error}", style="red")
        return 2
    except OSError as error:
        from qrpo_lib.runs import failures, paths

        _say(f"qrpo: {failures.sentence(error, paths.runs_folder())}", style="red")
        return 2
    except KeyboardInterrupt:
        _say("Stopped. The same command goes on from here. Jobs that were dispatched go on without it.")
        return 130


def reproduce(options: argparse.Namespace) -> int:
    """Execute the notebooks of a profile that are not complete yet."""
    from qrpo_lib.profiles import files
    from qrpo_lib.runs import cores, paths
    from qrpo_lib.suite import display, headlines, notebooks
    from qrpo_lib.suite import reproduce as suite_reproduce

    started = time.monotonic()
    profile = _absolute(options.profile)
    every = notebooks.jobs(profile)
    files.take_name(profile)
    selected = notebooks.select(every, options.only)
    if options.recorded:
        from qrpo_lib.suite import record

        record.check_restored(profile, options.world)
        selected = [job for job in selected if job.path in record.NOTEBOOKS]
    if options.world is not None:
        selected = notebooks.in_world(selected, profile, options.world)
    _check_environment(profile)
    notebooks.check(selected)
    failure, unready = suite_reproduce.make_steps(profile, selected)
    selected = [job for job in selected if job.id not in unready]
    used = options.cores or cores.available()
    with display.Notebooks(len(selected)) as shown:
        progress = suite_reproduce.reproduce(selected, force=options.force, cores=used, on_change=shown.update)
    if failure:
        _say(("failed ", "red"), failure)
    for id, error in progress.failures.items():
        _say(("failed ", "red"), f"{id}: {error}")
    blocked = [*progress.names("blocked"), *unready]
    for id in blocked:
        _say(f"not run: {id}, which needs what failed")
    executed = len(progress.names("complete")) - len(progress.skipped)
    _say(
        f"{executed} executed, {len(progress.skipped)} skipped (complete), {len(progress.failures)} failed, "
        f"{len(blocked)} not run, in {time.monotonic() - started:.0f} s. "
        f"Figures: {paths.project_root() / 'figures'}"
    )
    if progress.failures or failure:
        return 1
    for line in headlines.results(profile):
        _say(line)
    _say(headlines.site(Path(_REPORT)))
    return 0


def say_what_is_next(options: argparse.Namespace) -> int:
    """What `qrpo` says without a command: where this project stands, and commands that make sense now."""
    from qrpo_lib.suite import headlines

    steps = headlines.next_steps(_DEFAULT_PROFILE)
    width = max(len(command) for command, _ in steps)
    _say("Replicate Quantile Reward Policy Optimization. What makes sense now:")
    for command, purpose in steps:
        _say("  ", (f"{command:{width}}", "bold"), f"  {purpose}")
    _say("`qrpo --help` lists all commands.")
    return 0


def status(options: argparse.Namespace) -> int:
    """Show which notebooks are complete, their run folders, and what `reproduce` would refuse."""
    from qrpo_lib.runs import paths, records
    from qrpo_lib.runs.errors import InputError
    from qrpo_lib.suite import notebooks, publishing

    profile = _absolute(options.profile)
    if options.keys:
        for step in notebooks.steps(profile):
            print(step.name, step.key)
        return 0
    whole: set[str] = set()
    refused: dict[str, None] = {}  # sentences, each once: many notebooks read the same folders
    try:
        publishing.read_manifest(paths.project_root() / "figures")
    except InputError as error:
        refused[str(error)] = None
    jobs, complete = notebooks.jobs(profile), 0
    for job in jobs:
        step = job.step
        try:
            notebooks.check_folders(job, whole)
            mark = ("complete", "green") if notebooks.is_complete(job, whole) else ("to do   ", "")
        except InputError as error:
            mark, refused = ("corrupted", "red"), {**refused, str(error): None}
        if mark[0].startswith("to do") and (step.partial.exists() or step.shards.exists()):
            mark = ("interrupted or running", "yellow")
        complete += mark[0] == "complete"
        _say(mark, f"  {job.id}  ", (step.folder_name, "dim"))
    _say(f"{complete} of {len(jobs)} notebooks are complete. Run folders are in {paths.runs_folder()}.")
    restored = sum(records.RESTORED in record for _, record in records.read_all())
    if restored:
        _say(f"{restored} of them were restored from a record of results made elsewhere; they hold no policies.")
    try:
        _check_environment(profile)
    except (ValueError, OSError) as error:
        refused[str(error)] = None
    for sentence in refused:
        _say(("`qrpo reproduce` would stop here: ", "red"), sentence)
    return 1 if refused else 0


def list_runs(options: argparse.Namespace) -> int:
    """Show what each run folder is: algorithm, setting, beta, learning rate, seed, when it was made and how long."""
    from qrpo_lib.runs import listing

    records = listing.recorded()
    every = listing.rows(records)
    wanted = {name: getattr(options, name) for name in _RUN_FILTERS}
    listed = listing.matching(every, options.names, **wanted)
    if options.json or options.csv:
        print(listing.as_json(listed) if options.json else listing.as_csv(listed))
        return 0
    console = terminal.make_console()
    if not console.is_terminal:  # in a file nothing has to fit a screen
        console.width = _TABLE_WIDTH_OF_A_FILE
    if options.times:
        _say_times(records, {row.folder for row in listed}, console)
    elif listed:
        console.print(listing.render(listed))
    _say_how_many(len(listed), len(every))
    return 0


def _say_times(records: dict[str, dict[str, Any]], names: set[str], console: Console) -> None:
    """Say where the time of the run folders of these names went, and which of them are left out."""
    from qrpo_lib.runs import times
    from qrpo_lib.runs.records import RESTORED

    asked = [record for name, record in records.items() if name in names]
    computed = [record for record in asked if RESTORED not in record]
    counted = times.last(computed, among=records.values())
    if counted:
        console.print(times.render(times.phases(counted), times.total(counted)))
    if len(asked) > len(computed):
        _say(f"{len(asked) - len(computed)} left out: restored from a record of results that were made elsewhere.")
    if len(computed) > len(counted):
        _say(f"{len(computed) - len(counted)} left out: made again since, after a change of code.")


def _say_how_many(listed: int, every: int) -> None:
    """Say how many of all run folders were shown, and which cannot be."""
    from qrpo_lib.runs import cleaning, paths, records

    _say(f"{listed} of {every} run folders in {paths.runs_folder()}.")
    for name in cleaning.damaged():
        _say(
            ("corrupted ", "red"), f"{name}: its {records.RECORD} cannot be read; `qrpo clean --run {name}` removes it."
        )


def show_plan(options: argparse.Namespace) -> int:
    """Show what would run: stages, jobs, tokens, hours, disk, and what is done. Changes nothing."""
    from dataclasses import fields

    from qrpo_lib.suite import plan

    values = {field.name: getattr(options, field.name) for field in fields(plan.Assumptions)}
    assumed = plan.Assumptions(**{name: value for name, value in values.items() if value is not None})
    profile = _absolute(options.profile)
    terminal.make_console().print(plan.render(profile, plan.stages(profile, assumed), assumed))
    return 0


def write_record(options: argparse.Namespace) -> int:
    """Write what every statistic rests on as tables to be committed, below figures/PROFILE/record/.

    Rewards, lengths and log-probabilities of all answers, without policies: from them `qrpo restore` brings back run
    folders to compute ledger, tables and figures from. Rewards and log-probabilities are rounded, but for the rewards
    that choices are made by.
    """
    from qrpo_lib.suite import record

    return 0 if record.write(_absolute(options.profile), options.world, options.bits, _say) else 1


def restore(options: argparse.Namespace) -> int:
    """Put recorded results back into run folders, so that nothing is trained for ledger, tables and figures.

    Only results whose key is still the same are used; with --any-code also those that other code made by the same
    settings. The folders say what they were restored from, and hold no policies: what is to be made from one is made
    anew.
    """
    from qrpo_lib.suite import record

    record.restore(_absolute(options.profile), options.world, _say, any_code=options.any_code)
    return 0


def fetch(options: argparse.Namespace) -> int:
    """Download the profile's models and datasets into $QRPO_DATA, each at its revision, and check every file."""
    from qrpo_lib.suite import download

    for source in download.sources(_absolute(options.profile)):
        download.fetch(source, tell=_say)
    return 0


def clean(options: argparse.Namespace) -> int:
    """Remove run folders: one, all, or (by default) those that no profile of the project uses now.

    It lists them with their sizes and asks; without a terminal to ask on, it removes nothing unless --yes is given. The
    project's profiles are the suite's own, the one of --profile, every profile in a .toml file of the project's folder
    and its sub-folders (hidden ones and Python environments aside) or of the folder it is called from, and the files by
    which the executed notebooks were made. Only what the suite itself made is ever removed: folders called NAME-KEY
    whose record.json says the same, and what it left of them. Links are not followed.
    """
    from qrpo_lib.runs import cleaning, paths, records
    from qrpo_lib.suite import project_profiles

    if options.run is not None:
        items = cleaning.named(options.run)
    elif options.all:
        items = cleaning.everything()
    else:
        items = cleaning.unneeded(project_profiles.needed_folders([_absolute(options.profile)]))
    for item in items:
        origin = records.restored_from(item.path)
        kind = f"{item.kind}, restored from {origin}" if origin else item.kind
        _say(f"{terminal.size(item.size):>9}  {item.path.name}", (f"  {kind}", "dim"))
    if options.run is None:
        for name in cleaning.damaged():
            _say(f"Left as it is: {name}, whose {records.RECORD} cannot be read; `qrpo clean --run {name}` removes it.")
    if not items:
        _say(f"Nothing to remove in {paths.runs_folder()}.")
        return 0
    count = f"{len(items)} folder{'s' if len(items) > 1 else ''}"
    total = f"{count} with {terminal.size(sum(item.size for item in items))} in {paths.runs_folder()}"
    if options.dry_run:
        _say(f"Would remove {total}; nothing was removed.")
        return 0
    if not options.yes and not _agreed(f"Remove {total}?"):
        return 0 if _can_ask() else 2
    busy = [item for item in items if not cleaning.remove(item)]
    for item in busy:
        _say(f"Left as it is: {item.path.name}; a running command is at work on it.")
    _say(f"{len(items) - len(busy)} removed.")
    return 0


def _can_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _agreed(question: str) -> bool:
    if not _can_ask():
        _say(f"{question} Nothing was removed: there is no terminal to ask on; give --yes to remove them.")
        return False
    _say(f"{question} [y/N] ", end="")
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    _say("Nothing was removed.")
    return False


def write_protocol(options: argparse.Namespace) -> int:
    """Write docs/protocol.md: the paper's protocol, the authors' code, and what the profiles do."""
    from qrpo_lib.suite import protocol

    _say(_written("protocol.md", protocol.page()))
    return 0


def write_claims(options: argparse.Namespace) -> int:
    """Write docs/claims.md: the verdicts that the notebooks recorded under figures/, and every claim's rule."""
    from qrpo_lib.paper import claims, claims_page
    from qrpo_lib.runs import paths

    figures = paths.project_root() / "figures"
    judged, stale = claims.of_ledger(claims.recorded(figures)), claims.stale(figures)
    if not judged and not stale:
        raise ValueError("No claims are recorded under figures/ yet: run `qrpo reproduce` first.")
    _say(f"{claims_page.summary(judged)} {_written('claims.md', claims_page.page(judged, len(stale)))}")
    if stale:
        _say(f"{len(stale)} verdicts are by earlier rules and left out, such as {stale[0]}.")
    return 0


def _written(name: str, text: str) -> str:
    """Write a page of the project's docs; what is to be said of it."""
    from qrpo_lib.runs import files, paths

    page = paths.project_root() / "docs" / name
    changed = not page.is_file() or page.read_text(encoding="utf-8") != text
    files.write_atomically(page, text.encode())
    return f"docs/{name} {'updated' if changed else 'was up to date'}."


def build_report(options: argparse.Namespace) -> int:
    """Write the executed notebooks, figures, tables and claims as a static site that opens from disk.

    A report whose notebooks, figures, pages and code have not changed, and which nobody has changed, is left as it is.
    """
    from qrpo_lib.suite import site

    if not options.output:
        raise ValueError("--output needs the name of a folder; leave it out for `report`.")
    page = site.build(_absolute(options.profile), Path(options.output).resolve())
    _say(f"Open {page.as_uri()}")
    return 0


def _check_environment(profile_name: str) -> None:
    """Raise for a variable that says what cannot be, and for packages or files that the profile needs."""
    from qrpo_lib.profiles import settings as profiles
    from qrpo_lib.runs import products
    from qrpo_lib.sampling import engines
    from qrpo_lib.suite import plan_memory
    from qrpo_lib.tasks import registry as tasks

    products.check()
    for profile in (profiles.load(profile_name, arm) for arm in profiles.arms(profile_name)):
        tasks.check_available(profile)
        if profile.dispatch.gpu_memory_gb:
            plan_memory.check(profile, plan_memory.of_arm(profile))
        if profile.dispatch.where == "here":  # elsewhere it may be in the jobs' container alone
            engines.resolve(profile.reference_sampling.backend)
        if profile.policy.source == "smollm2":
            from qrpo_lib.models import wheels

            wheels.check_wheels()


def _absolute(profile: str) -> str:
    """A profile's file by its absolute path, since notebooks run in folders of their own."""
    from qrpo_lib.profiles import files

    return files.absolute(profile)


def _say(*parts: str | tuple[str, str], style: str = "", end: str = "\n") -> None:
    """A line, however long, as it is; (text, style) pairs are coloured on a terminal."""
    terminal.make_console().print(terminal.styled(*parts), style=style or None, soft_wrap=True, end=end)


# Columns of `qrpo runs` that can be asked for, and their types.
_RUN_FILTERS = {
    "algorithm": str,
    "setting": str,
    "beta": float,
    "learning_rate": float,
    "num_ref_rewards": int,
    "transform": str,
    "partition": str,
    "seed": int,
    "task": str,
}


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qrpo", description="Replicate Quantile Reward Policy Optimization.")
    parser.set_defaults(command=say_what_is_next)
    commands = parser.add_subparsers(metavar="COMMAND")
    names = ", ".join(sorted(path.stem for path in _PROFILES.glob("*.toml")))
    told = f"{names}, or a .toml file (default: {_DEFAULT_PROFILE})"

    def add(command, name: str, *, profile: bool = True) -> argparse.ArgumentParser:
        first, _, rest = command.__doc__.partition("\n\n")
        made = commands.add_parser(name, help=first, description=" ".join(f"{first} {rest}".split()))
        made.set_defaults(command=command)
        if profile:
            made.add_argument("--profile", default=_DEFAULT_PROFILE, help=told)
        return made

    reproduced = add(reproduce, "reproduce")
    reproduced.add_argument(
        "--only", nargs="+", action="extend", default=[], metavar="NOTEBOOK", help="these alone: names or files"
    )
    reproduced.add_argument(
        "--world", type=int, help="the notebooks of this world alone, of a profile that has several"
    )
    reproduced.add_argument(
        "--recorded", action="store_true", help="those alone that a record suffices for (`qrpo restore`)"
    )
    reproduced.add_argument("--force", action="store_true", help="execute notebooks again that are complete")
    reproduced.add_argument(
        "--cores", type=_positive, help="how many to use at most (default: all that this process may use)"
    )
    shown = add(status, "status")
    shown.add_argument("--keys", action="store_true", help="print NAME KEY of every step, to compare two machines")
    _add_filters(add(list_runs, "runs", profile=False))
    add(fetch, "download")
    planned = add(show_plan, "plan")
    if "plan" in arguments:  # what can be assumed is known to the library
        from dataclasses import fields

        from qrpo_lib.suite.plan import Assumptions

        for field in fields(Assumptions):
            planned.add_argument(f"--{field.name.replace('_', '-')}", type=float, help="assumed for the estimates")
    for named in (add(write_record, "record"), add(restore, "restore")):
        _add_record_options(named)
    add(write_claims, "claims", profile=False)
    add(write_protocol, "protocol", profile=False)
    commands.add_parser("train", help="Train a policy of your own on your own rows.", add_help=False)
    created = add(init, "init", profile=False)
    created.add_argument("folder", metavar="FOLDER", type=_folder, help="where the notebooks are copied to")
    reported = add(build_report, "report")
    reported.add_argument("--output", default=_REPORT, metavar="FOLDER", help=f"where to write it (default: {_REPORT})")
    cleaned = add(clean, "clean")
    chosen = cleaned.add_mutually_exclusive_group()
    chosen.add_argument("--run", metavar="NAME-KEY", help="remove this run folder")
    chosen.add_argument("--all", action="store_true", help="remove every run folder")
    cleaned.add_argument("--yes", action="store_true", help="do not ask")
    cleaned.add_argument("--dry-run", action="store_true", help="only list what would be removed")
    return parser


def _add_record_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--world", type=int, help="of this world alone, of a profile that has several")
    if parser.prog.endswith("record"):
        told = "significant bits of rewards that decide no choice (default: 8; 53 keep all)"
        parser.add_argument("--bits", type=_positive, help=told)
    else:
        parser.add_argument("--any-code", action="store_true", help="also what other code than today's has made")


def init(options: argparse.Namespace) -> int:
    """Copy the notebooks that came with the package into a folder, where `qrpo reproduce` then runs."""
    from qrpo_lib.suite import project

    written = project.create(options.folder)
    _say(f"{len(written)} files written. Next: cd {shlex.quote(str(options.folder))} && qrpo reproduce")
    return 0


def _add_filters(listed: argparse.ArgumentParser) -> None:
    listed.add_argument("names", nargs="*", metavar="NAME", help="a step such as `training`, or a run folder")
    for name, kind in _RUN_FILTERS.items():
        listed.add_argument(f"--{name.replace('_', '-')}", type=kind, help="only those with this value")
    form = listed.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs: a list of objects with all columns")
    form.add_argument("--csv", action="store_true", help="for programs: a table with all columns")
    form.add_argument("--times", action="store_true", help="where time went: processor seconds of each kind of step")


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("it has no name; the one you are in is .")
    return Path(text).expanduser()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number that this can be: give 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
