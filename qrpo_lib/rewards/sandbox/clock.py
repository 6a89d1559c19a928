"""Time and other quantities that a solution's process uses, read from outside it.

Time is processor time, in seconds of a core of ordinary speed: waiting for a busy processor is free, and on a slower
core, or while the machine is slow, the same work may take longer.
"""

from __future__ import annotations

import os
import time

from qrpo_lib.rewards.sandbox import isolation

LOOK_SECONDS = 0.05
MAX_THREADS, MAX_FILES = 64, 4096
# Neighbours in cache and core add to the processor time of the same work; up to 1.6 x was measured with three busy
# processes a core.
ALLOWANCE = 1.5
# A test that neither computes nor waits for a processor (it sleeps, say) ends after this many of its limits.
IDLE_LIMITS = 10
# What 20,000 turns of an empty loop take a core of ordinary speed (AMD EPYC of 2021, Python 3.11: 0.45 ms).
_ORDINARY_PACE = 0.45e-3
_SLOWEST = 20.0
# Time between two looks that counts as the process's own: when this side comes late, the rest is not.
_MOST_BETWEEN_LOOKS = 2 * LOOK_SECONDS


def slowness() -> float:
    """How many times slower than a core of ordinary speed this thread's computes now, from 1 to 20."""
    paces = []
    for _ in range(3):
        start = time.thread_time()
        for _ in range(20_000):
            pass
        paces.append(time.thread_time() - start)
    return min(max(sorted(paces)[1] / _ORDINARY_PACE, 1.0), _SLOWEST)


class Clock:
    """The time that a process uses from now on, against a limit for this test and one for all that remain."""

    def __init__(self, pid: int, limit: float, remaining: float = float("inf")):
        self._pid, self._limit = pid, min(limit * ALLOWANCE, remaining)
        self._idle_limit = min(limit * ALLOWANCE * IDLE_LIMITS, remaining)
        self.slowness, self._idle = 1.0, 0.0
        self._looked = time.monotonic()
        self._start = self._used = _computed(pid) or 0.0
        self._queued: dict[str, float] | None = None

    @property
    def spent(self) -> float:
        """Seconds of an ordinary core that the process has computed and idled, as of the last look."""
        return (self._used - self._start + self._idle) / self.slowness

    def is_over(self) -> bool:
        """Look: whether the process has computed or idled for longer than its limits."""
        self._look()
        return self._idle > self._idle_limit * self.slowness or self._has_computed_too_long()

    def is_used_up(self) -> bool:
        """Whether the process has computed for longer than its limit, however long this side took to look."""
        if self._queued is None:  # a short test, at which nobody has looked yet
            self._update()
        else:
            self._look()
        return self._has_computed_too_long()

    def _has_computed_too_long(self) -> bool:
        return self._used - self._start > self._limit * self.slowness

    def _look(self) -> None:
        now, before = time.monotonic(), self._used
        self._update()
        queued = _queued(self._pid)
        if self._queued is not None:
            waited = sum(seconds - self._queued.get(thread, 0.0) for thread, seconds in queued.items())
            idled = now - self._looked - (self._used - before) - waited
            # Waiting for a processor is told once it is over; until then it looked like idling, and is taken back.
            self._idle = max(self._idle + min(idled, _MOST_BETWEEN_LOOKS), 0.0)
        self._looked, self._queued = now, queued

    def _update(self) -> None:
        computed = _computed(self._pid)
        if computed is not None:
            self._used = max(computed, self._used)
        # Measured all along a long test, for the machine may have been slow in a part of it only.
        if self._used - self._start > self._limit / 4:
            self.slowness = max(self.slowness, slowness())


def _computed(pid: int) -> float | None:
    """Seconds of processor time of all threads; None once the process has ended."""
    try:
        # The clock id that Linux gives a process's processor time; the kernel's own, so exact to the nanosecond.
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return None


def _queued(pid: int) -> dict[str, float]:
    """Seconds that each thread has waited for a processor; a solution may leave its computing to another thread."""
    waited = {}
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return waited
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                waited[thread] = int(file.read().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            continue
    return waited


class Census:
    """Quantities of a process, such as threads, that no limit of the kernel covers: whether one is too large."""

    def __init__(self, pid: int, *, own_tmp: bool):
        self._root = f"/proc/{pid}/root/tmp" if own_tmp else None
        try:
            self._stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it has ended; the pipe says so
            self._stat = None

    def excess(self) -> str | None:
        """What there is too much of, now. Each quantity is read by itself: one that cannot be read hides no other."""
        if (self._threads() or 0) > MAX_THREADS:
            return f"more than {MAX_THREADS} threads"
        if (self._files() or 0) > MAX_FILES:
            return f"more than {MAX_FILES} files"
        return None

    def _threads(self) -> int | None:
        try:
            return int(os.pread(self._stat, 4096, 0).rpartition(b")")[2].split()[17])
        except (OSError, IndexError, ValueError, TypeError):
            return None

    def _files(self) -> int | None:
        """Its own /tmp is small, so that no other file system is taken for it; without one, no file can be made."""
        try:
            space = os.statvfs(self._root)
        except (OSError, TypeError):
            return None
        return space.f_files - space.f_ffree if space.f_blocks * space.f_frsize == isolation.TMP_MB << 20 else 0

    def close(self) -> None:
        if self._stat is not None:
            os.close(self._stat)
