"""The real code of a training step, an SFT step and a reference pass of the paper's models on a GPU without content."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.suite import plan_memory

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
GH200 = profiles.load("gh200")
PARTS = ["training", "sft", "reference"]
MODELS = {"llama-8b": plan_memory.LLAMA_8B, "mistral-7b": plan_memory.MISTRAL_7B}


def run(model: str, folder: Path, **changes) -> dict:
    """Bytes beside the weights, and what was computed elsewhere, at the sizes of the profile."""
    settings = GH200.training
    case = {"model": model, "layers": 32, "micro": settings.micro_batch_size, "tokens": settings.max_tokens}
    case |= {"gradient_checkpointing": settings.gradient_checkpointing, "parts": PARTS} | changes
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    command = [sys.executable, str(TESTS / "fake_gpu.py"), json.dumps(case), str(folder)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=list(MODELS))
def counted(request, tmp_path_factory):
    """A model's name and what it took."""
    return request.param, run(request.param, tmp_path_factory.mktemp("gpu"))


def test_everything_is_computed_on_the_gpu(counted):
    """An operation between two devices raises; one on the CPU alone is counted."""
    _, parts = counted
    assert set(parts) == set(PARTS)
    for name, part in parts.items():
        assert part["elsewhere"] == [], name


def test_activations_are_what_the_plan_says(counted):
    model, parts = counted
    settings, shape = GH200.training, MODELS[model]
    for name, rows in (("training", 2 * settings.micro_batch_size), ("sft", GH200.sft.micro_batch_size)):
        planned = plan_memory.activations(shape, rows * settings.max_tokens, checkpointing=True)
        assert planned * 0.7 < parts[name]["peak"] <= planned * 1.05, name
    assert parts["reference"]["peak"] < parts["training"]["peak"]


def test_without_checkpointing_every_layer_is_kept(tmp_path):
    changes = {"layers": 4, "parts": ["training"], "gradient_checkpointing": False}
    taken = run("llama-8b", tmp_path, **changes)["training"]["peak"]
    shape = plan_memory.LLAMA_8B
    tokens = 2 * GH200.training.micro_batch_size * GH200.training.max_tokens
    four_layers = plan_memory.Shape(shape.width, shape.inner, shape.keys, 4, shape.vocabulary)
    planned = plan_memory.activations(four_layers, tokens, checkpointing=False)
    assert planned / 2 < taken <= planned  # it counts what a layer works with as if it stayed
    whole = plan_memory.activations(shape, tokens, checkpointing=False)
    assert whole > 40 * plan_memory.GIB
