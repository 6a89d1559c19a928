"""Without bubblewrap, as a user who is not root: reading the judge's memory, where the expected values are.

Root's solutions have lost root's capabilities and so could not read it anyway. The test runs the judge as `nobody` by
an interpreter that others can read, which need not be the one that runs the tests.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import sortedcontainers
from sandbox_marks import PROBLEMS

from qrpo_lib.runs.code_version import own_package

PYTHON = next(
    (found for name in ("python3.13", "python3.12", "python3.11") if (found := shutil.which(name, path="/usr/bin"))),
    None,
)
JUDGE = """
import json, sys, warnings
warnings.simplefilter("ignore")
from qrpo_lib.rewards.sandbox import sandbox
if sys.argv[1] == "unguarded":
    sandbox.sandbox_isolation.guard = lambda: None
source, tests = json.load(sys.stdin)
print(json.dumps(sandbox.run_tests(source, tests, isolation=sys.argv[2], seconds_per_test=20).outcomes))
"""
# f(x) looks for the text that begins as the answer does in the memory of all ancestors.
ATTACK = """
import os, re
def f(x):
    pid = os.getppid()
    for _ in range(6):
        try:
            for line in open(f'/proc/{pid}/maps'):
                if ' rw' not in line: continue
                start, end = (int(part, 16) for part in line.split()[0].split('-'))
                try:
                    with open(f'/proc/{pid}/mem', 'rb', 0) as memory:
                        memory.seek(start)
                        found = re.search(rb"right-([0-9]{20})-7", memory.read(min(end - start, 1 << 26)))
                        if found: return found.group().decode()
                except (OSError, ValueError, OverflowError): pass
        except OSError: pass
        try: pid = int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])
        except (OSError, ValueError): break
"""


@pytest.fixture
def outcomes(tmp_path_factory):
    folder = Path("/var/tmp") / f"sandbox-test-{os.getpid()}"
    if os.geteuid() or PYTHON is None or not shutil.which("setpriv"):
        pytest.skip("it takes root, setpriv and a Python of the system's to become another user")
    shutil.copytree(own_package().root, folder / "qrpo_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(sortedcontainers.__file__).parent, folder / "sortedcontainers")
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)

    def run(guarded, isolation="limits", source=ATTACK, tests=("assert f(1) == 'right-98237412398471239847-7'",)):
        command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", PYTHON, "-c", JUDGE]
        done = subprocess.run(
            [*command, guarded, isolation],
            input=json.dumps([source, tests]),
            capture_output=True,
            text=True,
            cwd="/",
            env={"PYTHONPATH": str(folder)},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    yield run
    shutil.rmtree(folder)


def test_the_judges_memory_cannot_be_read(outcomes):
    assert outcomes("guarded") == ["failed"]


def test_the_attack_would_succeed(outcomes):
    """So the guard is what stops it: this is the attack on a judge without it."""
    assert outcomes("unguarded") == ["passed"]


# f(1) is so long that another process compares; the thread opens what that one has as soon as it is there, keeps it
# open, and reads it again and again.
WATCH = """
import os, re, threading, time
held, got = {}, []
def read(descriptor, start, size):
    try: return os.read(descriptor, size) if start is None else os.pread(descriptor, size, start)
    except (OSError, OverflowError): return b''
def look():
    while True:
        for pid in os.listdir('/proc'):
            if not pid.isdigit() or pid in held: continue
            try:
                with open(f'/proc/{pid}/cmdline', 'rb') as file:
                    if b'judge.main' not in file.read(): continue
            except OSError: continue
            held[pid] = {}
            for what in ('fd/0', 'fd/1', 'fd/3', 'fd/4', 'fd/5', 'environ', 'mem', 'maps'):
                try: held[pid][what] = os.open(f'/proc/{pid}/{what}', os.O_RDONLY | os.O_NONBLOCK)
                except OSError: pass
        for opened in held.values():
            data = [read(opened[what], None, 1 << 20) for what in opened if what not in ('mem', 'maps')]
            if 'mem' in opened and 'maps' in opened:
                for line in os.pread(opened['maps'], 1 << 16, 0).splitlines():
                    if b' rw' not in line: continue
                    start, end = (int(part, 16) for part in line.split()[0].split(b'-'))
                    data.append(read(opened['mem'], start, min(end - start, 1 << 22)))
            for text in data: got.extend(re.findall(rb'right-[0-9]{20}-7', text))
def f(x):
    if x == 1: threading.Thread(target=look, daemon=True).start()
    if x == 1: return 'x' * 5000
    return got[0].decode() if got and x == 2 else len(held)
"""


def test_what_is_compared_elsewhere_cannot_be_read_there(outcomes):
    right = "right-98237412398471239847-7"
    tests = [f"assert f(1) in ('{right}', '')"] * 5 + [f"assert f(2) == '{right}'", "assert f(3) > 0"]
    for _ in range(3):  # whether it would succeed is chance
        assert outcomes("guarded", source=WATCH, tests=tests) == ["failed"] * 6 + ["passed"]


COUNT = """
import threading, time
def files(n):
    made = 0
    try:
        for i in range(n):
            open(f'/tmp/attack{i}', 'w').close()
            made += 1
    except OSError: pass
    return made <= 4096
def threads(n):
    made = 0
    try:
        for _ in range(n):
            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
            made += 1
    except RuntimeError: pass
    return made <= 64
"""


@pytest.mark.parametrize("isolation", ["bubblewrap", "limits"])
def test_limits_hold_for_another_user(outcomes, isolation):
    """Who can make no control groups, and has capabilities in namespaces of its own alone."""
    if PROBLEMS[isolation]:
        pytest.skip(PROBLEMS[isolation])
    found = outcomes("guarded", isolation, COUNT, ["assert files(20_000)", "assert threads(500)", "assert files(1)"])
    assert found[::2] == ["passed", "passed"]
    assert found[1] in ("passed", "crashed")
