"""Sampling engines: which there are, which one a profile's backend means on this machine, and the code of each."""

from __future__ import annotations

from typing import Any

from qrpo_lib.runs.errors import InputError
from qrpo_lib.sampling import vllm_engine

IS_INFRASTRUCTURE = True  # a registry: what it gives counts, not what it could give

BACKENDS = ("vllm", "transformers")


def meant(backend: str) -> str:
    """The engine whose results a backend's name stands for, whether or not it is installed: keys are the same anywhere.

    "auto" stands for what there is on this machine.
    """
    return resolve(backend) if backend == "auto" else backend


def resolve(backend: str) -> str:
    """ "auto" as what it stands for on this machine, other names as they are. Imports nothing."""
    if backend == "auto":
        return "vllm" if vllm_engine.vllm_python() else "transformers"
    if backend not in BACKENDS:
        raise InputError(f"There is no sampling backend {backend!r}: use auto, {' or '.join(BACKENDS)}.")
    if backend == "vllm" and not vllm_engine.vllm_python():
        raise InputError(
            "The sampling backend is vllm, which is not installed: pip install 'qrpo-lib[vllm]', or set "
            "QRPO_VLLM_PYTHON to a Python that has vLLM (on a CPU: make .venv-vllm/.installed)."
        )
    return backend


def of(backend: str) -> Any:
    """The class of the engine: `Engine(policy, eos_token_id, max_model_len)` with `sample` and `close`."""
    if resolve(backend) == "vllm":
        return vllm_engine.VllmEngine
    from qrpo_lib.sampling.transformers_engine import TransformersEngine

    return TransformersEngine


def code(backend: str) -> tuple[Any, ...]:
    """The entry points of the engine's code (`qrpo_lib.runs.code_version`)."""
    return ("vllm_engine:VllmEngine",) if backend == "vllm" else ("transformers_engine:TransformersEngine",)
