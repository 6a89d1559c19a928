"""The side of the sandbox that runs untrusted code: evaluates expressions, sends their plain values. Run by `sandbox`.

    python -I -S sandbox_worker.py READ_FD WRITE_FD SETTINGS

Everything in this process belongs to the solution once it has run, this module included. So nothing here decides a
verdict: the process never holds an expected value, and what it sends is data that the trusted side decodes strictly.
Only what happens before the solution is read, the limits, has to hold. Nothing outside the standard library, and
nothing of this package, is imported.

Messages are JSON after a length of 4 bytes. In: {"source"} once, then {"id", "calls"}. Out: {"filtered"} once, then
{"id", "values"} or {"id", "error", "kind"}.
"""

import ctypes
import json
import os
import resource
import struct
import sys
import types

_MAX_DEPTH = 200
_MAX_NODES = 1_000_000

# --- limits ----------------------------------------------------------------------------------------------------------

# System calls by number on (x86-64, arm64); -1 where the machine does not have it. Denied: new processes and programs,
# signals to and memory of other processes, sockets, new namespaces, and memory that RLIMIT_AS does not count.
_DENIED = {
    "fork": (57, -1),
    "vfork": (58, -1),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "socket": (41, 198),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
# Denied as well where no namespace hides files and processes: whatever changes files, or slows other processes down.
_DENIED_WITHOUT_NAMESPACES = {
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "creat": (85, -1),
    "mkdir": (83, -1),
    "mkdirat": (258, 34),
    "rmdir": (84, -1),
    "unlink": (87, -1),
    "unlinkat": (263, 35),
    "rename": (82, -1),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, -1),
    "linkat": (265, 37),
    "symlink": (88, -1),
    "symlinkat": (266, 36),
    "mknod": (133, -1),
    "mknodat": (259, 33),
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, -1),
    "fchown": (93, 55),
    "lchown": (94, -1),
    "fchownat": (260, 54),
    "truncate": (76, 45),
    "utime": (132, -1),
    "utimes": (235, -1),
    "futimesat": (261, -1),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
_CLONE, _CLONE3, _PRCTL, _PRLIMIT = (56, 220), (435, 435), (157, 167), (302, 261)
_OPEN, _OPENAT, _OPENAT2 = (2, -1), (257, 56), (437, 437)
_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SIGKILL = 1, 22, 38, 9
_CLONE_THREAD = 0x10000
_EPERM, _EROFS, _ENOSYS = 1, 30, 38


def _filter(machine: str, no_namespaces: bool) -> bytes:
    """The seccomp program: allow all, but answer what is denied with an error."""
    column = 0 if machine == "x86_64" else 1
    allow = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)

    def load(offset: int) -> bytes:
        return struct.pack("HBBI", 0x20, 0, 0, offset)

    def jump(how: int, value: int, if_true: int, if_false: int) -> bytes:
        return struct.pack("HBBI", how, if_true, if_false, value)

    def fail(error: int) -> bytes:
        return struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | error)

    equal, at_least, any_bit, argument = 0x15, 0x35, 0x45, 16
    program = [load(4), jump(equal, _AUDIT_ARCHITECTURE[machine], 1, 0), fail(_EPERM), load(0)]
    if machine == "x86_64":  # the x32 calls have numbers of their own
        program += [jump(at_least, 0x40000000, 0, 1), fail(_EPERM)]

    def deny(numbers: tuple[int, int], error: int) -> None:
        if numbers[column] >= 0:
            program.extend([jump(equal, numbers[column], 0, 1), fail(error)])

    def deny_if(numbers: tuple[int, int], index: int, test: bytes, error: int) -> None:
        """`test` looks at the low half of one argument and jumps over one instruction where the call is fine."""
        if numbers[column] >= 0:
            program.extend([jump(equal, numbers[column], 0, 4), load(argument + 8 * index), test, fail(error), allow])

    for numbers in _DENIED.values():
        deny(numbers, _EPERM)
    deny(_CLONE3, _ENOSYS)  # its flags are out of a filter's sight; without it, libraries use clone
    deny_if(_CLONE, 0, jump(any_bit, _CLONE_THREAD, 1, 0), _EPERM)
    deny_if(_PRCTL, 0, jump(equal, _PR_SET_PDEATHSIG, 0, 1), _EPERM)  # else it could outlive us
    deny_if(_PRLIMIT, 0, jump(equal, 0, 1, 0), _EPERM)  # another process's limits
    if no_namespaces:
        for numbers in _DENIED_WITHOUT_NAMESPACES.values():
            deny(numbers, _EROFS)
        deny(_OPENAT2, _ENOSYS)
        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        deny_if(_OPEN, 1, jump(any_bit, writing, 0, 1), _EROFS)
        deny_if(_OPENAT, 2, jump(any_bit, writing, 0, 1), _EROFS)
    return b"".join([*program, allow])


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _confine(settings: dict) -> bool:
    """Apply all limits to this process, for good. True if system calls are filtered too."""
    megabyte = 1 << 20
    limits = {
        resource.RLIMIT_AS: settings["memory_mb"] * megabyte,
        resource.RLIMIT_FSIZE: settings["file_mb"] * megabyte,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if not settings["no_namespaces"]:  # else it would count all that this user runs
        limits[resource.RLIMIT_NPROC] = settings["threads"]
    for which, limit in limits.items():
        _, highest = resource.getrlimit(which)
        limit = limit if highest == resource.RLIM_INFINITY else min(limit, highest)
        resource.setrlimit(which, (limit, limit))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # No capabilities, even for root (version 3 of the call; three empty sets of 64).
    libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24))
    machine = os.uname().machine
    if machine not in _AUDIT_ARCHITECTURE:
        return False
    code = _filter(machine, settings["no_namespaces"])
    program = _Program(len(code) // 8, code)
    return libc.prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(program), 0, 0) == 0


# --- values ----------------------------------------------------------------------------------------------------------


class _NotPlainError(Exception):
    pass


def _encoder():
    """`encode(value)`: a plain value as what JSON has, everything else tagged by a one-key object.

    What it calls is bound here, before any solution runs. A subclass counts by the content of its builtin base
    (`Counter` as dict, a named tuple as tuple), read past whatever methods it overrides.
    """
    int_pos, float_pos, str_str, bytes_hex = int.__pos__, float.__pos__, str.__str__, bytes.hex
    dict_items, list_iter, tuple_iter = dict.items, list.__iter__, tuple.__iter__
    set_iter, frozenset_iter, complex_of = set.__iter__, frozenset.__iter__, complex.__complex__

    def linked(node, depth):
        values = []
        while node is not None:
            if len(values) >= _MAX_NODES:
                raise _NotPlainError("a list that does not end")
            values.append(encode(node.val, depth + 1))
            node = node.next
        return {"ListNode": values}

    def tree(root, depth):
        preorder, ahead = [], [root]
        while ahead:
            if len(preorder) >= _MAX_NODES:
                raise _NotPlainError("a tree that does not end")
            node = ahead.pop()
            preorder.append(None if node is None else [encode(node.val, depth + 1)])
            if node is not None:
                ahead += [node.right, node.left]
        return {"TreeNode": preorder}

    def encode(value, depth=0):
        kind = type(value)
        if value is None or kind is bool or kind is str or kind is float:
            return value
        if kind is int:
            return value if -(1 << 63) <= value < 1 << 63 else {"int": hex(value)}
        if depth > _MAX_DEPTH:
            raise _NotPlainError(f"nested deeper than {_MAX_DEPTH}")
        if issubclass(kind, list):
            return [encode(item, depth + 1) for item in list_iter(value)]
        if issubclass(kind, tuple):
            return {"tuple": [encode(item, depth + 1) for item in tuple_iter(value)]}
        if issubclass(kind, dict):
            return {"dict": [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in dict_items(value)]}
        if issubclass(kind, set):
            return {"set": [encode(item, depth + 1) for item in set_iter(value)]}
        if issubclass(kind, frozenset):
            return {"frozenset": [encode(item, depth + 1) for item in frozenset_iter(value)]}
        if issubclass(kind, int):
            return encode(int_pos(value), depth)
        if issubclass(kind, float):
            return float_pos(value)
        if issubclass(kind, str):
            return str_str(value)
        if issubclass(kind, bytes):
            return {"bytes": bytes_hex(value)}
        if kind is complex:
            number = complex_of(value)
            return {"complex": [number.real, number.imag]}
        if kind.__name__ == "ListNode":
            return linked(value, depth)
        if kind.__name__ == "TreeNode":
            return tree(value, depth)
        raise _NotPlainError(f"a {kind.__name__}, which is not a plain value")

    return encode


# --- conversation ----------------------------------------------------------------------------------------------------


def _channel(read_fd: int, write_fd: int):
    read, write, dumps, loads = os.read, os.write, json.dumps, json.loads

    def exactly(size: int) -> bytes:
        parts = []
        while size:
            part = read(read_fd, size)
            if not part:
                os._exit(0)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def receive():
        return loads(exactly(int.from_bytes(exactly(4), "big")))

    def send(message) -> None:
        data = dumps(message).encode()
        data = len(data).to_bytes(4, "big") + data
        while data:
            data = data[write(write_fd, data) :]

    return receive, send


def _described(error: BaseException) -> dict:
    kind = "memory" if isinstance(error, MemoryError) else "error"
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:
        text = type(error).__name__
    return {"kind": kind, "error": text[:200]}


def main() -> None:
    read_fd, write_fd, settings = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    sys.argv[1:] = []
    sys.path.append(settings["packages"])
    sys.dont_write_bytecode = True
    receive, send, encode = *_channel(read_fd, write_fd), _encoder()
    send({"filtered": _confine(settings)})

    request = receive()
    # A module of its own, as an import would make it: dataclasses and pickle look their class's module up.
    solution = types.ModuleType("solution")
    sys.modules["solution"] = solution
    namespace = solution.__dict__
    try:
        exec(compile(request["source"], "<solution>", "exec"), namespace)
        answer = {"values": []}
    except BaseException as error:
        answer = _described(error)
    send({"id": request["id"], **answer})

    while True:
        request = receive()
        try:
            values = [eval(compile(call, "<test>", "eval"), namespace) for call in request["calls"]]
            answer = {"values": [encode(value) for value in values]}
        except _NotPlainError as error:
            answer = {"kind": "failed", "error": f"returned {error}"[:200]}
        except BaseException as error:
            answer = _described(error)
        values = None
        send({"id": request["id"], **answer})


if __name__ == "__main__":
    main()
