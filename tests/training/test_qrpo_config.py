"""Settings that nothing would heed are refused."""

import importlib.util

import pytest
from small_llama import llama, made_up_rows
from small_llama import own_trainer as trainer

from qrpo_lib import SampledReferences
from qrpo_lib.runs.errors import InputError


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_length": 1}, "max_length must be at least 2"),
        ({"learning_rate": "1e-5"}, "learning_rate must be a number, not '1e-5'"),
        ({"beta": [0.1]}, "beta must be a number"),
        ({"num_train_epochs": "1"}, "num_train_epochs must be a number"),
        ({"num_reference_rewards": "3"}, "num_reference_rewards must be an integer, not '3'"),
        ({"num_reference_rewards": 2.5}, "num_reference_rewards must be an integer, not 2.5"),
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
        ({"max_length": 10.5}, "max_length must be an integer, not 10.5"),
        ({"learning_rate": -1e-3}, "learning_rate must be a number of at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number of at least 0"),
        ({"learning_rate": None}, "learning_rate must be a number, not None"),
        ({"weight_decay": -0.1}, "weight_decay must be a number of at least 0"),
        ({"num_train_epochs": 0}, "nothing would be trained"),
        ({"seed": -1}, r"seed must be an integer from 0 to 2\*\*32 - 1"),
        ({"data_seed": 1.5}, "data_seed must be an integer"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"optim": "adam"}, "adam is not a valid OptimizerNames"),
        ({"report_to": "paper"}, "no tracker 'paper'"),
        ({"output_dir": 5}, "output_dir must be a folder, not 5"),
        ({"max_steps": 2.5}, "max_steps must be an integer, not 2.5"),
        ({"save_total_limit": "2"}, "save_total_limit must be an integer, not '2'"),
        ({"bf16": "False"}, "bf16 must be True or False, not 'False'"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be a number of at least 0"),
        ({"precompute_ref_batch_size": 0}, "precompute_ref_batch_size must be an integer of at least 1"),
        ({"dataloader_persistent_workers": True}, "set dataloader_num_workers"),
        ({"accelerator_config": {"split_batches": True}}, "no accelerator_config.split_batches"),
        ({"parallelism_config": {"tp_size": 2}}, "no parallelism_config"),
        ({"fsdp": "full_shard"}, "start them with accelerate launch"),
        ({"save_strategy": "best"}, "save_strategy asks for evaluations"),
        ({"adam_beta1": 1.5}, "adamw.* cannot be made: Invalid beta"),
        ({"optim_args": "x"}, r"\(optim_args=x\) cannot be made"),
        ({"lr_scheduler_kwargs": {"cycles": 2}}, "the schedule cosine .* cannot be made: .*cycles"),
        ({"lr_scheduler_type": "polynomial", "max_steps": 5, "warmup_steps": 5}, "no step left after its warm-up"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "cannot be made: .*num_decay_steps"),
        ({"gradient_checkpointing_kwargs": {"every": 2}}, "gradient_checkpointing_kwargs has no every"),
        ({"log_level": "loud"}, "no log_level 'loud'"),
        ({"output_dir": ""}, "output_dir must be a folder, not ''"),
        ({"output_dir": "a\0b"}, "output_dir must be a folder"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers must be at least 0"),
        ({"pad_token": "t3"}, "no pad_token"),
        ({"model_init_kwargs": "bfloat16"}, "model_init_kwargs must be a dictionary, or JSON of one, not 'bfloat16'"),
        ({"optim": "galore_adamw_layerwise"}, "no galore_adamw_layerwise"),
    ],
)
def test_settings_that_would_do_nothing(changes, said, tmp_path):
    with pytest.raises(InputError, match=said):
        trainer(tmp_path, made_up_rows(4), changes=changes)


TO_SAMPLE = [{"prompt": "t3", "completion": "t4"}] * 4


def contradicting():
    """A model whose settings for generation transformers would not save."""
    model = llama()
    model.generation_config.temperature, model.generation_config.do_sample = 0.3, False
    return model


def no_work(completions):
    raise AssertionError("References are sampled and scored.")


@pytest.mark.parametrize(
    ("package", "changes"),
    [
        ("bitsandbytes", {"optim": "paged_adamw_8bit"}),
        ("torchao", {"optim": "adamw_torch_4bit"}),
        ("galore_torch", {"optim": "galore_adamw", "optim_target_modules": "all-linear"}),
        ("schedulefree", {"optim": "schedule_free_adamw"}),
        ("deepspeed", {"deepspeed": {"zero_optimization": {"stage": 1}}}),
        ("mlflow", {"report_to": "mlflow"}),
        ("flytekit", {"report_to": "flyte"}),
        ("clearml", {"report_to": ["tensorboard", "clearml"]}),
    ],
)
def test_a_package_that_is_missing_is_said_before_any_work(package, changes, tmp_path):
    """Not when training begins, when the references have been sampled and scored."""
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(InputError, match=package):
        trainer(tmp_path, TO_SAMPLE, changes=changes, reference_rewards=SampledReferences(no_work, n=2))


def test_what_makes_the_steps_is_an_optimizer(tmp_path):
    import torch

    model = llama()
    for given in ((torch.optim.SGD, None), ("adam", None)):
        with pytest.raises(InputError, match="optimizers must be a torch optimizer that is made"):
            trainer(tmp_path, made_up_rows(4), model=model, optimizers=given)
    made = torch.optim.SGD(model.parameters(), lr=0.5)
    changes = {"max_steps": 1, "optim": "paged_adamw_8bit", "lr_scheduler_type": "constant"}
    run = trainer(tmp_path, made_up_rows(4), model=model, changes=changes, optimizers=(made, None))
    before = model.lm_head.weight.detach().clone()
    run.train()
    assert not torch.equal(before, model.lm_head.weight)


@pytest.mark.parametrize(
    ("changes", "arguments", "said"),
    [
        ({"beta": -1.0}, {}, "beta must be a positive number"),
        ({"transform": "cube"}, {}, "unknown transformation"),
        ({"transform": "log"}, {"n": 1}, "train row 0: "),
        ({"num_reference_rewards": 3}, {}, "has 2 reference rewards, but 3 are asked for"),
        ({}, {"eval_dataset": [{"prompt": 3, "completion": "t4"}]}, "eval row 0: prompt is neither"),
        ({}, {"callbacks": "all"}, "callbacks must be a list"),
        ({}, {"callbacks": ["all"]}, "callbacks must be a list"),
        ({"output_dir": "/proc/nowhere"}, {}, "output_dir /proc/nowhere cannot be made"),
        ({}, {"model": llama().bfloat16()}, "weights to be trained are torch.bfloat16"),
        ({}, {"model": contradicting()}, "could not be saved .* `temperature`"),
    ],
)
def test_what_is_wrong_is_said_before_references_are_sampled(changes, arguments, said, tmp_path):
    given = {"rows": TO_SAMPLE, **arguments}
    references = SampledReferences(no_work, n=given.pop("n", 2))
    with pytest.raises(InputError, match=said):
        trainer(tmp_path, changes=changes, reference_rewards=references, **given)


def test_another_setting_in_the_folder_of_a_run_is_said_before_references_are_sampled(tmp_path):
    trainer(tmp_path, made_up_rows(4), changes={"max_steps": 1, "save_strategy": "steps", "save_steps": 1}).train()
    references = SampledReferences(no_work, n=2)
    with pytest.raises(InputError, match=r"beta 0\.1, not 0\.2"):
        trainer(tmp_path, TO_SAMPLE, changes={"beta": 0.2, "max_steps": 1}, reference_rewards=references)
