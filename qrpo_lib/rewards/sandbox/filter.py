"""The system calls that a solution may make, as a seccomp program. All others, unknown numbers included, are refused.

Allowed is what an interpreter with threads computes with: memory, reading files, its own descriptors, clocks, waiting.
Not among them: processes and programs, signals, sockets that reach anywhere, shared memory, locks, attributes of files,
other processes' limits and priorities, and whatever holds kernel memory that no limit counts.
"""

from __future__ import annotations

import os
import platform
import struct

# Name, number on x86-64, number on arm64; "-" where the machine does not have the call. The most frequent come first.
_ALLOWED = """
read 0 63, write 1 64, futex 202 98, clock_gettime 228 113, mmap 9 222, munmap 11 215, brk 12 214, mprotect 10 226,
madvise 28 233, mremap 25 216, close 3 57, fstat 5 80, lseek 8 62, newfstatat 262 79, stat 4 -, lstat 6 -,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigtimedwait 128 137,
rt_sigsuspend 130 133, sigaltstack 131 132, pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66, access 21 -,
faccessat 269 48, faccessat2 439 439, statx 332 291, readlink 89 -, readlinkat 267 78, getdents 78 -, getdents64 217 61,
getcwd 79 17, chdir 80 49, fchdir 81 50, statfs 137 43, fstatfs 138 44, fadvise64 221 223, sendfile 40 71,
copy_file_range 326 285, fsync 74 82, fdatasync 75 83, umask 95 166, pipe 22 -, pipe2 293 59, dup 32 23, dup2 33 -,
dup3 292 24, close_range 436 436, eventfd 284 -, eventfd2 290 19, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72,
epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441,
nanosleep 35 101, clock_nanosleep 230 115, clock_getres 229 114, gettimeofday 96 169, time 201 -, times 100 153,
getitimer 36 102, setitimer 38 103, alarm 37 -, pause 34 -, sched_yield 24 124, sched_getaffinity 204 123,
sched_getparam 143 121, sched_getscheduler 145 120, sched_get_priority_max 146 125, sched_get_priority_min 147 126,
getpriority 140 141, getcpu 309 168, getpid 39 172, gettid 186 178, getppid 110 173, getpgrp 111 -, getpgid 121 155,
getsid 124 156, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, getresuid 118 148, getresgid 120 150,
getgroups 115 158, getrlimit 97 163, getrusage 98 165, sysinfo 99 179, uname 63 160,
getrandom 318 278, membarrier 324 283, rseq 334 293, set_robust_list 273 99,
set_tid_address 218 96, restart_syscall 219 128, wait4 61 260, waitid 247 95, exit 60 93, exit_group 231 94,
recvfrom 45 207, shutdown 48 210, getsockname 51 204, getpeername 52 205, getsockopt 55 209
"""
# Changes to files: in namespaces of its own, where only a small /tmp can be written. Without them: "read-only system".
_FILES = """
creat 85 -, mkdir 83 -, mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38,
renameat2 316 276, symlink 88 -, symlinkat 266 36, truncate 76 45, ftruncate 77 46, fallocate 285 47
"""
_OPEN, _OPENAT, _OPENAT2 = (2, None), (257, 56), (437, 437)
_CLONE, _CLONE3, _PRCTL = (56, 220), (435, 435), (157, 167)
_PRLIMIT, _SETRLIMIT, _RLIMIT_CPU = (302, 261), (160, 164), 0
_FCNTL, _IOCTL, _SOCKETPAIR, _SENDTO = (72, 25), (16, 29), (53, 199), (44, 206)

_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_EPERM, _EROFS, _ENOSYS = 1, 30, 38
_CLONE_THREAD, _O_ASYNC = 0x10000, 0o20000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_F_GETFD_AND_THE_LIKE = (0, 1, 2, 3, 1030, 1032)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ
_F_SETFL = 4
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIO(N)CLEX
_PRCTLS = (3, 15, 16, 0x53564D41)  # PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_SET_VMA
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE = 1, 1, 0xF
# The first number that machines have in common: libraries try these and do without where they are not implemented.
_NEW = 424

_EQUAL, _AT_LEAST, _ANY_BIT = 0x15, 0x35, 0x45


def _table(text: str) -> list[tuple[int | None, int | None]]:
    rows = [entry.split()[1:] for entry in text.replace("\n", " ").split(",")]
    return [tuple(None if number == "-" else int(number) for number in row) for row in rows]


def _instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _load(offset: int) -> bytes:
    return _instruction(0x20, 0, 0, offset)


def _argument(index: int, *, high: bool = False) -> bytes:
    """Load half of an argument; the low half is all of an int."""
    return _load(16 + 8 * index + 4 * high)


def _fail(error: int) -> bytes:
    return _instruction(0x06, 0, 0, 0x00050000 | error)


_ALLOW = _instruction(0x06, 0, 0, 0x7FFF0000)


def _is_one_of(values: tuple[int, ...]) -> list[bytes]:
    """Goes on where the loaded value is one of them, and fails where not."""
    # A match jumps over the failure, which stands after the last comparison.
    jumps = [_instruction(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [*jumps, _fail(_EPERM)]


def _rules(no_namespaces: bool) -> list[tuple[tuple[int | None, int | None], list[bytes]]]:
    """(numbers, what follows once the call's number matches) in order. Each ends by allowing or failing."""
    equal = lambda value: _instruction(_EQUAL, 1, 0, value)  # noqa: E731  skips the failure that follows
    rules = [(numbers, [_ALLOW]) for numbers in _table(_ALLOWED)]
    rules += [(numbers, [_fail(_EROFS) if no_namespaces else _ALLOW]) for numbers in _table(_FILES)]
    for numbers, index in ((_OPEN, 1), (_OPENAT, 2)):
        read_only = [_argument(index), _instruction(_ANY_BIT, 0, 1, _WRITING), _fail(_EROFS)]
        rules.append((numbers, [*(read_only if no_namespaces else ()), _ALLOW]))
    rules.append((_CLONE, [_argument(0), _instruction(_ANY_BIT, 1, 0, _CLONE_THREAD), _fail(_EPERM), _ALLOW]))
    # Limits of no other process; and not the one at which the kernel sends the signal that means "from outside".
    asks = [part for high in (False, True) for part in (_argument(2, high=high), equal(0), _fail(_EPERM))]
    of_time = [_argument(1), _instruction(_EQUAL, 0, len(asks), _RLIMIT_CPU), *asks]
    rules.append((_PRLIMIT, [_argument(0), equal(0), _fail(_EPERM), *of_time, _ALLOW]))
    rules.append((_SETRLIMIT, [_argument(0), _instruction(_EQUAL, 0, 1, _RLIMIT_CPU), _fail(_EPERM), _ALLOW]))
    rules.append((_PRCTL, [_argument(0), *_is_one_of(_PRCTLS), _ALLOW]))
    rules.append((_IOCTL, [_argument(1), *_is_one_of(_IOCTLS), _ALLOW]))
    # Flags may be set, but not the one that makes the kernel send signals.
    flags = [_argument(2), _instruction(_ANY_BIT, 0, 1, _O_ASYNC), _fail(_EPERM), _ALLOW]
    setting = [_argument(1), _instruction(_EQUAL, 0, len(flags), _F_SETFL), *flags]
    rules.append((_FCNTL, [*setting, *_is_one_of(_F_GETFD_AND_THE_LIKE), _ALLOW]))
    # Two connected ends, as event loops have them; of a kind that cannot send elsewhere.
    stream = [_argument(1), _instruction(0x54, 0, 0, _SOCK_TYPE), equal(_SOCK_STREAM), _fail(_EPERM), _ALLOW]
    rules.append((_SOCKETPAIR, [_argument(0), equal(_AF_UNIX), _fail(_EPERM), *stream]))
    nowhere = [part for high in (False, True) for part in (_argument(4, high=high), equal(0), _fail(_EPERM))]
    rules.append((_SENDTO, [*nowhere, _ALLOW]))
    rules += [(_CLONE3, [_fail(_ENOSYS)]), (_OPENAT2, [_fail(_ENOSYS)])]  # what they point to is out of sight
    return rules


def program(no_namespaces: bool, machine: str | None = None) -> bytes:
    """The filter for this kind of processor; empty where there is none. `no_namespaces`: no file may be changed."""
    machine = machine or platform.machine()
    if machine not in _AUDIT_ARCHITECTURE:
        return b""
    column = 0 if machine == "x86_64" else 1
    made = [_load(4), _instruction(_EQUAL, 1, 0, _AUDIT_ARCHITECTURE[machine]), _fail(_EPERM), _load(0)]
    if machine == "x86_64":  # the x32 calls have numbers of their own
        made += [_instruction(_AT_LEAST, 0, 1, 0x40000000), _fail(_EPERM)]
    for numbers, then in _rules(no_namespaces):
        if numbers[column] is not None:
            made += [_instruction(_EQUAL, 0, len(then), numbers[column]), *then]
    made += [_instruction(_AT_LEAST, 0, 1, _NEW), _fail(_ENOSYS), _fail(_EPERM)]
    return b"".join(made)
