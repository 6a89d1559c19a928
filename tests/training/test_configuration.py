"""Settings of a training that cannot be are refused when they are written."""

import pytest

from qrpo_lib.training.configuration import Optimization, Output


def test_a_batch_is_computed_at_once_unless_said_otherwise():
    assert Optimization(1e-4, batch_size=8).micro_batch_size == 8
    assert Optimization(1e-4, batch_size=8, micro_batch_size=2).micro_batch_size == 2


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "2"])
@pytest.mark.parametrize("name", ["batch_size", "micro_batch_size", "epochs", "checkpoints", "checkpoint_every"])
def test_counts_are_whole_numbers_of_at_least_one(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got {value!r}"):
        Optimization(**({"learning_rate": 1e-4, "batch_size": 8} | {name: value}))


def test_a_precision_is_one_of_two():
    with pytest.raises(ValueError, match="unknown precision 'float16': use one of float32, bfloat16"):
        Optimization(1e-4, batch_size=8, precision="float16")


def test_what_a_tracker_writes_has_a_place(tmp_path):
    assert Output(folder=tmp_path, report_to="tensorboard").report_to == "tensorboard"
    with pytest.raises(ValueError, match="report_to='trackio' needs a folder"):
        Output(report_to="trackio")
