"""The version of the code that makes a result: a hash of the definitions that can be reached from its entry points.

    code_version((sample_shard, task.prompts))      # functions, classes, bound methods
    code_version(("losses:qrpo_pair", "losses"))    # by the end of a module's name, unimported; a module whole

What counts is what is reached, definition by definition: a function; the functions, classes and constants of this
package that it names; and so on. All else in their modules may change without changing the version, and so may
comments, docstrings, annotations of functions, the wording of errors and warnings, the names and places of modules,
and the version of Python that reads them.

Where reading cannot follow, the code says what it needs. `package_file("worker.py")` names what another process runs,
`package_file("prompts.jsonl")` data: both count with their content. A module of the package used as a value
(`getattr(losses, name)`) counts whole. Two things are not followed: functions that make a `Step`, which say what is in
that step's own key; and modules that move results around without determining them, which say
`IS_INFRASTRUCTURE = True`, or whose folder's `__init__` says so of all of its modules. What a registry among these
chooses, a step lists among its entry points.

Needs nothing outside the standard library, and reads source as text: nothing is imported to be hashed.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from qrpo_lib.runs.errors import InputError

# Reading the package takes longer than most commands: where set, gives the folder that remembers versions, if any.
remember_in: Callable[[], Path | None] | None = None

_SOURCE = "<source>"  # the module name of source that is in no file
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_HOLDERS = (ast.stmt, ast.ExceptHandler, ast.match_case)  # what statements are in
# What says nothing about the result, or is not there in every version of Python.
_IGNORED_FIELDS = {"ctx", "kind", "type_comment", "type_ignores", "type_params", "returns", "annotation"}


class UnresolvedCodeError(InputError):
    """Code names something that this package does not have, so that no key can be computed from it."""


@dataclass(frozen=True)
class _Reference:
    """A name of the package as the code writes it: a module that is imported, and what follows with dots."""

    module: str
    names: tuple[str, ...] = ()


@dataclass(eq=False)
class _Definition:
    """What a top-level name of a module, or one method, stands for: text and references, in order."""

    name: str
    tokens: list[str | _Reference] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    methods: dict[str, _Definition] = field(default_factory=dict)  # of a class; "" is the rest of it
    calls_on_self: set[str] = field(default_factory=set)

    @property
    def references(self) -> list[_Reference]:
        return [token for token in self.tokens if isinstance(token, _Reference)]


@dataclass
class _Module:
    """A module as its source says it.

    imports: names bound to something of the package, in the whole file.
    effects: statements that bind no name, such as one that changes a setting: they count with every definition.
    """

    definitions: dict[str, list[_Definition]] = field(default_factory=dict)
    imports: dict[str, _Reference] = field(default_factory=dict)
    effects: list[_Definition] = field(default_factory=list)
    says_infrastructure: bool = False

    @property
    def every_definition(self) -> list[_Definition]:
        return [part for parts in self.definitions.values() for part in parts] + self.effects


class Package:
    """The source of one package, `root` its folder, read as it is at first use."""

    def __init__(self, root: Path):
        self.root, self.name = root, root.name
        self._modules: dict[str, _Module] = {}
        self._hashes: dict[tuple[_Definition, bool], str] = {}
        self._named_by: dict[_Definition, list[_Definition]] = {}  # what each definition names, of this package

    def version(self, entries: Iterable[str], source: str | None = None) -> str:
        """Hash (16 hexadecimal digits) of what "module:name" entries reach, and of what further source reaches.

        Raises
        ------
        UnresolvedCodeError
            An entry, or something of the package that is imported or named on the way, is not there.
        """
        waiting = [part for entry in entries for part in self._of_entry(entry)]
        if source is not None:
            self._modules[_SOURCE] = _read(source, _SOURCE, self)
            waiting += self._modules[_SOURCE].every_definition
        return _sha256("\n".join(sorted(self._reached(waiting))))[:16]

    def file(self, name: str) -> Path:
        """The one file of that name in the package. Raises UnresolvedCodeError for none or several."""
        files = sorted(path for path in self.root.rglob(name) if "__pycache__" not in path.parts)
        if len(files) != 1:
            raise UnresolvedCodeError(f"{self.name} needs one file called {name!r}, and has {len(files)}.")
        return files[0]

    def module_name(self, ending: str) -> str:
        """The full dotted name of the one module whose name ends so. Raises UnresolvedCodeError for none or several."""
        *_, stem = ending.split(".")
        names = [self._dotted(path) for path in sorted(self.root.rglob(f"{stem}.py"))]
        matches = [name for name in names if f".{name}".endswith(f".{ending}")]
        if len(matches) != 1:
            raise UnresolvedCodeError(f"{self.name} needs one module called {ending!r}, and has {len(matches)}.")
        return matches[0]

    def has_module(self, dotted: str) -> bool:
        """Whether the package has a module or a sub-package of that dotted name."""
        return dotted in self._modules or self._path(dotted) is not None

    @cache  # noqa: B019 - one package a process
    def state(self) -> str:
        """Hash of which files the package has, how large each is and when it was changed."""
        files = sorted(path for path in self.root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        states = [(path, path.stat()) for path in files]
        return _sha256("\n".join(f"{p} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}" for p, s in states))

    def _reached(self, waiting: list[_Definition]) -> set[str]:
        """Hashes of the given definitions and of all that they reach."""
        seen: set[_Definition] = set()
        hashes, files = set(), set()
        while waiting:
            part = waiting.pop()
            if part in seen:
                continue
            seen.add(part)
            hashes.add(self._hash(part))
            files |= set(part.files)
            if part not in self._named_by:
                meant = [self._resolve(reference, part.name)[0] for reference in part.references]
                self._named_by[part] = [definition for definitions in meant for definition in definitions]
            waiting += self._named_by[part]
        return hashes | {_sha256("\n".join(sorted(self._of_file(name)))) for name in files}

    def _of_file(self, name: str) -> set[str]:
        path = self.file(name)
        if path.suffix != ".py":
            return {_sha256(path.read_bytes())}
        return self._reached(list(self._module(self._dotted(path)).every_definition))

    def _of_entry(self, entry: str) -> list[_Definition]:
        """An entry's definitions: of a method ("module:Class.method") not the class's other methods."""
        module, _, qualified = entry.partition(":")
        if not qualified:
            return self._module(module, "an entry point").every_definition
        name, _, method = qualified.partition(".")
        parts, _ = self._resolve(_Reference(module, (name,)), "the entry points")
        of_class = next((part for part in parts if part.name == name), None)
        if not parts or of_class is None:
            raise UnresolvedCodeError(f"{entry} is no definition whose code can be followed.")
        if not method or method not in of_class.methods:  # the whole class, for an inherited one too
            return parts
        waiting, reached = [method, "__init__", "__post_init__", ""], {}
        while waiting:
            called = waiting.pop()
            if called in of_class.methods and called not in reached:
                reached[called] = of_class.methods[called]
                waiting += sorted(of_class.methods[called].calls_on_self)
        return [*(part for part in parts if part is not of_class), *reached.values()]

    def _resolve(self, reference: _Reference, where: str) -> tuple[list[_Definition], tuple[str, ...]]:
        """The definitions that a reference means, and the attributes of them that it goes on to name.

        None in infrastructure; all of a module that stands for itself.
        """
        module, names = reference.module, list(reference.names)
        while True:
            content = self._module(module, where)
            if self._is_infrastructure(module):
                return [], tuple(names)
            if not names:
                return content.every_definition, ()
            name = names.pop(0)
            if name in content.definitions:
                return content.definitions[name] + content.effects, tuple(names)
            if name in content.imports:
                module, names = content.imports[name].module, [*content.imports[name].names, *names]
            elif self.has_module(f"{module}.{name}"):
                module = f"{module}.{name}"
            elif name.startswith("__"):  # __name__, __version__ and the like
                return [], (name, *names)
            else:
                raise UnresolvedCodeError(f"{where} uses {module}.{name}, which is not there.")

    @cache  # noqa: B019 - one package a process
    def _is_infrastructure(self, dotted: str) -> bool:
        """Whether a module says so, or a folder that it is in; what a folder says is not said of its `__init__`."""
        places = [*itertools.accumulate(dotted.split("."), "{}.{}".format)]
        return any(self._module(one).says_infrastructure for one in places[: -1 if self.is_package(dotted) else None])

    def _hash(self, part: _Definition, *, alone: bool = False) -> str:
        """A definition's hash. What it names is in it by content and not by place; `alone`, by its last name."""
        if (part, alone) not in self._hashes:
            tokens = [token if isinstance(token, str) else self._named(token, part, alone) for token in part.tokens]
            self._hashes[part, alone] = _sha256(" ".join(tokens))
        return self._hashes[part, alone]

    def _named(self, reference: _Reference, part: _Definition, alone: bool) -> str:
        meant, attributes = self._resolve(reference, part.name)
        if alone or not meant:
            return ".".join(["<own>", *(attributes or reference.names[-1:])])
        return ".".join(["<own>", *sorted(self._hash(definition, alone=True) for definition in meant), *attributes])

    def _module(self, dotted: str, where: str = "") -> _Module:
        if dotted not in self._modules:
            path = self._path(dotted)
            if path is None:
                raise UnresolvedCodeError(f"{where} imports {dotted}, which is not there.")
            self._modules[dotted] = _read(path.read_text(encoding="utf-8") if path.is_file() else "", dotted, self)
        return self._modules[dotted]

    def _path(self, dotted: str) -> Path | None:
        """The file of a module, the folder of a package without `__init__`, or None."""
        first, *rest = dotted.split(".")
        if first != self.name:
            return None
        folder = self.root.joinpath(*rest)
        for path in (folder / "__init__.py", folder.with_name(f"{folder.name}.py")):
            if path.is_file():
                return path
        return folder if folder.is_dir() and any(folder.rglob("*.py")) else None

    def is_package(self, dotted: str) -> bool:
        """Whether relative imports in that module start at itself, not at its parent."""
        path = self._path(dotted)
        return path is not None and path.name != f"{dotted.rpartition('.')[2]}.py"

    def _dotted(self, path: Path) -> str:
        return ".".join([self.name, *path.relative_to(self.root).with_suffix("").parts])


@cache
def own_package() -> Package:
    """This package, read once by a process."""
    folder = Path(__file__).resolve().parent
    while (folder.parent / "__init__.py").is_file():
        folder = folder.parent
    return Package(folder)


def package_file(name: str) -> Path:
    """A file that comes with the package, found by its name; code that names one depends on its content."""
    return own_package().file(name)


@cache
def code_version(entries: tuple[Any, ...], source: str | None = None) -> str:
    """Hash of all code of the package that entry points reach, and that `source` reaches (see above)."""
    names = entry_names(entries)
    memory = remember_in() if remember_in else None
    if memory is None:
        return own_package().version(names, source)
    state = own_package().state()
    asked = _sha256(json.dumps([state, names, source]))
    path = memory / state[:16] / asked[:32]
    with contextlib.suppress(OSError, ValueError):
        known, check = path.read_text(encoding="ascii").split()
        if check == _sha256(asked + known):
            return known
    version = own_package().version(names, source)
    with contextlib.suppress(OSError):
        _remember(path, f"{version} {_sha256(asked + version)}")
    return version


def _remember(path: Path, text: str) -> None:
    if not path.parent.is_dir():  # the package was changed: nobody asks for what it was
        for earlier in path.parents[1].glob("*"):
            shutil.rmtree(earlier, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(text, encoding="ascii")
    temporary.replace(path)


def entry_names(entries: Iterable[Any]) -> list[str]:
    """Entry points as "module:name", sorted; a bound method is named by its object's class, even if inherited."""
    return sorted({_entry_name(entry) for entry in entries})


def _entry_name(entry: Any) -> str:
    if isinstance(entry, str):
        module, _, name = entry.partition(":")
        return f"{own_package().module_name(module)}:{name}"
    owner = getattr(entry, "__self__", None)
    if owner is None or isinstance(owner, type):
        return f"{entry.__module__}:{entry.__qualname__}"
    return f"{type(owner).__module__}:{type(owner).__qualname__}.{entry.__name__}"


@cache
def without_own_imports(cell: str) -> str:
    """A notebook's cell without its imports from this package: where a module lives changes no result."""
    lines = cell.splitlines()
    for node in ast.walk(ast.parse(without_magics(cell))):
        if isinstance(node, ast.Import | ast.ImportFrom) and _imported(node, _SOURCE, own_package())[0]:
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(line for line in lines if line.strip())


def without_magics(cell: str) -> str:
    """A cell as Python: lines that are IPython's alone are empty."""
    return "\n".join("" if line.startswith(("%", "!")) else line for line in cell.splitlines())


# --- reading a module's source ----------------------------------------------------------------------------------------


def _read(source: str, dotted: str, package: Package) -> _Module:
    module = _Module()
    try:
        parsed = ast.parse(source)
    except SyntaxError as error:
        raise UnresolvedCodeError(f"{dotted}, line {error.lineno}, is no Python: {error.msg}.") from error
    statements = [part for part in parsed.body if not _is_docstring(part)]
    foreign: dict[str, str] = {}
    for statement in statements:
        for node in _imports_outside_functions(statement):
            ours, theirs = _imported(node, dotted, package)
            module.imports |= ours
            foreign |= theirs
    names = {name for statement in statements for name in _bound(statement)}
    module.says_infrastructure = "IS_INFRASTRUCTURE" in names
    own = {name: _Reference(dotted, (name,)) for name in names} | module.imports
    for statement in statements:
        if isinstance(statement, ast.Import | ast.ImportFrom) or _never_runs(statement):
            continue
        bound = sorted(_bound(statement))
        part = _Reader(", ".join(bound), dotted, package, own, foreign).read(statement)
        for name in bound:
            module.definitions.setdefault(name, []).append(part)
        if not bound:
            module.effects.append(part)
    return module


class _Reader:
    """Turns one statement into a definition.

    own: what names stand for, of this package; foreign: of others, by their full name.
    """

    def __init__(self, name: str, dotted: str, package: Package, own: Mapping, foreign: Mapping):
        self._part = _Definition(name)
        self._dotted, self._package, self._own, self._foreign = dotted, package, dict(own), dict(foreign)

    def read(self, statement: ast.stmt) -> _Definition:
        self._node(statement)
        if isinstance(statement, ast.ClassDef):
            rest = ast.ClassDef(**{name: getattr(statement, name, []) for name in statement._fields})
            rest.body = [part for part in statement.body if not isinstance(part, _FUNCTIONS)]
            for method in [*(part for part in statement.body if isinstance(part, _FUNCTIONS)), rest]:
                name = method.name if method is not rest else ""
                reader = _Reader(f"{statement.name}.{name}", self._dotted, self._package, self._own, self._foreign)
                part = self._part.methods.setdefault(name, _Definition(reader._part.name))
                reader._node(method)  # a property's setter has its getter's name: both count
                part.tokens += reader._part.tokens
                part.files += reader._part.files
                part.calls_on_self |= {
                    node.attr
                    for node in ast.walk(method)
                    if isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id in ("self", "cls")
                }
        return self._part

    def _say(self, *tokens: str | _Reference) -> None:
        self._part.tokens.extend(tokens)

    def _node(self, node: Any) -> None:
        if isinstance(node, ast.Name):
            self._name(node.id)
        elif isinstance(node, ast.Attribute) and self._dotted_name(node):
            self._say(self._dotted_name(node))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            pass  # what the names stand for is said where they are used
        elif isinstance(node, ast.Constant):
            self._say(f"{type(node.value).__name__}:{node.value!r}")
        elif isinstance(node, ast.JoinedStr):
            self._text_with_values(node)
        elif isinstance(node, ast.Raise):  # which error it is may matter to who catches it; its wording does not
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            self._say("Raise", ast.unparse(raised) if isinstance(raised, ast.Name | ast.Attribute) else "")
        elif isinstance(node, ast.Assert):
            self._say("Assert")
            self._node(node.test)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            self._call(node)
        elif isinstance(node, ast.AnnAssign):
            self._say("AnnAssign", ast.dump(node.annotation) if "ClassVar" in ast.dump(node.annotation) else "")
            self._fields(node)
        elif isinstance(node, _FUNCTIONS) and _makes_a_step(node):
            self._say("step")  # it says what determines a result, in that result's key
        elif isinstance(node, (*_FUNCTIONS, ast.Lambda, ast.ClassDef, *_COMPREHENSIONS)):
            self._scope(node)
        elif not (isinstance(node, ast.stmt) and (_is_docstring(node) or _never_runs(node))):
            self._fields(node)

    def _fields(self, node: ast.AST, without: tuple[str, ...] = ()) -> None:
        """A node by its kind and what it holds; empty fields are left out, since versions of Python differ in them."""
        self._say("(", type(node).__name__)
        for name in node._fields:
            value = getattr(node, name, None)
            if name in _IGNORED_FIELDS or name in without or value is None or value == []:
                continue
            self._say(f"{name}=")
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST):
                    self._node(part)
                else:
                    self._say(repr(part))
        self._say(")")

    def _name(self, name: str) -> None:
        self._say(self._own.get(name) or self._foreign.get(name, name))

    def _dotted_name(self, node: ast.Attribute) -> _Reference | None:
        """`a.b.c` as one reference, where `a` stands for something of this package."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        start = self._own.get(node.id) if isinstance(node, ast.Name) else None
        return _Reference(start.module, (*start.names, *names)) if start else None

    def _call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func).rpartition(".")[2]
        if called == "package_file" and node.args and isinstance(node.args[0], ast.Constant):
            self._part.files.append(node.args[0].value)
            self._say(called)  # what the file holds counts, and not its name
            return
        if called in ("warn", "code_version"):  # words for people; what tells caches apart
            self._say(called)
            return
        self._fields(node)

    def _text_with_values(self, node: ast.JoinedStr) -> None:
        """An f-string; neighbouring pieces of text are one, as they are to its reader."""
        pieces: list[Any] = []
        for value in node.values:
            text = value.value if isinstance(value, ast.Constant) else None
            if text is not None and pieces and isinstance(pieces[-1], str):
                pieces[-1] += text
            elif text != "":
                pieces.append(value if text is None else text)
        self._say("(", "JoinedStr")
        for piece in pieces:
            if isinstance(piece, str):
                self._say(repr(piece))
            else:
                self._fields(piece)
        self._say(")")

    def _scope(self, node: Any) -> None:
        """A function, class or comprehension: what it binds hides what the names stood for outside."""
        if not isinstance(node, ast.ClassDef):
            for decorator in getattr(node, "decorator_list", []):
                self._node(decorator)
        outside = self._own, self._foreign
        ours, theirs, hidden = {}, {}, set()
        if isinstance(node, (*_FUNCTIONS, ast.Lambda)):
            hidden = _local_names(node)
            for part in getattr(node, "body", []) if isinstance(node, _FUNCTIONS) else []:
                for found in _imports_outside_functions(part):
                    of_package, others = _imported(found, self._dotted, self._package)
                    ours |= of_package
                    theirs |= others
        elif isinstance(node, _COMPREHENSIONS):
            hidden = {name for loop in node.generators for name in _stored(loop.target)}
        self._own = {name: value for name, value in self._own.items() if name not in hidden} | ours
        self._foreign = {name: value for name, value in self._foreign.items() if name not in hidden} | theirs
        self._fields(node, without=() if isinstance(node, ast.ClassDef) else ("decorator_list",))
        self._own, self._foreign = outside


def _imported(node: ast.Import | ast.ImportFrom, dotted: str, package: Package):
    """What an import statement binds: names of this package to references, others to their full names."""
    ours: dict[str, _Reference] = {}
    theirs: dict[str, str] = {}
    if isinstance(node, ast.Import):
        for alias in node.names:
            bound = alias.asname or alias.name.split(".")[0]
            meant = alias.name if alias.asname else bound
            if alias.name.split(".")[0] == package.name:
                ours[bound] = _Reference(meant)
            else:
                theirs[bound] = meant
        return ours, theirs
    module = node.module or ""
    if node.level:
        start = dotted.split(".")
        start = start[: len(start) - node.level + package.is_package(dotted)]
        module = ".".join([*start, *([module] if module else [])])
    for alias in node.names:
        bound = alias.asname or alias.name
        if module.split(".")[0] == package.name:
            if not package.has_module(module):
                raise UnresolvedCodeError(f"{dotted} imports {module}, which is not there.")
            ours[bound] = _Reference(module, (alias.name,))
        else:
            theirs[bound] = f"{module}.{alias.name}"
    return ours, theirs


def _imports_outside_functions(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    elif not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        for child in _inner_statements(node):
            yield from _imports_outside_functions(child)


def _inner_statements(node: ast.AST) -> list[ast.AST]:
    """The statements directly in a node, and what holds further ones: expressions, the most of a tree, have none."""
    return [part for part in ast.iter_child_nodes(node) if isinstance(part, _HOLDERS)]


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a top-level statement binds, imports aside."""
    if isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.Expr) or _never_runs(statement):
        return set()
    return _stored(statement)


def _stored(node: ast.AST) -> set[str]:
    """Names that are assigned, defined or caught in a statement, functions and comprehensions inside it aside."""
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Store) else set()
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Lambda, *_COMPREHENSIONS)):
        return {part.target.id for part in ast.walk(node) if isinstance(part, ast.NamedExpr)}
    names = {node.name} if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name else set()
    return names.union(*map(_stored, ast.iter_child_nodes(node)))


def _local_names(function: Any) -> set[str]:
    """Names that are a function's own: its parameters and what it binds, unless it says that they are global."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    names = {argument.arg for argument in every if argument}
    body = function.body if isinstance(function.body, list) else [function.body]
    return names.union(*map(_stored, body)).difference(*map(_declared_global, body))


def _declared_global(node: ast.AST) -> set[str]:
    names = set(node.names) if isinstance(node, ast.Global) else set()
    return names.union(*map(_declared_global, _inner_statements(node)))


def _makes_a_step(function: ast.AST) -> bool:
    """Whether a function calls `Step(...)`, `keys.Step(...)` or the like."""
    calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return any("Step" in (getattr(called, "id", None), getattr(called, "attr", None)) for called in calls)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _never_runs(statement: ast.AST) -> bool:
    """Whether it is for type checkers alone, or for a module that is run as a script."""
    if not isinstance(statement, ast.If):
        return False
    test = ast.unparse(statement.test)
    return test in ("TYPE_CHECKING", "typing.TYPE_CHECKING") or test.startswith("__name__ ==")


def _sha256(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
