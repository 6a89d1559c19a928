"""A process that has imported what steps need, and forks one that makes a step whenever it is told to.

Started as `python zygote.py`; reads a JSON line {"kind": ..., "runs": ..., "fault": ... or null} and answers with
{"status": ..., "said": ...}: how the process ended (negative: by which signal), and the one line that it says of its
error. So a step costs its own work, not ten seconds of imports.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import miniature
import points
import torch

from qrpo_lib.runs import failures, paths
from qrpo_lib.training import trainer  # noqa: F401  what steps import


def attempt(kind: str, fault: str | None) -> None:
    """Make the step in this process, which ends then."""
    torch.set_num_threads(1)
    if fault:
        points.install(points.loads(fault))
    try:
        miniature.work(kind)[1]()
    except Exception as error:
        print(failures.sentence(error, paths.runs_folder()), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        told = json.loads(line)
        with tempfile.TemporaryFile() as output:
            pid = os.fork()
            if pid == 0:
                os.environ["QRPO_RUNS"] = told["runs"]
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                attempt(told["kind"], told["fault"])
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            output.seek(0)
            said = output.read().decode(errors="replace").strip().splitlines()
        print(json.dumps({"status": status, "said": said[-1] if status and said else ""}), flush=True)


main()
