"""What the running notebook has read, which of its trainings failed, what it took: as it reports to `qrpo reproduce`.

A notebook's process appends to the file `$QRPO_ACCOUNT`, one JSON value a line. All accounts of one command are in one
folder, so that what failed twice in one notebook is not tried again by the next one of the same command. Without the
variable, in JupyterLab or papermill, nothing is written.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from qrpo_lib.runs import environment
from qrpo_lib.runs.usage import Usage

VARIABLE = "QRPO_ACCOUNT"


@dataclass
class Account:
    """What a notebook noted.

    rests_on: names of run folders.
    failed: for each run that failed twice, by name, its first error.
    took: of each kernel that ended as it was asked to, what the notebook's own work took in it.
    """

    rests_on: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    took: list[Usage] = field(default_factory=list)


def rests_on(folder_names: Iterable[str]) -> None:
    """Note that the notebook reads these run folders."""
    _append({"rests_on": sorted(folder_names)})


def failed(name: str, folder_name: str, error: str) -> None:
    """Note that a run, which would have made this run folder, failed twice."""
    _append({"failed": name, "folder": folder_name, "error": error})


def took(used: Usage) -> None:
    """Note what the notebook's own work has taken, as its kernel ends."""
    _append({"took": asdict(used)})


def kept_in(path: Path) -> contextlib.AbstractContextManager[None]:
    """Context in which this process and those that it starts keep their account in this file."""
    return environment.given({VARIABLE: str(path)})


def read(path: Path) -> Account:
    """What a notebook noted; nothing if there is no such file."""
    account = Account()
    for noted in _lines(path):
        account.rests_on |= set(noted.get("rests_on", ()))
        if "failed" in noted:
            account.failed.setdefault(noted["failed"], noted["error"])
        if "took" in noted:
            account.took.append(Usage(**noted["took"]))
    return account


def failed_before() -> dict[str, str]:
    """The first error of what failed twice in this command, by the name of the run folder that it would have made."""
    if not os.environ.get(VARIABLE):
        return {}
    errors: dict[str, str] = {}
    for path in sorted(Path(os.environ[VARIABLE]).parent.glob("*.jsonl")):
        errors |= {noted["folder"]: noted["error"] for noted in _lines(path) if "folder" in noted}
    return errors


def _append(value: dict) -> None:
    if os.environ.get(VARIABLE):
        path = Path(os.environ[VARIABLE])
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(value) + "\n")


def _lines(path: Path) -> list[dict]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]  # the last one may be being written
