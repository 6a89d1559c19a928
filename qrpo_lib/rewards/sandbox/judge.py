"""Verdicts on long values, in a process of their own: values that somebody chose can make comparing them slow.

    python -P -s -S -c "..." ROOT < question

The process holds an expected value and no solution. It has limits of time and memory; where they do not suffice, the
test has failed. Nobody waits for it but the thread that asked.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Sequence

from qrpo_lib.rewards.sandbox import checks, isolation
from qrpo_lib.rewards.sandbox.clock import LOOK_SECONDS
from qrpo_lib.runs.code_version import own_package

SECONDS, MEMORY_MB = 10, 4096
_MAIN = "import sys; sys.path.insert(0, sys.argv[1]); from qrpo_lib.rewards.sandbox import judge; judge."


def holds(check: checks.Check, answers: Sequence[bytes], stop: threading.Event) -> bool:
    """Whether a test holds for its calls' answers. False also once `stop` is set."""
    header = json.dumps({"verdict": check.verdict, "sizes": [len(answer) for answer in answers]}).encode() + b"\n"
    python, root = os.path.realpath(sys.executable), str(own_package().root.parent)
    command = [python, "-P", "-s", "-S", "-c", f"{_MAIN}{main.__name__}()", root]
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}  # a random hash seed: nobody can prepare for it
    with open(os.memfd_create("question"), "w+b") as question:
        question.writelines([header, *answers])
        question.seek(0)
        process = subprocess.Popen(
            command, stdin=question, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd="/"
        )
    with process:
        while not stop.is_set():
            try:
                process.wait(LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            return process.stdout.read() == b"holds"
        process.kill()
    return False


def main() -> None:
    """Read a question, write the answer."""
    isolation.end_with_parent()
    isolation.guard()
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MB << 20, MEMORY_MB << 20))
    header = json.loads(sys.stdin.buffer.readline())
    answers = [sys.stdin.buffer.read(size) for size in header["sizes"]]
    if checks.decided(header["verdict"], answers):
        sys.stdout.write("holds")
