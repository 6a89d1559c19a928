"""Shards: work on one result that any number of processes share, each file of it made by one of them.

A process takes what nobody is making and nobody has made; a file appears whole or not at all; what a killed process was
making is made by another one. The lock of a file is the operating system's: it ends with its process. The files are
sealed (`qrpo_lib.runs.files`): a damaged one is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from filelock import Timeout

from qrpo_lib.runs import files, folders, keys
from qrpo_lib.runs.progress import Report


def make_all(step: keys.Step, names: Sequence[str], make: Callable[[int], bytes], report: Report | None = None) -> None:
    """Return once every file in `names` is in `step.shards`, or the step is complete.

    Any number of processes may call this for the same step at once.

    Parameters
    ----------
    step: whose files they are.
    names: of the files.
    make: `make(i)` gives the content of file i; it must depend on i alone, so that it does not matter who makes it.
    report: is told how many files there are already.
    """

    def there(name: str) -> bool:
        # The complete folder is looked at last: once it is there, the shards are removed.
        return files.read_sealed(step.shards / name) is not None or step.folder.exists()

    done = {name for name in names if there(name)}
    for wait in (False, True):  # first what is free, then what others were making, in case one of them was killed
        for i, name in enumerate(names):
            if report:
                report(len(done), len(names), "shards")
            if name in done:
                continue
            try:
                with folders.lock(f"{step.folder_name}.{name}").acquire(blocking=wait):
                    if not there(name):
                        files.write_sealed(step.shards / name, make(i))
                    done.add(name)
            except Timeout:
                continue
    if report:
        report(len(names), len(names), "shards")


def read(step: keys.Step, name: str) -> bytes:
    """What `make` gave for a file.

    Raises
    ------
    FileNotFoundError
        It is not there: another process has completed the step, or it was never made.
    UnreadableFileError
        It was damaged since it was made.
    """
    path = step.shards / name
    content = files.read_sealed(path)
    if content is None:
        if not path.exists():
            raise FileNotFoundError(f"There is no {path}.")
        raise files.unreadable(path, "it was damaged", "Run the same command again: it makes that file anew.")
    return content
