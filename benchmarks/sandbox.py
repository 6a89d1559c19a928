"""Tests a second of the sandbox and of a process forked for each test, in one run, with the verdicts compared.

    python benchmarks/sandbox.py [--problems 80] [--repeats 3] [--processes 1 2] [--imported]

The forked way is the authors': an interpreter for each solution, which forks for each test, sets the limits, executes
initialisation, solution and assertion, and hears of the verdict through a pipe. Their container around the interpreter
is left out here, in favour of the forked way. With `--imported` that interpreter executes the initialisation before it
forks, so that no test pays for imports: faster than the authors' way, and a harder comparison. Forked tests get ten
times the time, so that a busy machine, which that way's wall-clock limit does not forgive, cannot make the verdicts
differ. Both judge every problem's own solution; `--sabotaged` of the problems are judged once more with a solution
that is wrong for about every third input.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import sortedcontainers

from qrpo_lib.rewards.sandbox import sandbox
from qrpo_lib.runs import cores
from qrpo_lib.tasks import leetcode

CHUNK = 8
SAMPLE = Path(os.environ.get("QRPO_SHARED", Path(__file__).parents[2] / "shared")) / "data/leetcode_sample.jsonl.gz"

FORKED = """
import json, multiprocessing, resource, sys

def judge(channel, source, test, seconds, memory):
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    names = {}
    try:
        exec(source, names)
        exec(test, names)
        channel.put(True)
    except BaseException:
        channel.put(False)

def run(source, test, seconds, memory):
    channel = multiprocessing.SimpleQueue()
    process = multiprocessing.Process(target=judge, args=(channel, source, test, seconds, memory))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0 and channel.get()

if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    job = json.load(sys.stdin)
    exec(job["imported"], {})
    print(json.dumps([run(job["source"], test, job["seconds"], job["memory"]) for test in job["tests"]]))
"""

SABOTAGE = """
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


def forked(jobs: list[tuple[str, list[str]]], processes: int, imported: str = "") -> list[list[bool]]:
    """Verdicts by the authors' way, `processes` solutions at a time."""
    python = os.path.realpath(sys.executable)
    # The interpreter finds the one package that solutions use, and starts without the environment's own hooks.
    command = [python, "-S", "-c", FORKED]
    environment = {"PYTHONPATH": str(Path(sortedcontainers.__file__).parents[1])}

    def run(job: tuple[str, list[str]]) -> list[bool]:
        source, tests = job
        limits = {"seconds": 10, "memory": sandbox.MEMORY_MB << 20}
        message = {"source": str(source), "tests": tests, "imported": imported, **limits}
        done = subprocess.run(command, input=json.dumps(message), capture_output=True, text=True, env=environment)
        return json.loads(done.stdout.splitlines()[-1])

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(run, jobs))


def warm(jobs: list[tuple[str, list[str]]], processes: int) -> list[list[bool]]:
    """Verdicts by the sandbox."""
    results = sandbox.run_many(jobs, processes=processes, seconds_per_test=1.0)
    return [[outcome == "passed" for outcome in result.outcomes] for result in results]


def _compare(jobs: list, ways: list, processes: int) -> list[tuple[float, float]]:
    """Wall and processor seconds of each way. By turns on a few solutions, so that both meet the same machine."""
    seconds, verdicts = [], []
    for way in ways:
        wall, computed = time.perf_counter(), _processor_seconds()
        verdicts.append(way(jobs, processes))
        seconds.append((time.perf_counter() - wall, _processor_seconds() - computed))
    if verdicts[0] != verdicts[1]:
        sys.exit("DIFFERENT VERDICTS")
    return seconds


def _processor_seconds() -> float:
    """Of this process and all that it has started and awaited."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=80)
    parser.add_argument("--sabotaged", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=sorted({1, cores.available()}))
    parser.add_argument("--imported", action="store_true")
    arguments = parser.parse_args()
    ways = [partial(forked, imported=leetcode.INITIALISATION if arguments.imported else ""), warm]
    with gzip.open(SAMPLE, "rt") as file:
        rows = [json.loads(line) for line in file][: arguments.problems]
    tests = [leetcode.tests(row)[: sandbox.MAX_TESTS] for row in rows]
    jobs = [(leetcode.program(row["completion"]), some) for row, some in zip(rows, tests, strict=True)]
    number = sum(map(len, tests))
    print(f"{len(jobs)} problems, {number} tests, {sandbox.available_isolation()}")

    ratios, of_chunks = [], []
    for processes in arguments.processes * arguments.repeats:
        spent = [_compare(jobs[i : i + CHUNK], ways, processes) for i in range(0, len(jobs), CHUNK)]
        of_chunks += [forked_chunk[1] / warm_chunk[1] for forked_chunk, warm_chunk in spent]
        (forked_wall, forked_cpu), (warm_wall, warm_cpu) = (
            map(sum, zip(*way, strict=True)) for way in zip(*spent, strict=True)
        )
        ratios.append(forked_cpu / warm_cpu)
        load = os.getloadavg()[0]
        print(
            f"{processes} processes, load {load:.1f}: forked {number / forked_wall:.0f}, sandbox"
            f" {number / warm_wall:.0f} tests a second: {forked_wall / warm_wall:.1f} x"
            f" (processor time {forked_cpu / number * 1e3:.2f} and {warm_cpu / number * 1e3:.2f} ms a test:"
            f" {forked_cpu / warm_cpu:.1f} x), the same verdicts",
            flush=True,
        )
    low, high = min(of_chunks), max(of_chunks)
    print(
        f"processor time: median {statistics.median(ratios):.1f} x, from {min(ratios):.1f} to {max(ratios):.1f} in the"
        f" runs, from {low:.1f} to {high:.1f} over groups of {CHUNK} problems"
    )

    wrong = [(leetcode.program(source.code + SABOTAGE), some) for source, some in jobs[: arguments.sabotaged]]
    found = [way(wrong, arguments.processes[-1]) for way in ways]
    if found[0] != found[1]:
        sys.exit("DIFFERENT VERDICTS")
    passed = sum(sum(some) for some in found[1])
    print(f"sabotaged solutions: {passed} of {sum(map(len, found[1]))} tests passed, the same verdicts")


if __name__ == "__main__":
    main()
