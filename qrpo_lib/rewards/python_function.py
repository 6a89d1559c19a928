"""The user's reward: a Python function in a module or a file, called as TRL calls reward functions.

    def reward(prompts, completions, **columns):     # my_reward.py
        return [-abs(len(text) - 80) for text in completions]

It is named "my_reward.py:reward" or "package.module:reward". Prompts and completions are texts, or for conversational
data lists of messages, as in the data; `columns` holds the other columns of the data as lists, and what a function does
not name among its parameters, it is not given. It returns a number for each completion; None and NaN mean that there is
no reward. It may be a coroutine function. What lies beside its file it can import, also when it is called.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import copy
import importlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import conversations

RewardFunction = Callable[..., Sequence[float]]

# What has been imported here, a file by its path and a module by its name, with the source that it had then.
_imported: dict[Path | str, tuple[dict[str, str], Any]] = {}
# Of each such file the modules that came with it from beside it, by name: others may have modules of the same names.
_beside: dict[Path, dict[str, Any]] = {}


def load(name: str) -> RewardFunction:
    """The function that "module:function" or "file.py:function" names, as its source is now.

    A file that was edited, or beside which a module was, is run anew. Raises InputError if there is no such function,
    and for a module that was edited since it was imported.
    """
    path, function = _place(name)
    try:
        module = _module_of_file(path, name) if path.suffix == ".py" else _module_of_name(str(path), name)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever a module of somebody's own does when it is imported
        raise InputError(f"The reward {name} could not be imported: {type(error).__name__}: {error}.") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise InputError(f"The reward {name} names no function: {path} has no function {function!r}.")
    return found


def source(name: str) -> dict[str, str]:
    """The source that determines the function: its module, and what that imports from beside it or from its package.

    File names to text. Nothing is imported. Raises InputError if there is no such file, or one that is not Python.
    """
    return dict(sorted(_sources(name).texts.items()))


def check(name: str) -> None:
    """Raises InputError if there is no such file, or nothing of the function's name in it. Nothing is imported."""
    path, function = _place(name)
    if not _binds(ast.parse(next(iter(_sources(name).texts.values()))), function):
        raise InputError(f"The reward {name} names no function: {path} has no function {function!r}.")


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
    # copies: a function may change what it is given, such as prompts that it appends completions to
    given = {"prompts": copy.deepcopy(list(prompts)), "completions": copy.deepcopy(list(completions))}
    check_columns(function, {**columns, **given})
    with _importing_for(function):
        result = function(**taken(function, {**columns, **given}))
        if inspect.isawaitable(result):
            result = _awaited(result)
    if isinstance(result, str | bytes | Mapping | Set) or not isinstance(result, Iterable):
        raise InputError(f"The reward {name} returned a {type(result).__name__}, not a list of numbers.")
    try:
        numbers = np.array([np.nan if one is None else _number(one) for one in result], dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"The reward {name} returned something that is not a number: {error}.") from None
    if len(numbers) != len(completions):
        raise InputError(f"The reward {name} returned {len(numbers)} numbers for {len(completions)} completions.")
    with np.errstate(over="ignore"):
        rewards = numbers.astype(dtype)
    if (np.isinf(rewards) & np.isfinite(numbers)).any():
        raise InputError(
            f"The reward {name} returned {numbers[np.isinf(rewards)][0]:g}, too large for {np.dtype(dtype).name}."
        )
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

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raises InputError if the function asks for columns that are none of these."""
        check_columns(self._function, {"prompts", "completions", *columns})

    def named(self) -> list[str]:
        """The columns of the data that the function names, aside from what all functions are given."""
        try:
            parameters = inspect.signature(self._function).parameters.values()
        except (TypeError, ValueError):
            return []
        several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        names = [one.name for one in parameters if one.kind not in several]
        return [name for name in names if name not in ("prompts", "completions")]

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
    """Raises InputError if the function has a parameter that none of the columns is, or none that can be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return
    optional = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    needed = [one.name for one in parameters if one.default is one.empty and one.kind not in optional]
    missing = [name for name in needed if name not in set(columns)]
    name = getattr(function, "__name__", type(function).__name__)
    if missing:
        raise InputError(
            f"The reward {name} asks for {', '.join(missing)}, which the rows do not have: they have "
            f"{', '.join(sorted(columns))}."
        )
    by_place = any(one.kind is one.POSITIONAL_ONLY for one in parameters)
    if by_place or not taken(function, dict.fromkeys(columns, ())):
        raise InputError(f"The reward {name} must take what it reads by name: f(prompts, completions, **columns).")


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


def _number(one: Any) -> float:
    if isinstance(one, str):  # which float() would read
        raise TypeError(f"the text {one!r}")
    if getattr(one, "shape", ()) != ():  # which float() would read where it holds one number
        raise TypeError(f"values of shape {tuple(one.shape)}")
    return float(one)


def _awaited(result: Any) -> Any:
    """What a coroutine returns, also where an event loop is running, as in a notebook."""

    async def whole() -> Any:
        return await result

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, whole()).result()


def _module_of_file(path: Path, name: str) -> Any:
    """The module of a file: run once for each state of what determines it."""
    if not path.is_file():
        raise InputError(f"The reward {name} is in no file: there is no {path}.")
    path, texts = path.resolve(), source(name)
    if path not in _imported or _imported[path][0] != texts:
        _beside.pop(path, None)
        spec = importlib.util.spec_from_file_location(f"_qrpo_reward_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        with _importing_from(path, texts):
            spec.loader.exec_module(module)
        _imported[path] = texts, module
    return _imported[path][1]


@contextlib.contextmanager
def _importing_from(path: Path, texts: Iterable[str]) -> Iterator[None]:
    """What lies beside a file can be imported, as if the file were run, whatever else has the same names.

    texts: the names of the files that belong to it.
    """
    folder, own, writes = path.parent, _beside.setdefault(path, {}), sys.dont_write_bytecode
    names = {Path(name).parts[0].removesuffix(".py") for name in texts}
    # those that somebody has imported from there are the same
    names = {name for name in names if not _file_in(sys.modules.get(name)).is_relative_to(folder)}

    def taken_out() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}

    hidden = taken_out()
    sys.modules.update(own)
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True  # compiled files are known by the second in which their source was written
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = writes
        own.update(taken_out())
        sys.modules.update(hidden)


def _file_in(module: Any) -> Path:
    return Path(getattr(module, "__file__", None) or "/")


def _importing_for(function: RewardFunction) -> contextlib.AbstractContextManager[None]:
    """A context in which a function from a file can import what lies beside it."""
    inner = inspect.unwrap(getattr(function, "func", function))  # of functools.partial
    inner = inner if inspect.isroutine(inner) else type(inner).__call__
    file = Path(getattr(inner, "__globals__", {}).get("__file__") or "")
    for path, (texts, _) in _imported.items():
        if isinstance(path, Path) and file.is_relative_to(path.parent) and str(file.relative_to(path.parent)) in texts:
            return _importing_from(path, texts)
    return contextlib.nullcontext()


def _module_of_name(module: str, name: str) -> Any:
    """A module that Python finds by its name. Raises InputError if its file was edited since it was imported."""
    found = importlib.import_module(module)
    file = Path(getattr(found, "__file__", None) or "")
    if file.suffix == ".py" and file.is_file():
        texts = {file.name: _read(file)}
        if _imported.setdefault(module, (texts, found))[0] != texts:
            raise InputError(
                f"The reward {name} was edited after it was imported: start Python (in a notebook, the kernel) anew, "
                "or name its file, FILE.py:FUNCTION."
            )
    return found


# --- source -----------------------------------------------------------------------------------------------------------


def _sources(name: str) -> _Sources:
    """The sources of the module that a name says, its own first. Raises InputError."""
    path, _ = _place(name)
    if path.suffix == ".py":
        found = _Sources(path.parent)
        found.add(path)
        return found
    parts = tuple(str(path).split("."))
    file = _file_of_module(parts)
    package = parts if file.name == "__init__.py" else parts[:-1]
    root = file.parents[len(package)]
    found = _Sources(root, within=parts[0] if root in _installed() else None)
    found.add(file, package)
    found.add_module(parts)
    return found


@dataclass
class _Sources:
    """The sources of a module and of what it imports.

    root: the folder that imports start from. within: the one package there whose modules count (None: all).
    texts: what was found, by the names of the files from `root` on.
    """

    root: Path
    within: str | None = None
    texts: dict[str, str] = field(default_factory=dict)

    def add(self, path: Path, package: tuple[str, ...] = ()) -> None:
        """Add a file of a package, and what it imports. Raises InputError if it is not there, or is not Python."""
        name = str(path.relative_to(self.root)) if path.is_relative_to(self.root) else path.name
        if name in self.texts:
            return
        if not path.is_file():
            raise InputError(f"There is no file {path}, which a reward is named from.")
        self.texts[name] = _read(path)
        try:
            tree = ast.parse(self.texts[name])
        except (SyntaxError, ValueError) as error:
            raise InputError(f"{path}, which a reward needs, is not Python: {error}.") from None
        for parts in _imports(tree, package):
            if parts and self.within in (None, parts[0]):
                self.add_module(parts)

    def add_module(self, parts: tuple[str, ...]) -> None:
        """A module with the packages that it lies in, as far as they are below the root."""
        for depth in range(1, len(parts) + 1):
            place = self.root.joinpath(*parts[:depth])
            if (place / "__init__.py").is_file():
                self.add(place / "__init__.py", parts[:depth])
            elif place.with_suffix(".py").is_file():
                self.add(place.with_suffix(".py"), parts[: depth - 1])


def _imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The modules that a module of a package imports, and what may be one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: max(0, len(package) + 1 - node.level)] if node.level else ()
            base = (*above, *(node.module.split(".") if node.module else ()))
            yield base
            yield from ((*base, alias.name) for alias in node.names)


def _binds(tree: ast.AST, name: str) -> bool:
    """Whether a module may have something of this name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name in (
            name,
            "__getattr__",
        ):
            return True
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
            return True
        if isinstance(node, ast.alias) and (node.asname or node.name) in (name, "*"):
            return True
    return False


def _read(path: Path) -> str:
    """Python source, in the encoding that it says it is in. Raises InputError."""
    try:
        return importlib.util.decode_source(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}, which a reward needs, is not Python: {error}.") from None


def _file_of_module(parts: tuple[str, ...]) -> Path:
    """The file of a module, found without running it or the packages that it lies in. Raises InputError."""
    try:
        top = importlib.util.find_spec(parts[0])
    except ValueError:  # of "", and of modules without a spec
        top = None
    files = [Path(top.origin)] if top and top.origin and len(parts) == 1 else []
    for folder in (top.submodule_search_locations or ()) if top else ():
        place = Path(folder).joinpath(*parts[1:])
        files += [place.with_suffix(".py"), place / "__init__.py"]
    found = next((file for file in files if file.suffix == ".py" and file.is_file()), None)
    if found is None:
        raise InputError(f"A reward is in no Python file: there is no module {'.'.join(parts)}.")
    return found


def _installed() -> set[Path]:
    """Where packages are installed: what lies beside one there is not its own."""
    return {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
