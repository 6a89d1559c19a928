"""The journal of submissions: jobs that outlive the command are found again by the run folders that they make.

runs/.dispatch/NAME/batch.json      the jobs of one submission, and what each makes; beside it submitit's files
"""

from __future__ import annotations

import socket
import time
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from qrpo_lib.runs import files, paths

_RECORD = "batch.json"


class Batch(BaseModel):
    """Jobs submitted together: `tasks[i]` is made by `jobs[i]`. `jobs` is empty until the submission has succeeded."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    executor: str
    host: str
    submitted: float
    tasks: list[str]
    jobs: list[str] = []

    @model_validator(mode="after")
    def _is_whole(self):
        if self.jobs and len(self.jobs) != len(self.tasks):
            raise ValueError(f"it has {len(self.jobs)} jobs for {len(self.tasks)} tasks")
        return self

    @cached_property
    def folder(self) -> Path:
        """Where its files are."""
        return folder() / self.name


def folder() -> Path:
    """Where submissions are written down, and where submitit keeps their files and logs."""
    return paths.runs_folder() / ".dispatch"


class Journal:
    """Every submission, in a folder of its own; what was read once is read again only when it has changed."""

    def __init__(self):
        self._read: dict[Path, tuple[int, Batch]] = {}

    def read(self) -> list[Batch]:
        """All batches, oldest first."""
        for path in folder().glob(f"*/{_RECORD}"):
            changed = path.stat().st_mtime_ns
            if path not in self._read or self._read[path][0] != changed:
                self._read[path] = (changed, _batch(path))
        return sorted((batch for _, batch in self._read.values()), key=lambda batch: (batch.submitted, batch.name))

    def begin(self, name: str, executor: str, tasks: list[str]) -> Batch:
        """Write down a submission that is about to be made, after all others whatever the clocks of hosts say."""
        last = max((batch.submitted for _, batch in self._read.values()), default=0.0)
        now = max(time.time(), last + 1e-3)
        batch = Batch(name=name, executor=executor, host=socket.gethostname(), submitted=now, tasks=tasks)
        self.write(batch)
        return batch

    def write(self, batch: Batch) -> None:
        path = batch.folder / _RECORD
        files.write_atomically(path, (batch.model_dump_json() + "\n").encode())
        self._read[path] = (path.stat().st_mtime_ns, batch)

    def remove(self, batch: Batch) -> None:
        path = batch.folder / _RECORD
        path.unlink(missing_ok=True)
        self._read.pop(path, None)


def _batch(path: Path) -> Batch:
    """What a submission wrote down. Raises `files.UnreadableFileError`, since its jobs may be under way."""
    remedy = f"If none of its jobs is under way, remove the folder {path.parent} and run the same command again."
    values = files.read_json(path, remedy)
    try:
        batch = Batch.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
        why = (
            f"it is not a submission of this version of the suite ({where}{first['msg'].removeprefix('Value error, ')})"
        )
        raise files.unreadable(path, why, remedy) from None
    if batch.name != path.parent.name:
        raise files.unreadable(path, f"it is the submission {batch.name}", remedy)
    return batch
