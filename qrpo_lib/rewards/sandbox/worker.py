"""The side of the sandbox that runs untrusted code: its limits, the form of values, the conversation, the nursery.

    python -P -s -S sandbox_worker.py CONTROL_FD

Started by `process`. This process, the nursery, loads the interpreter once and runs nothing of a solution's; for each
solution it forks a child, which limits itself for good before it reads the solution, and belongs to it from then on. So
nothing here decides a verdict: the trusted side reads strictly what it sends. Only the standard library is imported.

Control socket: settings in JSON with a descriptor of the judge's process, and "ready" with one of the nursery's; then,
for each solution, two pipe ends in and a descriptor of the child's process out; at its end the status that wait gives.
Pipes: a length of 4 bytes and JSON in, {"source", "setup"} once and then {"id", "calls", "exact"}; out the same,
{"filtered"} once and then {"id", "sizes"} (null for one that raises) and the values, or {"id", "error", "kind"}.
"""

import __future__

import ast
import builtins
import collections
import ctypes
import fcntl
import gc
import importlib
import importlib.util
import io
import json
import os
import re
import resource
import select
import socket
import struct
import sys
import types

ANSWER_CHARACTERS = 1 << 24
"""The longest answer, as JSON, that counts. It is the longest that is sent."""
CONVERSIONS = {
    **{name: getattr(builtins, name) for name in ("abs", "dict", "float", "frozenset", "int", "len", "list", "map")},
    **{name: getattr(builtins, name) for name in ("max", "min", "reversed", "set", "sorted", "str", "sum", "tuple")},
    "Counter": collections.Counter,
}
"""What a test may turn a call's value into before it is compared, whatever the solution calls by these names."""
_MAX_DEPTH = 200
_MAX_NODES = 1_000_000
_READ_FD, _WRITE_FD = 3, 4
_STACK_MB = 64
_THREAD_STACK_MB = 8  # counts in full against the limit of memory
# What a child need not load again: the standard library's part of the LeetCode initialisation.
_PRELOADED = (
    *("bisect", "collections", "copy", "dataclasses", "datetime", "enum", "functools", "heapq", "itertools", "math"),
    *("operator", "queue", "random", "re", "string", "threading", "typing"),
)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SIGKILL = 1, 4, 22, 38, 9


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _library():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    return libc


def _limit_files(settings, libc):
    """Bound the number of files in /tmp, which is this process's own, and give up the capability that it takes."""
    if not settings["no_namespaces"]:
        nosuid, nodev, remount = 2, 4, 32
        options = f"size={settings['tmp_mb'] << 20},nr_inodes={settings['files']}".encode()
        libc.mount(b"tmpfs", b"/tmp", None, nosuid | nodev | remount, options)
    _drop_capabilities(libc)


def _drop_capabilities(libc):
    # Even root's (version 3 of the call; three empty sets of 64).
    libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24))


def _confine(settings, parent, libc):
    """Apply all limits to this process, for good. True if system calls are filtered too."""
    megabyte = 1 << 20
    limits = {
        resource.RLIMIT_AS: settings["memory_mb"] * megabyte,
        resource.RLIMIT_FSIZE: settings["file_mb"] * megabyte,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 64,
    }
    if not settings["no_namespaces"]:  # else it would count all that this user runs
        limits[resource.RLIMIT_NPROC] = settings["threads"]
    for which, limit in limits.items():
        _, highest = resource.getrlimit(which)
        limit = limit if highest == resource.RLIM_INFINITY else min(limit, highest)
        resource.setrlimit(which, (limit, limit))
    # A solution may ask for more, as people do for recursion: the limit of memory counts it.
    _, highest = resource.getrlimit(resource.RLIMIT_STACK)
    stack = _STACK_MB * megabyte
    resource.setrlimit(resource.RLIMIT_STACK, (stack if highest < 0 else min(stack, highest), highest))
    libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it had ended before
        os._exit(0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _drop_capabilities(libc)
    code = bytes.fromhex(settings["filter"])
    if not code:
        return False
    program = _Program(len(code) // 8, code)
    return libc.prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(program), 0, 0) == 0


class NotPlainError(Exception):
    """A value that no test can compare."""


# Types beyond the builtin ones that equal plain data in Python: where they are defined, and what they count as.
_LIKE = {
    ("fractions", "Fraction"): "ratio",
    ("decimal", "Decimal"): "decimal",
    ("collections", "UserList"): "list",
    ("collections", "UserString"): "str",
    ("collections", "UserDict"): "dict",
    ("collections", "ChainMap"): "dict",
    ("builtins", "mappingproxy"): "dict",
    ("builtins", "dict_keys"): "set",
    ("builtins", "dict_items"): "set",
    ("builtins", "odict_keys"): "set",
    ("builtins", "odict_items"): "set",
    ("collections.abc", "KeysView"): "set",
    ("collections.abc", "ItemsView"): "set",
    ("builtins", "memoryview"): "bytes",
    ("sortedcontainers.sortedlist", "SortedList"): "list",
    ("sortedcontainers.sortedset", "SortedSet"): "set",
}
_LARGEST_EXPONENT = 5000
# JSON without spaces; characters as they are, so that its length counts them. A solution may replace json's functions.
dumped = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encoder(exact):
    """`encode(value)`: a plain value as what JSON has, everything else tagged by a one-key object.

    Not `exact`: values that are equal in Python have the same form (1, 1.0 and True are one number, sets and dicts are
    sorted). What it calls is bound here, before any solution runs. A subclass counts by the content of its builtin base
    (`Counter` as dict, a named tuple as tuple), read past whatever methods it overrides.
    """
    int_pos, float_pos, str_str, bytes_hex = int.__pos__, float.__pos__, str.__str__, bytes.hex
    dict_items, list_iter, tuple_iter = dict.items, list.__iter__, tuple.__iter__
    set_iter, frozenset_iter, complex_pos = set.__iter__, frozenset.__iter__, complex.__pos__
    integer, real, ratio = _number_encoders(exact)

    def encode(value, depth=0):
        kind = type(value)
        if value is None or kind is str:
            return value
        if kind is bool:
            return value if exact else int(value)
        if kind is int:
            return integer(value)
        if kind is float:
            return real(value)
        if depth > _MAX_DEPTH:
            raise NotPlainError(f"nested deeper than {_MAX_DEPTH}")
        if issubclass(kind, list):
            return sequence(list_iter(value), depth)
        if issubclass(kind, tuple):
            return {"tuple": sequence(tuple_iter(value), depth)}
        if issubclass(kind, dict):
            return mapping(dict_items(value), depth)
        if issubclass(kind, set):
            return {"set": unordered(sequence(set_iter(value), depth))}
        if issubclass(kind, frozenset):
            return {"set": unordered(sequence(frozenset_iter(value), depth))}
        if issubclass(kind, int):
            return encode(int_pos(value), depth)
        if issubclass(kind, float):
            return real(float_pos(value))
        if issubclass(kind, str):
            return str_str(value)
        if issubclass(kind, bytes | bytearray):
            return {"bytes": bytes_hex(bytes(value))}
        if issubclass(kind, complex):
            number = complex_pos(value)
            plain = number.imag == 0 and not exact
            return real(number.real) if plain else {"complex": [real(number.real), real(number.imag)]}
        return other(value, kind, depth)

    sequence, mapping, unordered = _collection_encoders(encode)
    other = _object_encoder(encode, ratio, real, sequence, mapping, unordered)
    return encode


def _number_encoders(exact):
    """For `encoder`: of integers, of floating-point numbers, and of fractions by numerator and denominator."""
    infinity = float("inf")

    def integer(value):
        return value if -(1 << 63) <= value < 1 << 63 else {"int": hex(value)}

    def real(value):
        if exact:
            return value
        if value != value:
            return {"nan": 0}
        if value in (infinity, -infinity):
            return value
        whole = int(value)
        return integer(whole) if whole == value else value

    def ratio(numerator, denominator):
        if not exact:
            if denominator == 1:
                return integer(numerator)
            try:
                nearest = numerator / denominator
            except OverflowError:
                nearest = infinity
            if nearest != infinity and nearest.as_integer_ratio() == (numerator, denominator):
                return nearest
        return {"ratio": [hex(numerator), hex(denominator)]}

    return integer, real, ratio


def _collection_encoders(encode):
    """For `encoder`: of sequences, of dicts by their pairs, and the one order of a set's encoded elements."""
    text_of = dumped

    def sequence(items, depth):
        items = [*items]
        kinds = {type(item) for item in items}
        if kinds <= {str} or (kinds == {int} and min(items) >= -(1 << 63) and max(items) < 1 << 63):
            return items
        return [encode(item, depth + 1) for item in items]

    def mapping(pairs, depth):
        made = [[encode(key, depth + 1), encode(value, depth + 1)] for key, value in pairs]
        kinds = {type(key) for key, _ in made}
        plain = kinds <= {int} or kinds <= {str}
        made.sort(key=(lambda pair: pair[0]) if plain else (lambda pair: text_of(pair[0])))
        return {"dict": made}

    def unordered(parts):
        kinds = {type(part) for part in parts}
        return sorted(parts) if kinds <= {int} or kinds <= {str} else sorted(parts, key=text_of)

    return sequence, mapping, unordered


def _object_encoder(encode, ratio, real, sequence, mapping, unordered):
    """For `encoder`: of linked lists, trees, and what counts as a number or a collection by its class's name."""
    str_str, bytes_hex, infinity, nan = str.__str__, bytes.hex, float("inf"), float("nan")

    def decimal(value):
        if value.is_nan():
            return real(nan)
        if value.is_infinite():
            return real(infinity if value > 0 else -infinity)
        if abs(value.adjusted()) > _LARGEST_EXPONENT or -value.as_tuple().exponent > _LARGEST_EXPONENT:
            raise NotPlainError("a Decimal out of range")
        return ratio(*value.as_integer_ratio())

    encoders = {
        "ratio": lambda value, depth: ratio(value.numerator, value.denominator),
        "decimal": lambda value, depth: decimal(value),
        "list": sequence,
        "str": lambda value, depth: str_str(value.data),
        "dict": lambda value, depth: mapping([*value.items()], depth),
        "set": lambda value, depth: {"set": unordered(sequence(value, depth))},
        "bytes": lambda value, depth: {"bytes": bytes_hex(value.tobytes())},
    }
    linked, tree = node_encoders(encode)

    def other(value, kind, depth):
        for base in kind.__mro__:
            if base.__name__ == "ListNode":
                return linked(value, depth)
            if base.__name__ == "TreeNode":
                return tree(value, depth)
            like = _LIKE.get((base.__module__, base.__qualname__))
            if like is not None:
                return encoders[like](value, depth)
        if kind is range:
            first = value[:1]
            return {"range": [len(value), first[0] if first else 0, value.step if len(value) > 1 else 0]}
        raise NotPlainError(f"a {kind.__name__}, which is not a plain value")

    return other


def node_encoders(encode):
    """Of linked lists and of trees, by their nodes' `val`, `next`, `left` and `right`, whatever their class."""

    def linked(node, depth=0):
        values = []
        while node is not None:
            if len(values) >= _MAX_NODES:
                raise NotPlainError("a list that does not end")
            values.append(encode(node.val, depth + 1))
            node = node.next
        return {"ListNode": values}

    def tree(root, depth=0):
        preorder, ahead = [], [root]
        while ahead:
            if len(preorder) >= _MAX_NODES:
                raise NotPlainError("a tree that does not end")
            node = ahead.pop()
            preorder.append(None if node is None else [encode(node.val, depth + 1)])
            if node is not None:
                ahead += [node.right, node.left]
        return {"TreeNode": preorder}

    return linked, tree


def value_encoders():
    """`encode(value, read_as)` by `exact` (see `encoder`); read_as: "", or what a test takes the value for.

    "list" or "tree": nodes are told by what they have; their class may have any name, or be a named tuple. "iterable":
    what is no plain value, such as a generator, counts by its elements.
    """
    has = hasattr

    def of(exact):
        encode = encoder(exact)
        linked, tree = node_encoders(encode)

        def encode_as(value, read_as):
            if read_as == "list" and has(value, "val") and has(value, "next"):
                return linked(value)
            if read_as == "tree" and has(value, "val") and has(value, "left") and has(value, "right"):
                return tree(value)
            if read_as == "iterable":
                try:
                    return encode(value)
                except NotPlainError:
                    if not has(value, "__iter__"):
                        raise
                value = [*value]
            return encode(value)

        return encode_as

    return {exact: of(exact) for exact in (False, True)}


def _channel(read_fd, write_fd):
    read, write, dumps, loads = os.read, os.write, json.dumps, json.loads

    def exactly(size):
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

    def send(message, *values):
        data = dumps(message).encode()
        for part in (len(data).to_bytes(4, "big") + data, *values):
            view = memoryview(part)
            while view:
                view = view[write(write_fd, view) :]

    return receive, send


def _described(error):
    if type(error) is NotPlainError:
        return {"kind": "failed", "error": f"returned {error}"[:200]}
    kind = "memory" if isinstance(error, MemoryError) else "error"
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:
        text = type(error).__name__
    return {"kind": kind, "error": text[:200]}


def _compiled(source, name):
    """Source as code. What editors add (a byte order mark) and joining breaks (`from __future__`) does not matter."""
    source = source.lstrip("\ufeff")
    try:
        return compile(source, name, "exec", dont_inherit=True)
    except SyntaxError:
        source = re.sub("(?m)^\ufeff+", "", source)
        tree = ast.parse(source, name)
        flags, kept = 0, []
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module == "__future__" and not node.level:
                for alias in node.names:
                    flags |= getattr(__future__, alias.name).compiler_flag
                node = ast.copy_location(ast.Pass(), node)
            kept.append(node)
        tree.body = kept
        return compile(ast.fix_missing_locations(tree), name, "exec", flags=flags, dont_inherit=True)


def _leave(code=None):
    raise SystemExit(code)


def _prepare(settings):
    """What `site` would have added, and a null device that can be opened where no file can be written."""
    builtins.exit = builtins.quit = _leave
    if settings["no_namespaces"]:
        null, opened, opened_by_number = os.dup(0), builtins.open, os.open

        def is_null(file):
            return isinstance(file, str | bytes | os.PathLike) and os.fsdecode(file) == os.devnull

        def open(file, *args, **kwargs):
            return opened(os.dup(null) if is_null(file) else file, *args, **kwargs)

        def os_open(path, flags, mode=0o777, *, dir_fd=None):
            return os.dup(null) if is_null(path) else opened_by_number(path, flags, mode, dir_fd=dir_fd)

        builtins.open = io.open = open
        os.open = os_open
    import random

    random.seed(0)


def _load(request, setups, namespace):
    """Run a solution's source in a namespace, after its setup in one of its own: a global `next` breaks no helper."""
    try:
        sys.modules["initialisation"] = types.ModuleType("initialisation")
        before = sys.modules["initialisation"].__dict__
        if request["setup"]:
            exec(setups.get(request["setup"]) or _compiled(request["setup"], "<setup>"), before)
            given = {name: value for name, value in before.items() if not name.startswith("__")}
            namespace.update(given)
        try:
            exec(_compiled(request["source"], "<solution>"), namespace)
        except SystemExit as ending:
            if ending.code not in (None, 0):
                raise
        if request["setup"]:
            _adopt_classes(given, before, namespace)
        return None
    except BaseException as error:
        return _described(error)


def _adopt_classes(given, before, namespace):
    """Let the setup's helpers build the solution's own ListNode, say, if it has one that is made from a value."""
    for name, theirs in given.items():
        mine = namespace.get(name)
        if mine is not theirs and isinstance(mine, type) and isinstance(theirs, type):
            try:
                mine(0)
            except BaseException:
                continue
            before[name] = mine


def _evaluator():
    """`values_of(calls, exact, namespace)`: their values in JSON, and the header that announces these."""
    encoders, dumps, clean = value_encoders(), dumped, {"__builtins__": {}, **CONVERSIONS}

    def value_of(source, conversion, read_as, exact, namespace):
        value = eval(compile(source, "<test>", "eval"), namespace)
        if conversion:
            value = eval(compile(conversion, "<test>", "eval"), {**clean, "_": value})
        return dumps(encoders[exact](value, read_as))

    def values_of(calls, exact, namespace):
        texts, errors = [], []
        for call in calls:
            try:
                texts.append(value_of(*call, exact, namespace))
            except BaseException as error:
                texts.append(None)
                errors.append(_described(error))
        try:
            if sum(len(text) for text in texts if text is not None) > ANSWER_CHARACTERS:
                return (), _described(NotPlainError(f"more than {ANSWER_CHARACTERS} characters"))
            # What one of several raises does not matter where the test does not need it; but there is no more memory.
            out_of_memory = [error for error in errors if error["kind"] == "memory"]
            if out_of_memory or (errors and len(texts) == 1):
                return (), (out_of_memory or errors)[0]
            texts = [None if text is None else text.encode("utf-8", "surrogatepass") for text in texts]
        except BaseException as error:
            return (), _described(error)
        sizes = [None if text is None else len(text) for text in texts]
        return [text for text in texts if text is not None], {"sizes": sizes, **(errors[0] if errors else {})}

    return values_of


def _serve(read_fd, write_fd, settings, setups, parent, libc):
    """A child's life."""
    receive, send = _channel(read_fd, write_fd)
    values_of = _evaluator()
    _prepare(settings)
    send({"filtered": _confine(settings, parent, libc)})
    request = receive()
    # A module of its own, as an import would make it: dataclasses and pickle look their class's module up.
    solution = types.ModuleType("solution")
    sys.modules["solution"] = solution
    namespace = solution.__dict__
    answer = _load(request, setups, namespace) or {"sizes": []}
    send({"id": request["id"], **answer})
    while True:
        request = receive()
        texts, answer = values_of(request["calls"], request["exact"], namespace)
        send({"id": request["id"], **answer}, *texts)
        texts = None


def _place(descriptors):
    """Move the two pipe ends to their places, the same in every child, and leave no other descriptor open."""
    away = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 32) for descriptor in descriptors]
    os.closerange(3, 32)
    for descriptor, place in zip(away, (_READ_FD, _WRITE_FD), strict=True):
        os.dup2(descriptor, place, inheritable=False)
        os.close(descriptor)


def _import_package(name, folder):
    """Make one package importable without the folder that it lies in, where others lie too."""
    spec = importlib.util.spec_from_file_location(name, f"{folder}/__init__.py", submodule_search_locations=[folder])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _wait_for(descriptor, control, judge):
    """Until a descriptor can be read. If the judge ends before that, so does this process, and its child with it.

    That is known by its process, and by its end of the socket, which a child that it has forked may hold as well.
    """
    poll = select.poll()
    for one in {descriptor, control, judge}:
        poll.register(one, select.POLLIN if one != control or one == descriptor else 0)
    while True:
        events = dict(poll.poll())
        if judge in events or events.get(control, 0) & ~select.POLLIN:
            os._exit(0)
        if descriptor in events:
            return


def main():
    control, libc = socket.socket(fileno=int(sys.argv[1])), _library()
    sys.argv[1:] = []
    sys.dont_write_bytecode = True
    message, (judge,), _, _ = socket.recv_fds(control, 1 << 20, 1)
    settings = json.loads(message)
    if settings["no_namespaces"]:
        libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        # Solutions that are judged at the same time see one another's processes, but not their memory and pipes.
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _limit_files(settings, libc)
    for name in _PRELOADED:
        importlib.import_module(name)
    for name, folder in settings["packages"].items():
        _import_package(name, folder)
    import threading

    threading.stack_size(_THREAD_STACK_MB << 20)
    own = os.pidfd_open(os.getpid())
    socket.send_fds(control, [b"ready"], [own])
    os.close(own)
    setups = {}  # compiled, not run: what a solution brings runs in its child alone
    gc.freeze()
    while True:
        _wait_for(control.fileno(), control.fileno(), judge)
        message, given, _, _ = socket.recv_fds(control, 1 << 20, 2)
        setup = message.decode("utf-8", "surrogatepass")[1:]
        if setup and setup not in setups:
            try:
                setups = {setup: _compiled(setup, "<setup>")}
            except BaseException:
                setups = {}
        nursery, pid = os.getpid(), os.fork()
        if pid == 0:
            control.close()
            _place(given)
            _serve(_READ_FD, _WRITE_FD, settings, setups, nursery, libc)
        for descriptor in given:
            os.close(descriptor)
        pidfd = os.pidfd_open(pid)
        socket.send_fds(control, [b"started"], [pidfd])
        _wait_for(pidfd, control.fileno(), judge)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        control.send(str(status).encode())


if __name__ == "__main__":
    main()
