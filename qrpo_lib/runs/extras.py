"""Which optional extra brings which modules: `pip install qrpo-lib` has no notebooks, cluster or models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qrpo_lib.runs.errors import InputError

# Extra: the modules that it brings, as they are imported.
MODULES = {
    "notebooks": [
        "IPython",
        "ipykernel",
        "ipywidgets",
        "jupyter_client",
        "latex2mathml",
        "matplotlib",
        "nbclient",
        "nbconvert",
        "nbformat",
        "pandas",
        "papermill",
        "pyarrow",
        "pydantic",
        "pygments",
        "rich",
        "seaborn",
        "sklearn",
        "sortedcontainers",
        "tqdm",
    ],
    "dispatch": ["submitit"],
    "smol": ["gguf"],
    "lab": ["jupyterlab"],
    "vllm": ["vllm"],
    "deepspeed": ["deepspeed"],
    "peft": ["peft"],
    "trackers": ["tensorboard", "trackio", "wandb"],
    "test": ["hypothesis", "pytest", "mpmath"],
}


class MissingExtraError(InputError):
    """A part of the package needs packages that only an extra brings."""


def sentence(module: str) -> str | None:
    """How to get a module that is missing, or None for one that no extra brings."""
    top = module.partition(".")[0]
    extra = next((name for name, modules in MODULES.items() if top in modules), None)
    if extra is None:
        return None
    return f"This needs the package {top}, which is not installed: pip install 'qrpo-lib[{extra}]'."


@contextmanager
def needed() -> Iterator[None]:
    """Context in which a missing module of an extra becomes a MissingExtraError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        said = sentence(error.name or "")
        if said is None:
            raise
        raise MissingExtraError(said) from None
