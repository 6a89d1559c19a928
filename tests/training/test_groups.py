"""Processes that train together, as a cluster's jobs do: DDP, DeepSpeed ZeRO-1 and FSDP2, on two CPU processes (gloo).

The environment is the one that the profile `gh200` sets, or names in a comment.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import two_processes
from group_worker import own, train, tune
from small_llama import assert_same_history, column, weights
from transformers import AutoModelForCausalLM

from qrpo_lib.profiles import settings as profiles

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "tests" / "group_worker.py"
OTHER_PYTHON = ROOT / ".venv-deepspeed" / "bin" / "python"
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}
STEPS = 8  # 61 rows, two epochs, batches of 16; checkpoints at 4 and 8


def python_of(engine: str) -> str:
    """The interpreter that has what the engine needs."""
    if engine != "DeepSpeed" or importlib.util.find_spec("deepspeed"):
        return sys.executable
    if not OTHER_PYTHON.exists():
        pytest.skip("deepspeed is not installed: `make test` makes .venv-deepspeed, which has it")
    return str(OTHER_PYTHON)


def environment_of(engine: str) -> dict[str, str]:
    if engine == "DeepSpeed":
        of_profile = profiles.load("gh200").dispatch.of_kind("training").environment
        assert of_profile["ACCELERATE_USE_DEEPSPEED"] == "true"
        return of_profile | {"DS_ACCELERATOR": "cpu"}
    return FSDP if engine == "FSDP2" else {}


def run(engine: str, folder: Path, precision: str, *scenarios: str) -> dict:
    """What two processes saw."""
    environment = environment_of(engine) | {"PYTHONPATH": os.pathsep.join([str(WORKER.parent), str(ROOT)])}
    arguments = [WORKER, folder, precision, *scenarios]
    two_processes.run(*arguments, python=python_of(engine), timeout=900, **environment)
    return json.loads((folder / "seen.json").read_text())


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The fitted policy and what it wrote at checkpoints, without any group."""
    return train(tmp_path_factory.mktemp("one"), "float32")


@pytest.mark.parametrize("engine", ["DeepSpeed", "FSDP2"])
def test_a_group_that_was_killed_ends_as_one_process_does(engine, one_process, tmp_path):
    """Losses, gradient norms, weights, what is sampled at a checkpoint, and what is saved, in float32."""
    killed = f"kill-{STEPS}"
    found = run(engine, tmp_path, "float32", killed, "train")
    assert found[killed] == [f"checkpoint-{STEPS // 2}"]
    seen = found["train"]
    fitted, drawn = one_process
    assert_same_history(seen["history"], fitted.history)
    for name in ("loss", "grad_norm"):
        ours, theirs = (column(history, name) for history in (seen["history"], fitted.history))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.tensor(seen["weights"]), weights(fitted.model), rtol=0, atol=1e-5)
    assert seen["drawn"] == [{str(STEPS): drawn[STEPS]}] * 2  # it went on behind the first checkpoint
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    torch.testing.assert_close(weights(saved), torch.tensor(seen["weights"]), rtol=0, atol=0)


@pytest.mark.parametrize("engine", ["DDP", "DeepSpeed", "FSDP2"])
def test_a_group_in_bfloat16(engine, tmp_path):
    """The policy starts at its reference, gradients are summed in float32, and any number of sequences is tuned on."""
    tuned = [61, 17, 3]  # micro-batches, a batch, and a process without a row
    names = [f"tune-{rows}" for rows in tuned]
    seen = run(engine, tmp_path, "bfloat16", "train", "own", "accumulate", *names)
    start = next(row for row in seen["train"]["history"] if row["split"] == "validation")
    assert start["step"] == 0
    # The reference's forward passes are the engine's: the same weights' type, the same autocast.
    rounding = {
        "DDP": ["torch.float32", True],
        "FSDP2": ["torch.bfloat16", True],
        "DeepSpeed": ["torch.bfloat16", False],
    }
    assert seen["train"]["rounding"] == [rounding[engine]]
    for side in ("chosen", "rejected"):
        assert start[f"{side}_log_ratio"] == pytest.approx(0, abs=1e-6)
        # other micro-batches than the reference's, which are rounded otherwise
        assert seen["own"]["history"][0][f"{side}_log_ratio"] == pytest.approx(0, abs=0.02)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert saved.dtype == torch.bfloat16
    once, often = seen["accumulate"]
    assert often == pytest.approx(once, rel=1e-4)
    for name, rows in zip(names, tuned, strict=True):
        alone = tune(rows, micro_batch_size=8).history
        np.testing.assert_allclose(column(seen[name]["history"], "loss"), column(alone, "loss"), rtol=0.02)


@pytest.mark.parametrize("engine", ["DDP", "DeepSpeed", "FSDP2"])
def test_the_public_trainer_by_two_processes_is_that_of_one(engine, tmp_path):
    """Rows that do not divide among processes count once, in training and in evaluation."""
    seen, alone = run(engine, tmp_path / "two", "float32", "own")["own"], own(tmp_path / "one", "float32")
    for name in ("loss", "grad_norm", "learning_rate"):
        ours, theirs = ([entry[name] for entry in one["history"]] for one in (seen, alone))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=name)
    measured = [name for name in alone["evaluated"] if not name.endswith(("runtime", "per_second"))]
    ours, theirs = ([one["evaluated"][name] for name in measured] for one in (seen, alone))
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    ours, theirs = (torch.tensor(one["weights"]) for one in (seen, alone))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_fine_tuning_by_two_processes_is_that_of_one(tmp_path):
    sizes = (61, 17, 3)
    seen = run("DDP", tmp_path, "float32", *(f"tune-{rows}" for rows in sizes))
    for rows in sizes:
        alone = tune(rows, micro_batch_size=8)
        assert_same_history(seen[f"tune-{rows}"]["history"], alone.history)
        together = torch.tensor(seen[f"tune-{rows}"]["weights"])
        torch.testing.assert_close(together, weights(alone.model), rtol=0, atol=1e-5)
