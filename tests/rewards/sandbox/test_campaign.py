"""Campaigns: the same verdicts in every run on a machine that has too much to do; nothing is left after many solutions.

QRPO_VERDICT_RUNS=20 QRPO_VERDICT_FILE=runs.jsonl pytest tests/rewards/sandbox/test_campaign.py

is the full number of runs; each is added to the file as it ends, and what is there already is not done again.
QRPO_VERDICT_BUSY processes (15) compute beside them.
"""

import contextlib
import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox_marks import isolation, survivors  # noqa: F401  (a fixture)

from qrpo_lib.rewards.sandbox import sandbox
from qrpo_lib.tasks import leetcode

SAMPLE = Path(os.environ.get("QRPO_SHARED", Path(__file__).parents[4] / "shared")) / "data/leetcode_sample.jsonl.gz"
RUNS = int(os.environ.get("QRPO_VERDICT_RUNS", 2))
PROBLEMS = int(os.environ.get("QRPO_VERDICT_PROBLEMS", 80 if RUNS > 2 else 20))
BUSY = int(os.environ.get("QRPO_VERDICT_BUSY", 15 if RUNS > 2 else 3))
WRONG_SOMETIMES = """
import zlib
class Solution(Solution):
    def __getattribute__(self, name):
        right = super().__getattribute__(name)
        if not callable(right) or name.startswith("_"):
            return right
        def sometimes(*args, **kwargs):
            return "wrong" if zlib.crc32(repr((args, kwargs)).encode()) % 3 == 0 else right(*args, **kwargs)
        return sometimes
"""


@contextlib.contextmanager
def load(processes):
    """So many busy processes beside this one."""
    busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def verdicts(jobs, right):
    """One run: a digest of its verdicts, how many there are, those on right solutions that are not "passed"."""
    start = os.getloadavg()[0]
    outcomes = [result.outcomes for result in sandbox.run_many(jobs)]
    unexpected = [(i, j, one) for i in range(right) for j, one in enumerate(outcomes[i]) if one != "passed"]
    return {
        "digest": hashlib.sha256(json.dumps(outcomes).encode()).hexdigest(),
        "verdicts": sum(map(len, outcomes)),
        "not passed": unexpected,
        "failed on purpose": sum(one == "failed" for some in outcomes[right:] for one in some),
        "load": [round(start, 1), round(os.getloadavg()[0], 1)],
    }


@pytest.mark.slow
def test_the_same_verdicts_in_every_run(tmp_path):
    """Right solutions pass every test, and ones that are wrong for some inputs fail the same, at load 15."""
    if not SAMPLE.exists():
        pytest.skip(f"the sample of the dataset is not there: {SAMPLE}")
    with gzip.open(SAMPLE, "rt") as file:
        rows = [json.loads(line) for line in file][:PROBLEMS]
    jobs = [(leetcode.program(row["completion"]), leetcode.tests(row)) for row in rows]
    right = len(jobs)
    jobs += [
        (leetcode.program(row["completion"] + WRONG_SOMETIMES), leetcode.tests(row)) for row in rows[: PROBLEMS // 4]
    ]
    done = Path(os.environ.get("QRPO_VERDICT_FILE", tmp_path / "runs.jsonl"))
    done.touch()
    with load(BUSY):
        while len(done.read_text().splitlines()) < RUNS:
            with done.open("a") as file:
                file.write(json.dumps(verdicts(jobs, right)) + "\n")
    runs = [json.loads(line) for line in done.read_text().splitlines()]
    assert runs[0]["verdicts"] > 1000
    assert [run["not passed"] for run in runs] == [[]] * len(runs)
    assert len({run["digest"] for run in runs}) == 1
    assert runs[0]["failed on purpose"] > 0


# Source, and the outcome of each of three tests.
MIXED = [
    ("def f(x): return x + 10", ("passed",) * 3),
    ("def f(x): return x", ("failed",) * 3),
    ("def f(x): return x + 10 if x != 2 else 1 // 0", ("passed", "error", "passed")),
    ("import os\ndef f(x):\n    if x == 2: os._exit(1)\n    return x + 10", ("passed", "crashed", "passed")),
    ("def f(x):\n    if x == 2: [0] * 10 ** 10\n    return x + 10", ("passed", "memory", "passed")),
    ("def f(x):\n    while x == 2: pass\n    return x + 10", ("passed", "timeout", "passed")),
    ("def f(x: ", ("error",) * 3),
    ("def f(x):\n    open('/tmp/x', 'a').close()\n    return x + 10", None),
    (
        "from threading import Timer\ndef f(x):\n    Timer(99, print).start()\n    return x + 10",
        ("passed",) * 3,
    ),
    ("import itertools\ndef f(x): return [[]] * 10 ** 5", ("failed",) * 3),
]


def memory():
    """Pages of this process that are its own."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGESIZE")


@pytest.mark.slow
def test_mixed_solutions_have_their_verdicts_and_leave_nothing(isolation):  # noqa: F811
    """200 of them, three times."""
    files = "passed" if isolation == "bubblewrap" else "error"
    jobs = [(source, [f"assert f({x}) == {x + 10}" for x in (1, 2, 3)]) for source, _ in MIXED] * 20
    expected = [outcomes or (files,) * 3 for _, outcomes in MIXED] * 20
    before, used = (len(os.listdir("/proc/self/fd")), set(os.listdir("/tmp"))), []
    for _ in range(3):
        results = sandbox.run_many(jobs, isolation=isolation, processes=4, seconds_per_test=0.2)
        wrong = [(i % 10, result) for i, result in enumerate(results) if result.outcomes != expected[i]]
        assert wrong == []
        used.append(memory())
    assert used[2] - used[0] < 8 << 20
    assert len(os.listdir("/proc/self/fd")) <= before[0]
    assert not [name for name in set(os.listdir("/tmp")) - before[1] if name.startswith("sandbox")]
    assert survivors(os.getpid()) == set()
