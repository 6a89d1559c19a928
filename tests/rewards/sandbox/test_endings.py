"""How it all ends: the judge is killed, at whatever moment, or interrupted at the keyboard. Nothing stays behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sandbox_ended_judges
from sandbox_marks import descendants, isolation  # noqa: F401  (a fixture)


def test_whenever_the_judge_is_killed_nothing_stays_behind(isolation):  # noqa: F811
    """No process and no folder, at named moments of a worker's life and a number of moments of its start."""
    program = [sys.executable, sandbox_ended_judges.__file__, isolation]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(program, stdout=subprocess.PIPE, check=True, text=True, env=environment).stdout
    found = [json.loads(line) for line in output.splitlines()]
    assert [one["moment"] for one in found] == [*sandbox_ended_judges.MOMENTS]
    assert [one["moment"] for one in found if not one["killed"]] == []
    assert [one for one in found if one["left"] or one["folders"]] == []


# Bodies of solutions that would take an hour.
BUSY = {
    "computing": "while True: pass",
    "sleeping": "import time; time.sleep(3600)",
    "printing": "while True: print('x' * 1000)",
    "deaf to signals": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n    while True: pass",
}
INTERRUPTED = """
import os, sys, time
from pathlib import Path
from qrpo_lib.rewards.sandbox import sandbox
import signal
pressed = []
def handler(*_):
    pressed.append(time.monotonic())
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, handler)
source, isolation, many = sys.argv[1], sys.argv[2], sys.argv[3] == "many"
tests = ["assert f(1) == 1"] * 9
try:
    print("begun", flush=True)
    if many: sandbox.run_many([(source, tests)] * 6, isolation=isolation, processes=3, seconds_per_test=3600)
    else: sandbox.run_tests(source, tests, isolation=isolation, seconds_per_test=3600)
except KeyboardInterrupt:
    took = time.monotonic() - pressed[0]
    children = "".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split()
    print("interrupted", took, len(children), flush=True)
"""


@pytest.mark.parametrize("many", ["many", "one"])
@pytest.mark.parametrize("body", ["computing", *(pytest.param(name, marks=pytest.mark.slow) for name in [*BUSY][1:])])
def test_an_interrupt_ends_a_busy_command(isolation, body, many):  # noqa: F811
    """Ctrl-C of a process of its own, beside two that compute: it returns, and nothing of it is left by then."""
    source = f"def f(x):\n    {BUSY[body]}\n"
    beside = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(2)]
    command = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, source, isolation, many], stdout=subprocess.PIPE, text=True
    )
    try:
        assert command.stdout.readline() == "begun\n"
        time.sleep({"computing": 0.05, "sleeping": 0.5, "printing": 1.0, "deaf to signals": 2.0}[body])
        command.send_signal(signal.SIGINT)
        said, took, children = command.stdout.readline().split()
        assert (said, children) == ("interrupted", "0")
        # A second on a machine that has one to spare, which no test can ask for; without the interrupt, hours.
        assert float(took) < 60
        print(f"{isolation}, {many}, {body}: {float(took):.3f} s")
        assert command.wait() == 0
    finally:
        for process in (*beside, command):
            process.kill()
            process.wait()


def test_impatience_leaves_nothing_either(isolation):  # noqa: F811
    """Ctrl-C again and again, also while the first is being obeyed."""
    source = "def f(x):\n    while True: pass\n"
    command = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, source, isolation, "many"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    command.stdout.readline()
    while not (started := descendants(command.pid)):
        assert command.poll() is None
    for _ in range(20):
        command.send_signal(signal.SIGINT)
        time.sleep(0.005)
    command.wait(600)
    until = time.monotonic() + 600
    while any(map(is_running, started)) and time.monotonic() < until:
        time.sleep(0.01)
    assert [pid for pid in started if is_running(pid)] == []


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
