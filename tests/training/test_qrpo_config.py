"""Settings that nothing would heed are refused."""

import pytest
from small_llama import made_up_rows
from small_llama import own_trainer as trainer

from qrpo_lib.runs.errors import InputError


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_length": 1}, "max_length must be at least 2"),
        ({"learning_rate": "1e-5"}, "learning_rate must be a number, not '1e-5'"),
        ({"beta": [0.1]}, "beta must be a number"),
        ({"num_train_epochs": "1"}, "num_train_epochs must be a number"),
        ({"num_reference_rewards": "3"}, "num_reference_rewards must be an integer of at least 1"),
        ({"num_reference_rewards": 2.5}, "num_reference_rewards must be an integer of at least 1"),
        ({"num_reference_rewards": 0}, "num_reference_rewards must be an integer of at least 1"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be an integer of at least 1"),
        ({"transform": "{name: log}"}, "transform is neither a name nor JSON"),
        ({"gamma_ratio": 0.3}, "gamma_ratio is SimPO's alone"),
        ({"train_sampling_strategy": "sorted"}, "no train_sampling_strategy 'sorted'"),
        ({"output_dir": __file__}, "output_dir must be a folder"),
        ({"neftune_noise_alpha": 5.0}, "no neftune_noise_alpha"),
        ({"label_smoothing_factor": 0.1}, "no label_smoothing_factor"),
        ({"bf16_full_eval": True}, "no bf16_full_eval"),
        ({"dataloader_drop_last": True}, "4 rows fill no batch of 8"),
        ({"length_normalization": "trainable_tokens"}, "must be True or False"),
        ({"max_length": 10.5}, "max_length must be at least 2 and an integer"),
        ({"learning_rate": -1e-3}, "learning_rate must be a number of at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number of at least 0"),
        ({"learning_rate": None}, "learning_rate must be a number of at least 0"),
        ({"weight_decay": -0.1}, "weight_decay must be a number of at least 0"),
        ({"num_train_epochs": 0}, "nothing would be trained"),
        ({"seed": -1}, r"seed must be an integer from 0 to 2\*\*32 - 1"),
        ({"data_seed": 1.5}, "data_seed must be an integer"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"optim": "adam"}, "adam is not a valid OptimizerNames"),
        ({"report_to": "paper"}, "no tracker 'paper'"),
        ({"output_dir": 5}, "output_dir must be a folder, not 5"),
    ],
)
def test_settings_that_would_do_nothing(changes, said, tmp_path):
    with pytest.raises(InputError, match=said):
        trainer(tmp_path, made_up_rows(4), changes=changes)
