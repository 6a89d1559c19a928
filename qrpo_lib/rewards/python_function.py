"""The user's reward: a Python function in a module or a file, called as TRL calls reward functions.

    def reward(prompts, completions, **columns):     # my_reward.py
        return [-abs(len(text) - 80) for text in completions]

It is named "my_reward.py:reward" or "package.module:reward". Prompts and completions are texts, or for conversational
data lists of messages, as in the data; `columns` holds the other columns of the data as lists, and what a function does
not name among its parameters, it is not given. It returns a number for each completion; None and NaN mean that there is
no reward.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import conversations

RewardFunction = Callable[..., Sequence[float]]


def load(name: str) -> RewardFunction:
    """The function that "module:function" or "file.py:function" names. Raises InputError if there is none."""
    path, function = _place(name)
    try:
        module = _module_of_file(path, name) if path.suffix == ".py" else importlib.import_module(str(path))
    except InputError:
        raise
    except Exception as error:  # whatever a module of somebody's own does when it is imported
        raise InputError(f"The reward {name} could not be imported: {type(error).__name__}: {error}.") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise InputError(f"The reward {name} names no function: {path} has no function {function!r}.")
    return found


def source(name: str) -> dict[str, str]:
    """The source that determines the function: its module, and modules that lie beside it and are imported from there.

    File names to text. Nothing is imported. Raises InputError if there is no such file.
    """
    path, _ = _place(name)
    if path.suffix != ".py":
        parts = str(path).split(".")
        spec = importlib.util.find_spec(parts[0]) if len(parts) == 1 else _found_below(parts)
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            raise InputError(f"The reward {name} is in no Python file: there is no module {path}.")
        path = Path(spec.origin)
    found: dict[str, str] = {}
    _collect(path, path.parent, found)
    return dict(sorted(found.items()))


def scores(
    function: RewardFunction,
    prompts: Sequence,
    completions: Sequence,
    columns: Mapping[str, Sequence],
    dtype: type[np.floating] = np.float32,
) -> np.ndarray:
    """Rewards (n,) of n completions by a user's function.

    Parameters
    ----------
    function: called with `prompts`, `completions` and those of the columns that it takes, by name.
    prompts, completions: n each.
    columns: further columns of the data, n values each.
    dtype: of the result.

    Raises
    ------
    InputError
        What it returns is not a number for each of them.
    """
    name = getattr(function, "__name__", type(function).__name__)
    given = {"prompts": list(prompts), "completions": list(completions)}
    check_columns(function, {**columns, **given})
    result = function(**taken(function, {**columns, **given}))
    if isinstance(result, str) or not isinstance(result, Iterable):
        raise InputError(f"The reward {name} returned a {type(result).__name__}, not a list of numbers.")
    try:
        rewards = np.array([np.nan if one is None else float(one) for one in result], dtype=dtype)
    except (TypeError, ValueError) as error:
        raise InputError(f"The reward {name} returned something that is not a number: {error}.") from None
    if len(rewards) != len(completions):
        raise InputError(f"The reward {name} returned {len(rewards)} numbers for {len(completions)} completions.")
    return rewards


class FunctionReward:
    """A function as a reward of the suite: `score(prompts, completions)`, with the columns of each prompt's row.

    columns_of: what the data have beside a prompt, by its text; None where they have nothing.
    """

    def __init__(self, name: str, columns_of: Callable[[str], Mapping[str, Any]] | None = None):
        self._function, self._columns_of = load(name), columns_of

    def with_columns(self, columns_of: Callable[[str], Mapping[str, Any]]) -> FunctionReward:
        """The same, with columns of the data."""
        made = object.__new__(FunctionReward)
        made._function, made._columns_of = self._function, columns_of
        return made

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Float32 rewards (n,), in one call of the function. Raises InputError, also for different numbers of both."""
        if len(prompts) != len(completions):
            raise InputError(f"{len(prompts)} prompts for {len(completions)} completions: give one prompt each.")
        if not len(prompts):
            return np.empty(0, dtype=np.float32)
        given = [conversations.decoded(prompt) for prompt in prompts]
        texts = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(given, completions, strict=True)
        ]
        rows = [self._columns_of(prompt) if self._columns_of else {} for prompt in prompts]
        names = sorted({name for row in rows for name in row})
        return scores(self._function, given, texts, {name: [row.get(name) for row in rows] for name in names})


def check_columns(function: RewardFunction, columns: Iterable[str]) -> None:
    """Raises InputError if the function has a parameter that none of the columns is."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return
    optional = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    needed = [one.name for one in parameters if one.default is one.empty and one.kind not in optional]
    missing = [name for name in needed if name not in set(columns)]
    if missing:
        name = getattr(function, "__name__", type(function).__name__)
        raise InputError(
            f"The reward {name} asks for {', '.join(missing)}, which the rows do not have: they have "
            f"{', '.join(sorted(columns))}."
        )


def taken(function: RewardFunction, columns: Mapping[str, Sequence]) -> dict[str, list]:
    """Those of the columns that the function has parameters for; prompts and completions where it does not say."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {name: list(columns[name]) for name in ("prompts", "completions") if name in columns}
    every = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return {name: list(values) for name, values in columns.items() if every or name in parameters}


def _place(name: str) -> tuple[Path, str]:
    where, separator, function = name.rpartition(":")
    if not separator or not where or not function.isidentifier():
        raise InputError(f"The reward {name!r} must be written MODULE:FUNCTION or FILE.py:FUNCTION.")
    return Path(where), function


@functools.cache
def _module_of_file(path: Path, name: str) -> Any:
    if not path.is_file():
        raise InputError(f"The reward {name} is in no file: there is no {path}.")
    spec = importlib.util.spec_from_file_location(f"_qrpo_reward_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))  # what lies beside it can be imported, as if it were run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def _found_below(parts: list[str]) -> Any:
    """The spec of a dotted module, found without running the packages that it lies in."""
    top = importlib.util.find_spec(parts[0])
    folders = list(top.submodule_search_locations or ()) if top else []
    for folder in folders:
        path = Path(folder).joinpath(*parts[1:])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return importlib.util.spec_from_file_location(".".join(parts), file)
    return None


def _collect(path: Path, folder: Path, found: dict[str, str]) -> None:
    name = str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name
    if name in found:
        return
    if not path.is_file():
        raise InputError(f"There is no file {path}, which a reward is named from.")
    found[name] = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(found[name])):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module] if node.module else [alias.name for alias in node.names]
        for module in modules:
            beside = folder.joinpath(*module.split("."))
            for file in (beside.with_suffix(".py"), beside / "__init__.py"):
                if file.is_file():
                    _collect(file, folder, found)
