"""Faults at named points of the product, without a line in it: its functions are wrapped when a fault is wanted.

A point is `STEP: MOMENT`, where STEP is a step's name (`training`, `notebook-experiments-sweep`) and MOMENT one of

    before     its folder is empty, the work begins
    during     the work has told that it is under way
    piece      a piece has been written that an interrupted attempt goes on from
    made       the work is done, its record is not written
    recorded   the record is written, the folder is not in place
    complete   the folder is in place

or `kernel: during`, where a notebook tells that what it asked for is under way.
"""

import contextlib
import errno
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

MOMENTS = ("before", "during", "piece", "made", "recorded", "complete")
# How processes of the suite are known by their command lines.
_PROCESSES = {
    "command": "qrpo_lib.suite.cli",
    "kernel": "kernel_server.py",
    "worker": "multiprocessing.spawn",
}


@dataclass(frozen=True)
class Fault:
    """What happens when a point is reached: `times` times in all processes together, from the `after`-th on.

    action: "kill" (this process), "kill command", "kill job", "kill kernel" (one of those that started this one),
        "full" (the disk), "edit PATH" (a line is added to a
        notebook's first code cell).
    folder: where the times are counted.
    """

    point: str
    action: str
    folder: str
    times: int = 1
    after: int = 0

    def reached(self, point: str) -> None:
        """Called wherever a point is reached."""
        if point == self.point and self._is_due():
            self._act()

    def dumps(self) -> str:
        """For another process, which reads it with `loads`."""
        return json.dumps(asdict(self))

    def _is_due(self) -> bool:
        for number in range(self.after + self.times):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(Path(self.folder) / f"reached-{number}", os.O_CREAT | os.O_EXCL))
                return number >= self.after
        return False

    def _act(self) -> None:
        what, _, of = self.action.partition(" ")
        if what == "kill":
            os.kill(_process(of), signal.SIGKILL)
            if of:
                time.sleep(600)  # it dies with what was killed
        elif what == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file of the test")
        elif what == "edit":
            path = Path(of)
            path.write_text(
                path.read_text(encoding="utf-8").replace("%matplotlib inline", "%matplotlib inline\\n# edited", 1)
            )
        else:
            raise ValueError(f"there is no action {self.action!r}")


def loads(text: str) -> Fault:
    """The fault that another process wrote down."""
    return Fault(**json.loads(text))


def install(fault: Fault) -> None:
    """Wrap the product's functions in this process so that points are told to the fault."""
    from qrpo_lib.runs import files, folders, progress, records

    making: list[str] = []
    plain_make, plain_record, plain_bar, plain_sealed = (
        folders._make,
        records.write,
        progress.bar,
        files.write_sealed,
    )

    def make(step, work, *arguments):
        making.append(step.name)
        fault.reached(f"{step.name}: before")
        plain_make(step, work, *arguments)
        making.pop()
        fault.reached(f"{step.name}: complete")

    def write_record(step, *arguments):
        fault.reached(f"{step.name}: made")
        plain_record(step, *arguments)
        fault.reached(f"{step.name}: recorded")

    def write_sealed(path, content):
        plain_sealed(path, content)
        step = next((one.name for one in path.parents if one.parent.name in (".partial", ".shards")), None)
        if step and ".trainer" not in path.parts:
            fault.reached(f"{step.rpartition('-')[0]}: piece")

    @contextlib.contextmanager
    def bar(text):
        with plain_bar(text) as report:

            def reporting(done, *others):
                report(done, *others)
                if done > 0:
                    fault.reached(f"{making[-1] if making else 'kernel'}: during")

            yield reporting

    folders._make, records.write, progress.bar, files.write_sealed = make, write_record, bar, write_sealed


@contextlib.contextmanager
def killing_a_descendant(computing: float) -> Iterator[list[int]]:
    """Context in which one of the processes that start below this one is killed; its id is in the list that it gives.

    computing: the seconds of processor time after which that is done, 0 for as soon as it is there.
    """
    killed, left, before = [], threading.Event(), set(_descendants(os.getpid()))

    def watch() -> None:
        while not killed and not left.wait(0.001):
            for pid in set(_descendants(os.getpid())) - before:
                if _processor_seconds(pid) >= computing:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                        return

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield killed
    finally:
        left.set()
        watching.join()


def _descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from _descendants(int(child))


def _processor_seconds(pid: int) -> float:
    with contextlib.suppress(OSError):
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return -1.0


def _process(of: str) -> int:
    """This process, or the one of those that started it that is so called."""
    if of == "job":  # it has started the process from which the kernel was forked
        return _parent(_parent(_ancestor(_PROCESSES["kernel"])))
    return _ancestor(_PROCESSES[of]) if of else os.getpid()


def _ancestor(part: str) -> int:
    """The nearest process, this one or one that it descends from, with this in its command line."""
    pid = os.getpid()
    while pid > 1:
        if part.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
        pid = _parent(pid)
    raise LookupError(f"no process with {part} started this one")


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
