"""Verdicts that take longer than a comparison of short values, in a process of their own.

    python -P -s -S -c "..." ROOT < question

Values that somebody chose can make comparing them slow, and a loop over them larger than they are. The process holds an
expected value and no solution. It has limits of time and memory; where they do not suffice, the test has failed.
Nobody waits for it but the thread that asked.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from qrpo_lib.rewards.sandbox import checks, isolation
from qrpo_lib.rewards.sandbox.clock import LOOK_SECONDS
from qrpo_lib.runs.code_version import own_package

SECONDS, MEMORY_MB = 10, 4096
_MAIN = "import sys; sys.path.insert(0, sys.argv[1]); from qrpo_lib.rewards.sandbox import judge; judge."
_READY = b"ready\n"


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
    command = [python, "-P", "-s", "-S", "-c", f"{_MAIN}{main.__name__}()", root]
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}  # a random hash seed: nobody can prepare for it
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd="/"
    )
    with process:
        # Not before it says so is it safe from being read by a solution that runs at the same time.
        if process.stdout.readline() == _READY:
            with suppress(BrokenPipeError), process.stdin:  # it has reached a limit
                process.stdin.writelines([header, *(answer for answer in answers if answer is not None)])
        while not stop.is_set():
            try:
                status = process.wait(LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            if status == -signal.SIGKILL:  # its own limits end it by other signals
                raise LostJudgeError("the process that compares was ended from outside, twice")
            said = process.stdout.read().split()
            return (said[0] == b"True", float(said[1])) if len(said) == 2 else (False, float(SECONDS))
        process.kill()
    return False, 0.0


def main() -> None:
    """Read a question, write the answer."""
    isolation.end_with_parent()
    isolation.guard()
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MB << 20, MEMORY_MB << 20))
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    start = time.process_time()
    header = json.loads(sys.stdin.buffer.readline())
    answers = [None if size is None else sys.stdin.buffer.read(size) for size in header["sizes"]]
    print(checks.decided(header["verdict"], answers), time.process_time() - start)
