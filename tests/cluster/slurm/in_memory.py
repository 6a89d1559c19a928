"""A cluster in memory, for tests of what is submitted when: its jobs end when the test says so."""

from __future__ import annotations

import toys

from qrpo_lib.cluster import executors, journal
from qrpo_lib.cluster.scheduler import Retries, Scheduler
from qrpo_lib.cluster.task import NoAnswerError
from qrpo_lib.profiles.settings import Dispatch


class InMemory(executors.Submitted):
    """An executor whose jobs the test ends by hand. `queue` is what the cluster has: everyone sees the same."""

    name = "in-memory"
    takes_dependencies = True

    def __init__(self, **settings):
        super().__init__(Dispatch(where="slurm", **{"pause_seconds": 0} | settings))
        self.after = []
        self.all, self.alive, self.ended, self.cancelled, self.answers = [], {}, {}, [], True

    def is_ours(self, batch):
        return True

    def launch(self, batch, works, resources, after):
        self.after.append(after)
        master = str(len(self.all) + 1)
        ids = [master] if len(works) == 1 else [f"{master}_{index}" for index in range(len(works))]
        self.all.append((batch.name, works, [*after.success, *after.end]))
        self.alive |= dict.fromkeys(ids, ("pending", "None"))
        return ids

    def find(self, batch):
        return [str(i) for i, (known, _, _) in enumerate(self.all, 1) if known == batch.name]

    def states(self, jobs):
        if not self.answers:
            raise NoAnswerError("Unable to contact slurm controller")
        return dict(self.alive)

    def cancel(self, jobs):
        self.cancelled += [job.id for job in jobs]

    def outcome(self, job):
        return self.ended.get(job.id, ("lost", ""))

    def log(self, job):
        return f"log of {job.id}"

    def end(self, job, outcome=None, text=""):
        self.alive.pop(job)
        if outcome:
            self.ended[job] = (outcome, text)

    def makes(self, job, task):
        toys.perform(task.step, "write", {})
        self.end(job, "success")


def following(executor, *tasks, **settings):
    """A scheduler as `dispatch.make` starts it, of a new command: what earlier ones knew is in the journal alone."""
    executor.settings = Dispatch(where="slurm", **{"pause_seconds": 0} | settings)
    executor._journal = journal.Journal()
    retries = Retries(0, executor.settings.retries, executor.settings.pause_seconds)
    return Scheduler(tasks, executor, retries)
