"""Files of profiles: where they are, what they extend and unset, and the settings of an arm that come of it.

A profile is a chain of files, each of which extends the one before. In each file what it says for an arm comes after
what it says for all; what a file says comes after all that it extends, arms included. Later settings win, table by
table. Three things replace more than the key that is written:

- A table of another kind (`source` of a policy, `name` of a task or transformation, `kind` of a reward) replaces the
  table whole: the settings of the other kind mean nothing to it.
- Another model, dataset or tokenizer takes the place of the old one together with its commit.
- A policy of the hub brings its own temperature and top-p, and those of `[evaluation]` that earlier files, or the rest
  of its file, say are for other policies.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from qrpo_lib.objective.algorithms import ALGORITHMS
from qrpo_lib.runs import files
from qrpo_lib.runs.errors import InputError
from qrpo_lib.runs.paths import project_root, runs_folder

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.runs.code_version`)

FOLDER = Path(__file__).parent
# Folders below figures/ that hold what belongs to no profile.
RESERVED = ("theory", "enumerated", "benchmarks", "claims", "your-own")
# Of each table that has several kinds: the key that says which.
DISCRIMINATORS = {
    ("policy",): "source",
    ("task",): "name",
    ("task", "reward"): "kind",
    ("training", "qrpo", "transform"): "name",
}
_COMMIT_OF = {"model": "revision", "dataset": "revision", "tokenizer": "tokenizer_revision"}
_COMMIT_OF |= {"initial": "initial_revision", "sft": "sft_revision"}  # of released reference completions
_TABLES_WITH_COPIES = (("policy",), ("task",), ("task", "reward"), ("task", "sources"))
_TABLES_WITH_COPIES += (("reference_sampling", "released"), ("alpaca_eval",))
_OF_ALGORITHMS = (("training",), ("experiment", "betas"), ("experiment", "learning_rates"))
# What names a file of data rather than a dataset of the hub.
FILE_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_WORLD = "-world-"

Table = dict[str, Any]


class ProfileError(InputError):
    """A profile does not exist, or one of its values cannot be used."""


@dataclass(frozen=True, eq=False)
class Layer:
    """What one file says. The same object as long as the file says the same, whose tables nobody changes.

    shown: how messages name the file.
    common: what holds in all arms. arms: by name, what an arm sets differently.
    removed: arms that it unsets.
    worlds: seeds, each of which makes every arm anew (`of_worlds`); None if the file says nothing of them.
    """

    path: Path
    shown: str
    name: str | None
    common: Table
    arms: dict[str, Table] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    worlds: tuple[int, ...] | None = None


Chain = tuple[Layer, ...]


def names() -> list[str]:
    """The suite's own profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def absolute(name_or_path: str | Path) -> str:
    """A profile as it can be named from any working directory: a suite's own by its name, a file by its path."""
    return str(_found(str(name_or_path))) if _is_path(str(name_or_path)) else str(name_or_path)


def layers(name_or_path: str | Path) -> Chain:
    """The files that make up a profile, each after the one that it extends. Raises ProfileError.

    Files are read at each call, and taken apart once for each content.
    """
    chain: list[Layer] = []
    named, path, shown = str(name_or_path), _found(str(name_or_path)), str(name_or_path)
    while True:
        layer, named = _layer(path, shown, _content(path, shown), os.path.expanduser("~"))
        chain.insert(0, layer)
        if named is None:
            break
        path = _found(named, layer)
        shown = named if not _is_path(named) else str(path)
        if any(path == other.path for other in chain):
            way = " -> ".join([*(other.path.name for other in reversed(chain)), path.name])
            raise ProfileError(f"The profile {name_or_path} extends itself: {way}.")
    for number, layer in enumerate(chain):
        _check_unset(tuple(chain[:number]), layer)
    return tuple(chain)


def name(chain: Chain) -> str:
    """The name of a profile: that of its figures' folder, as its own file gives it, else made from the file's name.

    Raises ProfileError for a file of one's own that is given a name of the suite's.
    """
    file = chain[-1]
    if _is_suites_own(file.path):
        return file.name or file.path.stem
    taken = {*names(), *RESERVED}
    if file.name is None:
        slugged = slug(file.path.stem)
        return f"my-{slugged}" if slugged in taken else slugged
    if file.name in taken:
        raise ProfileError(
            f"In the profile {file.shown}, name: {file.name!r} is a folder of the suite's own figures; give another."
        )
    return file.name


def slug(text: str) -> str:
    """Lower-case letters, digits and single hyphens, made from any text: "My Profile_2" gives "my-profile-2"."""
    plain = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode()
    joined = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    return joined or f"profile-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def take_name(name_or_path: str | Path) -> None:
    """Remember that a file of one's own publishes under its name. Suite's own profiles need no entry.

    Raises ProfileError if another file does so already, is still there and still has that name.
    """
    chain = layers(name_or_path)
    own, path = name(chain), chain[-1].path
    if _is_suites_own(path):
        return
    entry = runs_folder() / ".profiles" / own
    other = Path(entry.read_text(encoding="utf-8").strip()) if entry.is_file() else path
    if other != path and _has_name(other, own):
        raise ProfileError(
            f"The figures of {path} would replace those of {other}, since both profiles have the name {own!r}: "
            f'give one of them another, name = "...".'
        )
    if not entry.is_file() or other != path:
        files.write_atomically(entry, f"{path}\n".encode())


def _has_name(path: Path, wanted: str) -> bool:
    try:
        return path.is_file() and name(layers(path)) == wanted
    except (ProfileError, OSError):
        return False


# --- arms -------------------------------------------------------------------------------------------------------------


def known_arms(chain: Chain) -> list[str]:
    """Every arm that a profile has, in the order of the files."""
    known = _arms(chain)
    if not known:
        raise ProfileError(f"The profile {chain[-1].shown!r} has no arms: it needs a table [arms.NAME] for each task.")
    return known


def _arms(chain: Chain) -> list[str]:
    known: list[str] = []
    for layer in chain:
        known = [arm for arm in known if arm not in layer.removed]
        known += [arm for arm in layer.arms if arm not in known]
    return known


def chosen_arms(chain: Chain) -> list[str]:
    """The arms that the profile's experiment runs: those of `experiment.arms`, and what later files add; else all.

    Raises ProfileError for an arm that there is not, or twice.
    """
    known, chosen, by = known_arms(chain), None, chain[-1]
    for number, layer in enumerate(chain):
        experiment = layer.common.get("experiment")
        experiment = experiment if isinstance(experiment, dict) else {}
        if chosen is not None:
            before = _arms(chain[:number])
            chosen = [arm for arm in chosen if arm not in layer.removed]
            chosen += [arm for arm in layer.arms if arm not in before]
        if _unsets(layer.common, ("experiment", "arms")):
            chosen = None
        if "arms" in experiment:
            chosen, by = experiment["arms"], layer
            if not isinstance(chosen, list) or not chosen or len(set(map(str, chosen))) < len(chosen):
                raise ProfileError(f"In the profile {by.shown}, experiment.arms: must be a list of different arms.")
    for arm in chosen or ():
        check_arm(arm, known, by.shown)
    return list(chosen or known)


def check_arm(arm: str, known: list[str], shown: str) -> None:
    """Raise ProfileError unless the arm is a known one."""
    if arm not in known:
        raise ProfileError(f"The profile {shown!r} has no arm {arm!r}; it has {', '.join(known)}.")


def worlds(chain: Chain) -> tuple[int, ...]:
    """The profile's worlds: what the last file that speaks of them says; empty if none does."""
    return next((layer.worlds for layer in reversed(chain) if layer.worlds is not None), ())


def of_worlds(chain: Chain, arms: list[str]) -> list[str]:
    """These arms in each world, world by world, named "chat-world-2"; the arms themselves where there are no worlds."""
    seeds = worlds(chain)
    return [f"{arm}{_WORLD}{seed}" for seed in seeds for arm in arms] if seeds else arms


def arm_and_world(chain: Chain, arm: str) -> tuple[str, int | None]:
    """The arm as the files name it, and its world: of "chat-world-2" ("chat", 2)."""
    known = {f"{one}{_WORLD}{seed}": (one, seed) for seed in worlds(chain) for one in _arms(chain)}
    return known.get(arm, (arm, None))


# --- the settings of an arm -------------------------------------------------------------------------------------------


def settings(chain: Chain, arm: str) -> Table:
    """What the files say together for an arm: the tables of a `profiles.Profile`, without its name."""
    parts = [part for _, part in _parts(chain, arm)]
    merged: Table = {}
    for part in parts:
        merged = _merged(merged, part)
    policy, evaluation = merged.get("policy"), merged.get("evaluation")
    if isinstance(policy, dict) and policy.get("source") == "hub" and isinstance(evaluation, dict):
        chosen = _last(parts, ("policy", "source"))
        kept = {
            key: value
            for key, value in evaluation.items()
            if key not in ("temperature", "top_p") or _last(parts, ("evaluation", key)) >= chosen
        }
        merged = merged | {"evaluation": kept}
    return merged


def said_in(chain: Chain, arm: str, key: tuple) -> Layer:
    """The file that sets a key of an arm; the profile's own if none does."""
    for layer, part in reversed(_parts(chain, arm)):
        if _has(part, key):
            return layer
    return chain[-1]


def _parts(chain: Chain, arm: str) -> list[tuple[Layer, Table]]:
    """In their order what the files say for all and for this arm."""
    first = max((number for number, layer in enumerate(chain) if arm in layer.removed), default=0)
    parts = []
    for number, layer in enumerate(chain):
        parts.append((layer, layer.common))
        if number >= first:
            parts.append((layer, layer.arms.get(arm, {})))
    return parts


def _last(parts: list[Table], key: tuple) -> int:
    return max((number for number, part in enumerate(parts) if _has(part, key)), default=-1)


def _has(table: Any, key: tuple) -> bool:
    for part in key:
        in_list = isinstance(table, list) and isinstance(part, int) and part < len(table)
        if not in_list and not (isinstance(table, dict) and part in table):
            return False
        table = table[part]
    return True


def _merged(base: Table, changes: Table, path: tuple[str, ...] = ()) -> Table:
    """The tables together, the later one's values first; its `unset` keys are taken from the earlier one."""
    kind = DISCRIMINATORS.get(path)
    if kind in base and kind in changes and base[kind] != changes[kind]:
        base = {}
    removed = _unset(changes)
    merged = dict(base)
    for key in removed:
        merged = _without(merged, _split(key, path))
    if path in _TABLES_WITH_COPIES:
        for source, commit in _COMMIT_OF.items():
            if source in changes and changes[source] != base.get(source):
                merged.pop(commit, None)
    for key, value in changes.items():
        if key == "unset" and isinstance(value, list):
            continue
        if isinstance(value, dict):
            earlier = merged.get(key)
            value = _merged(earlier if isinstance(earlier, dict) else {}, value, (*path, key))
        merged[key] = value
    return merged


def _without(table: Table, key: tuple[str, ...]) -> Table:
    first, *rest = key
    if not rest or not isinstance(table.get(first), dict):
        return {name: value for name, value in table.items() if rest or name != first}
    return table | {first: _without(table[first], tuple(rest))}


# --- unset ------------------------------------------------------------------------------------------------------------


def _unset(table: Table) -> list[str]:
    value = table.get("unset")
    return value if isinstance(value, list) else []


def _split(key: str, path: tuple[str, ...]) -> tuple[str, ...]:
    """A dotted key below a table, algorithms as they are spelled in settings."""
    parts: tuple[str, ...] = ()
    for part in key.split("."):
        parts += (part.lower() if (*path, *parts) in _OF_ALGORITHMS and part.lower() in ALGORITHMS else part,)
    return parts


def _all_unset(table: Table, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Whole keys that a table and the tables in it unset."""
    for key in _unset(table):
        yield (*path, *_split(key, path))
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _all_unset(value, (*path, key))


def _unsets(table: Table, key: tuple[str, ...]) -> bool:
    return any(key[: len(unset_key)] == unset_key for unset_key in _all_unset(table))


@cache
def _check_unset(before: Chain, layer: Layer) -> None:
    """Raise ProfileError for a key that there is not: a misspelled one would leave the setting."""
    known = _arms(before)
    for arm in layer.removed:
        if arm not in known:
            raise _nothing_to_unset(layer, f"arms.{arm}", [f"arms.{one}" for one in known])
    for key in _all_unset(layer.common):
        inherited = [settings(before, arm) for arm in known or [""]]
        if not any(_has(table, key) for table in inherited):
            raise _nothing_to_unset(layer, ".".join(key), _keys(inherited))
    alone = Layer(layer.path, layer.shown, None, layer.common, removed=layer.removed)
    for arm, table in layer.arms.items():
        for key in _all_unset(table):
            of_arm = settings((*before, alone), arm)
            if not _has(of_arm, key):
                raise _nothing_to_unset(layer, ".".join(key), _keys([of_arm]))


def _nothing_to_unset(layer: Layer, key: str, keys: list[str]) -> ProfileError:
    close = difflib.get_close_matches(key, keys, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return ProfileError(f"In the profile {layer.shown}, unset: nothing that it extends sets {key!r}{hint}")


def _keys(tables: list[Table]) -> list[str]:
    def below(table: Table, path: str) -> Iterator[str]:
        for key, value in table.items():
            yield path + key
            if isinstance(value, dict):
                yield from below(value, f"{path}{key}.")

    return list(dict.fromkeys(key for table in tables for key in below(table, "")))


# --- files ------------------------------------------------------------------------------------------------------------


def _is_path(named: str) -> bool:
    return named.lower().endswith(".toml")


def _is_suites_own(path: Path) -> bool:
    return path.parent == FOLDER.resolve()


def _found(named: str, by: Layer | None = None) -> Path:
    """The file of a profile that a person, or the file `by`, names, links followed; a path is relative to `by`.

    What a person names relatively is looked for in the working directory, then in the project: JupyterLab runs
    notebooks in their own folders.
    """
    said = f"In the profile {by.shown}, extends: there" if by else "There"
    if not _is_path(named):
        if named in names():
            return (FOLDER / f"{named}.toml").resolve()
        folder = by.path.parent if by else Path.cwd()
        close = difflib.get_close_matches(named, names(), n=1)
        hint = f"there are {', '.join(names())}, or the path of a .toml file."
        if close:
            hint = f"did you mean {close[0]!r}?"
        elif _is_file(folder / f"{named}.toml"):
            hint = f"did you mean the file '{named}.toml'?"
        raise ProfileError(f"{said} is no profile {named!r}; {hint}")
    try:
        path = Path(named).expanduser()
    except RuntimeError:  # ~nobody
        raise ProfileError(f"{said} is no profile {named!r}; nobody has that home folder.") from None
    folders = [by.path.parent] if by else [Path.cwd(), project_root()]
    paths = list(dict.fromkeys(folder.absolute() / path for folder in folders))
    for candidate in paths:
        if _is_file(candidate):
            return candidate.resolve()  # one file has one path, which is part of the keys of its notebooks
    raise ProfileError(f"{said} is no profile {named!r}; there is no file {' and none '.join(map(str, paths))}.")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no permission, a name that is too long
        return False


@cache
def _layer(path: Path, shown: str, content: bytes, home: str) -> tuple[Layer, str | None]:
    """What a file with this content says, and what it extends; paths in it may begin at the user's home folder."""
    said = f"In the profile {shown}"
    table = _parsed(content, shown)
    base, own, arms = table.pop("extends", None), table.pop("name", None), table.pop("arms", {})
    seeds = _worlds(table.pop("worlds", None), said)
    for key, value, what in (("extends", base, "profile or the path of a file"), ("name", own, "name")):
        if value is not None and not isinstance(value, str):
            raise ProfileError(f"{said}, {key}: must be one {what}, not {value!r}.")
    if own is not None and not _NAME.fullmatch(own):
        raise ProfileError(f"{said}, name: {_not_a_name(own)}.")
    if "arm" in table:
        raise ProfileError(f"{said}, arm: there is no such setting; arms are tables [arms.NAME].")
    _check_keys(table, said)
    removed = _take_arms(table, arms, said)
    for arm, of_arm in arms.items():
        _check_arm_table(arm, of_arm, said)
    for part in (table, *arms.values()):
        _place_copies(part, path.parent)
    return Layer(path, shown, own, table, arms, removed, seeds), base


def _worlds(value: Any, said: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    whole = isinstance(value, list) and all(type(seed) is int and 0 <= seed < 2**32 for seed in value)
    if not whole or len(set(value)) < len(value):
        raise ProfileError(f"{said}, worlds: must be a list of different seeds, such as [0, 1, 2], not {value!r}.")
    return tuple(value)


def _not_a_name(text: str) -> str:
    slugged = slug(text)
    other = slugged if slugged not in RESERVED else f"my-{slugged}"
    return f"must be lower-case letters, digits and hyphens, and no folder of the suite's: {other!r}, not {text!r}"


def _take_arms(table: Table, arms: Any, said: str) -> tuple[str, ...]:
    """Move `unset` of arms to where it belongs: the arms that go are returned, keys of an arm put into its table."""
    if not isinstance(arms, dict):
        raise ProfileError(f"{said}, arms: must be tables [arms.NAME], not {arms!r}.")
    of_arms = [f"arms.{one}" for one in _unset(arms)]
    if of_arms:
        del arms["unset"]
    for arm, of_arm in arms.items():
        if not isinstance(of_arm, dict):
            raise ProfileError(f"{said}, arms.{arm}: must be a table, not {of_arm!r}.")
    removed, others = [], []
    for key in [*_unset(table), *of_arms]:
        first, arm, rest = [*key.split(".", 2), "", ""][:3]
        if first != "arms" or not arm:
            others.append(key)
        elif not rest:
            removed.append(arm)
        else:
            of_arm = arms.setdefault(arm, {})
            of_arm["unset"] = [*_unset(of_arm), rest]
    if "unset" in table:
        table["unset"] = others
    return tuple(removed)


def _check_arm_table(arm: str, table: Table, said: str) -> None:
    if not _NAME.fullmatch(arm) or arm in RESERVED:
        raise ProfileError(f"{said}, arms.{arm}: {_not_a_name(arm)}.")
    wrong = [key for key in ("name", "arm", "arms", "extends", "worlds") if key in table]
    if isinstance(table.get("experiment"), dict) and "arms" in table["experiment"]:
        wrong.append("experiment.arms")
    if wrong:
        raise ProfileError(f"{said}, arms.{arm}.{wrong[0]}: an arm has no such setting; it is the whole file's.")
    _check_keys(table, f"{said}, arm {arm!r}")


def _check_keys(table: Table, said: str, path: tuple[str, ...] = ()) -> None:
    """Check every `unset`, and spell algorithms that are keys as settings do; in place."""
    if path in _OF_ALGORITHMS:
        for key in list(table):
            spelled = key.lower()
            if spelled in ALGORITHMS and spelled != key:
                if spelled in table:
                    raise ProfileError(f"{said}, {'.'.join(path)}: {key} and {spelled} are the same algorithm.")
                table[spelled] = table.pop(key)
    for key, value in table.items():
        if isinstance(value, dict):
            _check_keys(value, said, (*path, key))
        elif key == "unset" and "environment" not in path and not _are_words(value):
            where = ".".join((*path, key))
            raise ProfileError(f'{said}, {where}: must be a list of dotted keys, such as ["sft"], not {value!r}.')


def _place_copies(table: Table, folder: Path, path: tuple[str, ...] = ()) -> None:
    """Make paths of local models and datasets absolute, in place: "./model" is relative to the file that says it."""
    for key, value in table.items():
        if isinstance(value, dict):
            _place_copies(value, folder, (*path, key))
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, dict):
                    _place_copies(item, folder, (*path, key))
        elif path in _TABLES_WITH_COPIES and isinstance(value, str) and _names_a_file(key, value):
            table[key] = os.path.normpath(folder / os.path.expanduser(value))
        elif path in _TABLES_WITH_COPIES and key in _COMMIT_OF and isinstance(value, str):
            if value.startswith(("./", "../")):
                table[key] = os.path.normpath(folder / value)
            elif value.startswith("~/"):
                table[key] = os.path.expanduser(value)


def is_file_of_rows(name: str) -> bool:
    """Whether a dataset is a file, by the ending of its name."""
    return name.lower().endswith(FILE_ENDINGS)


def _names_a_file(key: str, value: str) -> bool:
    """Whether a value names a file: one of data, or of a reward in Python."""
    if key == "function":
        return ".py:" in value
    return key in ("dataset", "test_dataset") and is_file_of_rows(value)


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) and word for word in value)


def _content(path: Path, shown: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProfileError(f"The profile {shown} cannot be read: {error.strerror or error}.") from None


def _parsed(content: bytes, shown: str) -> Table:
    said = f"The profile {shown}"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise ProfileError(f"{said} is UTF-16 or binary; save it as UTF-8.")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ProfileError(f"{said} is not UTF-8 (line {line}); save it as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{said} is not valid TOML: {str(error).rstrip('.')}.") from None
    except RecursionError:
        raise ProfileError(f"{said} is not valid TOML: its values are nested too deep.") from None
