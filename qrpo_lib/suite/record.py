"""`qrpo record` and `qrpo restore`: a profile's results as committed tables, and back into run folders.

A profile with worlds has a record for each of them, any other one for all its arms, below `figures/PROFILE/record/`.
"""

from __future__ import annotations

from collections.abc import Callable

from qrpo_lib.experiment import record
from qrpo_lib.experiment.record_steps import Known
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import paths, terminal
from qrpo_lib.runs.errors import InputError

ALL = "all"  # the name of the record of a profile without worlds
# Notebooks that compute all they show from what a record holds.
NOTEBOOKS = (
    "experiments/reference_sampling",
    "experiments/training",
    "experiments/iterative",
    "results/tables",
    "results/scaling",
    "results/transformations",
    "results/length_bias",
    "results/alpaca_eval",
    "results/worlds",
    "results/power",
    "results/claims",
)
Tell = Callable[[str], None]


def write(profile_name: str, world: int | None, bits: int | None, tell: Tell) -> bool:
    """Write the record of a world, or of each one that is complete; whether all that was asked for was written.

    Parameters
    ----------
    profile_name: of the profile.
    world: its number, or None for all of them, or for a profile without worlds.
    bits: as `record.write` takes them, its own if None.
    tell: is called with each sentence for people.

    Raises
    ------
    InputError
        There is no such world, or what was asked for by name is not complete.
    """
    name, figures, left_out = profiles.load(profile_name).name, paths.project_root() / "figures", []
    for called, arms in _parts(profile_name, world).items():
        known = _known(profile_name, arms)
        missing = known.missing()
        if missing:
            what = f"{name}, {called}: {len(missing)} of its results are missing, such as {missing[0]}"
            if world is not None or called == ALL:
                raise InputError(f"{what}: run `qrpo reproduce` for it first.")
            tell(f"{what}; not written.")
            left_out.append(called)
            continue
        number = None if called == ALL else int(called.removeprefix("world-"))
        size = record.write(known, figures / name / "record" / called, name, number, bits or record.BITS)
        tell(f"figures/{name}/record/{called}: {terminal.size(size)}")
    total = record.total_bytes(figures)
    tell(f"{terminal.size(total)} of records in all; {terminal.size(record.LIMIT_BYTES)} may be committed.")
    if total > record.LIMIT_BYTES:
        tell(f"That is too much: `--bits` below {record.BITS} keeps less of rewards and log-probabilities.")
    return not left_out and total <= record.LIMIT_BYTES


def restore(profile_name: str, world: int | None, tell: Tell, *, any_code: bool = False) -> None:
    """Put the results of the committed records back into run folders, for notebooks that only read.

    Parameters
    ----------
    profile_name, world, tell: as of `write`.
    any_code: results that other code than today's made are put back too, if the settings are today's.

    Raises
    ------
    InputError
        There is no record.
    UnreadableFileError
        One is not what was written.
    """
    name, figures = profiles.load(profile_name).name, paths.project_root() / "figures"
    committed, parts = record.committed(figures, name), _parts(profile_name, world)
    wanted = {called: folder for called, folder in committed.items() if called in parts}
    if not wanted:
        raise InputError(f"There is no record of {name} below {figures / name / 'record'}: `qrpo record` writes it.")
    for folder in wanted.values():
        record.read(folder)  # before any work
    for called, folder in wanted.items():
        origin = f"figures/{name}/record/{called}"
        restored = record.restore(_known(profile_name, parts[called]), folder, origin, any_code=any_code)
        tell(f"{origin}: {len(restored.put_back)} results put back, {len(restored.there)} were there.")
        if restored.by_other_code:
            tell(f"{len(restored.by_other_code)} of them were made by other code than today's: their folders say so.")
        if restored.stale:
            tell(_about_stale(restored.stale, any_code))
    tell(f"Next: `qrpo reproduce --profile {profile_name} --recorded`: ledger, tables and figures without training.")


def _about_stale(stale: list[str], any_code: bool) -> str:
    what = "settings" if any_code else "code or settings"
    said = f"{len(stale)} are by other {what} than today's, such as {stale[0]}: they are not used. "
    said += "" if any_code else "`qrpo restore --any-code` takes those whose settings are today's. "
    return said + "`qrpo reproduce` makes them anew, `qrpo record` then writes them."


def check_restored(profile_name: str, world: int | None) -> None:
    """Raises InputError unless all results are there that any outcome needs, so that nothing has to be trained."""
    for called, arms in _parts(profile_name, world).items():
        missing = _known(profile_name, arms).missing()
        if missing:
            raise InputError(
                f"{called}: {len(missing)} of its results are missing, such as {missing[0]}, and would be made: "
                f"`qrpo restore --profile {profile_name}` puts back what is recorded by today's code and settings; "
                "without --recorded the others are made."
            )


def _parts(profile_name: str, world: int | None) -> dict[str, list[str]]:
    """Of each record its arms: of the world that is asked for, or of all."""
    of_worlds = profiles.arms_of_worlds(profile_name).values()
    worlds = profiles.worlds(profile_name)
    if world is not None and world not in worlds:
        there = f"it has {', '.join(map(str, worlds))}" if worlds else "it has none"
        raise InputError(f"The profile {profile_name!r} has no world {world}; {there}.")
    if not worlds:
        return {ALL: profiles.arms(profile_name)}
    chosen = worlds if world is None else (world,)
    return {f"world-{number}": [arms[number] for arms in of_worlds if number in arms] for number in chosen}


def _known(profile_name: str, arms: list[str]) -> Known:
    return Known([profiles.load(profile_name, arm) for arm in arms])
