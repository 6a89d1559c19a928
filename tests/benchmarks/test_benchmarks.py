import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parents[2]


TRAINERS = ("TRL", "TRL_completions_alone", "plain_loop")


@pytest.mark.slow
def test_training_benchmark_runs_and_all_contenders_have_the_same_loss(tmp_path):
    """With a vocabulary of 49,152; how fast they are is for the benchmark to say."""
    command = [sys.executable, "benchmarks/training.py", "--quick", "--only", "loss", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900, capture_output=True)
    losses = pd.read_csv(tmp_path / "training-loss.csv")
    assert len(losses) == 4
    assert losses.this_suite_loss.iloc[0] == pytest.approx(np.log(2), rel=1e-5)
    assert abs(losses.this_suite_loss.iloc[-1] - np.log(2)) > 0.01  # it moved
    for name in TRAINERS:
        np.testing.assert_allclose(losses[f"{name}_loss"], losses.this_suite_loss, rtol=1e-5)


@pytest.mark.slow
def test_sampling_benchmark_runs_and_counts_the_tokens_of_every_engine(tmp_path):
    """Of random weights hardly a completion ends: all draw nearly the greatest number of tokens."""
    command = [sys.executable, "benchmarks/sampling.py", "--quick", "--max-new-tokens", "12", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900, capture_output=True)
    rows = pd.read_csv(tmp_path / "sampling-speed.csv").set_index("engine")
    assert {"this suite", "generate, dynamic cache", "generate, static cache"} <= set(rows.index)
    assert (rows.tokens <= 12 * 3 * 12).all()
    assert (rows.tokens > 0.9 * 12 * 3 * 12).all()
    assert rows.suite_times_as_fast["this suite"] == 1.0


def test_gpu_benchmark_says_that_there_is_no_gpu(monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with warnings.catch_warnings():
        runpy.run_path(str(ROOT / "benchmarks" / "gpu.py"), run_name="__main__")
    assert capsys.readouterr().out == "skipped: there is no GPU here, so nothing was measured.\n"


@pytest.mark.slow
def test_gpu_benchmark_measures_both_trainers(monkeypatch):
    """At a tiny size, on whatever is here: how fast they are is for a GPU to say."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    case = gpu.Case(layers=1, tokens=20, steps=3, width=128, inner=64, vocabulary=64)
    found = gpu.table(case)
    assert found["trainer"].tolist() == list(gpu.TRAINERS)
    assert (found["pairs_per_second"] > 0).all()
    assert gpu.layers_that_fit(80 * 2**30, 2048) < gpu.layers_that_fit(140 * 2**30, 2048) <= 32
    with pytest.raises(SystemExit, match="skipped"):
        gpu.layers_that_fit(8 * 2**30, 2048)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_gpu_benchmark_ends_within_ten_minutes(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600, capture_output=True)
    assert (pd.read_csv(tmp_path / "training-gpu.csv")["peak_gib"] > 1).all()
