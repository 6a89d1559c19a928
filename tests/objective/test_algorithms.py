"""The registry of algorithms: what it gives is what a step's key counts, and what it names is there."""

import inspect

import pytest
import torch

from qrpo_lib.objective import algorithms, losses
from qrpo_lib.runs.code_version import entry_names


def given(algorithm):
    """The functions that an algorithm's losses are computed with, on pairs, on single completions and for metrics."""
    yield algorithms.loss(algorithm, pairs=True)
    if algorithm == "qrpo":
        yield algorithms.loss(algorithm, pairs=False)
        yield algorithms.target(algorithm)


@pytest.mark.parametrize("algorithm", algorithms.ALGORITHMS)
def test_a_key_counts_the_functions_that_are_given(algorithm):
    functions = {f"{function.__module__}:{function.__qualname__}" for function in given(algorithm)}
    assert set(entry_names(algorithms.code(algorithm))) == functions


def test_each_algorithm_has_a_loss_of_its_own():
    functions = [algorithms.loss(algorithm, pairs=True) for algorithm in algorithms.ALGORITHMS]
    assert [function.__name__ for function in functions] == ["qrpo_pair", "dpo", "rebel", "simpo"]
    assert len(set(functions)) == len(algorithms.ALGORITHMS) == 4


def test_of_single_completions_qrpo_takes_no_pair():
    values = [torch.tensor([-1.0]), torch.tensor([-2.0]), torch.tensor([0.5])]
    refs = torch.tensor([[0.0, 1.0]])
    single = algorithms.loss("qrpo", pairs=False)(*values, refs, beta=0.2)
    pair = algorithms.loss("qrpo", pairs=True)
    sides = [side for value in values for side in (value, value)]
    torch.testing.assert_close(pair(*sides, refs, beta=0.2), single)
    assert "rejected_logps" not in inspect.signature(algorithms.loss("qrpo", pairs=False)).parameters


def test_only_qrpo_has_a_calibrated_target():
    targets = {algorithm: algorithms.target(algorithm) for algorithm in algorithms.ALGORITHMS}
    assert targets == dict.fromkeys(algorithms.ALGORITHMS) | {"qrpo": losses.calibrated_target}
