"""Untrusted Python against test cases, one verdict a test: `run_tests`, and `run_many` for batches.

    sandbox.run_tests(solution, ["assert add(1, 2) == 3"]).pass_rate

A solution runs in a process of its own that sees the inputs of one test after the other and never an expected value;
it returns plain data, and this side, outside its reach, decides (`sandbox_checks`). Isolation is bubblewrap's where it
works: no network, no other processes, a read-only file system with the interpreter and nothing else, a private /tmp.
Elsewhere limits and a filter of system calls remain, and a warning says what they do not cover.

Time is the processor time of the test, read from outside, against the limit; waiting for a busy processor is free.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import secrets
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from qrpo_lib import cores, sandbox_checks
from qrpo_lib.code_version import package_file

Outcome = Literal["passed", "failed", "error", "timeout", "memory", "crashed"]
"""failed: another value; error: an exception; crashed: the process ended, or broke the protocol or a limit."""
Isolation = Literal["bubblewrap", "limits"]

# What the paper's sandbox allows (reference_results.json).
SECONDS_PER_TEST, MEMORY_MB, MAX_TESTS = 1.0, 1024, 100

# What a solution may import beyond the standard library: the dataset's own solutions use it.
_PACKAGES = ("sortedcontainers",)
_ENVIRONMENT = {"PATH": "/nowhere", "LC_ALL": "C.UTF-8"}
_WORKER = package_file("sandbox_worker.py")
_MAX_REPLY_BYTES = 4 << 20
_MAX_THREADS = 64
_FILE_MB, _TMP_MB, _MAX_FILES = 4, 16, 4096
_LOOK_SECONDS = 0.05
_START_SECONDS = 120.0
# Neighbours in cache and core add to the processor time of the same work; up to 1.6 x was measured with three busy
# processes a core.
_ALLOWANCE = 1.5
# A test that neither computes nor waits for a processor (it sleeps, say) ends after this many of its limits.
_IDLE_LIMITS = 10


class WeakIsolationWarning(UserWarning):
    """Solutions run with less isolation than bubblewrap gives."""


@dataclass(frozen=True)
class Result:
    """The verdicts on one solution, one a test in the order of the tests."""

    outcomes: tuple[Outcome, ...]
    details: tuple[str, ...]
    """What was the matter, for people; empty for a test that passed. Written by the solution in part: do not trust."""

    @property
    def pass_rate(self) -> float:
        """Share of the tests that passed: the paper's reward."""
        return self.outcomes.count("passed") / len(self.outcomes)


def run_tests(
    solution: str,
    tests: Sequence[str],
    *,
    seconds_per_test: float = SECONDS_PER_TEST,
    memory_mb: int = MEMORY_MB,
    max_tests: int = MAX_TESTS,
    isolation: Isolation | None = None,
) -> Result:
    """Judge a solution (Python source, initialisation included) by the first `max_tests` of `tests`.

    A test is one `assert` statement that compares values of calls into the solution with literals, such as
    `assert Solution().f(n = 3) == [1, 2]` or `assert is_same_list(Solution().f(list_node([1])), list_node([2]))`.
    Values are equal as Python's plain data is (1 == 1.0 == True, [1] != (1,), nan != nan); an object of the solution's
    own class equals nothing, and a subclass of a builtin counts by its builtin content. State that the solution keeps
    lasts from test to test, until a test crashes or runs out of time or memory: that costs this test alone.
    Raises ValueError for tests that cannot be judged so and for limits that make no sense.
    """
    limits = _limits(seconds_per_test, memory_mb, max_tests, isolation)
    if not tests:
        raise ValueError("There are no tests: a pass rate needs at least one.")
    return _judge(solution, [sandbox_checks.split(test) for test in tests[:max_tests]], limits)


def run_many(
    jobs: Sequence[tuple[str, Sequence[str]]],
    *,
    seconds_per_test: float = SECONDS_PER_TEST,
    memory_mb: int = MEMORY_MB,
    max_tests: int = MAX_TESTS,
    processes: int | None = None,
    report: Callable[[int, int, str], None] | None = None,
    isolation: Isolation | None = None,
) -> list[Result]:
    """`run_tests` on every (solution, tests), `processes` at a time (default: the cores this process may use).

    Results are in the order of the jobs. `report(done, total, detail)` is called after each (`progress.bar` fits).
    """
    limits = _limits(seconds_per_test, memory_mb, max_tests, isolation)
    processes = processes or cores.available()
    for number, (_, tests) in enumerate(jobs):
        if not tests:
            raise ValueError(f"Job {number} has no tests: a pass rate needs at least one.")
        for test in tests[:max_tests]:
            sandbox_checks.split(test)  # what cannot be judged is refused before any work
    results: list[Result | None] = [None] * len(jobs)

    def run(number: int) -> None:
        solution, tests = jobs[number]
        checks = [sandbox_checks.split(test) for test in tests[:max_tests]]
        results[number] = _judge(solution, checks, limits)

    with ThreadPoolExecutor(processes) as pool:
        running = [pool.submit(run, number) for number in range(len(jobs))]
        try:
            for done, future in enumerate(as_completed(running), 1):
                future.result()
                if report:
                    report(done, len(jobs), "")
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return results


@dataclass(frozen=True)
class _Limits:
    seconds: float
    memory_mb: int
    isolation: Isolation


def _limits(seconds: float, memory_mb: int, max_tests: int, isolation: Isolation | None) -> _Limits:
    if not seconds > 0:
        raise ValueError(f"seconds_per_test is {seconds}: give a positive number of seconds.")
    if memory_mb < 64:
        raise ValueError(f"memory_mb is {memory_mb}: the interpreter alone needs some of it; give at least 64.")
    if max_tests < 1:
        raise ValueError(f"max_tests is {max_tests}: give at least 1.")
    _slowness()  # learns the machine's pace while nothing depends on it
    return _Limits(seconds, memory_mb, isolation or available_isolation())


def _judge(solution: str, checks: list[sandbox_checks.Check], limits: _Limits) -> Result:
    """The solution's verdicts. One process serves all tests; one that ends is replaced for the next test."""
    verdicts: list[tuple[Outcome, str]] = []
    worker, broken = None, None
    try:
        for check in checks:
            if worker is None and broken is None:
                worker = _Worker(limits)
                outcome, detail, _ = worker.ask({"source": solution})
                broken = None if outcome == "passed" else (outcome, detail)
            if broken:  # a solution that does not load fails every test
                verdicts.append(broken)
                continue
            outcome, detail, values = worker.ask({"calls": check.calls})
            if outcome == "passed" and not check.holds(values):
                outcome, detail = "failed", "another value was expected"
            verdicts.append((outcome, detail))
            if outcome in ("timeout", "memory", "crashed"):
                worker.close()
                worker = None
    finally:
        if worker:
            worker.close()
    return Result(*(tuple(column) for column in zip(*verdicts, strict=True)))


class _Worker:
    """An isolated process with the solution in it, and the conversation with it."""

    def __init__(self, limits: _Limits):
        self._limits = limits
        self._process = self._pidfd = None
        self._folder = tempfile.mkdtemp(prefix="sandbox-") if limits.isolation == "limits" else None
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        info_read, info_write = os.pipe()
        given = (to_read, to_write, info_write)
        try:
            try:
                self._process = self._start(*given)
            finally:
                for descriptor in given:
                    os.close(descriptor)
            self._pid = self._process.pid if limits.isolation == "limits" else _child_pid(info_read)
            self._pidfd = os.pidfd_open(self._pid)
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)
            self.filtered = self._greeting()["filtered"] is True
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            self.close()
            text = str(error).rstrip(".")
            raise RuntimeError(f"The sandbox did not start with the isolation '{limits.isolation}': {text}.") from None
        finally:
            os.close(info_read)

    def _start(self, to_read: int, to_write: int, info: int) -> subprocess.Popen:
        settings = {
            "memory_mb": self._limits.memory_mb,
            "file_mb": _FILE_MB,
            "threads": _MAX_THREADS,
            "no_namespaces": self._limits.isolation == "limits",
            "packages": _packages_folder() if self._limits.isolation == "limits" else "/packages",
        }
        if self._limits.isolation == "bubblewrap":
            command = [*_bubblewrap(), "--info-fd", str(info), *_interpreter("/worker.py")]
        else:
            command = _interpreter(_WORKER)
        return subprocess.Popen(
            [*command, str(to_read), str(to_write), json.dumps(settings)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(to_read, to_write, info),
            cwd=self._folder or "/",
            env=_ENVIRONMENT,
            start_new_session=True,
        )

    def _greeting(self) -> dict:
        """What the worker says before it reads anything: its limits are in force."""
        latest = time.monotonic() + _START_SECONDS
        reply = self._converse(b"", lambda: time.monotonic() > latest)
        if not isinstance(reply, bytes):
            raise ValueError(reply[1])
        return json.loads(reply)

    def ask(self, request: dict) -> tuple[Outcome, str, list]:
        """(outcome, detail, values): "passed" means answered in time, with as many plain values as calls."""
        identity = secrets.token_hex(8)  # an answer that was prepared before the question does not know it
        message = json.dumps({"id": identity, **request}).encode()
        clock = _Clock(self._pid, self._limits.seconds)
        answer = self._converse(len(message).to_bytes(4, "big") + message, clock.is_over)
        if not isinstance(answer, bytes):
            return (*answer, [])
        if clock.is_over():  # the same rule, however late this side looked
            return "timeout", "out of time", []
        try:
            reply = sandbox_checks.decode(answer)
            if not isinstance(reply, dict) or reply.get("id") != identity:
                return "crashed", "broke the protocol", []
            if "values" in reply:
                values = sandbox_checks.plain(reply["values"])
                expected = len(request.get("calls", ()))
                fits = isinstance(values, list) and len(values) == expected
                return ("passed", "", values) if fits else ("crashed", "broke the protocol", [])
        except sandbox_checks.UndecodableError as error:
            return "failed", f"returned {error}", []
        kind, detail = reply.get("kind"), reply.get("error")
        detail = detail[:200].encode(errors="replace").decode() if isinstance(detail, str) else ""
        return kind if kind in ("failed", "memory") else "error", detail, []

    def _converse(self, message: bytes, is_over: Callable[[], bool]) -> bytes | tuple[Outcome, str]:
        """Send a message and receive one, until `is_over()`. Nothing that the other side does can hold this one up."""
        look = time.monotonic() + _LOOK_SECONDS
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        if message:
            poll.register(self._write, select.POLLOUT)
        received, size = bytearray(), None
        while True:
            events = dict(poll.poll(_LOOK_SECONDS * 1000))
            if events.get(self._read):
                try:
                    part = os.read(self._read, 1 << 16)
                except OSError:
                    part = b""
                if not part:
                    return "crashed", "the process ended"
                received += part
                if size is None and len(received) >= 4:
                    size = int.from_bytes(received[:4], "big")
                    if size > _MAX_REPLY_BYTES:
                        return "crashed", f"returned more than {_MAX_REPLY_BYTES >> 20} MB"
                if size is not None and len(received) >= size + 4:
                    whole = len(received) == size + 4 and not message
                    return bytes(received[4:]) if whole else ("crashed", "broke the protocol")
            if message and events.get(self._write):
                try:
                    message = message[os.write(self._write, message) :]
                except OSError:
                    return "crashed", "the process ended"
                if not message:
                    poll.unregister(self._write)
            if time.monotonic() >= look:  # also when bytes come in, one by one
                look = time.monotonic() + _LOOK_SECONDS
                if is_over():
                    return "timeout", "out of time"
                if excess := _excess(self._pid):
                    return "crashed", excess

    def close(self) -> None:
        """End the process, all its threads and its files."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
        elif self._process is not None:
            self._process.kill()
        if self._process is not None:
            self._process.wait()
        for descriptor in (self._read, self._write):
            os.close(descriptor)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


# --- time ------------------------------------------------------------------------------------------------------------


class _Clock:
    """Time that a process has used since now, read from outside it."""

    def __init__(self, pid: int, limit: float):
        self._pid, self._limit = pid, limit
        self._start = time.monotonic()
        self._computed, self._queued = self._read()

    def _read(self) -> tuple[float, float]:
        """Seconds of processor time of all threads, and seconds the main thread waited for a processor."""
        try:
            # The clock id that Linux gives a process's processor time; the kernel's own, so exact to the nanosecond.
            computed = time.clock_gettime(~self._pid << 3 | 2)
            with open(f"/proc/{self._pid}/schedstat") as file:
                return computed, int(file.read().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0, 0.0  # it has ended; the pipe says so

    def is_over(self) -> bool:
        """Whether the process has computed or idled for more than its limit."""
        computed, queued = self._read()
        used = computed - self._computed
        idle = time.monotonic() - self._start - used - (queued - self._queued)
        allowed = self._limit * _ALLOWANCE
        if used <= allowed and idle <= allowed * _IDLE_LIMITS:
            return False
        allowed *= _slowness()
        return used > allowed or idle > allowed * _IDLE_LIMITS


_best_pace = float("inf")
_pace_lock = threading.Lock()


def _slowness() -> float:
    """How many times slower the machine computes than at its best, from 1 to 20.

    Virtual machines have spells in which the same work takes many times the processor time. This side's own work
    then does too, and a solution's limit is longer by as much.
    """
    global _best_pace
    paces = []
    for _ in range(5):
        start = time.thread_time()
        for _ in range(20_000):
            pass
        paces.append(time.thread_time() - start)
    with _pace_lock:
        _best_pace = min(_best_pace, *paces)
        return min(max(sorted(paces)[2] / _best_pace, 1.0), 20.0)


def _excess(pid: int) -> str | None:
    """What a process has too many of: what no limit of the kernel's covers, looked at from outside now and then."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            threads = int(file.read().rpartition(b")")[2].split()[17])
        space = os.statvfs(f"/proc/{pid}/root/tmp")
    except (OSError, IndexError, ValueError):
        return None  # it has ended; the pipe says so
    if threads > _MAX_THREADS:
        return f"more than {_MAX_THREADS} threads"
    # Its own /tmp is small; without bubblewrap, /tmp is the host's and no file can be made.
    if space.f_blocks * space.f_frsize == _TMP_MB << 20 and space.f_files - space.f_ffree > _MAX_FILES:
        return f"more than {_MAX_FILES} files"
    return None


# --- isolation -------------------------------------------------------------------------------------------------------


def _interpreter(script: Path | str) -> list[str]:
    # Isolated from the environment and without site-packages: nothing but the standard library, whatever is installed.
    return [os.path.realpath(sys.executable), "-I", "-S", str(script)]


@lru_cache(maxsize=1)
def _bubblewrap() -> tuple[str, ...]:
    """The command that starts the worker with the interpreter's own files, read-only, and an empty /tmp."""
    program = shutil.which("bwrap")
    if program is None:
        raise RuntimeError("bubblewrap is not installed: apt-get install bubblewrap, or your system's equivalent.")
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    command += ["--clearenv", *(part for item in _ENVIRONMENT.items() for part in ("--setenv", *item))]
    for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64"):
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            command += ["--ro-bind", folder, folder]
    library, stdlib = f"{os.path.realpath(sys.base_prefix)}/lib", os.path.realpath(sysconfig.get_path("stdlib"))
    for path in dict.fromkeys((library, stdlib, os.path.realpath(sys.executable))):
        command += ["--ro-bind", path, path]
    # Installed packages may hold a task's tests.
    for folder in dict.fromkeys((library, "/usr/lib", "/usr/lib64")):
        for packages in sorted(Path(folder).glob("python3*/*-packages")):
            command += ["--tmpfs", str(packages), "--remount-ro", str(packages)]
    for name in _PACKAGES:
        command += ["--ro-bind", str(_package(name)), f"/packages/{name}"]
    command += ["--ro-bind", str(_WORKER), "/worker.py"]
    command += ["--size", str(_TMP_MB << 20), "--perms", "1777", "--tmpfs", "/tmp", "--chdir", "/tmp"]
    return (*command, "--remount-ro", "/")


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise RuntimeError(f"The sandbox offers the package {name} to solutions: pip install {name}.")
    return Path(found.submodule_search_locations[0])


@lru_cache(maxsize=1)
def _packages_folder() -> str:
    """A folder that shows `_PACKAGES` and no other installed package. It lasts as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="sandbox-packages-")
    _kept.append(folder)
    os.chmod(folder.name, 0o755)
    for name in _PACKAGES:
        os.symlink(_package(name), f"{folder.name}/{name}")
    return folder.name


_kept: list = []


def _child_pid(info: int) -> int:
    """The host's id of bubblewrap's child, from what it writes to its info descriptor."""
    text = b""
    while part := os.read(info, 4096):
        text += part
        try:
            return int(json.loads(text)["child-pid"])
        except json.JSONDecodeError:
            continue
    raise ValueError("bubblewrap could not make the namespaces")


@lru_cache(maxsize=1)
def available_isolation() -> Isolation:
    """The best isolation that works here, tried once; warns if it is not bubblewrap's.

    Raises RuntimeError where not even the system calls can be filtered: then a solution could end this process.
    """
    if platform.system() != "Linux":
        raise RuntimeError("The sandbox needs Linux: run solutions in a container or on a cluster node.")
    reason = "bubblewrap is not installed"
    if shutil.which("bwrap"):
        try:
            if works("bubblewrap"):
                return "bubblewrap"
            reason = "bubblewrap works, but a Python that runs in it does not"
        except RuntimeError as error:
            reason = str(error).rstrip(".")
    if not works("limits"):
        raise RuntimeError("The sandbox can neither use bubblewrap nor filter system calls: install bubblewrap.")
    warnings.warn(
        f"Solutions run with limits and a filter of system calls only: {reason}. They cannot write files, open network"
        " connections, start processes or signal any, but they can read what this user can read, this process's"
        " memory included. Install bubblewrap (apt-get install bubblewrap) for untrusted models.",
        WeakIsolationWarning,
        stacklevel=3,
    )
    return "limits"


def works(isolation: Isolation) -> bool:
    """Whether a solution runs under this isolation, with its system calls filtered. RuntimeError if none starts."""
    worker = _Worker(_Limits(10.0, 256, isolation))
    try:
        outcome, _, _ = worker.ask({"source": "import sortedcontainers, heapq, typing"})
        return outcome == "passed" and worker.filtered
    finally:
        worker.close()
