"""The parameters of a notebook: declared in its one cell tagged `parameters`, checked before any work.

In the cell after it: `notebook.check_parameters(globals())`. Papermill only warns about a name that the notebook does
not have and takes a value of any type; this raises a ParameterError of one sentence.
"""

from __future__ import annotations

import ast
import difflib
from pathlib import Path
from typing import Any

import nbformat
from pydantic import TypeAdapter, ValidationError

from qrpo_lib.errors import InputError

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.code_version`)

# How papermill's injected cell begins (papermill.translators).
_INJECTED = "# Parameters"


class ParameterError(InputError):
    """A notebook was given a parameter that it does not have, or a value of the wrong type."""


def declared_parameters(path: str | Path) -> dict[str, str]:
    """Names and annotations of the parameters of a notebook file, in their order, without running it."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            return _declarations(cell.source) or {}
    raise ParameterError(f"{Path(path).name} has no cell tagged 'parameters'.")


def check_values(values: dict[str, Any], declared: dict[str, str]) -> None:
    """Raise ParameterError for the first value whose name is not declared or whose type is not the declared one."""
    for name, value in values.items():
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(declared)}."
            raise ParameterError(f"This notebook has no parameter {name!r}; {hint}")
        annotation = declared[name]
        try:
            # Annotations come from our own notebooks: plain builtin types such as `float | None` or `list[float]`.
            TypeAdapter(eval(annotation, {})).validate_python(value, strict=True)
        except ValidationError as error:
            raise ParameterError(
                f"The parameter {name!r} must be {annotation}, and {value!r} is not ({error.errors()[0]['msg']})."
            ) from None


def check_parameters(namespace: dict[str, Any]) -> None:
    """Check the parameters of the running notebook; `namespace` is its `globals()`.

    Raises
    ------
    ParameterError
        An injected name was not declared, or a value has not the declared type.
    """
    history = [source for source in namespace.get("In", []) if source]
    declarations = [found for found in map(_declarations, history) if found]
    if not declarations:
        raise ParameterError("Run the cell tagged 'parameters' first.")
    declared = declarations[-1]
    injected = {}
    for source in history:
        if source.startswith(_INJECTED):
            injected |= dict.fromkeys(_assigned(source))
    values = {name: namespace[name] for name in [*injected, *declared] if name in namespace}
    check_values(values, declared)


def _declarations(source: str) -> dict[str, str] | None:
    """The annotated assignments of a cell that consists of nothing else, else None."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a cell with IPython magics
        return None
    if not statements or not all(isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name) for s in statements):
        return None
    return {statement.target.id: ast.unparse(statement.annotation) for statement in statements}


def _assigned(source: str) -> list[str]:
    return [
        target.id
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]
