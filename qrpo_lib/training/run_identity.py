"""The identity of a run in an `output_dir`: its settings, its data and the weights that it started from.

`begin` writes it, `check` refuses to go on with a run of another beta or from half-trained weights, which would
otherwise be taken for the reference. A model object that an interrupted training left is marked, in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from qrpo_lib.runs import files
from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import causal_lm

FILE = "qrpo_run.json"
_MARK = "_qrpo_is_half_trained"
_MADE = ("checkpoint-*", "config.json", "adapter_config.json")  # what a run leaves that another must not take


def weights_sha256(model: torch.nn.Module) -> str:
    """Hash of all weights: names, shapes and values."""
    key = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        key.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        key.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return key.hexdigest()


def rows_sha256(rows: Iterable[Mapping]) -> str:
    """Hash of rows of plain numbers and lists."""
    key = hashlib.sha256()
    for row in rows:
        key.update(json.dumps(dict(row), sort_keys=True).encode())
    return key.hexdigest()


def check(output_dir: str | Path, identity: Mapping[str, Any]) -> None:
    """Raises InputError if the folder holds a run that is not this one; `identity` holds plain values by name.

    "reference" among them is the hash of the reference's weights, "data" that of the rows.
    """
    folder = Path(output_dir)
    made = [path for pattern in _MADE for path in folder.glob(pattern)]
    path = folder / FILE
    if not made or not path.is_file():
        return
    there = files.read_json(path, f"Remove the folder {folder}, or choose another output_dir.")
    new = json.loads(json.dumps(dict(identity)))
    differs = [name for name in new if there.get(name) != new[name]]
    if not differs:
        return
    if differs == ["reference"]:
        raise InputError(
            f"The run in {folder} started from other weights than this model's, which would become its reference: is "
            "it the model that an interrupted training left? Load the model again, or choose another output_dir."
        )
    shown = [f"{name} {there.get(name)!r}, not {new[name]!r}" for name in differs if name not in ("reference", "data")]
    shown += ["other data"] if "data" in differs else []
    shown += ["another reference model"] if "reference" in differs else []
    raise InputError(f"{folder} holds a run with {'; '.join(shown)}: choose another output_dir, or remove that one.")


def begin(output_dir: str | Path, identity: Mapping[str, Any]) -> None:
    """Write the run's identity into the folder."""
    files.write_atomically(Path(output_dir) / FILE, (json.dumps(dict(identity), indent=2) + "\n").encode())


def claim(folder: str | Path, identity: Mapping[str, Any]) -> None:
    """`check`, then `begin`, by all processes of a group. Raises InputError as `check` does, in each of them."""
    from accelerate import PartialState

    check(folder, identity)
    state = PartialState()
    state.wait_for_everyone()
    if state.is_main_process:
        begin(folder, identity)


@contextlib.contextmanager
def half_trained(model: torch.nn.Module) -> Iterator[None]:
    """Context of a training: the model, with what is inside of its adapters, is marked until the training has ended.

    If it fails, the mark stays, and all but the weights is restored.
    """
    parts = model, causal_lm.without_adapter(model)
    for part in parts:
        setattr(part, _MARK, True)
    try:
        yield
    except BaseException:
        causal_lm.restored(parts[-1])
        raise
    for part in parts:
        vars(part).pop(_MARK, None)


def check_unmarked(model: torch.nn.Module) -> None:
    """Raises InputError for a model object whose training was interrupted: it is no reference any more."""
    if any(vars(part).get(_MARK) for part in (model, causal_lm.without_adapter(model))):
        raise InputError(
            "This model object was left half-trained by a training that was interrupted, and would be taken for the "
            "reference: load the model again (with the same output_dir the training goes on from its last checkpoint)."
        )
