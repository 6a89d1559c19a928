"""The parameters of a notebook: declared in its one cell tagged `parameters`, checked before any work.

In the cell after it: `parameters.check_parameters(globals())`. Papermill only warns about a name that the notebook does
not have and takes a value of any type; this raises an error of one sentence. What a parameter of some name can be is
the same in every notebook (`_LIMITS`).
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from qrpo_lib.paper import frontend
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs.errors import InputError
from qrpo_lib.suite import notebook_file

# How papermill's injected cell begins (papermill.translators).
_INJECTED = "# Parameters"


class ParameterError(InputError):
    """A notebook was given a parameter that it does not have, or a value that cannot be used."""


@dataclass(frozen=True)
class _Limit:
    """What a value, or each one of a list, must be: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _one_of(*choices: str) -> _Limit:
    return _Limit(f"one of {', '.join(choices)}", lambda value: value in choices)


def _at_least(least: int) -> _Limit:
    return _Limit(f"at least {least}", lambda value: value >= least)


_POSITIVE = _Limit("above 0 and finite", lambda value: 0 < value < math.inf)
_COUNT = _at_least(1)
_TEXT = _Limit("some text", lambda value: bool(value.strip()))
_ANY = _Limit("any text", lambda value: True)  # empty for the notebook's own choice
_LIMITS = {
    "profile": _TEXT,
    "arm": _TEXT,
    "figures": _TEXT,
    "annotator": _TEXT,
    "algorithm": _one_of(*profiles.ALGORITHMS),
    "setting": _one_of(*get_args(profiles.Setting)),
    "partition": _one_of(*get_args(profiles.Partition)),
    "transform": _one_of(*profiles.TRANSFORMS),
    "seed": _Limit("from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32),  # what NumPy takes
    "mu": _Limit("finite", math.isfinite),
    "sigma": _POSITIVE,
    "beta": _POSITIVE,
    "learning_rate": _POSITIVE,
    "largest_beta": _POSITIVE,
    "smallest_beta": _POSITIVE,
    "fit_below": _POSITIVE,
    "model": _ANY,
    "rows": _ANY,
    "test_rows": _ANY,
    "reward": _TEXT,
    "report_to": _one_of("none", "tensorboard", "trackio", "wandb"),
    "loss": _one_of(*profiles.ALGORITHMS),
    "prompts": _at_least(2),
    "held_out": _COUNT,
    "references": _COUNT,
    "max_new_tokens": _COUNT,
    "epochs": _POSITIVE,
    "batch_size": _COUNT,
    "doses": _Limit("finite", math.isfinite),
    "rates": _Limit("between 0 and 1", lambda value: 0 < value < 1),
    "pass_rate": _Limit("between 0 and 1", lambda value: 0 < value < 1),
    "quantiles": _Limit("between 0 and 1", lambda value: 0 < value < 1),
    "vocabulary": _at_least(2),
    "longest": _COUNT,
    "steps": _COUNT,
    "qrpo_steps": _COUNT,
    "pair_steps": _COUNT,
    "samples": _COUNT,
    "repeats": _at_least(2),
    "completions": _at_least(2),
    "points": _at_least(3),
    "counts": _COUNT,
    "ref_counts": _COUNT,
    "best_of": _at_least(2),
    "rounds": _COUNT,
    "rounds: int": _at_least(2),  # of one iterative training; one round is the training itself
}
for _name in ("betas", "fit_betas", "used_betas", "sweep_betas", "figure_6_betas"):
    _LIMITS[_name] = _LIMITS["beta"]
_LIMITS["seeds"] = _LIMITS["seed"]


def declared_parameters(path: str | Path) -> dict[str, str]:
    """Names and annotations of the parameters of a notebook file, in their order, without running it."""
    source = notebook_file.tagged(Path(path), "parameters")
    if source is None:
        raise ParameterError(f"{Path(path).name} has no cell tagged 'parameters'.")
    return _declarations(source) or {}


def check_values(values: dict[str, Any], declared: dict[str, str]) -> None:
    """Raise ParameterError for the first value that is not declared, not of the declared type, or out of its limits.

    An algorithm may be in any spelling.
    """
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
        _check_limit(name, value, _LIMITS.get(f"{name}: {annotation}") or _LIMITS.get(name))
    smallest = values.get("smallest_beta")
    for name in ("largest_beta", "fit_below"):
        if smallest is not None and values.get(name) is not None and values[name] <= smallest:
            raise ParameterError(f"The parameter {name!r} must be above smallest_beta, {smallest}, not {values[name]}.")


def _check_limit(name: str, value: Any, limit: _Limit | None) -> None:
    values = value if isinstance(value, list) else [value]
    if not limit or value is None:
        return
    if not values:
        raise ParameterError(f"The parameter {name!r} must have at least one value, each {limit.words}.")
    for item in values:
        if not limit.holds(_spelled(name, item)):
            each = "have values" if isinstance(value, list) else "be"
            raise ParameterError(f"The parameter {name!r} must {each} {limit.words}, not {item!r}.")


def _spelled(name: str, value: Any) -> Any:
    return value.lower() if name == "algorithm" else value


def check_parameters(namespace: dict[str, Any]) -> None:
    """Check the parameters of the running notebook; `namespace` is its `globals()`.

    An algorithm is then spelled as settings spell it ("DPO" becomes "dpo"), and tables are shown whole.

    Raises
    ------
    ParameterError
        An injected name was not declared, or a value cannot be used.
    profiles.ProfileError
        There is no such profile or arm, or it cannot be used.
    """
    history = [source for source in namespace.get("In", []) if source]
    declarations = [annotated for annotated in map(_declarations, history) if annotated]
    if not declarations:
        raise ParameterError("Run the cell tagged 'parameters' first.")
    declared = declarations[-1]
    injected = {}
    for source in history:
        if source.startswith(_INJECTED):
            injected |= dict.fromkeys(_assigned(source))
    values = {name: namespace[name] for name in [*injected, *declared] if name in namespace}
    check_values(values, declared)
    if "algorithm" in declared:
        namespace["algorithm"] = _spelled("algorithm", namespace["algorithm"])
    if "profile" in declared:
        profiles.load(namespace["profile"], namespace.get("arm"))
    frontend.show_whole_tables()


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
