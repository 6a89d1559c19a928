"""Which run an output folder holds."""

import pytest
import torch
from small_llama import made_up_rows
from small_llama import own_trainer as trainer

from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import run_identity


def test_a_checkpoint_of_another_run(tmp_path):
    rows, there = made_up_rows(8), {"save_strategy": "steps", "save_steps": 1}
    trainer(tmp_path / "first", rows, changes=there).train()
    made = trainer(tmp_path / "second", rows, changes={"beta": 0.5})
    with pytest.raises(InputError, match=r"first holds a run with beta 0.1, not 0.5"):
        made.train(tmp_path / "first" / "checkpoint-1")
    with pytest.raises(InputError, match="There is no checkpoint"):
        made.train(resume_from_checkpoint=str(tmp_path / "nowhere"))


IDENTITY = {"loss_type": "qrpo", "beta": 0.1, "reference": "a", "data": "b"}


def test_a_folder_belongs_to_its_run_once_something_was_made(tmp_path):
    run_identity.begin(tmp_path, IDENTITY)
    other = IDENTITY | {"beta": 0.5}
    run_identity.check(tmp_path, other)  # nothing of the first run is there yet
    (tmp_path / "checkpoint-1").mkdir()
    run_identity.check(tmp_path, IDENTITY)
    for changes, said in (
        ({"beta": 0.5}, r"holds a run with beta 0\.1, not 0\.5: choose another output_dir"),
        ({"reference": "c"}, "started from other weights than this model's"),
        ({"data": "c", "reference": "c"}, "a run with other data; another reference model"),
    ):
        with pytest.raises(InputError, match=said):
            run_identity.check(tmp_path, IDENTITY | changes)


def zeros(inputs, outputs):
    layer = torch.nn.Linear(inputs, outputs, bias=False)
    torch.nn.init.zeros_(layer.weight)
    return layer


def test_weights_are_told_apart_by_name_shape_type_and_value():
    assert run_identity.weights_sha256(zeros(2, 3)) == run_identity.weights_sha256(zeros(2, 3))
    other = zeros(2, 3)
    other.weight.data[0, 0] = 1e-9
    models = [zeros(2, 3), zeros(3, 2), zeros(2, 3).bfloat16(), torch.nn.Sequential(zeros(2, 3)), other]
    assert len({run_identity.weights_sha256(one) for one in models}) == len(models)


def test_an_interrupted_training_leaves_a_model_that_is_no_reference():
    model = torch.nn.Linear(1, 1)
    with run_identity.half_trained(model), pytest.raises(InputError, match="left half-trained"):
        run_identity.check_unmarked(model)
    run_identity.check_unmarked(model)
    with pytest.raises(KeyboardInterrupt), run_identity.half_trained(model):
        raise KeyboardInterrupt
    with pytest.raises(InputError, match="load the model again"):
        run_identity.check_unmarked(model)
