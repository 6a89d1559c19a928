"""Verdicts that take longer than a comparison of short values, in a process of their own.

    python -P -s -S -c "..." ROOT SOCKET

Values that somebody chose can make comparing them slow, and a loop over them larger than they are. The process holds an
expected value and no solution. It has limits of time and memory; where they do not suffice, the test has failed.
Nobody waits for it but the thread that asked.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from qrpo_lib.rewards.sandbox import checks, isolation
from qrpo_lib.rewards.sandbox.clock import LOOK_SECONDS
from qrpo_lib.runs.code_version import own_package

SECONDS, MEMORY_MB = 10, 2048
_MAIN = "import sys; sys.path.insert(0, sys.argv[1]); from qrpo_lib.rewards.sandbox import judge; judge."
_READY = b"!"


class LostJudgeError(Exception):
    """The process was ended from outside: nothing that the solution could do."""


def holds(check: checks.Check, answers: Sequence[bytes | None], stop: threading.Event) -> tuple[bool, float]:
    """Whether a test holds for its calls' answers, and the seconds of a processor that deciding took.

    False also once `stop` is set. A process that is lost is replaced once. Raises LostJudgeError if that one is too.
    """
    try:
        return _asked(check, answers, stop)
    except LostJudgeError:
        return _asked(check, answers, stop)


def _asked(check: checks.Check, answers: Sequence[bytes | None], stop: threading.Event) -> tuple[bool, float]:
    sizes = [None if answer is None else len(answer) for answer in answers]
    header = json.dumps({"verdict": check.verdict, "sizes": sizes}).encode() + b"\n"
    python, root = os.path.realpath(sys.executable), str(own_package().root.parent)
    ours, theirs = socket.socketpair()
    command = [python, "-P", "-s", "-S", "-c", f"{_MAIN}{main.__name__}()", root, str(theirs.fileno())]
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}  # a random hash seed: nobody can prepare for it
    nothing = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
    with ours:
        with theirs:
            process = subprocess.Popen(command, **nothing, pass_fds=(theirs.fileno(),), env=environment, cwd="/")
        with process:
            if ours.recv(len(_READY)) == _READY:
                with suppress(OSError):  # it has reached a limit
                    for part in (header, *(answer for answer in answers if answer is not None)):
                        ours.sendall(part)
            while not stop.is_set():
                try:
                    status = process.wait(LOOK_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
                if status == -signal.SIGKILL:  # its own limits end it by other signals
                    raise LostJudgeError("the process that compares was ended from outside, twice")
                said = ours.recv(1 << 10).split() if status == 0 else ()
                return (said[0] == b"True", float(said[1])) if said else (False, float(SECONDS))
            process.kill()
    return False, 0.0


def main() -> None:
    """Read a question, write the answer.

    A solution that runs at the same time may have opened this process's memory and descriptors in /proc before they
    were guarded, and what is open stays so. Hence a child that has never been without guard answers, by a socket, which
    cannot be opened there.
    """
    isolation.end_with_parent()
    isolation.guard()
    connection, own = socket.socket(fileno=int(sys.argv[2])), os.getpid()
    child = os.fork()
    if child:
        connection.close()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            os.kill(own, os.WTERMSIG(status))
        os._exit(os.waitstatus_to_exitcode(status))
    isolation.end_with_parent()
    if os.getppid() != own:  # it had ended before
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MB << 20, MEMORY_MB << 20))
    connection.sendall(_READY)
    start = time.process_time()
    with connection.makefile("rb") as question:
        header = json.loads(question.readline())
        answers = [None if size is None else question.read(size) for size in header["sizes"]]
    holds = checks.decided(header["verdict"], answers)
    connection.sendall(f"{holds} {time.process_time() - start}".encode())
    os._exit(0)
