"""Shards: work on one result that any number of processes share, each file of it made by one of them.

A process takes what nobody is making and nobody has made; a file appears whole or not at all; what a killed process was
making is made by another one. The lock of a file is the operating system's: it ends with its process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from filelock import Timeout

from qrpo_lib import runs
from qrpo_lib.progress import Report

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.code_version`)


def make_all(step: runs.Step, names: Sequence[str], make: Callable[[int], bytes], report: Report | None = None) -> None:
    """Return once every file in `names` is in `step.shards`, or the step is complete.

    Any number of processes may call this for the same step at once. `make(i)` gives the content of file i; it must
    depend on i alone, so that it does not matter who makes it.
    """

    def there(name: str) -> bool:
        # The complete folder is looked at last: once it is there, the shards are removed.
        return (step.shards / name).exists() or step.folder.exists()

    done = {name for name in names if there(name)}
    for wait in (False, True):  # first what is free, then what others were making, in case one of them was killed
        for i, name in enumerate(names):
            if report:
                report(len(done), len(names), "shards")
            if name in done:
                continue
            try:
                with runs.lock(f"{step.folder_name}.{name}").acquire(blocking=wait):
                    if not there(name):
                        runs.write_atomically(step.shards / name, make(i))
                    done.add(name)
            except Timeout:
                continue
    if report:
        report(len(names), len(names), "shards")
