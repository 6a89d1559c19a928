"""How many processor cores this process may use: fewer than the machine has under an affinity mask or a cgroup quota.

cores.available()
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

_V1_QUOTA, _V1_PERIOD, _V2_LIMIT = "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.max"


def available() -> int:
    """The cores of this process's affinity mask, or those of its cgroup's quota if fewer, at least 1."""
    quota = cgroup_quota()
    allowed = _affinity()
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """The smallest quota of this process's cgroup and those above it, in cores; None without one.

    Both versions of cgroups are read (Linux kernel, Documentation/admin-guide/cgroup-v2.rst, `cpu.max`, and
    Documentation/scheduler/sched-bwc.rst, `cpu.cfs_quota_us`). `root` is where `proc` and `sys` are mounted.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    mounted = root / "sys/fs/cgroup"
    quotas = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            tops, read = (mounted, mounted / "unified"), _quota_v2
        elif "cpu" in controllers.split(","):
            tops, read = tuple(mounted / name for name in dict.fromkeys((controllers, "cpu", "cpu,cpuacct"))), _quota_v1
        else:
            continue
        # In a container the mount may begin at the process's own group: what is not below it is looked for at its top.
        levels = [PurePosixPath(path.lstrip("/")), *PurePosixPath(path.lstrip("/")).parents]
        quotas += [quota for top in tops for level in levels if (quota := read(top / level)) is not None]
    return min(quotas, default=None)


def _affinity() -> int:
    if hasattr(os, "process_cpu_count"):  # Python 3.13: the affinity, or what -X cpu_count says
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / _V2_LIMIT).read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max": no limit
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        quota, period = (int((group / name).read_text()) for name in (_V1_QUOTA, _V1_PERIOD))
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
