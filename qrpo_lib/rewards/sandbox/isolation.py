"""How a solution's process is kept apart: the command that starts it, its circumstances, this process's own guard.

Isolation is bubblewrap's where it is installed: no network, no other processes, a read-only file system with the
interpreter and nothing else, a small private /tmp. "limits" is what remains without it: limits and the filter of
system calls. `QRPO_SANDBOX=limits` in the environment chooses the second where the first does not start.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

from qrpo_lib.runs.code_version import package_file

Isolation = Literal["bubblewrap", "limits"]

WORKER = package_file("worker.py")
TMP_MB = 16
# What a solution may import beyond the standard library: the dataset's own solutions use it.
_PACKAGES = ("sortedcontainers",)
_TIME_ZONES = "/usr/share/zoneinfo"  # which the standard library reads
# The same order of sets and the same use of memory in every run.
_ENVIRONMENT = {"PATH": "/nowhere", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "2"}
_ADDR_NO_RANDOMIZE = 0x0040000
_PR_SET_PDEATHSIG, _PR_GET_DUMPABLE, _PR_SET_DUMPABLE, _SIGKILL = 1, 3, 4, 9


def start(isolation: Isolation, control: int) -> subprocess.Popen:
    """Start a worker that is spoken to through the socket `control`."""
    inside = isolation == "bubblewrap"
    with _same_addresses():
        return subprocess.Popen(
            [*(_bubblewrap() if inside else ()), *_interpreter("/worker.py" if inside else WORKER), str(control)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(control,),
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
        )


def packages(isolation: Isolation) -> dict[str, str]:
    """Where the worker finds the packages that solutions may import."""
    return {name: f"/packages/{name}" if isolation == "bubblewrap" else str(_package(name)) for name in _PACKAGES}


def _interpreter(script: Path | str) -> list[str]:
    # Nothing but the standard library, whatever is installed: -s and -S leave out site-packages, -P the script's own.
    # Not -I, which would ignore the hash seed; no other variable of Python's is in the environment.
    return [os.path.realpath(sys.executable), "-P", "-s", "-S", str(script)]


@lru_cache(maxsize=1)
def _bubblewrap() -> tuple[str, ...]:
    """The command that starts the worker with the interpreter's own files, read-only, and an empty /tmp."""
    program = shutil.which("bwrap")
    if program is None:
        raise RuntimeError("bubblewrap is not installed: apt-get install bubblewrap, or your system's equivalent.")
    # It does not die with this process: killed while it starts, it would leave a child that waits for it for ever. The
    # worker ends when this process does, and bubblewrap with it.
    command = [program, "--unshare-all", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    # For the limit on files in /tmp; the worker gives it up before it runs anything. An installation that becomes root
    # gives it to nobody else.
    if os.geteuid() == 0 or not os.stat(program).st_mode & stat.S_ISUID:
        command += ["--cap-add", "CAP_SYS_ADMIN"]
    command += ["--clearenv", *(part for item in _ENVIRONMENT.items() for part in ("--setenv", *item))]
    for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64"):
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            command += ["--ro-bind", folder, folder]
    command += ["--ro-bind-try", _TIME_ZONES, _TIME_ZONES]
    library, stdlib = f"{os.path.realpath(sys.base_prefix)}/lib", os.path.realpath(sysconfig.get_path("stdlib"))
    for path in dict.fromkeys((library, stdlib, os.path.realpath(sys.executable))):
        command += ["--ro-bind", path, path]
    # Installed packages may hold a task's tests.
    for folder in dict.fromkeys((library, "/usr/lib", "/usr/lib64")):
        for found in sorted(Path(folder).glob("python3*/*-packages")):
            command += ["--tmpfs", str(found), "--remount-ro", str(found)]
    for name in _PACKAGES:
        command += ["--ro-bind", str(_package(name)), f"/packages/{name}"]
    # Attributes of the null device are the host's; no system call that changes any is allowed.
    command += ["--ro-bind", str(WORKER), "/worker.py", "--dev-bind", os.devnull, os.devnull]
    command += ["--size", str(TMP_MB << 20), "--perms", "1777", "--tmpfs", "/tmp", "--chdir", "/tmp"]
    return (*command, "--remount-ro", "/")


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise RuntimeError(f"The sandbox offers the package {name} to solutions: pip install {name}.")
    return Path(found.submodule_search_locations[0])


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    libc.personality.argtypes = [ctypes.c_ulong]
    return libc


@contextlib.contextmanager
def _same_addresses() -> Iterator[None]:
    """Processes that this thread starts meanwhile lay their memory out alike, so that order by identity is the same.

    Where that is refused (some containers do), addresses stay random.
    """
    before = _libc().personality(0xFFFFFFFF)
    if before >= 0:
        _libc().personality(before | _ADDR_NO_RANDOMIZE)
    try:
        yield
    finally:
        if before >= 0:
            _libc().personality(before)


def end_with_parent() -> None:
    """This process ends when the thread that has started it does."""
    _libc().prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def guard() -> None:
    """No process of this user can read this one's memory from now on."""
    _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


_guarded, _was_dumpable, _guard_lock = 0, 1, threading.Lock()


@contextlib.contextmanager
def unreadable() -> Iterator[None]:
    """Meanwhile no process of this user can read this one's memory, where the expected values are."""
    global _guarded, _was_dumpable
    with _guard_lock:
        if not _guarded:
            _was_dumpable = _libc().prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
            guard()
        _guarded += 1
    try:
        yield
    finally:
        with _guard_lock:
            _guarded -= 1
            if not _guarded and _was_dumpable == 1:  # 2 is the system's own setting, which a process cannot choose
                _libc().prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
