# ruff: noqa: E501  an attack a line
"""Attacks by interfaces of the kernel, made as an attacker would make them, with arguments that would work outside.

Where what they do would harm this machine, were it allowed, they ask for it in a form that changes nothing: signal 0,
a file that is not there.
"""

import contextlib
import os
import platform
import socket
import threading

import pytest

from qrpo_lib.rewards.sandbox import process as sandbox_process

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are x86-64's")

PREFIX = """
import ctypes, errno, os, resource, select, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    return libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
def raises(action):
    try: action()
    except (OSError, ValueError): return True
    return False
def refused(action):
    try: action()
    except OSError as error: return error.errno in (errno.EPERM, errno.EROFS, errno.ENOSYS)
    return False
def errno_of(*arguments):
    call(*arguments)
    return ctypes.get_errno()
buffer = ctypes.create_string_buffer(4096)
ONE, OTHER = socket.socketpair()
PARENT, PROCESSES = os.getppid(), [int(p) for p in os.listdir('/proc') if p.isdigit()] if os.path.isdir('/proc') else [1]
def own():
    return os.getpid()
"""
# What is tried; true where it has *not* worked.
REFUSED = {
    "io_uring": "call(425, 8, buffer) == -1 and call(426, 0, 1, 1, 0, 0, 0) == -1 and call(427, 0, 0, buffer, 1) == -1",
    "a file in memory": "call(319, b'x', 0) == -1 and call(447, 0) == -1",
    "a program from a file in memory": "raises(lambda: os.execve(os.memfd_create('x'), ['x'], {}))",
    "another process's descriptors": "all(call(434, p, 0) == -1 for p in PROCESSES) and call(438, 3, 0, 0) == -1",
    "its own process's descriptor": "call(434, own(), 0) == -1 and call(434, own(), 2048) == -1",
    "page faults handled by itself": "call(323, 0) == -1 and call(323, 1) == -1",
    "a device for page faults": "raises(lambda: __import__('fcntl').ioctl(os.open('/dev/userfaultfd', os.O_RDONLY), 0xAA00))",
    "a filter with a notifier": "call(317, 1, 8, struct.pack('HxxxxxxQ', 1, ctypes.addressof(buffer))) == -1",
    "a filter of its own that allows all": "libc.prctl(22, 2, struct.pack('HxxxxxxQ', 1, ctypes.addressof(buffer))) == -1",
    "strict mode": "libc.prctl(22, 1) == -1",
    "a key in the kernel": "call(248, b'user', b'x', b'y', 1, -2) == -1",
    "reading keys": "call(250, 0, -3, 0) == -1 and call(250, 11, 1, buffer, 100) == -1 and call(249, b'user', b'x', 0, 0) == -1",
    "a session of keys": "call(250, 1, 0) == -1",
    "timers that signal": "call(222, 0, struct.pack('qiii', 0, 9, 0, 0) + bytes(48), buffer) == -1",
    "timers that signal a thread of another": "call(222, 1, struct.pack('qiii', 0, 9, 4, PARENT) + bytes(48), buffer) == -1",
    "timers as files": "call(283, 1, 0) == -1",
    "signals as files": "call(289, -1, buffer, 8, 0) == -1 and call(282, -1, buffer, 8) == -1",
    "signals to every process there is": "all(raises(lambda: os.kill(p, 0)) for p in [*PROCESSES, PARENT, -1, 0])",
    "signals by thread": "all(call(234, p, p, 0) == -1 and call(200, p, 0) == -1 for p in [*PROCESSES, PARENT])",
    "queued signals": "call(129, PARENT, 0, buffer) == -1 and call(297, PARENT, PARENT, 0, buffer) == -1",
    "a signal to itself that cannot be caught": "raises(lambda: os.kill(own(), 9)) and raises(lambda: signal.raise_signal(9))",
    "stopping itself": "raises(lambda: signal.raise_signal(signal.SIGSTOP))",
    "being traced": "call(101, 0, 0, 0, 0) == -1",
    "tracing": "all(call(101, r, p, 0, 0) == -1 for r in (16, 0x4206) for p in [*PROCESSES, PARENT])",
    "letting everybody trace it": "libc.prctl(0x59616d61, ctypes.c_ulong(-1)) == -1",
    "memory of others": "call(310, PARENT, buffer, 1, buffer, 1, 0) == -1 and call(311, PARENT, buffer, 1, buffer, 1, 0) == -1",
    "memory of itself by that call": "call(310, own(), buffer, 1, buffer, 1, 0) == -1",
    "memory by files": "all(raises(lambda: open(f'/proc/{p}/mem', 'rb+', 0)) for p in [PARENT, 'self', 1])",
    "passing descriptors": "raises(lambda: socket.send_fds(ONE, [b'x'], [0]))",
    "receiving descriptors": "OTHER.send(b'x') and raises(lambda: socket.recv_fds(ONE, 1, 1, socket.MSG_DONTWAIT))",
    "sockets of every family": "all(raises(lambda: socket.socket(f, t)) for f in range(46) for t in (1, 2, 3, 5))",
    "pairs of sockets of other kinds": "all(raises(lambda: socket.socketpair(1, t)) for t in (2, 5, 3))",
    "pairs of other families": "all(raises(lambda: socket.socketpair(f, 1)) for f in (2, 10, 16, 30))",
    "names for sockets": "raises(lambda: socket.socketpair()[0].bind(b'\\0name')) and raises(lambda: socket.socketpair()[0].bind('/tmp/s'))",
    "connecting a pair elsewhere": "raises(lambda: socket.socketpair()[0].connect(b'\\0name'))",
    "listening": "raises(lambda: socket.socketpair()[0].listen()) and raises(lambda: socket.socketpair()[0].accept())",
    "options of sockets": "raises(lambda: ONE.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24))",
    "inotify": "call(253) == -1 and call(294, 0) == -1 and call(254, 3, b'/', 0xfff) == -1",
    "fanotify": "call(300, 0, 0) == -1",
    "programs in the kernel": "call(321, 5, buffer, 120) == -1 and call(321, 0, buffer, 120) == -1",
    "performance counters": "call(298, buffer, 0, -1, -1, 0) == -1 and call(298, buffer, PARENT, -1, -1, 0) == -1",
    "clone3 with namespaces": "call(435, struct.pack('11Q', 0x10000000 | 0x20000000, *[0] * 3, 17, *[0] * 6), 88) == -1",
    "clone3 into a control group": "call(435, struct.pack('11Q', 0x200000000, *[0] * 3, 17, *[0] * 5, 3), 88) == -1",
    "clone with a user namespace": "call(56, 0x10000000 | 17, 0, 0, 0, 0) == -1",
    "clone that shares memory": "call(56, 0x100 | 0x4000 | 17, 0, 0, 0, 0) == -1",
    "clone of a thread with a namespace": "call(56, 0x10000 | 0x800 | 0x100 | 0x10000000, ctypes.addressof(buffer) + 4000, 0, 0, 0) == -1",
    "unsharing": "all(call(272, 1 << bit) == -1 for bit in (9, 10, 11, 17, 25, 26, 27, 28, 29, 30))",
    "entering namespaces": "call(308, 0, 0) == -1",
    "mounting": "libc.mount(b'x', b'/tmp', b'tmpfs', 0, None) == -1 and libc.mount(None, b'/tmp', None, 32, b'nr_inodes=0') == -1",
    "unmounting": "libc.umount2(b'/tmp', 2) == -1",
    "the new calls for mounts": "all(call(n, b'tmpfs', 0, 0, 0, 0) == -1 for n in (428, 429, 430, 431, 432, 433, 442, 457, 458, 467))",
    "capabilities back": "call(126, struct.pack('Ii', 0x20080522, 0), b'\\xff' * 24) == -1",
    "capabilities by prctl": "libc.prctl(47, 2, 21, 0, 0) == -1 and libc.prctl(24, 21) == -1 and libc.prctl(28, 0) == -1",
    "other users": "call(105, 65534) == -1 and call(117, 1, 1, 1) == -1 and call(116, 0, None) == -1 and call(122, 1) == -1",
    "dumpable again": "libc.prctl(4, 1) == -1",
    "outliving its parent": "libc.prctl(1, 0) == -1 and libc.prctl(36, 1) == -1",
    "an option of prctl with high bits": "call(157, (1 << 32) | 1, 0, 0, 0, 0) == -1",
    "an ioctl with high bits": "call(16, 0, (1 << 32) | 0x5412, b'x') == -1",
    "typing into the terminal": "all(call(16, d, 0x5412, b'x') == -1 for d in range(5))",
    "the terminal": "raises(lambda: os.open('/dev/tty', os.O_RDWR)) and call(16, 0, 0x540e, 1) == -1",
    "a new terminal": "raises(lambda: os.openpty())",
    "copying by reference": "call(16, 1, 0x40049409, 0) == -1",
    "a notice of changes": "raises(lambda: __import__('fcntl').fcntl(os.open('/', os.O_RDONLY), 1026, 1))",
    "locks by description": "raises(lambda: __import__('fcntl').fcntl(0, 37, bytes(32)))",
    "seals": "raises(lambda: __import__('fcntl').fcntl(0, 1033, 1))",
    "pages into pipes": "call(278, 1, buffer, 1, 0) == -1 and call(275, 0, 0, 1, 0, 10, 0) == -1 and call(276, 0, 1, 10, 0) == -1",
    "limits of others": "call(302, PARENT, 7, bytes(16), 0) == -1 and call(302, 1, 7, bytes(16), 0) == -1",
    "higher limits": "all(raises(lambda: resource.setrlimit(r, (-1, -1))) for r in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE))",
    "a limit of its own on processor time": "raises(lambda: resource.setrlimit(resource.RLIMIT_CPU, (0, 0))) and raises(lambda: resource.prlimit(0, resource.RLIMIT_CPU, (0, 0)))",
    "priorities": "raises(lambda: os.nice(-5)) and raises(lambda: os.setpriority(os.PRIO_PGRP, 0, 19)) and call(251, 1, PARENT, 0) == -1",
    "real time": "raises(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))",
    "other processors": "raises(lambda: os.sched_setaffinity(PARENT, {0})) and raises(lambda: os.sched_setaffinity(0, {0}))",
    "memory that stays": "libc.mlock(buffer, 4096) == -1 and libc.mlockall(1) == -1 and call(325, buffer, 4096, 0) == -1",
    "shared memory of the system": "call(29, 0, 4096, 0o1600) == -1 and raises(lambda: __import__('multiprocessing.shared_memory').shared_memory.SharedMemory(create=True, size=9))",
    "queues of messages": "call(68, 0, 0o1600) == -1 and call(240, b'q', 0o100, 0o600, None) == -1",
    "another layout of memory": "call(135, 0x0040000) == -1",
    "handles in place of paths": "call(303, -100, b'/', buffer, buffer, 0) == -1 and call(304, -100, buffer, 0) == -1",
    "another root": "libc.chroot(b'/tmp') == -1 and call(155, b'/tmp', b'/tmp') == -1",
    "attributes": "refused(lambda: os.setxattr('/nowhere', 'user.x', b'1')) and refused(lambda: os.chmod('/nowhere', 0)) and refused(lambda: os.utime('/nowhere')) and refused(lambda: os.fchmod(1000, 0))",
    "files of the kernel": "all(raises(lambda: open(p, 'w')) for p in ('/proc/self/oom_score_adj', '/proc/self/comm', '/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/self/uid_map', '/sys/fs/cgroup/cgroup.procs', '/sys/fs/cgroup/pids/cgroup.procs'))",
    "devices": "all(raises(lambda: os.open(p, os.O_RDWR)) for p in ('/dev/mem', '/dev/kmsg', '/dev/fuse', '/dev/kvm', '/dev/shm/x', '/dev/net/tun'))",
    "names of the host": "call(170, 0, -1) == -1 and call(171, 0, -1) == -1 and all(errno_of(n, 0, -1) == errno.EPERM for n in (170, 171))",
    "the clock": "call(227, 0, 0) == -1 and call(159, buffer) == -1 and call(305, 0, buffer) == -1",
    "modules, reboot, accounting": "all(call(n, 0, 0, 0) == -1 for n in (175, 176, 313, 169, 246, 320, 163, 167, 168))",
    "system calls of 32 bits": "call(0x40000000 + 39) == -1 and call(0x40000000 + 62, PARENT, 9) == -1",
}  # fmt: skip


def test_each_is_refused(judged, isolation):
    source = f"{PREFIX}\nREFUSED = {REFUSED!r}\ndef f(name): return eval(REFUSED[name])\n"
    tests = [f"assert f({name!r}) is True" for name in REFUSED]
    outcomes = judged(source, tests, isolation, seconds=5, max_tests=1000)
    assert [name for name, outcome in zip(REFUSED, outcomes, strict=True) if outcome != "passed"] == []


def test_python_outside_does_most_of_it():
    """So what is refused is refused by the sandbox, not by a slip in the attack."""
    names: dict = {}
    exec(PREFIX, names)
    works = [
        *("a file in memory", "its own process's descriptor", "timers as files", "signals as files", "inotify"),
        *(
            "passing descriptors",
            "receiving descriptors",
            "pairs of sockets of other kinds",
            "names for sockets",
            "options of sockets",
        ),
        *("locks by description", "memory of itself by that call"),
    ]
    assert [name for name in works if eval(REFUSED[name], names)] == []


def test_a_limit_of_its_own_on_processor_time_is_no_second_chance(isolation, monkeypatch, judged):
    """The kernel would end it by the signal that says "from outside", and all its tests would run again."""
    made, solver = [], sandbox_process.Nursery.solver
    monkeypatch.setattr(sandbox_process.Nursery, "solver", lambda *a: made.append(1) or solver(*a))
    source = "import resource\ndef f(x):\n    resource.setrlimit(resource.RLIMIT_CPU, (0, 0))\n    while True: pass\n"
    assert judged(source, ["assert f(1) == 1"], isolation) == ["error"]
    assert len(made) == 2  # its own, and that of the solution after it


def test_limits_can_still_be_asked_for(judged, isolation):
    source = "import resource\ndef f(x): return [len(resource.getrlimit(r)) for r in range(resource.RLIM_NLIMITS)]\n"
    source = source.replace("resource.RLIM_NLIMITS", "10")
    assert judged(source, ["assert f(1) == [2] * 10"], isolation) == ["passed"]


def test_siblings_cannot_be_reached(isolation, secret):
    """Two solutions at once; one looks for the other by every process that it can name, the other by its thread."""
    from qrpo_lib.rewards.sandbox import sandbox

    attack = PREFIX + (
        "def f(x):\n    for p in range(1, 300):\n        for number in (0,):\n"
        "            if call(62, p, number) == 0: return 'reached'\n        if call(101, 16, p, 0, 0) == 0: return 'traced'\n"
        "    return 'nothing'\n"
    )
    victim = f"import time\ndef f(x):\n    time.sleep(0.3)\n    return {secret!r}\n"
    jobs = [(attack, ["assert f(1) == 'nothing'"] * 3), (victim, [f"assert f(1) == {secret!r}"] * 3)]
    results = sandbox.run_many(jobs, processes=2, isolation=isolation, seconds_per_test=2)
    assert [result.outcomes for result in results] == [("passed",) * 3] * 2


def test_an_abstract_socket_of_the_host_hears_nothing(judged, isolation):
    """As the desktop's and container engines' sockets are: without a file, so out of any file system's reach."""
    heard = []
    name = f"\0sandbox-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        server.settimeout(0.5)

        def listen():
            with contextlib.suppress(TimeoutError):
                heard.append(server.accept())

        thread = threading.Thread(target=listen)
        thread.start()
        source = f"{PREFIX}\ndef f(x): return raises(lambda: socket.socket(socket.AF_UNIX).connect({name!r}))\n"
        assert judged(source, ["assert f(1) is True"], isolation) == ["passed"]
        thread.join()
    assert heard == []
