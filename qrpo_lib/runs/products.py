"""Matrix products in float32 on the CPU: by the library that torch comes with, or by oneDNN where that is faster.

    with products.fast():
        ...                         # training, sampling: float32 products of torch, by the faster of the two
    products.in_force()             # for the record: which one that is, and what was measured

torch's wheels multiply float32 matrices with MKL, which takes a slow path on some processors of other makers than its
own: a third to a half of what the same torch's oneDNN reaches there. The switch is torch's documented
`torch.set_float32_matmul_precision`: "medium" sends products to oneDNN and *allows* it to round to bfloat16, which it
does only with instructions for that (AMX on Intel's processors, bfloat16 on ARM's). It is therefore used on x86-64
without AMX alone, and only after a product by it was as exact as float32 allows; and not where there is a GPU, whose
products would be rounded. Everywhere else products on the CPU are in full float32, whatever a program set before.

The choice may not change from run to run, since the libraries round differently: oneDNN is taken where it is faster by
a factor that no noise reaches, measured in time of this thread. `$QRPO_PRODUCTS=torch` takes torch's own library,
`=onednn` takes oneDNN however fast it is, if it can be had.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib.runs.errors import InputError

if TYPE_CHECKING:
    import torch


VARIABLE = "QRPO_PRODUCTS"
CHOICES = ("torch", "onednn")
_THROUGH_ONEDNN, _FULL = "bf16", "ieee"  # torch's names for "may be rounded" and "float32"
_INHERITED = "none"  # its name for a setting that is that of all operations; theirs is float32 if it was never set
_MAY_BE_ROUNDED = "medium"  # the older name for the first, of all devices
# Measured ratios are about 1 (Intel; AMD Zen 4) or above 2: noise of a tenth cannot reach this from either side.
_CLEARLY_FASTER = 1.4
_SHAPE = (1024, 256, 256)  # rows, inner, columns of the product that is measured: 0.13 GFLOP
# So often at least, and more often while what was measured is near the bound: busy neighbours made a ratio of 1.1 look
# like 1.35 in 2 of 175 measurements of 7 products by each library.
_LEAST_REPEATS, _MOST_REPEATS = 7, 100
_NEAR = (1.2, 1.8)
# Errors relative to |A| |B|: of float32 about 1e-7, of bfloat16 about 1e-4.
_LARGEST_ERROR = 1e-5


@dataclass(frozen=True)
class Measured:
    """A small product by each library (`CHOICES`): its rate in GFLOP/s on one thread, its error relative to |A| |B|."""

    gflops: dict[str, float]
    errors: dict[str, float]


@contextlib.contextmanager
def fast() -> Iterator[None]:
    """Context in which torch's float32 products on the CPU are made by the faster library; also a decorator.

    They are exact to float32 in it, whichever precision was set before, which is set again at its end.
    """
    with _onednn() if chosen() == "onednn" else _full():
        yield


@contextlib.contextmanager
def as_torch_comes() -> Iterator[None]:
    """Context inside `fast` without it: for kernels of many tiny products, where calling oneDNN takes longer."""
    with _full():
        yield


def switched() -> bool:
    """Whether float32 products go to oneDNN now."""
    return _switch().fp32_precision == _THROUGH_ONEDNN


def check() -> None:
    """Raise InputError for a `$QRPO_PRODUCTS` that is none of `CHOICES`: before any work, without importing torch."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted and wanted not in CHOICES:
        raise InputError(
            f"{VARIABLE} is {wanted!r}: set it to {' or '.join(CHOICES)}, or unset it to have it measured."
        )


@cache
def chosen() -> str:
    """The library of `fast` in this process, one of `CHOICES`. Warns where oneDNN is asked for and cannot be had.

    Raises InputError for a `$QRPO_PRODUCTS` that is none of them.
    """
    check()
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "torch":
        return "torch"
    obstacle = _obstacle() or _inexactness()
    if obstacle:
        if wanted:
            said = f"{VARIABLE}={wanted} cannot be had, since {obstacle}: torch's own library multiplies instead."
            warnings.warn(said, stacklevel=2)
        return "torch"
    now = measured()
    return "onednn" if wanted or now.gflops["onednn"] > _CLEARLY_FASTER * now.gflops["torch"] else "torch"


def in_force() -> dict[str, Any] | None:
    """The library of `fast` and what was measured, for a record; None in a process that made no products with it."""
    if not chosen.cache_info().currsize:
        return None
    import torch

    names = {"torch": "MKL" if torch.backends.mkl.is_available() else "torch's BLAS", "onednn": "oneDNN"}
    now = measured()
    return {
        "library": names[chosen()],
        "gflops": {names[choice]: round(rate, 1) for choice, rate in now.gflops.items()},
        "error": {names[choice]: float(f"{error:.1e}") for choice, error in now.errors.items()},
    }


def best_rate(shape: tuple[int, int, int] = (2048, 2048, 2048)) -> float:
    """GFLOP/s that one core reaches here in a float32 product (rows, inner, columns): the unit of utilisation."""
    now = measured(shape)
    return max(rate for choice, rate in now.gflops.items() if now.errors[choice] <= _LARGEST_ERROR)


@cache
def measured(shape: tuple[int, int, int] = _SHAPE) -> Measured:
    """Speed and error of a product by each library on one thread, best of several; leaves torch's seed alone."""
    import torch

    threads = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, generator=generator) for size in (shape[:2], shape[1:]))
    exact, scale = left.double() @ right.double(), left.abs().double() @ right.abs().double()
    seconds, errors = dict.fromkeys(CHOICES, float("inf")), {}
    torch.set_num_threads(1)
    try:
        for repeat in range(_MOST_REPEATS + 1):
            if repeat > _LEAST_REPEATS and not (shape == _SHAPE and _is_near_the_bound(seconds)):
                break
            for choice, setting in zip(CHOICES, (_FULL, _THROUGH_ONEDNN), strict=True):
                with _set(setting):
                    started = time.thread_time()
                    product = left @ right
                    took = time.thread_time() - started
                if repeat:  # the first one pays for what is made once
                    seconds[choice] = min(seconds[choice], took)
                else:
                    errors[choice] = float(((product - exact).abs() / scale).max())
    finally:
        torch.set_num_threads(threads)
    operations = 2 * math.prod(shape)
    return Measured({choice: operations / max(took, 1e-9) / 1e9 for choice, took in seconds.items()}, errors)


def _is_near_the_bound(seconds: dict[str, float]) -> bool:
    return _NEAR[0] < seconds["torch"] / max(seconds["onednn"], 1e-9) < _NEAR[1]


def _obstacle(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Why oneDNN may not multiply here, '' if it may: it would round to bfloat16, or a GPU would."""
    import torch

    if not torch.backends.mkldnn.is_available():
        return "this torch has no oneDNN"
    if torch.accelerator.is_available():
        return "there is a GPU, whose products the same switch would round"
    # x86-64's flags; ARM's have another name.
    flags = re.search(r"^flags\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    if flags is None:
        return "this is no x86-64 processor under Linux, so that it may round to bfloat16"
    if any(flag.startswith("amx") for flag in flags[1].split()):
        return "this processor has AMX, by which it may round to bfloat16"
    return ""


def _inexactness() -> str:
    """Why oneDNN's products are not used, whatever is asked for; '' if they are as exact as float32 allows."""
    error = measured().errors["onednn"]
    return f"its products have an error of {error:.1e} here" if error > _LARGEST_ERROR else ""


def _switch() -> torch.backends._FP32Precision:
    import torch

    return torch.backends.mkldnn.matmul


@contextlib.contextmanager
def _onednn() -> Iterator[None]:
    """Context in which float32 products go to oneDNN, and programs that ask torch for its precision get an answer.

    Its newer setting alone would do, but then `torch.get_float32_matmul_precision` raises: it finds that the older one
    says something else. The older one changes both, and that of GPUs, of which there is none here.
    """
    import torch

    gpu = torch.backends.cuda.matmul
    if switched():
        yield
        return
    try:
        before, of_gpu = torch.get_float32_matmul_precision(), gpu.fp32_precision
    except RuntimeError:  # the program has set them apart, so nothing can ask
        with _set(_THROUGH_ONEDNN):
            yield
        return
    with _set(_THROUGH_ONEDNN):  # and what it was at the end
        torch.set_float32_matmul_precision(_MAY_BE_ROUNDED)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
            gpu.fp32_precision = of_gpu


@contextlib.contextmanager
def _full() -> Iterator[None]:
    """Context in which no float32 product on the CPU may be rounded; what is set for GPUs stays as it is."""
    if _switch().fp32_precision in (_FULL, _INHERITED):
        yield
        return
    with _set(_FULL):
        yield


@contextlib.contextmanager
def _set(value: str) -> Iterator[None]:
    import torch

    switch = _switch()
    before = switch.fp32_precision
    if before == torch.backends.mkldnn.fp32_precision:  # so it is inherited, and stays so
        before = _INHERITED
    switch.fp32_precision = value
    try:
        yield
    finally:
        switch.fp32_precision = before
