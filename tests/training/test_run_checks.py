"""What would stop a training once it has begun, or change nothing in silence, is refused before any work."""

import shutil

import pytest
import torch
from small_llama import llama, made_up_rows, tokenizer_of_words
from small_llama import own_trainer as trainer

from qrpo_lib import SampledReferences
from qrpo_lib.runs.errors import InputError

ROWS = made_up_rows(4)
EACH_EPOCH = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}


def no_work(completions):
    raise AssertionError("References are sampled and scored.")


def sgd(model, **others):
    return torch.optim.SGD(model.parameters(), lr=0.1, **others)


def schedule(optimizer):
    return torch.optim.lr_scheduler.ConstantLR(optimizer)


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (lambda model: None, "optimizers must be a torch optimizer"),
        (lambda model: (None,), "optimizers must be a torch optimizer"),
        (lambda model: 5, "optimizers must be a torch optimizer"),
        (lambda model: (sgd(model), "cosine"), "a schedule of it"),
        (lambda model: (sgd(model), schedule(sgd(model))), "a schedule of it"),
        (lambda model: (None, schedule(sgd(model))), "a schedule of it"),
        (lambda model: (sgd(llama()), None), "holds no weights that are trained: make it of them"),
    ],
)
def test_an_optimizer_that_would_train_nothing(of, said, tmp_path):
    model = llama()
    with pytest.raises(InputError, match=said):
        trainer(tmp_path, ROWS, model=model, optimizers=of(model))


@pytest.mark.parametrize(
    ("changes", "given", "said"),
    [
        (
            EACH_EPOCH | {"metric_for_best_model": "accuracy"},
            {},
            "no metric_for_best_model 'accuracy': use one of eval_",
        ),
        (EACH_EPOCH, {"eval_dataset": {"mine": ROWS}}, "no metric_for_best_model 'loss': use one of eval_mine_loss"),
        (EACH_EPOCH, {"eval_dataset": {}}, "asks for evaluations, and there are no rows"),
        ({"eval_strategy": "epoch"}, {"callbacks": ["early"]}, "EarlyStoppingCallback needs metric_for_best_model"),
    ],
)
def test_what_would_stop_a_training_at_its_first_evaluation(changes, given, said, tmp_path):
    from transformers import EarlyStoppingCallback

    given = {"eval_dataset": ROWS} | given
    given |= {"callbacks": [EarlyStoppingCallback()]} if "callbacks" in given else {}
    rows = [{name: row[name] for name in row if name != "ref_rewards"} for row in ROWS]
    with pytest.raises(InputError, match=said):
        trainer(tmp_path, rows, changes=changes, reference_rewards=SampledReferences(no_work, n=2), **given)
    measured = {"metric_for_best_model": "eval_mine_chosen_log_ratio"}
    trainer(tmp_path, ROWS, changes=EACH_EPOCH | measured, eval_dataset={"mine": ROWS})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps within an epoch, with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("run")
    of_run(folder).train()
    return folder


def of_run(folder):
    steps = {"max_steps": 2, "per_device_train_batch_size": 1, "learning_rate": 1e-2}
    return trainer(folder, ROWS, changes=steps | {"save_strategy": "steps", "save_steps": 1})


def test_a_run_that_has_ended_within_an_epoch_makes_no_step_more(run):
    from safetensors.torch import load_file

    made = of_run(run)
    made.args.resume_from_checkpoint = True
    assert made.train().global_step == 2
    saved = load_file(run / "checkpoint-2" / "model.safetensors")
    trained = made.model.state_dict()
    assert all(torch.equal(trained[name].cpu(), saved[name]) for name in saved)


def test_rewards_whose_squared_difference_is_not_finite_are_refused(tmp_path):
    """The Trainer would log the loss as 0, and save what weights of NaN it leaves."""
    rows = [row | {"chosen_reward": 1e200, "rejected_reward": -1e200} for row in ROWS]
    with pytest.raises(InputError, match=r"train row 0: chosen_reward less .* is 2e\+20\d, whose square is not finite"):
        trainer(tmp_path, rows, changes={"loss_type": "rebel"})
    large = [row | {"chosen_reward": 1e14, "rejected_reward": -1e14} for row in ROWS]
    model = llama()
    trainer(tmp_path, large, model=model, changes={"loss_type": "rebel", "beta": 1.0, "max_steps": 1}).train()
    assert all(weights.isfinite().all() for weights in model.parameters())


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "asked", "said"),
    [
        (lambda folder: (folder / "trainer_state.json").unlink(), True, "no whole checkpoint, without trainer_state"),
        (lambda folder: cut(folder / "trainer_state.json"), True, "trainer_state.json cannot be used: it is no whole"),
        (lambda folder: (folder / "model.safetensors").unlink(), True, "no whole checkpoint, without weights"),
        (lambda folder: cut(folder / "model.safetensors"), True, "model.safetensors is cut off"),
        (lambda folder: cut(folder / "optimizer.pt"), True, "optimizer.pt is cut off"),
        (lambda folder: (folder.parent / "checkpoint-9").mkdir(), True, "checkpoint-9 is no whole checkpoint"),
        (lambda folder: None, ".", "no whole checkpoint"),
        (lambda folder: None, "", "no checkpoint without a name"),
    ],
)
def test_checkpoints_that_are_not_whole(damage, asked, said, run, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    monkeypatch.chdir(folder)
    damage(folder / "checkpoint-2")
    made = of_run(folder)
    with pytest.raises(InputError, match=said):
        made.train(resume_from_checkpoint=asked)


def test_adapters_that_are_not_trained_as_they_mean_to_be(tmp_path):
    peft = pytest.importorskip("peft")
    settings = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    lora = peft.LoraConfig(r=2, **settings)
    with pytest.raises(InputError, match="adapter is called mine"):
        trainer(tmp_path, ROWS, model=peft.get_peft_model(llama(), lora, adapter_name="mine"))
    with pytest.raises(InputError, match="AdaLoRA allocates ranks"):
        trainer(tmp_path, ROWS, peft_config=peft.AdaLoraConfig(total_step=9, **settings))
    model = llama()
    with pytest.raises(InputError, match="make the adapter before it"):
        trainer(tmp_path, ROWS, model=model, peft_config=lora, optimizers=(sgd(model), None))
    peft.get_peft_model(llama(), lora).save_pretrained(tmp_path / "adapter")
    from qrpo_lib import QRPOConfig, QRPOTrainer

    config = QRPOConfig(str(tmp_path / "out"), report_to="none")
    with pytest.raises(InputError, match="it is an adapter alone"):
        QRPOTrainer(str(tmp_path / "adapter"), config, ROWS, processing_class=tokenizer_of_words())
