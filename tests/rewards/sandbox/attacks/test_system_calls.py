"""Attacks by system calls, one a test, in both isolations: signals, sockets, shared memory, attributes, locks."""

import os
import platform
import socket

import pytest

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are x86-64's")

PREFIX = """
import ctypes, errno, fcntl, os, signal, socket, struct, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) != -1: return 0
    return ctypes.get_errno()
def refused(action):
    try: action()
    except OSError as error: return error.errno in (errno.EPERM, errno.EROFS, errno.ENOSYS)
    return False
"""


@pytest.fixture
def refuses(judged, isolation):
    """Whether an expression in the sandbox, after statements, is true."""

    def run(expression, statements=""):
        body = "\n    ".join(statements.strip().splitlines())
        source = f"{PREFIX}\ndef f(x):\n    {body or 'pass'}\n    return {expression}\n"
        return judged(source, ["assert f(1) is True"], isolation, seconds=2)

    return run


# Numbers on x86-64. Unknown to the kernel of today: 463 (setxattrat) and beyond.
NUMBERS = {
    "fork": (57,),
    "vfork": (58,),
    "execve": (59, 0, 0, 0),
    "execveat": (322, -100, 0, 0, 0, 0),
    "kill": (62, 1, 0),
    "tkill": (200, 1, 0),
    "tgkill": (234, 1, 1, 0),
    "rt_sigqueueinfo": (129, 1, 9, 0),
    "pidfd_open": (434, 1, 0),
    "pidfd_send_signal": (424, 0, 0, 0, 0),
    "pidfd_getfd": (438, 0, 0, 0),
    "ptrace": (101, 16, 1, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "process_vm_writev": (311, 1, 0, 0, 0, 0, 0),
    "process_madvise": (440, 0, 0, 0, 0, 0),
    "socket": (41, 1, 2, 0),
    "bind": (49, 0, 0, 0),
    "connect": (42, 0, 0, 0),
    "listen": (50, 0, 0),
    "accept": (43, 0, 0, 0),
    "sendmsg": (46, 0, 0, 0),
    "sendmmsg": (307, 0, 0, 0, 0),
    "recvmsg": (47, 0, 0, 0),
    "setsockopt": (54, 0, 0, 0, 0, 0),
    "shmget": (29, 0, 4096, 0o1600),
    "shmat": (30, 0, 0, 0),
    "shmctl": (31, 0, 0, 0),
    "semget": (64, 0, 1, 0o1600),
    "semop": (65, 0, 0, 0),
    "semctl": (66, 0, 0, 0),
    "msgget": (68, 0, 0o1600),
    "msgsnd": (69, 0, 0, 0, 0),
    "mq_open": (240, 0, 0, 0, 0),
    "memfd_create": (319, 0, 0),
    "memfd_secret": (447, 0),
    "io_uring_setup": (425, 1, 0),
    "userfaultfd": (323, 0),
    "perf_event_open": (298, 0, 0, 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "keyctl": (250, 0, 0, 0, 0, 0),
    "add_key": (248, 0, 0, 0, 0, 0),
    "unshare": (272, 0x10000000),
    "setns": (308, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "pivot_root": (155, 0, 0),
    "chroot": (161, 0),
    "open_tree": (428, -100, 0, 0),
    "move_mount": (429, 0, 0, 0, 0, 0),
    "fsopen": (430, 0, 0),
    "mount_setattr": (442, 0, 0, 0, 0, 0),
    "setuid": (105, 0),
    "setgid": (106, 0),
    "setsid": (112,),
    "setpgid": (109, 0, 0),
    "setpriority": (141, 0, 0, 5),
    "ioprio_set": (251, 1, 0, 0),
    "sched_setaffinity": (203, 0, 0, 0),
    "sched_setscheduler": (144, 0, 0, 0),
    "sched_setattr": (314, 0, 0, 0),
    "mlock": (149, 0, 0),
    "mlockall": (151, 1),
    "swapon": (167, 0, 0),
    "reboot": (169, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "quotactl": (179, 0, 0, 0, 0),
    "acct": (163, 0),
    "iopl": (172, 3),
    "ioperm": (173, 0, 1, 1),
    "chmod": (90, 0, 0),
    "fchmod": (91, 1000, 0),
    "fchmodat": (268, -100, 0, 0),
    "fchmodat2": (452, -100, 0, 0, 0),
    "chown": (92, 0, 0, 0),
    "fchown": (93, 1000, 0, 0),
    "utimensat": (280, -100, 0, 0, 0),
    "link": (86, 0, 0),
    "linkat": (265, 0, 0, 0, 0, 0),
    "mknod": (133, 0, 0, 0),
    "setxattr": (188, 0, 0, 0, 0, 0),
    "fsetxattr": (190, 0, 0, 0, 0, 0),
    "removexattr": (197, 0, 0),
    "setxattrat": (463, -100, 0, 0, 0, 0, 0),
    "removexattrat": (466, -100, 0, 0, 0),
    "file_setattr": (469, -100, 0, 0, 0, 0),
    "openat2": (437, -100, 0, 0, 0),
    "clone3": (435, 0, 0),
    "flock": (73, 0, 2),
    "inotify_init1": (294, 0),
    "fanotify_init": (300, 0, 0),
    "signalfd4": (289, -1, 0, 8, 0),
    "timer_create": (222, 0, 0, 0),
    "timerfd_create": (283, 0, 0),
    "name_to_handle_at": (303, 0, 0, 0, 0, 0),
    "open_by_handle_at": (304, 0, 0, 0),
    "process_mrelease": (448, 0, 0),
    "landlock_create_ruleset": (444, 0, 0, 0),
    "seccomp": (317, 0, 0, 0),
    "personality": (135, 0),
    "syslog": (103, 3, 0, 0),
    "kcmp": (312, 1, 1, 0, 0, 0),
    "get_robust_list": (274, 1, 0, 0),
    "a number of the future": (480, 0),
    "a number far beyond": (1 << 20, 0),
    "a number of the x32 table": (0x40000000 + 57,),
    "a negative number": (-7,),
}


def test_system_calls_are_refused(judged, isolation):
    """Each in one test of a solution: answered with an error that means "not allowed" or "not there"."""
    function = "def f(name): return errno.errorcode.get(call(*numbers[name]), 0)"
    source = f"{PREFIX}\nnumbers = {NUMBERS!r}\n{function}\n"
    tests = [f"assert f({name!r}) in ('EPERM', 'ENOSYS', 'EROFS')" for name in NUMBERS]
    outcomes = judged(source, tests, isolation, seconds=2, max_tests=1000)
    assert [name for name, outcome in zip(NUMBERS, outcomes, strict=True) if outcome != "passed"] == []


def test_signals_by_the_owner_of_a_descriptor(refuses, host):
    """F_SETOWN, F_SETSIG, O_ASYNC: the kernel would send a signal of one's choice to any process of this user."""
    _, process = host
    statements = f"""
read, write = os.pipe()
tries = [lambda: fcntl.fcntl(read, fcntl.F_SETOWN, {process.pid}), lambda: fcntl.fcntl(read, 10, 9)]
tries += [lambda: fcntl.fcntl(read, 15, struct.pack('ii', 1, {process.pid}))]
tries += [lambda: fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC), lambda: fcntl.ioctl(read, 0x5452, struct.pack('i', 1))]
tries += [lambda: fcntl.ioctl(read, 0x8901, struct.pack('i', {process.pid}))]
"""
    assert refuses("all(map(refused, tries))", statements) == ["passed"]
    assert process.poll() is None


def test_leases_and_locks(refuses):
    statements = """
descriptor = os.open('/worker.py' if os.path.exists('/worker.py') else os.__file__, os.O_RDONLY)
tries = [lambda: fcntl.fcntl(descriptor, 1024, 0), lambda: fcntl.fcntl(descriptor, 1026, 1)]
tries += [lambda: fcntl.lockf(descriptor, fcntl.LOCK_SH), lambda: fcntl.flock(descriptor, fcntl.LOCK_SH)]
"""
    assert refuses("all(map(refused, tries))", statements) == ["passed"]


def test_large_pipes(refuses):
    """A pipe may be a megabyte of the kernel's memory, which no limit of the process counts."""
    assert refuses("refused(lambda: fcntl.fcntl(os.pipe()[0], 1031, 1 << 20))") == ["passed"]


def test_attributes_by_ioctl(refuses):
    statements = """
descriptor = os.open(os.__file__, os.O_RDONLY)
tries = [lambda: fcntl.ioctl(descriptor, 0x40086602, struct.pack('l', 16))]
tries += [lambda: fcntl.ioctl(descriptor, 0x401c5820, bytes(28)), lambda: fcntl.ioctl(0, 0x5412, b'x')]
"""
    assert refuses("all(map(refused, tries))", statements) == ["passed"]


def test_datagrams_to_sockets_of_the_host(refuses, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0sandbox-test-" + str(os.getpid()))
        server.settimeout(0.2)
        statements = f"""
name = '\\0sandbox-test-{os.getpid()}'
def send(kind):
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    one.sendto(b'harm', name)
def bind():
    socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)[0].bind('/tmp/attack')
"""
        expression = (
            "all(refused(lambda: send(kind)) for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)) and refused(bind)"
        )
        assert refuses(expression, statements) == ["passed"]
        with pytest.raises(TimeoutError):
            server.recv(10)


def test_descriptors_in_flight(refuses):
    """Messages with descriptors could keep more of them than a process may have."""
    statements = "one, other = socket.socketpair()"
    assert refuses("refused(lambda: socket.send_fds(one, [b'x'], [0]))", statements) == ["passed"]


def test_event_loops_work(judged, isolation):
    loop = "async def g(x):\n    await asyncio.sleep(0)\n    return x + 10\n"
    source = f"import asyncio\n{loop}def f(x): return asyncio.run(g(x))\n"
    assert judged(source, ["assert f(1) == 11", "assert f(2) == 12"], isolation, seconds=5) == ["passed"] * 2


def test_the_null_device_is_there(judged, isolation):
    source = """
import io, os, pathlib
def f(x):
    with open(os.devnull, 'w') as one, io.open(os.devnull, 'wb') as two, pathlib.Path(os.devnull).open('a') as three:
        print('x', file=one); two.write(b'x'); three.write('x')
    descriptor = os.open(os.devnull, os.O_RDWR)
    os.write(descriptor, b'x')
    return os.path.exists(os.devnull) and open(os.devnull).read() == ''
"""
    before = os.stat(os.devnull)
    assert judged(source, ["assert f(1) is True"], isolation) == ["passed"]
    after = os.stat(os.devnull)
    assert (before.st_mode, before.st_uid) == (after.st_mode, after.st_uid)


def test_the_null_devices_attributes_are_the_hosts(refuses):
    statements = (
        "tries = [lambda: os.chmod(os.devnull, 0), lambda: os.utime(os.devnull, (0, 0)), lambda: os.remove(os.devnull)]"
    )
    assert refuses("all(map(refused, tries))", statements) == ["passed"]


def test_memory_of_every_process_it_can_name(forgery):
    """It looks for the expected value in the memory of its parents, by the files that show it."""
    source = """
import os, re
def f(x):
    pid, found = os.getppid(), None
    for _ in range(4):
        for name in (pid, 'self'):
            try:
                for line in open(f'/proc/{name}/maps'):
                    if 'rw' not in line: continue
                    start, end = (int(part, 16) for part in line.split()[0].split('-'))
                    with open(f'/proc/{name}/mem', 'rb', 0) as memory:
                        memory.seek(start)
                        found = found or re.search(rb"right-[0-9a-f]{16}-%d" % x, memory.read(end - start))
            except (OSError, ValueError, OverflowError): pass
        try: pid = int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])
        except (OSError, ValueError): break
    return found and found.group().decode()
"""
    assert "passed" not in forgery(source, seconds=5)
