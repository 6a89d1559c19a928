"""The seccomp program, run by a small interpreter of its own: what either kind of processor would be told to do."""

import struct

import pytest

from qrpo_lib.rewards.sandbox import filter as seccomp

ALLOW, EPERM, EROFS, ENOSYS = "allow", 1, 30, 38
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decision(program, number, *arguments, architecture):
    """What the kernel does with a system call: classic BPF on the fields of `struct seccomp_data`."""
    values = [value & (2**64 - 1) for value in (*arguments, *[0] * (6 - len(arguments)))]
    data = struct.pack("<iIQ6Q", number, architecture, 0, *values)
    place, loaded = 0, None
    while True:
        code, if_true, if_false, value = struct.unpack_from("HBBI", program, 8 * place)
        place += 1
        if code == 0x20:  # load a word
            (loaded,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:  # and
            loaded &= value
        elif code == 0x06:  # return
            return ALLOW if value == 0x7FFF0000 else value - 0x00050000
        else:
            jumps = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}
            place += if_true if jumps[code] else if_false


# Name: number on x86-64, number on arm64 (asm-generic), arguments, what happens with and without namespaces.
CALLS = {
    "read": (0, 63, (), ALLOW, ALLOW),
    "sendto nobody": (44, 206, (3, 0, 9, 0, 0, 0), ALLOW, ALLOW),
    "sendto somebody": (44, 206, (3, 0, 9, 0, 1 << 40, 16), EPERM, EPERM),
    "openat to read": (257, 56, (-100, 0, 0o2000000), ALLOW, ALLOW),
    "openat to write": (257, 56, (-100, 0, 0o101), ALLOW, EROFS),
    "unlinkat": (263, 35, (), ALLOW, EROFS),
    "clone of a thread": (56, 220, (0x3D0F00,), ALLOW, ALLOW),
    "clone of a process": (56, 220, (0x1200011,), EPERM, EPERM),
    "clone3": (435, 435, (), ENOSYS, ENOSYS),
    "openat2": (437, 437, (), ENOSYS, ENOSYS),
    "execve": (59, 221, (), EPERM, EPERM),
    "kill": (62, 129, (), EPERM, EPERM),
    "ptrace": (101, 117, (), EPERM, EPERM),
    "socket": (41, 198, (1, 1), EPERM, EPERM),
    "socketpair of streams": (53, 199, (1, 1 | 0o2000000), ALLOW, ALLOW),
    "socketpair of datagrams": (53, 199, (1, 2), EPERM, EPERM),
    "socketpair of another family": (53, 199, (16, 1), EPERM, EPERM),
    "prlimit64 asks": (302, 261, (0, 0, 0, 1 << 40), ALLOW, ALLOW),
    "prlimit64 sets the time": (302, 261, (0, 0, 1 << 40, 0), EPERM, EPERM),
    "prlimit64 of another process": (302, 261, (7, 3), EPERM, EPERM),
    "prctl names a thread": (157, 167, (15,), ALLOW, ALLOW),
    "prctl makes it dumpable": (157, 167, (4, 1), EPERM, EPERM),
    "fcntl sets O_NONBLOCK": (72, 25, (3, 4, 0o4000), ALLOW, ALLOW),
    "fcntl sets O_ASYNC": (72, 25, (3, 4, 0o20000), EPERM, EPERM),
    "fcntl locks": (72, 25, (3, 6), EPERM, EPERM),
    "ioctl FIONREAD": (16, 29, (3, 0x541B), ALLOW, ALLOW),
    "ioctl TIOCSTI": (16, 29, (3, 0x5412), EPERM, EPERM),
    "an old call without a name": (400, 400, (), EPERM, EPERM),
    "a call of tomorrow": (999, 999, (), ENOSYS, ENOSYS),
}


@pytest.mark.parametrize("no_namespaces", [False, True])
@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_every_call_is_decided_as_said(machine, no_namespaces):
    program = seccomp.program(no_namespaces, machine)
    for name, (on_x86, on_arm, arguments, *expected) in CALLS.items():
        number = on_x86 if machine == "x86_64" else on_arm
        decided = decision(program, number, *arguments, architecture=ARCHITECTURES[machine])
        assert decided == expected[no_namespaces], name


def test_the_calls_of_another_architecture_are_refused():
    """A 64-bit process can make calls by the numbers of others: 32-bit ones, and on x86-64 those of x32."""
    program = seccomp.program(False, "x86_64")
    assert decision(program, 0, architecture=0x40000003) == EPERM  # i386
    assert decision(program, 0x40000000, architecture=ARCHITECTURES["x86_64"]) == EPERM
    assert seccomp.program(False, "riscv64") == b""
