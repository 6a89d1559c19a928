"""The kernel that notebooks run with: that of the Python which runs the suite, whatever kernels are installed.

A kernelspec named `python3` may lie in `JUPYTER_PATH` or `~/.local/share/jupyter` and start the Python of another
environment, or one that is no more. A command that executes many notebooks has their kernels forked from a process
that has imported what they use (`kernel_server`), so that each starts in a moment.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from qrpo_lib.suite import kernel_server

# What libraries read when they are imported: kernels that differ in it come from different servers.
_READ_AT_IMPORT = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MATPLOTLIBRC", "PYTHONPATH")
_SERVERS: dict[tuple, _Server] = {}


class OwnKernelManager(AsyncKernelManager):
    """Starts ipykernel with this process's interpreter; no kernelspec is looked for."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """How the kernel is started."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3 (ipykernel)", language="python")

    async def _async_pre_start_kernel(self, **settings: Any) -> tuple[list[str], dict[str, Any]]:
        if os.environ.get(kernel_server.WANTED) and sys.platform == "linux" and self.provisioner is None:
            self.provisioner = _Forking(kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**settings)


class _Forking(LocalProvisioner):
    """Provisions kernels that a server forks."""

    async def launch_kernel(self, cmd: list[str], **settings: Any) -> KernelConnectionInfo:
        """Start a kernel with what comes after `-m` on its command line."""
        environment = settings["env"]
        key = tuple(environment.get(name) for name in _READ_AT_IMPORT)
        told = {"argv": cmd[cmd.index("-m") + 1 :], "env": environment, "cwd": str(settings.get("cwd") or Path.cwd())}
        try:
            if key not in _SERVERS or _SERVERS[key].process.poll() is not None:
                _SERVERS[key] = _Server(environment)
            self.process = _SERVERS[key].start(told)
        except OSError:  # the server was killed, or the environment is larger than a message can be
            return await super().launch_kernel(cmd, **settings)
        self.pid = self.pgid = self.process.pid
        self.cwd = Path(told["cwd"])
        return self.connection_info


class _Server:
    """The process that forks kernels."""

    def __init__(self, environment: dict[str, str]):
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, kernel_server.__file__, str(theirs.fileno())]
        self.process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()

    def start(self, told: dict[str, Any]) -> _Kernel:
        socket.send_fds(self._connection, [json.dumps(told).encode()], [1, 2])
        answer = self._connection.recv(64)
        if not answer:
            raise OSError("The process that starts kernels has ended.")
        return _Kernel(int(answer))


class _Kernel:
    """What a provisioner asks of a process, of one that is another's child."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int):
        self.pid = pid
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended already
            self._handle = os.open(os.devnull, os.O_RDONLY)

    def poll(self) -> int | None:
        """None as long as it runs; how it has ended only its parent could know."""
        return 0 if select.select([self._handle], [], [], 0)[0] else None

    def wait(self) -> int:
        """Until it has ended."""
        select.select([self._handle], [], [])
        os.close(self._handle)
        return 0

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)
