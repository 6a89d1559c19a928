"""Control groups, where this user may make any: how many processes and how much memory, the kernel's included.

They bound what no limit of a single process covers, also between two looks: threads (the limit on a user's processes
does not bind root, and counts all that any other user runs) and the kernel's memory for pipes, stacks and page tables.
Version 1 and 2 of the kernel's interface; without either, the other limits remain.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

CONTROLLERS = ("pids", "memory")
_ENDING_SECONDS = 5.0
# Waits for the end of its input, which comes when the judge ends, however it ends, and removes the folders.
_KEEPER = """
read line
for folder; do
    tries=0
    while [ -d "$folder" ] && ! rmdir "$folder" 2> /dev/null && [ $tries -lt 1200 ]; do
        tries=$((tries + 1)); sleep 0.05
    done
done
"""


class Group:
    """A control group for one nursery and what it starts, in as many hierarchies as can be had; `controllers` says
    which. It is gone after `close`, and also when this process is killed.

    tasks: most processes and threads. memory_mb: most memory of all of them together.
    """

    def __init__(self, tasks: int, memory_mb: int):
        self._folders: dict[str, Path] = {}
        self._keeper, name = None, f"qrpo-sandbox-{os.getpid()}-{secrets.token_hex(4)}"
        places = {controller: [place / name for place in _own_parents(controller)] for controller in CONTROLLERS}
        # Before there is anything to remove: a kill in between would leave it.
        if not self._start_keeper([str(place) for some in places.values() for place in some]):
            return
        for controller, some in places.items():
            for place in some:
                if folder := _made(place, controller, tasks, memory_mb):
                    self._folders[controller] = folder
                    break
        if not self._folders:
            self.close()

    def _start_keeper(self, folders: list[str]) -> bool:
        if not folders:
            return False
        try:
            self._keeper = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER, "sh", *dict.fromkeys(folders)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt at the keyboard is for the judge, not for it
            )
        except OSError:
            return False
        return True

    @property
    def controllers(self) -> tuple[str, ...]:
        return tuple(self._folders)

    def add(self, pid: int) -> None:
        """Put a process in, and with it all that it starts from now on."""
        for controller, folder in [*self._folders.items()]:
            try:
                (folder / "cgroup.procs").write_text(str(pid))
            except OSError:
                del self._folders[controller]
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def memory_kills(self) -> int:
        """How often the kernel has ended one of its processes, because their memory together was too much."""
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError, KeyError):
                lines = (self._folders["memory"] / name).read_text().splitlines()
                return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
        return 0

    def close(self) -> None:
        """Remove it. Its processes have been ended."""
        latest = time.monotonic() + _ENDING_SECONDS
        for folder in dict.fromkeys(self._folders.values()):
            while time.monotonic() < latest:
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    pass
                except OSError:  # a process is not quite gone
                    time.sleep(0.005)
                    continue
                break
        self._folders = {}
        if self._keeper:
            self._keeper.stdin.close()
            self._keeper.wait()
            self._keeper = None


def _own_parents(controller: str) -> list[Path]:
    try:
        return [*_parents(controller, Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())]
    except OSError:
        return []


def _parents(controller: str, mountinfo: str, own_groups: str) -> Iterator[Path]:
    """Folders in which a group with this controller might be made, the one that this process is in first.

    mountinfo, own_groups: the kernel's files of these names (proc_pid_mountinfo(5), cgroups(7)).
    """
    mounts = [line.split() for line in mountinfo.splitlines()]
    for _, names, path in (line.split(":", 2) for line in own_groups.splitlines()):
        for fields in mounts:
            root, mounted, (kind, options) = fields[3], fields[4], _kind_and_options(fields)
            second = kind == "cgroup2" and not names
            first = kind == "cgroup" and controller in names.split(",") and controller in options.split(",")
            if not (first or second):
                continue
            inside = os.path.relpath(path, root) if path.startswith(root) else "."
            own = Path(mounted) / inside
            yield own
            # Of the second version, a group with processes in it has no groups below: one beside it, then.
            if second and own != Path(mounted):
                yield own.parent


def _kind_and_options(mount: list[str]) -> tuple[str, str]:
    kind, _, options = mount[mount.index("-") + 1 :][:3]
    return kind, options


def _made(folder: Path, controller: str, tasks: int, memory_mb: int) -> Path | None:
    """The folder with its limit set; None if that cannot be."""
    limits = {"pids": {"pids.max": tasks}, "memory": {"memory.max": memory_mb << 20, "memory.swap.max": 0}}[controller]
    if controller == "memory" and not (folder.parent / "cgroup.controllers").exists():
        limits = {"memory.limit_in_bytes": memory_mb << 20, "memory.memsw.limit_in_bytes": memory_mb << 20}
    try:
        folder.mkdir(exist_ok=True)  # of the second version, both controllers share it
    except OSError:
        return None
    for number, (name, limit) in enumerate(limits.items()):
        try:
            # Not to be made: a file that is not there means that the controller is not.
            with open(folder / name, "r+") as file:
                file.write(str(limit))
        except OSError:
            if number == 0:  # swap, the second, need not be counted
                with contextlib.suppress(OSError):
                    folder.rmdir()
                return None
    return folder
