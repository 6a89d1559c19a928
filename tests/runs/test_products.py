import itertools
import json
import subprocess
import sys

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


def choose(monkeypatch, ratio=1.0, errors=EXACT, wanted=None, possible=True):
    rates = {"torch": 100.0, "onednn": 100.0 * ratio}
    monkeypatch.setattr(products, "measured", lambda: products.Measured(rates, errors))
    monkeypatch.setattr(products, "_may_switch", lambda: possible)
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
    products.chosen.cache_clear()
    assert choose(monkeypatch, 16.0, rounded, wanted="onednn") == "torch"
    products.chosen.cache_clear()
    assert choose(monkeypatch, 16.0, wanted="onednn", possible=False) == "torch"


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
    with pytest.raises(InputError, match="QRPO_PRODUCTS is 'mkl': set it to torch or onednn"):
        choose(monkeypatch, wanted="mkl")


@pytest.mark.parametrize(
    ("text", "possible"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx512f amx_bf16 amx_tile\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", False),  # ARM
        (None, False),  # not Linux
    ],
)
def test_processors_that_could_round_are_left_alone(tmp_path, text, possible):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert products._may_switch(tmp_path / "cpuinfo") is possible


def test_the_switch_is_set_inside_and_as_it_was_outside(monkeypatch):
    assert choose(monkeypatch, 2.2) == "onednn"
    before = torch.backends.mkldnn.matmul.fp32_precision
    with products.fast():
        assert products.switched()
        with products.as_torch_comes():
            assert not products.switched()
            with products.fast():
                assert products.switched()
        assert products.switched()
    with pytest.raises(ZeroDivisionError), products.fast():
        raise ZeroDivisionError
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert torch.get_float32_matmul_precision() == "highest"  # and that of GPUs is not touched


def test_where_nothing_helps_nothing_changes(monkeypatch):
    assert choose(monkeypatch, 1.0) == "torch"
    before = torch.backends.mkldnn.matmul.fp32_precision
    with products.fast(), products.as_torch_comes():
        assert torch.backends.mkldnn.matmul.fp32_precision == before


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
    monkeypatch.setattr(products, "_may_switch", lambda: True)
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
@pytest.mark.skipif(not products._may_switch(), reason="the switch is not used on this kind of processor")
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
