"""Control groups: what the kernel's own counting stops, and that no folder of theirs stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qrpo_lib.rewards.sandbox import cgroups
from qrpo_lib.rewards.sandbox.cgroups import Group


def wait_until(holds, seconds=600):
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)
    return holds()


@pytest.fixture
def group():
    made = Group(tasks=6, memory_mb=64)
    if set(made.controllers) != set(cgroups.CONTROLLERS):
        missing = [name for name in cgroups.CONTROLLERS if name not in made.controllers]
        made.close()
        pytest.skip(f"no control group can be made here for: {missing}")
    folders = [*made._folders.values()]
    yield made
    made.close()
    assert [folder for folder in folders if folder.exists()] == []


def python(group, code):
    """The output of a Python program in the group, which begins once it is in."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", f"input()\n{code}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    group.add(process.pid)
    output, _ = process.communicate("\n")
    return process.returncode, output.strip()


def test_numbers_of_threads_are_limited(group):
    code = """
import _thread, time
started = 0
try:
    while started < 100:
        _thread.start_new_thread(time.sleep, (60,))
        started += 1
except RuntimeError: print(started)
import os; os._exit(0)
"""
    assert python(group, code) == (0, "5")


def test_memory_of_the_kernel_is_limited(group):
    """Full pipes: no memory of the process's own."""
    code = """
import fcntl, os
kept = [os.pipe() for _ in range(200)]
for _, write in kept:
    fcntl.fcntl(write, 1031, 1 << 20)
    os.write(write, bytes(1 << 20))
print("all")
"""
    assert group.memory_kills() == 0
    assert python(group, code) == (-signal.SIGKILL, "")
    assert group.memory_kills() == 1


def test_a_group_goes_with_its_maker(group):
    """Which is killed, so that it can do nothing about it."""
    code = "from qrpo_lib.rewards.sandbox.cgroups import Group\ngroup = Group(8, 64)\n"
    code += "print(*group._folders.values(), flush=True)\ninput()\n"
    maker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folders = [Path(name) for name in maker.stdout.readline().split()]
    assert len(folders) >= 1
    assert all(folder.is_dir() for folder in folders)
    maker.kill()
    maker.communicate()
    assert wait_until(lambda: not any(folder.exists() for folder in folders))


def test_a_process_can_leave_no_group_behind_that_is_in_use(group):
    """Closing waits for the end of what was in it."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    group.add(process.pid)
    process.kill()
    group.close()
    process.wait()
    assert group.controllers == ()


FIRST = """
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
35 30 0:31 /docker/1 /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
"""
SECOND = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
BOTH = "4:memory:/job/5\n3:pids:/docker/1/x\n0::/"
SCOPE = "user.slice/app.slice/a.scope"
PLACES = {
    "first version": (FIRST, BOTH, {"memory": ["memory/job/5"], "pids": ["pids/x"]}),
    "second version": (SECOND, f"0::/{SCOPE}", {"pids": [SCOPE, "user.slice/app.slice"]}),
    "second version, its root": (SECOND, "0::/", {"memory": ["."], "pids": ["."]}),
    "none": ("1 1 0:1 / / rw - ext4 /dev/vda rw\n", "0::/", {"memory": [], "pids": []}),
}


@pytest.mark.parametrize("place", PLACES)
def test_where_groups_may_be_made(place):
    mountinfo, own, expected = PLACES[place]
    for controller, folders in expected.items():
        found = [*cgroups._parents(controller, mountinfo.strip(), own)]
        assert found == [Path("/sys/fs/cgroup") / folder for folder in folders]


def test_where_none_can_be_made_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(cgroups, "_own_parents", lambda controller: [tmp_path])
    group = Group(8, 64)  # a folder like any other has no files of the kernel's
    assert group.controllers == ()
    group.add(os.getpid())
    assert group.memory_kills() == 0
    group.close()
    assert [*tmp_path.iterdir()] == []
