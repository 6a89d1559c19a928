"""Processes that run solutions, and the conversation with them.

A `Nursery` is one isolated process that has loaded the interpreter and runs nothing of a solution's; it forks a
`Solver` for each solution. In bubblewrap's isolation, a nursery whose /tmp a solution has touched serves no other.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qrpo_lib.rewards.sandbox import filter
from qrpo_lib.rewards.sandbox import isolation as sandbox_isolation
from qrpo_lib.rewards.sandbox.cgroups import Group
from qrpo_lib.rewards.sandbox.clock import LOOK_SECONDS, MAX_FILES, MAX_THREADS, Census, Clock
from qrpo_lib.rewards.sandbox.isolation import TMP_MB, Isolation
from qrpo_lib.rewards.sandbox.reply import Digest, Reply

if TYPE_CHECKING:
    from qrpo_lib.rewards.sandbox.checks import Call

_FILE_MB = 4
_START_SECONDS = 120.0
# An ended process's memory is given back before its end is reported.
_END_SECONDS = 60.0
# Between the closing of its pipes and its end; longer for a process that only closes them.
_CLOSING_SECONDS = 1.0
# What a nursery and the kernel need in its control group beside a solver's own memory and files, and the nursery alone.
_MORE_MEMORY_MB, _MORE_TASKS = 64, 2
_LONGEST_SETUP = 1 << 15  # in bytes, of one that the nursery compiles once for all; a control message has to hold it


class LostError(Exception):
    """A process was ended from outside: nothing that the solution could do."""


class StoppedError(Exception):
    """The caller wants no more verdicts."""


class StartError(RuntimeError):
    """The sandbox does not start."""


@dataclass(frozen=True)
class Limits:
    """What a nursery's solutions may use: seconds of a test, memory, and how they are isolated."""

    seconds: float
    memory_mb: int
    isolation: Isolation


@dataclass(frozen=True)
class Answer:
    """outcome: "passed" means answered in time, with as many values as calls (or their digests).

    Of several calls, one that raised has the value None; what it raised, as outcome and detail, is in `raised`. Nothing
    is wrong if the test does not need it.
    """

    outcome: str
    detail: str = ""
    values: list[bytes | None] | list[Digest] = ()
    clock: Clock | None = None
    raised: tuple[str, str] | None = None


class Nursery:
    """An isolated process that makes solvers, one at a time. Raises StartError, StoppedError."""

    def __init__(self, limits: Limits, stop: threading.Event | None = None):
        self.limits, self.stop = limits, stop or threading.Event()
        self._process = self._pidfd = self._tmp = self._group = None
        self._memory_kills = 0
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            try:
                self._group = Group(MAX_THREADS + _MORE_TASKS, limits.memory_mb + TMP_MB + _MORE_MEMORY_MB)
                self._process = sandbox_isolation.start(limits.isolation, theirs.fileno())
            finally:
                theirs.close()
            self._send_settings()
            self._pidfd, self._pid = self._receive_process(_START_SECONDS)
            self._group.add(self._pid)
            self._tmp = self._tmp_state()
        except (OSError, RuntimeError, ValueError) as error:
            self.close()
            text = str(error).rstrip(".")
            raise StartError(f"The sandbox did not start with the isolation '{limits.isolation}': {text}.") from None
        except BaseException:
            self.close()
            raise

    def _send_settings(self) -> None:
        no_namespaces = self.limits.isolation == "limits"
        settings = {
            "memory_mb": self.limits.memory_mb,
            "file_mb": _FILE_MB,
            "tmp_mb": TMP_MB,
            "files": MAX_FILES,
            "threads": MAX_THREADS,
            "no_namespaces": no_namespaces,
            "filter": filter.program(no_namespaces).hex(),
            "packages": sandbox_isolation.packages(self.limits.isolation),
        }
        own = os.pidfd_open(os.getpid())
        try:
            socket.send_fds(self._control, [json.dumps(settings).encode()], [own])
        finally:
            os.close(own)

    def solver(self, setup: str = "") -> Solver:
        """A process that waits for a solution, whose setup will be this. Raises LostError if it is ended meanwhile."""
        to_read, write = os.pipe()
        read, to_write = os.pipe()
        try:
            text = setup.encode("utf-8", "surrogatepass")
            # The first byte only makes sure that there is one.
            message = b"+" + (text if len(text) <= _LONGEST_SETUP else b"")
            socket.send_fds(self._control, [message], [to_read, to_write])
            pidfd, pid = self._receive_process(_START_SECONDS)
        except (OSError, RuntimeError, StoppedError) as error:
            os.close(read)
            os.close(write)
            if isinstance(error, StoppedError):
                raise
            raise LostError("the process that starts solutions was ended") from None
        finally:
            os.close(to_read)
            os.close(to_write)
        return Solver(self, pid, pidfd, read, write)

    def is_clean(self) -> bool:
        """Whether the next solution finds everything as the first one did."""
        return self._tmp_state() == self._tmp

    def ending(self) -> int | None:
        """How the solver ended, as `wait` says it; None if the nursery has been ended too."""
        try:
            if not self._wait(_END_SECONDS):
                return None
            return int(self._control.recv(64))
        except (OSError, ValueError):
            return None

    def has_taken_too_much_memory(self) -> bool:
        """Whether the kernel has ended a solver for its group's memory since this was asked last."""
        before, self._memory_kills = self._memory_kills, self._group.memory_kills()
        return self._memory_kills > before

    def _tmp_state(self) -> tuple | None:
        if self.limits.isolation == "limits":
            return ()  # no file can be made
        try:
            found = os.stat(f"/proc/{self._pid}/root/tmp")
        except OSError:
            return None
        # Whatever is made, removed or changed in a folder changes the time of its last change, which nobody can set.
        return found.st_ctime_ns, found.st_mtime_ns, found.st_mode

    def _wait(self, seconds: float) -> bool:
        """Whether a message comes within this time."""
        poll, latest = select.poll(), time.monotonic() + seconds
        poll.register(self._control, select.POLLIN)
        while not poll.poll(LOOK_SECONDS * 1000):
            if self.stop.is_set():
                raise StoppedError
            # bubblewrap that is ended while it starts leaves a child that waits for it, with our socket open.
            if self._process.poll() is not None or time.monotonic() > latest:
                return False
        return True

    def _receive_process(self, seconds: float) -> tuple[int, int]:
        """A process's descriptor from the nursery, and its id here."""
        if not self._wait(seconds):
            raise RuntimeError("it gave no sign of life")
        message, descriptors, _, _ = socket.recv_fds(self._control, 64, 1)
        if not message or not descriptors:
            raise RuntimeError("the process ended")
        try:
            with open(f"/proc/self/fdinfo/{descriptors[0]}") as file:
                pid = next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
            if pid <= 0:
                raise RuntimeError("the process ended")
        except BaseException:
            os.close(descriptors[0])
            raise
        return descriptors[0], pid

    def close(self) -> None:
        """End the process and all that it has started."""
        if self._pidfd is not None:
            _kill(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        elif self._process is not None:
            self._process.kill()
        self._control.close()
        if self._process is not None:
            # bubblewrap ends once its child has, which is when nothing inside is left.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_CLOSING_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # started as the leader of a group
            self._process.wait()
            self._process = None
        if self._group is not None:
            self._group.close()
            self._group = None


class Solver:
    """A process with a solution in it, and the conversation with it."""

    def __init__(self, nursery: Nursery, pid: int, pidfd: int, read: int, write: int):
        self.pid, self._has_ended = pid, False
        self._nursery, self._pidfd, self._read, self._write = nursery, pidfd, read, write
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        self._census = Census(pid, own_tmp=nursery.limits.isolation == "bubblewrap")
        try:
            latest = time.monotonic() + _START_SECONDS
            reply = self._converse(b"", Reply(), lambda: time.monotonic() > latest)
            self.filtered = isinstance(reply, Reply) and reply.header.get("filtered") is True
            if not isinstance(reply, Reply):
                raise LostError(reply.detail)
        except BaseException:
            self.close()
            raise

    def load(self, source: str, setup: str = "", *, remaining: float = float("inf")) -> Answer:
        """Run a solution's source, after its setup."""
        return self._ask({"source": source, "setup": setup}, Reply(), remaining)

    def values(self, calls: Sequence[Call], *, digest: bool, remaining: float = float("inf")) -> Answer:
        """The values of calls into the solution, as JSON, or as digests of the form that equal values have."""
        return self._ask({"calls": calls, "exact": not digest}, Reply(len(calls), digest), remaining)

    def _ask(self, request: dict, reply: Reply, remaining: float) -> Answer:
        identity = secrets.token_hex(8)  # an answer that was prepared before the question does not know it
        message = json.dumps({"id": identity, **request}).encode()
        clock = Clock(self.pid, self._nursery.limits.seconds, remaining)
        found = self._converse(len(message).to_bytes(4, "big") + message, reply, clock.is_over)
        if isinstance(found, Answer):
            return Answer(found.outcome, found.detail, clock=clock)
        # An answer that is there has not idled too long, whenever this side finds it; it may have computed too long.
        if clock.is_used_up():
            return Answer("timeout", "out of time", clock=clock)
        header = reply.header
        if header.get("id") != identity:
            return Answer("crashed", "broke the protocol", clock=clock)
        if excess := self._census.excess():
            return Answer("crashed", excess, clock=clock)
        kind, detail = header.get("kind"), header.get("error")
        detail = detail[:200].encode(errors="replace").decode() if isinstance(detail, str) else ""
        raised = (kind if kind in ("failed", "memory") else "error", detail)
        if "sizes" in header:
            return Answer("passed", "", reply.answers(), clock, raised if detail else None)
        return Answer(*raised, clock=clock)

    def _converse(self, message: bytes, reply: Reply, is_over: Callable[[], bool]) -> Reply | Answer:
        """Send a message and receive a reply, until `is_over()`. Nothing that the other side does holds this one up."""
        look = time.monotonic() + LOOK_SECONDS
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        if message:
            poll.register(self._write, select.POLLOUT)
        while True:
            events = dict(poll.poll(LOOK_SECONDS * 1000))
            if events.get(self._read):
                try:
                    part = os.read(self._read, 1 << 16)
                except OSError:
                    part = b""
                if not part:
                    return self._ended()
                if reply.feed(part):
                    broken = reply.broken or (message and "broke the protocol")
                    return Answer("crashed", broken) if broken else reply
            if message and events.get(self._write):
                try:
                    message = message[os.write(self._write, message) :]
                except OSError:
                    return self._ended()
                if not message:
                    poll.unregister(self._write)
            if time.monotonic() >= look:  # also when bytes come in, one by one
                look = time.monotonic() + LOOK_SECONDS
                if self._nursery.stop.is_set():
                    raise StoppedError
                if is_over():
                    return Answer("timeout", "out of time")
                if excess := self._census.excess():
                    return Answer("crashed", excess)

    def _ended(self) -> Answer:
        """What it means that the other side of a pipe is closed. Raises LostError if the solution is not to blame."""
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        if not ended.poll(_CLOSING_SECONDS * 1000):
            return Answer("crashed", "closed its channel")
        status, self._has_ended = self._nursery.ending(), True
        if status is None:
            raise LostError("the process that starts solutions was ended")
        # Nothing inside can send this signal.
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            if self._nursery.has_taken_too_much_memory():
                return Answer("memory", "more memory than all its limits allow")
            raise LostError("the process was ended from outside")
        return Answer("crashed", "the process ended")

    def close(self) -> None:
        """End the process, all its threads and its files."""
        if self._read is None:
            return
        with contextlib.suppress(StoppedError):
            if not self._has_ended:
                _kill(self._pidfd)
                self._nursery.ending()
        os.close(self._pidfd)
        self._census.close()
        for descriptor in (self._read, self._write):
            os.close(descriptor)
        self._read = None


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
