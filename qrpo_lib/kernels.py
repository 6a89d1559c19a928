"""The kernel that notebooks run with: that of the Python which runs the suite, whatever kernels are installed.

A kernelspec named `python3` may lie in `JUPYTER_PATH` or `~/.local/share/jupyter` and start the Python of another
environment, or one that is no more.
"""

from __future__ import annotations

import sys

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

IS_INFRASTRUCTURE = True  # moves results around (`qrpo_lib.code_version`)


class OwnKernelManager(AsyncKernelManager):
    """Starts ipykernel with this process's interpreter; no kernelspec is looked for."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """How the kernel is started."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3 (ipykernel)", language="python")
