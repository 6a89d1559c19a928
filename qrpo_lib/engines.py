"""Sampling engines: which there are, which one a profile's backend means on this machine, and the code of each."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from qrpo_lib import runs

IS_INFRASTRUCTURE = True  # a registry: what it gives counts, not what it could give

BACKENDS = ("vllm", "transformers")


def vllm_python() -> str | None:
    """The interpreter that vLLM runs in: this one, `$QRPO_VLLM_PYTHON`, the project's `.venv-vllm`, or None.

    An environment of its own needs nothing but vLLM. Raises ValueError if the variable names no file.
    """
    if importlib.util.find_spec("vllm"):
        return sys.executable
    named = os.environ.get("QRPO_VLLM_PYTHON")
    if named and not Path(named).is_file():
        raise ValueError(f"QRPO_VLLM_PYTHON is {named}, but there is no such file: name a Python that has vLLM.")
    local = runs.project_root() / ".venv-vllm" / "bin" / "python"
    return named or (str(local) if local.is_file() else None)


def resolve(backend: str) -> str:
    """ "auto" as what it stands for on this machine, other names as they are. Imports nothing."""
    if backend == "auto":
        return "vllm" if vllm_python() else "transformers"
    if backend not in BACKENDS:
        raise ValueError(f"There is no sampling backend {backend!r}: use auto, {' or '.join(BACKENDS)}.")
    if backend == "vllm" and not vllm_python():
        raise ValueError(
            "The sampling backend is vllm, which is not installed: pip install 'qrpo-lib[vllm]', or set "
            "QRPO_VLLM_PYTHON to a Python that has vLLM (on a CPU: make .venv-vllm/.installed)."
        )
    return backend


def of(backend: str) -> Any:
    """The class of the engine: `Engine(policy, eos_token_id, max_model_len)` with `sample` and `close`."""
    if resolve(backend) == "vllm":
        from qrpo_lib.vllm_engine import VllmEngine

        return VllmEngine
    from qrpo_lib.transformers_engine import TransformersEngine

    return TransformersEngine


def code(backend: str) -> tuple[Any, ...]:
    """The entry points of the engine's code (`qrpo_lib.code_version`)."""
    return ("vllm_engine:VllmEngine",) if backend == "vllm" else ("transformers_engine:TransformersEngine",)
