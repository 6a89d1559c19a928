"""For jobs that train with DeepSpeed on CPUs: gloo, not a faster exchange through shared memory that it would compile.

Also notes, for each process of a job in a line of the file $QRPO_TEST_DEVICES, which GPUs it ended with.
"""

import atexit
import importlib.util
import os
import sys

_PATCHED = "deepspeed.comm.torch"


class _WithoutCompiling:
    """Finds that one module, with one function replaced."""

    @classmethod
    def find_spec(cls, name, path, target=None):
        if name != _PATCHED:
            return None
        sys.meta_path.remove(cls)
        found = importlib.util.find_spec(name)
        execute = found.loader.exec_module

        def patched(module):
            execute(module)
            module.build_shm_op = lambda: None

        found.loader.exec_module = patched
        return found


def _note():
    names = ("SLURM_JOB_NAME", "SLURM_LOCALID", "CUDA_VISIBLE_DEVICES")
    with open(os.environ["QRPO_TEST_DEVICES"], "a") as notes:
        notes.write(" ".join(os.environ.get(name, "none") for name in names) + "\n")


sys.meta_path.insert(0, _WithoutCompiling)
if "SLURM_PROCID" in os.environ and "QRPO_TEST_DEVICES" in os.environ:
    atexit.register(_note)
