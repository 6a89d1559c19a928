"""The suite's tests have the same names in every process: `pytest -n 2` refuses to begin where they differ."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_names_of_tests_depend_on_neither_clock_nor_hash_seed():
    """A parameter's name is its value: one that holds the time of day had another name in each process."""
    collections = []
    for seed in ("1", "2"):
        collections.append(
            subprocess.Popen(
                [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", "tests"],
                cwd=ROOT,
                env=os.environ | {"PYTHONHASHSEED": seed, "PYTEST_ADDOPTS": ""},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        time.sleep(2)  # The finest clocks that files are stamped with count two seconds (ZIP).
    first, second = (
        [line for line in process.communicate()[0].splitlines() if "::" in line] for process in collections
    )
    assert len(first) > 1000
    assert first == second
