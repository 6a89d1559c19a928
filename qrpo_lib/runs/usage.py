"""What work takes of a machine, for its record: processor time, memory, and how float32 products were made.

    usage.processor_seconds()       # of this process and its children
    usage.of_this_process()         # without the steps that it made: the own work of a notebook's kernel

Steps have records of their own. So the processor seconds of each are noted here as its record is written, in the
process that made it and, by `qrpo_lib.cluster.workers`, in the one that had given it to a worker.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qrpo_lib.runs import products

_of_steps = 0.0


@dataclass(frozen=True)
class Usage:
    """What work took; None where it is not known.

    peak_memory_mb: the most memory that its process has used since it started, in MiB.
    float32_products: see `products.in_force`; None also where none were made.
    """

    processor_seconds: float | None = None
    peak_memory_mb: int | None = None
    float32_products: dict[str, Any] | None = None


def processor_seconds() -> float:
    """Seconds that this process and its children that ended have computed, the kernel's work for them included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def of_steps() -> float:
    """How many of these went into steps with records of their own, made here or by workers of this process."""
    return _of_steps


def add_to_steps(seconds: float) -> None:
    """Note that a step of so many processor seconds was recorded, here or by a worker of this process."""
    global _of_steps
    _of_steps += seconds


def peak_memory_mb() -> int:
    """The most memory that this process has used since it started, in MiB (ru_maxrss is in KiB on Linux)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def of_this_process() -> Usage:
    """What this process has taken since it started, with its children that ended, but not for steps."""
    made = products.in_force()  # first: it may measure
    return Usage(round(max(0.0, processor_seconds() - of_steps()), 3), peak_memory_mb(), made)


def made_for() -> str | None:
    """The key of the notebook for which this process makes steps, under `qrpo reproduce`: for who reads records."""
    noted = os.environ.get("QRPO_ACCOUNT")  # `qrpo_lib.runs.account`: one file for each notebook, called by its key
    return Path(noted).stem if noted else None
