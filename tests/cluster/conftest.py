"""What tests of the cluster share: toys of tasks, which jobs find by PYTHONPATH too."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "slurm"))

import toys


@pytest.fixture
def diamond(runs_folder):
    """a, then b0, b1, b2, then z."""
    first = toys.task("a")
    middle = tuple(toys.task(f"b{number}", needs=(first,)) for number in range(3))
    return first, middle, toys.task("z", needs=middle)
