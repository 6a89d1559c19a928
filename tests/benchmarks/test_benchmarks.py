import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

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
