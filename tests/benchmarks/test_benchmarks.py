import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_training_benchmark_runs_and_both_trainers_have_the_same_loss(tmp_path):
    """With a vocabulary of 49,152; how fast they are is for the benchmark to say."""
    command = [sys.executable, "benchmarks/training.py", "--quick", "--only", "loss", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900, capture_output=True)
    losses = pd.read_csv(tmp_path / "training-loss.csv")
    assert len(losses) == 4
    assert losses.trl_loss.iloc[0] == pytest.approx(np.log(2), rel=1e-5)
    assert abs(losses.trl_loss.iloc[-1] - np.log(2)) > 0.01  # it moved
    np.testing.assert_allclose(losses.suite_loss, losses.trl_loss, rtol=1e-5)
