import itertools
import json
import re
import subprocess
import sys
import warnings

import pytest
import torch

from qrpo_lib.runs import products
from qrpo_lib.runs.errors import InputError

EXACT = {"torch": 1e-7, "onednn": 2e-7}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Each test as in a process that has chosen nothing yet."""
    monkeypatch.delenv(products.VARIABLE, raising=False)
    products.chosen.cache_clear()
    yield
    products.chosen.cache_clear()


@pytest.fixture(autouse=True)
def as_torch_starts():
    """No test leaves a precision behind."""
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.fp32_precision = "none"
    torch.backends.mkldnn.matmul.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "none"


def precisions():
    """All that torch says of how exactly it multiplies."""
    backends = torch.backends
    settings = [backends.mkldnn.matmul, backends.mkldnn, backends.cuda.matmul, backends]
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        older = "refused"
    return [older, *(setting.fp32_precision for setting in settings)]


def choose(monkeypatch, ratio=1.0, errors=EXACT, wanted=None, obstacle=""):
    rates = {"torch": 100.0, "onednn": 100.0 * ratio}
    monkeypatch.setattr(products, "measured", lambda: products.Measured(rates, errors))
    monkeypatch.setattr(products, "_obstacle", lambda: obstacle)
    if wanted is not None:
        monkeypatch.setenv(products.VARIABLE, wanted)
    return products.chosen()


@pytest.mark.parametrize(("ratio", "library"), [(0.5, "torch"), (1.0, "torch"), (1.25, "torch"), (2.2, "onednn")])
def test_only_what_is_clearly_faster_is_taken(monkeypatch, ratio, library):
    assert choose(monkeypatch, ratio) == library


def test_what_rounds_to_bfloat16_is_never_taken(monkeypatch):
    """However fast it is, and even if it is asked for."""
    rounded = EXACT | {"onednn": 1e-4}
    assert choose(monkeypatch, 16.0, rounded) == "torch"
    for errors, obstacle, why in ((rounded, "", "an error of 1.0e-04"), (EXACT, "there is AMX", "there is AMX")):
        products.chosen.cache_clear()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert choose(monkeypatch, 16.0, errors, wanted="onednn", obstacle=obstacle) == "torch"
            with products.fast(), products.fast():
                assert not products.switched()
        (one,) = [str(warning.message) for warning in said]
        assert re.match(f"QRPO_PRODUCTS=onednn cannot be had, since .*{why}.*: torch's own", one)


def test_what_nobody_asked_for_is_not_missed(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(monkeypatch, 16.0, obstacle="there is AMX") == "torch"
        products.chosen.cache_clear()
        assert choose(monkeypatch, 16.0, wanted="torch", obstacle="there is AMX") == "torch"
        products.chosen.cache_clear()
        assert choose(monkeypatch, 1.0, wanted="onednn") == "onednn"


def test_the_bound_tells_float32_from_bfloat16():
    """Products of the measured size, rounded as AMX would, are far beyond it; in float32 far below."""
    rows, inner, columns = products._SHAPE
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    exact, scale = left.double() @ right.double(), left.abs().double() @ right.abs().double()
    rounded = left.bfloat16().double() @ right.bfloat16().double()
    assert ((rounded - exact).abs() / scale).max() > 10 * products._LARGEST_ERROR
    assert ((left @ right - exact).abs() / scale).max() < products._LARGEST_ERROR / 10


def test_rates_are_billions_of_operations_a_second_of_this_thread(monkeypatch):
    """On a clock by which every product takes half a second: 2 x 8 x 16 x 32 operations in it."""
    ticks = itertools.count(0, 0.5)
    monkeypatch.setattr(products.time, "thread_time", lambda: next(ticks))
    products.measured.cache_clear()
    now = products.measured((8, 16, 32))
    products.measured.cache_clear()
    assert now.gflops == pytest.approx(dict.fromkeys(products.CHOICES, 2 * 8 * 16 * 32 / 0.5 / 1e9))


def test_it_can_be_said_instead(monkeypatch):
    assert choose(monkeypatch, 2.2, wanted="torch") == "torch"
    products.chosen.cache_clear()
    assert choose(monkeypatch, 1.0, wanted="onednn") == "onednn"
    products.chosen.cache_clear()
    refused = pytest.raises(InputError, match="QRPO_PRODUCTS is 'mkl': set it to torch or onednn")
    with refused:
        choose(monkeypatch, wanted="mkl")
    with refused:
        products.check()
    for wanted in ("", *products.CHOICES):
        monkeypatch.setenv(products.VARIABLE, wanted)
        products.check()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", ""),
        ("processor\t: 0\nflags\t\t: fpu avx512f amx_bf16 amx_tile\n", "AMX"),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", "no x86-64 processor"),  # ARM
        (None, "no x86-64 processor under Linux"),
    ],
)
def test_processors_that_could_round_are_left_alone(tmp_path, monkeypatch, text, why):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    said = products._obstacle(tmp_path / "cpuinfo")
    assert why in said
    assert bool(said) == bool(why)


def test_beside_a_gpu_and_without_onednn_nothing_is_switched(tmp_path, monkeypatch):
    """The switch that leaves torch's getter working would round a GPU's products to TF32."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu avx512f\n")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert "there is a GPU" in products._obstacle(cpuinfo)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert products._obstacle(cpuinfo) == "this torch has no oneDNN"


# What a program may have set before, by torch's older setting, its newer one, that of all operations, or by both.
BEFORE = {
    "nothing": lambda: None,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "highest": lambda: torch.set_float32_matmul_precision("highest"),
    "newer": lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "all operations": lambda: setattr(torch.backends, "fp32_precision", "bf16"),
    "all in TF32": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "of GPUs": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
}


@pytest.mark.parametrize("before", BEFORE)
def test_the_switch_is_set_inside_and_as_it_was_outside(monkeypatch, before):
    assert choose(monkeypatch, 2.2) == "onednn"
    BEFORE[before]()
    outside = precisions()
    with products.fast():
        assert products.switched()
        with products.as_torch_comes():
            assert not products.switched()
            with products.fast():
                assert products.switched()
        assert products.switched()
    assert precisions() == outside
    with pytest.raises(ZeroDivisionError), products.fast():
        raise ZeroDivisionError
    assert precisions() == outside


@pytest.mark.parametrize("before", BEFORE)
def test_without_it_products_are_exact_whatever_was_set(monkeypatch, before):
    """Where the processor has AMX, torch's own products would be rounded to bfloat16 by what the program set."""
    assert choose(monkeypatch, obstacle="there is AMX") == "torch"
    BEFORE[before]()
    outside, of_gpus = precisions(), torch.backends.cuda.matmul.fp32_precision
    with products.fast():
        assert torch.backends.mkldnn.matmul.fp32_precision in ("ieee", "none")
        assert not products.switched()
        assert torch.backends.cuda.matmul.fp32_precision == of_gpus  # which the program set for its GPU
        assert products.in_force()["library"] in ("MKL", "torch's BLAS")
        with products.as_torch_comes():
            assert not products.switched()
        assert not products.switched()
    assert precisions() == outside


def test_what_is_inherited_stays_inherited(monkeypatch):
    choose(monkeypatch, obstacle="there is AMX")
    torch.backends.fp32_precision = "bf16"
    with products.fast():
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    torch.backends.fp32_precision = "ieee"
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"


@pytest.mark.parametrize("ratio", [1.0, 2.2])
def test_rewards_and_callbacks_may_ask_for_the_precision(monkeypatch, ratio):
    """So does torch's compiler, of the older setting and of that for GPUs."""
    choose(monkeypatch, ratio)
    with products.fast():
        said = "medium" if ratio > 2 else "highest"
        assert torch.get_float32_matmul_precision() == said
        assert torch.backends.cuda.matmul.allow_tf32 is (said == "medium")
        with products.as_torch_comes():
            assert torch.get_float32_matmul_precision() == said
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cuda.matmul.allow_tf32 is False


def test_measuring_draws_none_of_the_numbers_that_others_draw():
    state = torch.get_rng_state()
    products.measured.cache_clear()
    measured = products.measured()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(rate > 0 for rate in measured.gflops.values())
    assert measured.errors["torch"] < products._LARGEST_ERROR


@pytest.mark.parametrize(("disturbed", "library"), [(8, "torch"), (10**6, "onednn")])
def test_a_neighbour_for_a_while_decides_nothing(monkeypatch, disturbed, library):
    """A made-up machine on which torch's products take 1.1 times as long; 1.5 times while a neighbour disturbs them."""
    now, made = [0.0], {"torch": 0, "onednn": 0}

    def thread_time():
        choice = "onednn" if products.switched() else "torch"
        made[choice] += 1
        if made[choice] % 2 == 0:  # the product is done
            slower = 1.5 if made[choice] // 2 <= disturbed else 1.1
            now[0] += slower if choice == "torch" else 1.0
        return now[0]

    monkeypatch.setattr(products.time, "thread_time", thread_time)
    monkeypatch.setattr(products, "_obstacle", lambda: "")
    products.measured.cache_clear()
    assert products.chosen() == library
    products.measured.cache_clear()


def test_a_record_says_what_was_in_force(monkeypatch):
    assert products.in_force() is None
    choose(monkeypatch, 2.2)
    said = products.in_force()
    assert said["library"] == "oneDNN"
    assert set(said["gflops"]) == set(said["error"]) == {"MKL", "oneDNN"} or not torch.backends.mkl.is_available()
    assert said["gflops"]["oneDNN"] == 220.0


@pytest.mark.slow
@pytest.mark.skipif(bool(products._obstacle()), reason="the switch is not used on this kind of processor")
def test_the_switch_reaches_onednn_in_float32():
    """oneDNN itself says so: a product of float32 matrices, by a kernel without rounding."""
    code = (
        "import torch; from qrpo_lib.runs import products\n"
        "with products.fast(): torch.ones(64, 32) @ torch.ones(32, 64)\n"
        "print('after', flush=True); torch.ones(64, 32) @ torch.ones(32, 64)"
    )
    environment = {"ONEDNN_VERBOSE": "1", products.VARIABLE: "onednn", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    inside, _, after = done.stdout.partition("after\n")
    (last,) = [line for line in inside.splitlines() if "64x32:32x64" in line]
    assert all(said in last for said in ("matmul", "src:f32", "wei:f32"))
    assert "amx" not in last
    assert "matmul" not in after, json.dumps(after)
