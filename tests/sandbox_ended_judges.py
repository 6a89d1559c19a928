"""Judges that are ended at a named moment, and what stays behind of them; a program of its own, run by test_endings.

    python tests/sandbox_ended_judges.py bubblewrap

Each judge is a child of this process, to which the kernel gives whatever the judge leaves behind: so it sees every
process that came of a judge, whatever its name. Prints a line of JSON for each moment.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from qrpo_lib.rewards.sandbox import cgroups, process, sandbox

PR_SET_CHILD_SUBREAPER = 36
LOOP, SLEEP = "while True: pass", "import time\n    time.sleep(3600)"
DELAYS = [0.2e-3 * 1.8**n for n in range(12)]


def end():
    os.kill(os.getpid(), signal.SIGKILL)


def after(owner, name, times=1):
    """End as soon as a function has returned so many times."""
    function, calls = getattr(owner, name), []

    def ending(*args, **kwargs):
        found = function(*args, **kwargs)
        calls.append(name)
        if len(calls) == times:
            end()
        return found

    setattr(owner, name, ending)


def before(owner, name):
    setattr(owner, name, lambda *args, **kwargs: end())


def once_started(action):
    start = process.sandbox_isolation.start

    def started(kind, control):
        found = start(kind, control)
        action(found.pid)
        end()

    process.sandbox_isolation.start = started


def stopped(pid):
    """Stop a process before it does anything; somebody goes on with it once the judge has ended."""
    os.kill(pid, signal.SIGSTOP)
    if os.fork() == 0:
        time.sleep(0.1)
        os.kill(pid, signal.SIGCONT)
        os._exit(0)


def stopped_with_a_child(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children")
    until = time.monotonic() + 0.5
    while not children.read_text() and time.monotonic() < until:
        pass
    stopped(pid)


def held():
    """Stop a worker's start where bubblewrap has a child that waits for its word, until the judge has ended."""
    popen = process.sandbox_isolation.subprocess.Popen
    read, _ = os.pipe()
    _, info = os.pipe()

    def holding(command, *, pass_fds=(), **options):
        if "bwrap" in command[0]:
            options_of_its_own = ["--unshare-user", "--userns-block-fd", str(read), "--info-fd", str(info)]
            command, pass_fds = [command[0], *options_of_its_own, *command[1:]], (*pass_fds, read, info)
        return popen(command, pass_fds=pass_fds, **options)

    def until_it_has_a_child(pid):
        stopped_with_a_child(pid)
        time.sleep(0.5)  # until it has gone on, and waits

    process.sandbox_isolation.subprocess.Popen = holding
    once_started(until_it_has_a_child)
    if os.fork() == 0:  # holds the other end of the pipe for longer than the judge lives
        time.sleep(2)
        os._exit(0)


# What is done to the judge, and the body of the solution that it judges then.
MOMENTS = {
    "the worker's process has been forked": (lambda: once_started(lambda pid: None), LOOP),
    "the worker's process is stopped": (lambda: once_started(stopped), LOOP),
    "the worker's process has a child and is stopped": (lambda: once_started(stopped_with_a_child), LOOP),
    "bubblewrap is to let its child begin": (held, LOOP),
    "before the settings are sent": (lambda: before(process.Nursery, "_send_settings"), LOOP),
    "the settings have been sent": (lambda: after(process.Nursery, "_send_settings"), LOOP),
    "the nursery is ready": (lambda: after(process.Nursery, "_receive_process"), LOOP),
    "the nursery is in its control group": (lambda: after(cgroups.Group, "add"), LOOP),
    "a solver is asked for": (lambda: after(process.socket, "send_fds", 2), LOOP),
    "a solver has been forked": (lambda: after(process.Nursery, "_receive_process", 2), LOOP),
    "a solver is ready": (lambda: after(process.Nursery, "solver"), LOOP),
    "a solution has been loaded": (lambda: after(process.Solver, "load"), LOOP),
    "a test computes": (lambda: after(process.Clock, "is_over"), LOOP),
    "a test sleeps": (lambda: after(process.Clock, "is_over"), SLEEP),
    "a solver is to be closed": (lambda: before(process.Solver, "close"), "return 1"),
    "a nursery is to be closed": (lambda: before(process.Nursery, "close"), "return 1"),
    "a control group is to be closed": (lambda: before(cgroups.Group, "close"), "return 1"),
}
for DELAY in DELAYS:
    MOMENTS[f"{DELAY * 1e3:.1f} ms after the worker's start"] = (
        lambda delay=DELAY: once_started(lambda pid: time.sleep(delay)),
        LOOP,
    )


def judge(moment, isolation):
    """In a process of its own: judge until the moment."""
    prepare, body = MOMENTS[moment]
    prepare()
    sandbox.run_tests(f"def f(x):\n    {body}\n", ["assert f(1) == 1"], isolation=isolation, seconds_per_test=3600)
    os._exit(3)  # the moment has not come


def left_after(seconds=600.0):
    """Waits for all that came of a judge; ids and names of what does not end."""
    until, statuses = time.monotonic() + seconds, []
    while time.monotonic() < until:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return [], statuses
        if pid:
            statuses.append((pid, status))
        else:
            time.sleep(0.01)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [f"{pid}: {Path(f'/proc/{pid}/cmdline').read_text()[:200]}" for pid in children], statuses


def main(isolation):
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for moment in MOMENTS:
        pid = os.fork()
        if pid == 0:
            judge(moment, isolation)
        left, statuses = left_after()
        pattern = f"qrpo-sandbox-{pid}-*"
        places = {folder for name in cgroups.CONTROLLERS for folder in cgroups._own_parents(name)}
        kept = [str(found) for place in places for found in Path(place).glob(pattern)]
        killed = os.WIFSIGNALED(dict(statuses)[pid])
        print(json.dumps({"moment": moment, "killed": killed, "left": left, "folders": kept}), flush=True)
        for child in left:
            os.kill(int(child.split(":")[0]), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
