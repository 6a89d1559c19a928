"""Untrusted Python against test cases, one verdict a test: `run_tests`, and `run_many` for batches.

`worker` is copied into the sandbox and runs there alone; it imports nothing of this package. `checks` and `sandbox` run
outside and may import runs.
"""

from qrpo_lib.rewards.sandbox.sandbox import Result, run_many, run_tests

__all__ = ["Result", "run_many", "run_tests"]
