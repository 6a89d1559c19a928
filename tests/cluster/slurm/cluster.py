"""A SLURM cluster of two "nodes" on this machine, for the tests: private configuration, keys, ports and folders.

    python tests/slurm/cluster.py [FOLDER]      # starts it, says how to use it, stops it at Ctrl-C

Needs Debian's packages `slurm-wlm` and `munge`; touches nothing of a SLURM that may be installed and running. All
daemons run in the foreground as children of this process and die with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin"
DAEMONS = ("munged", "slurmctld", "slurmd")
_CORES = 4  # a node claims more than the machine may have: tests wait for jobs, they do not measure them

CONFIGURATION = """\
ClusterName=qrpo
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=8
ReturnToService=2
InactiveLimit=0
KillWait=5
UnkillableStepTimeout=600
MinJobAge=20
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0,default_queue_depth=1000
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{gpus}
{nodes}
PartitionName=debug Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


class Unavailable(RuntimeError):
    """The cluster cannot be started here; the message says why."""


class Cluster:
    """A running cluster. `environment` makes the commands of SLURM talk to it.

    gpus: how many each node claims to have: files that SLURM hands out as it hands out devices.
    """

    def __init__(self, folder: Path, gpus: int = 0):
        missing = [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=SEARCHED) is None]
        if missing:
            raise Unavailable(f"no {', '.join(missing)} (apt-get install slurm-wlm munge)")
        self.folder, self.gpus = folder, gpus
        # Both names lead to this machine everywhere, as the names of a real cluster's nodes lead to them.
        self.nodes = (socket.gethostname().split(".")[0], "localhost")
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": SEARCHED}
        self._processes: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        folder = self.folder
        for name in ("state", *(f"spool.{node}" for node in self.nodes)):
            (folder / name).mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        ports = _free_ports(1 + len(self.nodes))
        nodes = [
            f"NodeName={node} NodeHostname={self.nodes[0]} NodeAddr=127.0.0.1 Port={port} CPUs={_CORES} RealMemory=4000"
            + self._claimed_gpus(node)
            for node, port in zip(self.nodes, ports[1:], strict=True)
        ]
        text = CONFIGURATION.format(
            host=self.nodes[0],
            port=ports[0],
            user=getpass.getuser(),
            folder=folder,
            gpus="GresTypes=gpu" if self.gpus else "",
            nodes="\n".join(nodes),
            names=",".join(self.nodes),
        )
        (folder / "slurm.conf").write_text(text)
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        munge = [f"--{option}={folder}/munge.{suffix}" for option, suffix in files.items()]
        self._start("munged", "munged", "--foreground", "--force", f"--key-file={key}", *munge)
        _wait(lambda: (folder / "munge.socket").exists(), 20, "munged did not start")
        self._start("slurmctld", "slurmctld", "-D", "-i")
        for node in self.nodes:
            self.start_node(node)
        _wait(lambda: self.command("sinfo", "-h", "-o", "%t").split() == ["idle"], 60, "the nodes did not become idle")

    def _claimed_gpus(self, node: str) -> str:
        """The end of the node's line in slurm.conf; the files that stand for its GPUs, in gres.conf beside it."""
        if not self.gpus:
            return ""
        devices = [self.folder / f"{node}-gpu{number}" for number in range(self.gpus)]
        with open(self.folder / "gres.conf", "a") as lines:
            for device in devices:
                device.touch()
                lines.write(f"NodeName={node} Name=gpu File={device}\n")
        return f" Gres=gpu:{self.gpus}"

    def start_node(self, node: str) -> None:
        """Start the node's daemon, the first time or after `kill_node`."""
        self._start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """kill -9 of the node's daemon, as when the machine is lost; SLURM notices after SlurmdTimeout."""
        self._processes[node].kill()
        self._processes[node].wait()

    def command(self, *arguments: str) -> str:
        """Output of a command of SLURM; empty if it failed."""
        process = subprocess.run(arguments, env=os.environ | self.environment, capture_output=True, text=True)
        return process.stdout if process.returncode == 0 else ""

    def run(self, command: list[str], environment: dict[str, str], seconds: float = 1100) -> None:
        """A command that dispatches to this cluster; AssertionError with its output if it fails or hangs."""
        known = environment | self.environment
        with open(self.folder / "command.out", "w+") as out:
            try:
                status = subprocess.run(
                    command, env=known, stdout=out, stderr=subprocess.STDOUT, timeout=seconds
                ).returncode
            except subprocess.TimeoutExpired:
                status = f"none within {seconds} s; jobs:\n{self.command('squeue', '-l')}{self.command('sinfo', '-R')}"
            out.seek(0)
            assert status == 0, f"exit status: {status}\n{out.read()}"

    def stop(self) -> None:
        """Cancel all jobs and stop all daemons."""
        if "slurmctld" in self._processes:
            self.command("scancel", "--signal=KILL", "--user", getpass.getuser())
            self.command("scancel", "--user", getpass.getuser())
            with contextlib.suppress(Unavailable):
                _wait(lambda: not self.command("squeue", "-h"), 30, "jobs remain")
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, name: str, program: str, *arguments: str) -> None:
        path = shutil.which(program, path=SEARCHED)
        with open(self.folder / f"{name}.out", "a") as out:
            self._processes[name] = subprocess.Popen(
                [path, *arguments],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )
        time.sleep(0.3)
        if self._processes[name].poll() is not None:
            raise Unavailable(f"{program} ended at once: {(self.folder / f'{name}.out').read_text()[-300:].strip()}")


@contextlib.contextmanager
def running(folder: Path | None = None, gpus: int = 0) -> Iterator[Cluster]:
    """A cluster for the duration of the context, whose nodes claim so many GPUs each."""
    made = Path(tempfile.mkdtemp(prefix="qrpo-slurm-", dir=folder))
    try:
        cluster = Cluster(made, gpus)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait(condition, seconds: float, otherwise: str) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise Unavailable(f"{otherwise} within {seconds} s")
        time.sleep(0.2)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    with running(Path(sys.argv[1]) if sys.argv[1:] else None) as started:
        print(f"export SLURM_CONF={started.environment['SLURM_CONF']} PATH=$PATH:/usr/sbin", flush=True)
        print(started.command("sinfo", "-N"), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
