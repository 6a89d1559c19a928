"""A process from which kernels are forked: it has imported what notebooks use, none of it this package's.

Started by `qrpo_lib.suite.kernels` as a script, with the number of a socket. For each message, a JSON object with
`argv`, `env` and `cwd` and two file descriptors for output, it forks a process that becomes a kernel, and answers with
its id. Every kernel is a process of its own, as if it had been started alone, and ends with this one. Since it is no
child of the process that executes the notebook, it tells itself what it has taken: a line in the file `$QRPO_ACCOUNT`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import multiprocessing
import os
import signal
import socket
import sys

# The variable of a process's environment that says that its notebooks' kernels are forked.
WANTED = "QRPO_FORKED_KERNELS"
# Nothing that looks at import whether it is in a notebook (tqdm), starts threads, or is this package's.
_IMPORTED = ("ipykernel.kernelapp", "numpy", "pandas", "pyarrow.parquet", "matplotlib.pyplot", "seaborn", "scipy.stats")
_LONGEST_MESSAGE = 2**20


def main() -> None:
    """Serve until the other end is closed; return in a process that has become a kernel's, with its `sys.argv` set."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the process that started it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # kernels that have ended leave nothing behind
    del sys.path[0]  # this file's folder, whose modules are a package's
    # As ipykernel sets it in a process that starts alone and imports matplotlib later: it wins over a matplotlibrc.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    connection = socket.socket(fileno=int(sys.argv[1]))
    for name in _IMPORTED:
        importlib.import_module(name)
    while True:
        message, output, _, _ = socket.recv_fds(connection, _LONGEST_MESSAGE, 2)
        if not message:
            os._exit(0)
        kernel = os.fork()
        if not kernel:
            break
        for descriptor in output:
            os.close(descriptor)
        connection.send(str(kernel).encode())
    connection.close()
    _become(json.loads(message), output)


def _become(told: dict, output: list[int]) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for stream, descriptor in enumerate([os.open(os.devnull, os.O_RDONLY), *output]):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(told["env"], JPY_PARENT_PID=str(os.getppid()))
    os.chdir(told["cwd"])
    # ipykernel has looked at that variable when it was imported: a kernel ends with the process that it is of.
    sys.argv = [*told["argv"], f"--IPKernelApp.parent_handle={os.getppid()}"]


def _launch() -> None:
    """Run the kernel until it has been asked to end."""
    ipykernel = importlib.import_module("ipykernel.ipkernel")

    class Kernel(ipykernel.IPythonKernel):
        def do_shutdown(self, restart: bool) -> dict:
            # Now, not as the process ends: a kernel with children that linger is killed before it gets there.
            with contextlib.suppress(ImportError, OSError):  # a notebook's result does not depend on it
                _tell_what_it_took()
            return super().do_shutdown(restart)

    sys.modules["ipykernel.kernelapp"].launch_new_instance(kernel_class=Kernel)


def _tell_what_it_took() -> None:
    if not os.environ.get("QRPO_ACCOUNT"):
        return
    from qrpo_lib.runs import account, usage  # here: the process that forks kernels imports none of this package

    for child in multiprocessing.active_children():
        if child.daemon:  # workers: what they took counts only once they have been waited for
            child.terminate()
            child.join(timeout=10)
    account.took(usage.of_this_process())


if __name__ == "__main__":
    main()
    _launch()
