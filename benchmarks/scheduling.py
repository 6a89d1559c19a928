"""How dispatch does on a cluster of 1,000 nodes, by simulation: the real `qrpo_lib.cluster.scheduler`, a simulated
SLURM.

    python benchmarks/scheduling.py             # the paper's job graph, then 100,000 jobs planned
    python benchmarks/scheduling.py --seed 3 --nodes 200 --failures 0.05

Simulated: nodes, the queue with its arrays and dependencies, time limits, and failures at a rate per job-hour, half of
which SLURM notices and requeues, half of which leave nothing behind. Real: everything that decides and writes, the
journal, submitit's pickles and sbatch files (`sbatch` itself is a stand-in that prints an id), and the run folders, by
which alone completeness is decided. Virtual time passes between two looks; the time that our own code takes is real.

How long jobs take is assumed, not measured (HOURS): these numbers shape the load, the report does not vouch for them.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import random
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from qrpo_lib.cluster import dispatch, executors
from qrpo_lib.cluster.scheduler import Retries, Scheduler
from qrpo_lib.cluster.task import After, ScheduledTask, State, in_order
from qrpo_lib.profiles.settings import Dispatch, Resources
from qrpo_lib.runs import keys, records

# Assumed hours of a whole step on the nodes of one job, and in how many units it is saved: a training's checkpoints,
# a sampling's shards. A unit that is interrupted is lost, the ones before it are not.
HOURS = {"policy": 0.3, "sft": 3.0, "sampling": 230.0, "training": 2.5}
UNITS = {"policy": 1, "sft": 5, "sampling": 100, "training": 5}
RESOURCES = {
    "policy": Resources(minutes=60),
    "sft": Resources(nodes=2, tasks_per_node=4, gpus_per_node=4, minutes=240),
    "sampling": Resources(tasks_per_node=4, gpus_per_node=4, minutes=720, workers=24),
    "training": Resources(nodes=2, tasks_per_node=4, gpus_per_node=4, minutes=120),
}
_STARTUP_HOURS = 0.05  # from the start of a job to its first useful step
_CHAT_ARMS = ("llama-magpieair", "llama-ultrafeedback", "mistral-magpieair", "mistral-ultrafeedback")
_ALGORITHMS = ("dpo", "simpo", "rebel", "qrpo")


def paper_graph() -> list[ScheduledTask]:
    """The paper's experiments: 5 arms, 6 settings in chat, 3 betas x 3 learning rates, 4 algorithms: 900 models, and
    the 30 of Figure 3; before them each arm's policy, its fine-tuned version and the samples of both."""
    tasks = []
    for arm in _CHAT_ARMS:
        policy = _task("policy", "policy", arm)
        tuned = _task("sft", "sft", arm, needs=(policy,))
        starts = [(start, _task("sampling", start.step.name, arm, needs=(start,))) for start in (policy, tuned)]
        grid = itertools.product(starts, range(3), _ALGORITHMS, range(9))
        tasks += [_task("training", *labels, arm, start[0].step.name, needs=start) for start, *labels in grid]
        if arm == _CHAT_ARMS[0]:
            tasks += [_task("training", "scaling", number, arm, needs=starts[0]) for number in range(30)]
    policy = _task("policy", "policy", "llama-leetcode")
    sampled = _task("sampling", "policy", "llama-leetcode", needs=(policy,))
    grid = itertools.product(_ALGORITHMS, range(9))
    return tasks + [_task("training", *labels, "llama-leetcode", needs=(policy, sampled)) for labels in grid]


def wide_graph(jobs: int) -> list[ScheduledTask]:
    """As many trainings after 100 samplings."""
    samplings = [_task("sampling", number) for number in range(100)]
    return [_task("training", number, needs=(samplings[number % 100],)) for number in range(jobs - 100)]


def _task(kind: str, *labels, needs: tuple[ScheduledTask, ...] = ()) -> ScheduledTask:
    step = keys.Step(kind, {"labels": list(labels)}, inputs=tuple(need.step for need in needs))
    return ScheduledTask.of(step, _never_called, (), needs, kind=kind)


def _never_called() -> None:
    raise AssertionError("a simulated job does not run")


# --- the simulated cluster --------------------------------------------------------------------------------------------


@dataclass
class Pool:
    """The units of a step: which are left, which are being made. Its folder appears with the last one."""

    left: int
    hours: float
    making: int = 0
    waiting: list[Job] = field(default_factory=list)


@dataclass
class Job:
    """A job in the queue or on its nodes. `run` counts its starts: what was foreseen for an earlier one is void."""

    id: str
    step: keys.Step
    nodes: int
    limit: float
    after: After
    state: State = "pending"
    run: int = 0
    started: float = 0.0
    unit_begun: float | None = None


@dataclass
class Array:
    """How many jobs were submitted together, run now, have ended, and have ended well."""

    size: int
    running: int = 0
    ended: int = 0
    good: int = 0


@dataclass
class Account:
    """Node-hours: all, useful (what was made was kept), lost with a unit; hours of jobs; and what happened."""

    used: float = 0.0
    hours: float = 0.0
    useful: float = 0.0
    lost: float = 0.0
    failures: int = 0
    at_limit: int = 0
    jobs: int = 0
    repeated: int = 0


class SimulatedSlurm(executors.Slurm):
    """SLURM's part: `Slurm` writes and submits as always, to an `sbatch` that only gives out ids."""

    def __init__(self, settings: Dispatch, nodes: int, failures: float, seed: int, folder: Path):
        _stand_in_commands(folder)
        super().__init__(settings)
        self.free, self.failures, self.random = nodes, failures, random.Random(seed)
        self.now, self.account = 0.0, Account()
        self.jobs: dict[str, Job] = {}
        self._pools: dict[str, Pool] = {}
        self._queue: deque[Job] = deque()
        self._arrays: dict[str, Array] = {}
        self._good: set[str] = set()
        self._events: list[tuple[float, int, str, Job, int]] = []
        self._count = itertools.count()

    def launch(self, batch, works, resources, after):
        ids = super().launch(batch, works, resources, after)
        self._arrays[ids[0].split("_")[0]] = Array(len(ids))
        for id, work in zip(ids, works, strict=True):
            self.account.repeated += work.step.folder.is_dir()
            kind = work.step.name
            self._pools.setdefault(work.step.key, Pool(UNITS[kind], HOURS[kind] / UNITS[kind]))
            self.jobs[id] = Job(id, work.step, resources.nodes, resources.minutes / 60, after)
            self._queue.append(self.jobs[id])
        self.account.jobs += len(ids)
        self._start_jobs()
        return ids

    def states(self, jobs):
        return {job.id: (self.jobs[job.id].state, "") for job in jobs if self.jobs[job.id].state != "ended"}

    def cancel(self, jobs):
        for job in jobs:
            if self.jobs[job.id].state == "pending":
                self._leave(self.jobs[job.id], False)

    def outcome(self, job):
        return "lost", ""

    def log(self, job):
        return ""

    def advance(self, until: float) -> None:
        """Let virtual time pass."""
        while self._events and self._events[0][0] <= until:
            self.now, _, what, job, run = heapq.heappop(self._events)
            if job.state == "running" and job.run == run:
                free = self.free
                getattr(self, f"_{what}")(job)
                if self.free != free:
                    self._start_jobs()
        self.now = until

    def _start_jobs(self) -> None:
        waiting: deque[Job] = deque()
        while self._queue:
            job = self._queue.popleft()
            if job.state != "pending":
                continue
            full = self._array(job).running >= self.settings.simultaneous
            released = self._released(job.after)
            if released is None:  # one of those it waits for has failed: kill-on-invalid-dep
                self._leave(job, False)
            elif full or job.nodes > self.free or not released:
                waiting.append(job)
            else:
                self._start(job)
        self._queue = waiting

    def _array(self, job: Job) -> Array:
        return self._arrays[job.id.split("_")[0]]

    def _released(self, after: After) -> bool | None:
        succeeded = [self._counts(id) for id in after.success]
        if any(ended > good for _, ended, good in succeeded):
            return None
        ended = [self._counts(id) for id in after.end]
        return all(good == size for size, _, good in succeeded) and all(over == size for size, over, _ in ended)

    def _counts(self, id: str) -> tuple[int, int, int]:
        """Size, how many have ended, how many well: of a job, or of a whole array."""
        if id in self.jobs:
            job = self.jobs[id]
            return 1, int(job.state == "ended"), int(job.id in self._good)
        array = self._arrays[id]
        return array.size, array.ended, array.good

    def _start(self, job: Job) -> None:
        job.state, job.run, job.started = "running", job.run + 1, self.now
        self.free -= job.nodes
        self._array(job).running += 1
        self._at(job.limit, "limit", job)
        if self.failures:
            self._at(self.random.expovariate(self.failures), "failure", job)
        self._at(_STARTUP_HOURS, "take", job)

    def _take(self, job: Job) -> None:
        pool = self._pools[job.step.key]
        if pool.left:
            pool.left -= 1
            pool.making += 1
            job.unit_begun = self.now
            self._at(pool.hours, "made", job)
        elif pool.making:
            pool.waiting.append(job)
        else:
            self._end(job, success=True)

    def _made(self, job: Job) -> None:
        pool = self._pools[job.step.key]
        pool.making -= 1
        job.unit_begun = None
        self.account.useful += pool.hours * job.nodes
        if not pool.left and not pool.making:
            job.step.folder.mkdir(parents=True, exist_ok=False)
            (job.step.folder / records.RECORD).write_text('{"outputs": {}}')
            for other in pool.waiting:
                self._end(other, success=True)
            pool.waiting = []
        self._take(job)

    def _failure(self, job: Job) -> None:
        self.account.failures += 1
        self._interrupt(job, requeued=self.random.random() < 0.5)

    def _limit(self, job: Job) -> None:
        self.account.at_limit += 1
        self._interrupt(job, requeued=True)

    def _interrupt(self, job: Job, *, requeued: bool) -> None:
        pool = self._pools[job.step.key]
        if job in pool.waiting:
            pool.waiting.remove(job)
        if job.unit_begun is not None:
            self.account.lost += (self.now - job.unit_begun) * job.nodes
            job.unit_begun = None
            pool.making -= 1
            pool.left += 1
            for other in pool.waiting:  # another worker takes the unit over
                self._at(0, "take", other)
            pool.waiting = []
        self._end(job, success=False, requeued=requeued)

    def _end(self, job: Job, *, success: bool, requeued: bool = False) -> None:
        self.account.used += (self.now - job.started) * job.nodes
        self.account.hours += self.now - job.started
        self.free += job.nodes
        self._array(job).running -= 1
        if requeued:
            job.state = "pending"
            self._queue.append(job)
        else:
            self._leave(job, success)

    def _leave(self, job: Job, success: bool) -> None:
        job.state = "ended"
        array = self._array(job)
        array.ended += 1
        array.good += success
        if success:
            self._good.add(job.id)

    def _at(self, hours: float, what: str, job: Job) -> None:
        heapq.heappush(self._events, (self.now + hours, next(self._count), what, job, job.run))


def _stand_in_commands(folder: Path) -> None:
    """`sbatch` that prints the next id, and an `srun` that is never called, first on the path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "id").write_text("0")
    sbatch = f"#!/bin/sh\nread id < {folder}/id\nid=$((id + 1))\necho $id > {folder}/id\necho Submitted batch job $id\n"
    for name, text in (("sbatch", sbatch), ("srun", "#!/bin/sh\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


# --- what is reported -------------------------------------------------------------------------------------------------


def simulate(
    tasks: list[ScheduledTask], nodes: int, failures: float, seed: int, folder: Path
) -> dict[str, float | int | str]:
    """Dispatch the tasks on the simulated cluster until all are complete; a report of what it took."""
    os.environ["QRPO_RUNS"] = str(folder / "runs")
    settings = Dispatch(where="slurm", simultaneous=400, resources=RESOURCES)
    cluster = SimulatedSlurm(settings, nodes, failures, seed, folder / "commands")
    ordered = in_order(tasks)
    started = time.perf_counter()
    scheduler = Scheduler(tasks, cluster, Retries(0, settings.retries))  # virtual time knows no pauses
    own = [time.perf_counter() - started]
    poll_hours, open_tasks = 60 / 3600, True
    while open_tasks:
        clock = time.perf_counter()
        open_tasks = scheduler.advance().is_open()
        own.append(time.perf_counter() - clock)
        if open_tasks:
            cluster.advance(cluster.now + poll_hours)
        if cluster.now > 10_000:
            raise RuntimeError(f"not done after 10,000 hours: {scheduler.progress.status}")
    dispatch.raise_failures(scheduler.progress)
    account = cluster.account
    job_seconds = 3600 * account.hours / account.jobs
    return {
        "steps": len(ordered),
        "jobs": account.jobs,
        "job starts": sum(job.run for job in cluster.jobs.values()),
        "failures": account.failures,
        "time limits reached": account.at_limit,
        "makespan (h)": round(cluster.now, 2),
        "node-hours": round(account.used),
        "wasted node-hours (%)": round(100 * (1 - account.useful / account.used), 2),
        "of which work lost since a checkpoint (%)": round(100 * account.lost / account.used, 2),
        "jobs submitted for complete steps": account.repeated,
        "steps complete": sum(task.step.folder.is_dir() for task in ordered.values()),
        "own code, first look (s)": round(own[0] + own[1], 2),
        "own code, all looks (s)": round(sum(own), 2),
        "own code a job (s)": round(sum(own) / account.jobs, 4),
        "own code a job, share of its time (%)": round(100 * sum(own) / account.jobs / job_seconds, 4),
    }


class _IdsOnly(executors.Submitted):
    """An executor that takes everything at once."""

    name, takes_dependencies = "ids", True

    def __init__(self):
        super().__init__(Dispatch(where="slurm"))
        self.count = 0

    def launch(self, batch, works, resources, after):
        self.count += 1
        return [f"{self.count}_{index}" for index in range(len(works))]


def plan_time(jobs: int, folder: Path) -> dict[str, float | int]:
    """Seconds to decide about and write down that many jobs, without what the scheduler and submitit take."""
    os.environ["QRPO_RUNS"] = str(folder / "many")
    tasks = wide_graph(jobs)
    clock = time.perf_counter()
    executor = _IdsOnly()
    progress = Scheduler(tasks, executor).advance()
    seconds = time.perf_counter() - clock
    return {"jobs": len(progress.names("queued")), "submissions": executor.count, "seconds": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--failures", type=float, default=0.01, help="a job-hour")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=100_000, help="planned at once, in the second part")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qrpo-scheduling-") as folder:
        report = simulate(paper_graph(), options.nodes, options.failures, options.seed, Path(folder))
        print(json.dumps({"the paper's job graph": report}, indent=1))
        print(json.dumps({"planning": plan_time(options.jobs, Path(folder))}, indent=1))


if __name__ == "__main__":
    main()
