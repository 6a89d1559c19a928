"""Two processes that train together on this machine's CPU, as a cluster's job of two tasks: torchrun with gloo."""

import os
import subprocess
import sys


def run(script, *arguments, python=sys.executable, timeout=900, **environment):
    """Run a script by two processes to its end; both must succeed.

    Parameters
    ----------
    script: its path; torchrun starts processes by path.
    arguments: of the script.
    python: the interpreter.
    timeout: in seconds, after which both are killed and the test fails.
    environment: variables beside those of this process.
    """
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, *arguments]
    known = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | environment
    ended = subprocess.run(list(map(str, command)), env=known, timeout=timeout, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
