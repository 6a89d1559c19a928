import os
import subprocess
import sys

import pytest

from qrpo_lib.runs import cores


def machine(root, cgroup, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V1 = "12:pids:/a\n5:cpu,cpuacct:/a/b\n4:cpuset:/a\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000", "cpu.max": "max 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "300000 100000"}, 2),
        # A container that sees its own group as the top of the mount, under a path of the host.
        ("0::/kubepods/pod-1\n", {"cpu.max": "200000 50000"}, 4),
        ("0::/a\n", {"unified/a/cpu.max": "100000 100000"}, 1),
        (V1, {"cpu,cpuacct/a/b/cpu.cfs_quota_us": "250000", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000"}, 2.5),
        (V1, {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 0.5),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "0", "cpu/a/b/cpu.cfs_period_us": "100000"}, None),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "1", "cpu/a/b/cpu.cfs_period_us": "4"}, 0.25),
        # The controller alone, mounted under the name of both; a group whose name has a colon.
        ("5:cpu:/a\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}, 3),
        ("0::/a:b\n", {"a:b/cpu.max": "100000 50000"}, 2),
        # Both versions at once: the smallest counts, whichever line it is of. A line 0 of version 1 is no version 2.
        (
            "5:cpu:/a\n0::/b\n",
            {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000", "b/cpu.max": "100000 50000"},
            0.5,
        ),
        ("0:pids:/a\n7::/a\n", {"a/cpu.max": "100000 50000"}, None),
        ("5:cpuset:/a\n", {"cpuset/a/cpu.cfs_quota_us": "1", "cpuset/a/cpu.cfs_period_us": "1"}, None),
        ("nonsense\n\n", {}, None),
        ("0::/\n", {"cpu.max": "garbage"}, None),
        ("0::/\n", {"cpu.max": "100 0"}, None),
    ],
)
def test_the_quota_of_either_version_of_cgroups(tmp_path, cgroup, files, quota):
    assert cores.cgroup_quota(machine(tmp_path, cgroup, files)) == quota


def test_a_group_whose_name_is_no_utf8_is_no_error(tmp_path):
    root = machine(tmp_path, "", {"cpu.max": "150000 100000"})
    (root / "proc/self/cgroup").write_bytes(b"0::/\xff\n")
    assert cores.cgroup_quota(root) == 1.5


def test_without_cgroups_there_is_no_quota(tmp_path):
    assert cores.cgroup_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 6), (2.9, 2), (0.3, 1), (64, 6)])
def test_what_is_available_is_the_smaller_of_mask_and_quota(monkeypatch, quota, expected):
    monkeypatch.setattr(cores, "_affinity", lambda: 6)
    monkeypatch.setattr(cores, "cgroup_quota", lambda: quota)
    assert cores.available() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity masks")
def test_an_affinity_mask_counts_for_reproduce_and_the_sweep(tmp_path):
    program = """
import os
from qrpo_lib.cluster import task, workers
from qrpo_lib.experiment import grid, train
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import cores
from qrpo_lib.suite import cli, notebooks, reproduce
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
assert cores.available() == 1, cores.available()
seen = {}
reproduce.reproduce = lambda selected, *, cores, **_: seen.update(cores=cores) or task.Progress({})
notebooks.check = notebooks.jobs = lambda *_: []
assert cli.main(["reproduce"]) == 0
workers.Workers.kept = lambda cores, threads: seen.update(trained=cores)
train.Scheduler.run = lambda scheduler, on_change: scheduler.progress
profile = profiles.load("tiny")
train.train(profile, grid.grid(profile)[:1])
print(seen["cores"], seen["trained"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "QRPO_CORES"}
    environment["QRPO_RUNS"] = str(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=900
    )
    assert ended.stdout.split()[-2:] == ["1", "1"], ended.stderr
