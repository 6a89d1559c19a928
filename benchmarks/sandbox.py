"""Processor and wall time of a test, by the sandbox and by other ways of judging, with the verdicts compared.

    python benchmarks/sandbox.py [--problems 80] [--processes 1 2] [--repeats 1] [--every 1]

Writes the table sandbox.md, and its numbers as sandbox.csv, to figures/benchmarks (`--output`). Four ways judge the
same tests of the same problems' own solutions:

- forked: the authors' way. An interpreter for each solution, which forks for each test, sets the limits, executes
  initialisation, solution and assertion, and hears of the verdict through a pipe. Their container around the
  interpreter is left out, in favour of this way.
- forked after imports: the same, but the interpreter executes the initialisation before it forks, so that no test pays
  for imports: faster than the authors' way, and a harder comparison.
- bare: one interpreter for each solution, which executes it once and then all its tests. Nothing is isolated, limited
  or kept from the solution, which could pass every test; it is what computing the answers costs at the least.
- sandbox: `sandbox.run_many`.

The ways that fork are slow: with `--every 5`, they judge every fifth test of each problem, and the others all tests.

Problems are taken in groups, and the ways take turns on each, so that all of them meet the same machine. A line of the
table is one group: groups differ because some solutions compute for longer than a fork takes. Processor time is that
of this process and of all that it has started; it grows with the load of the machine (caches, hyperthreads), which is
stated. Ways that fork get ten times the time, so that a busy machine, which a limit of wall time does not forgive,
cannot make the verdicts differ. `--sabotaged` of the problems are judged once more with a solution that is wrong for
about every third input.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pandas as pd
import sortedcontainers

from qrpo_lib.rewards.sandbox import sandbox
from qrpo_lib.runs import cores
from qrpo_lib.tasks import leetcode

GROUP = 20
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

BARE = """
import json, sys
job, names, verdicts = json.load(sys.stdin), {}, []
exec(job["source"], names)
for test in job["tests"]:
    try:
        exec(test, names)
        verdicts.append(True)
    except Exception:
        verdicts.append(False)
print(json.dumps(verdicts))
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


Jobs = list[tuple[sandbox.Program, list[str]]]


def in_an_interpreter(program: str, jobs: Jobs, processes: int, imported: str = "") -> list[list[bool]]:
    """Verdicts by a program that is given a solution and its tests, `processes` solutions at a time."""
    # The interpreter finds the one package that solutions use, and starts without the environment's own hooks.
    command = [os.path.realpath(sys.executable), "-S", "-c", program]
    environment = {"PYTHONPATH": str(Path(sortedcontainers.__file__).parents[1])}

    def run(job: tuple[sandbox.Program, list[str]]) -> list[bool]:
        source, tests = job
        limits = {"seconds": 10, "memory": sandbox.MEMORY_MB << 20}
        message = {"source": str(source), "tests": tests, "imported": imported, **limits}
        done = subprocess.run(command, input=json.dumps(message), capture_output=True, text=True, env=environment)
        return json.loads(done.stdout.splitlines()[-1])

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(run, jobs))


def in_the_sandbox(jobs: Jobs, processes: int) -> list[list[bool]]:
    """Verdicts by the sandbox."""
    results = sandbox.run_many(jobs, processes=processes, seconds_per_test=1.0)
    return [[outcome == "passed" for outcome in result.outcomes] for result in results]


WAYS: dict[str, Callable[[Jobs, int], list[list[bool]]]] = {
    "forked": partial(in_an_interpreter, FORKED),
    "forked_after_imports": partial(in_an_interpreter, FORKED, imported=leetcode.INITIALISATION),
    "bare": partial(in_an_interpreter, BARE),
    "sandbox": in_the_sandbox,
}
FORKING = ("forked", "forked_after_imports")


def measured(jobs: Jobs, processes: int, every: int) -> dict[str, float]:
    """Milliseconds of processor and wall time that a test takes by each way; forking ways judge one of `every`."""
    found, verdicts = {"load": os.getloadavg()[0], "every": every}, {}
    some = [(source, tests[::every]) for source, tests in jobs]
    for name, way in WAYS.items():
        number = sum(len(tests) for _, tests in (some if name in FORKING else jobs))
        wall, computed = time.perf_counter(), _processor_seconds()
        verdicts[name] = way(some if name in FORKING else jobs, processes)
        found[f"{name}_ms"] = (_processor_seconds() - computed) / number * 1e3
        found[f"{name}_wall_ms"] = (time.perf_counter() - wall) / number * 1e3
    expected = {name: [one[:: every if name in FORKING else 1] for one in verdicts["sandbox"]] for name in WAYS}
    if verdicts != expected:
        sys.exit("DIFFERENT VERDICTS")
    return found


def _processor_seconds() -> float:
    """Of this process and all that it has started and awaited."""
    return sum(os.times()[:4])


def with_ratios(data: pd.DataFrame) -> pd.DataFrame:
    """The table with how many times the sandbox's processor time the other ways take."""
    ratios = {f"{name}_to_sandbox": data[f"{name}_ms"] / data.sandbox_ms for name in WAYS if name != "sandbox"}
    return data.assign(**ratios)


def table(data: pd.DataFrame) -> str:
    """Markdown: a line for each group of problems. They may differ in what was run, so that none is for all of them."""
    names = ["forked", "forked_after_imports", "bare"]
    title = [
        "problems",
        "tests",
        "processes",
        "load",
        "forks judge one test in",
        "forked, ms",
        "forked after imports, ms",
        "bare, ms",
        "sandbox, ms",
    ]
    title += [f"{name.replace('_', ' ')} / sandbox" for name in names]
    lines = ["| " + " | ".join(title) + " |", "|" + "---|" * len(title)]
    times = [f"{name}_ms" for name in WAYS]
    for row in with_ratios(data).to_dict("records"):
        cells = [row["problems"], row["tests"], row["processes"], f"{row['load']:.1f}", row["every"]]
        cells += [f"{row[name]:.2f}" for name in times] + [f"{row[f'{name}_to_sandbox']:.1f}" for name in names]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return "\n".join([*lines, "", f"Milliseconds of processor time a test. Measured on: {machine}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=1, help="the first problem that is judged")
    parser.add_argument("--problems", type=int, default=80)
    parser.add_argument("--sabotaged", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--processes", type=int, nargs="+", default=sorted({1, cores.available()}))
    parser.add_argument("--output", type=Path, default=Path("figures/benchmarks"))
    arguments = parser.parse_args()
    with gzip.open(SAMPLE, "rt") as file:
        rows = [json.loads(line) for line in file][arguments.first - 1 :][: arguments.problems]
    jobs = [(leetcode.program(row["completion"]), leetcode.tests(row)[: sandbox.MAX_TESTS]) for row in rows]
    print(f"{len(jobs)} problems, {sum(len(tests) for _, tests in jobs)} tests, {sandbox.available_isolation()}")

    lines = []
    arguments.output.mkdir(parents=True, exist_ok=True)
    for processes in arguments.processes * arguments.repeats:
        for start in range(0, len(jobs), GROUP):
            group = jobs[start : start + GROUP]
            place = {
                "problems": f"{arguments.first + start}-{arguments.first + start + len(group) - 1}",
                "tests": sum(len(tests) for _, tests in group),
            }
            lines.append({**place, "processes": processes, **measured(group, processes, arguments.every)})
            data = with_ratios(pd.DataFrame(lines))
            print(data.tail(1).to_string(index=False, header=start == 0, float_format="{:.2f}".format), flush=True)
            # After each, so that what was measured stays when somebody has had enough.
            data.to_csv(arguments.output / "sandbox.csv", index=False, float_format="%.6g")
            (arguments.output / "sandbox.md").write_text(table(pd.DataFrame(lines)))

    wrong = [(leetcode.program(source.code + SABOTAGE), some) for source, some in jobs[: arguments.sabotaged]]
    found = {name: way(wrong, arguments.processes[-1]) for name, way in WAYS.items()}
    if any(some != found["sandbox"] for some in found.values()):
        sys.exit("DIFFERENT VERDICTS")
    passed, number = sum(map(sum, found["sandbox"])), sum(map(len, found["sandbox"]))
    print(f"sabotaged solutions: {passed} of {number} tests passed, the same verdicts")


if __name__ == "__main__":
    main()
