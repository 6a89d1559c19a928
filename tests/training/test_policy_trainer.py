"""The one trainer of `fit_policy` and `QRPOTrainer`: what either has, the other has too."""

import gc
from types import SimpleNamespace

import pytest
import torch
from small_llama import column, fit, llama, made_up_rows, made_up_tokenizer, own_trainer, weights
from trl import DPOTrainer

from qrpo_lib import QRPOTrainer
from qrpo_lib.runs import products
from qrpo_lib.training import guard, parallel
from qrpo_lib.training.policy_trainer import PolicyTrainer
from qrpo_lib.training.token_trainer import TokenTrainer


@pytest.fixture(scope="module", autouse=True)
def _little_for_the_garbage_collector():
    """Each training ends with a full collection, which else walks through all that was ever imported."""
    gc.freeze()
    yield
    gc.unfreeze()


def trained_by_both(folder, rows, models, **loss):
    """What each logged of training: of the steps' own trainer, and of the public one, in the same order of rows."""
    loss = {"beta": 0.1} | loss
    ours = fit(models[0], made_up_tokenizer(), rows, loss=loss, checkpoints=1).history
    settings = {"learning_rate": 3e-3, "per_device_train_batch_size": 8, "logging_steps": 1, "seed": 0}
    made = own_trainer(folder, rows, model=models[1], changes=settings | loss)
    made.train()
    return ours, [entry for entry in made.state.log_history if "loss" in entry]


def test_the_public_trainer_computes_nothing_of_its_own():
    """It prepares data and says what a run is; losses, metrics, scaling and batches are those of the suite's steps."""
    assert issubclass(QRPOTrainer, PolicyTrainer)
    computing = [*vars(PolicyTrainer), *vars(TokenTrainer)]
    of_both = {name for name in vars(QRPOTrainer) if name in computing and not name.startswith("__")}
    # it checks whose run a folder holds; its cards and its count of operations are for others to see
    assert of_both <= {"train", "create_model_card", "floating_point_ops"}
    replaced = {name for name in vars(QRPOTrainer) if callable(getattr(DPOTrainer, name, None))}
    assert not replaced & {"compute_loss", "training_step", "prediction_step", "get_batch_samples", "log"}


@pytest.mark.parametrize("loss", [{}, {"length_normalization": True, "beta": 2.0}], ids=["beta", "beta over length"])
def test_both_end_at_the_same_weights(loss, tmp_path):
    models = llama(), llama()
    ours, theirs = trained_by_both(tmp_path, made_up_rows(24), models, **loss)
    assert torch.equal(weights(models[0]), weights(models[1]))
    for name in ("loss", "grad_norm", "chosen_log_ratio", "chosen_quantile"):
        assert column(ours, name) == [entry[name] for entry in theirs], name
    assert ("chosen_target" in ours[0]) is (not loss)


def noisy(model):
    """Random in training mode, and by no dropout."""
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda module, _, out: out + torch.randn_like(out) if module.training else out)
    return model


@pytest.mark.parametrize("gradient_checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nothing_in_a_model_is_random_while_it_trains(gradient_checkpointing, tokenizer):
    rows, changes = made_up_rows(16), {"gradient_checkpointing": gradient_checkpointing, "checkpoints": 1}
    plain, noise = fit(llama(), tokenizer, rows, **changes), fit(noisy(llama()), tokenizer, rows, **changes)
    assert noise.history == plain.history
    assert torch.equal(weights(noise.model), weights(plain.model))


def test_a_model_that_would_be_trained_wrongly_is_refused_by_the_steps_too(tokenizer):
    model = llama()
    model.model.layers[0].register_forward_hook(lambda module, _, out: out.flip(1))  # from later tokens to earlier ones
    with pytest.raises(guard.UnsupportedModelError, match="is not supported"):
        fit(model, tokenizer, made_up_rows(8))


def test_numbers_of_a_batch_keep_their_type_under_deepspeed(tmp_path, monkeypatch):
    """transformers rounds what is no whole number to the type of the weights: in bfloat16 rewards become equal."""
    rows = [row | {"chosen_reward": 1.0 + 1e-9 * i} for i, row in enumerate(made_up_rows(4))]
    made = own_trainer(tmp_path, rows)
    batch = made.data_collator(list(made.train_dataset))
    plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: torch.bfloat16))
    monkeypatch.setattr(made, "is_deepspeed_enabled", True)
    monkeypatch.setattr(made, "accelerator", SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin)))
    prepared = made._prepare_inputs(batch)
    assert prepared.keys() == batch.keys()
    for name, values in batch.items():
        assert torch.equal(prepared[name], values), name
        assert prepared[name].dtype == values.dtype
    assert len(set(prepared["chosen_reward"].tolist())) == 4


def test_both_sum_gradients_in_float32_and_clip_as_asked(tokenizer, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(parallel, "accumulate_in_float32", lambda accelerator, norm: asked.append(norm))
    fit(llama(), tokenizer, made_up_rows(8))
    own_trainer(tmp_path, made_up_rows(8), changes={"max_grad_norm": 0.5})
    assert asked == [0.0, 0.5]


def test_both_multiply_by_the_faster_library(tokenizer, tmp_path, monkeypatch):
    """Policy and reference by the same: else their log-ratio at the start would be the difference of two roundings."""
    seen = {"suite": set(), "own": set()}
    monkeypatch.setattr(products, "chosen", lambda: "onednn")

    def watched(name):
        model = llama()
        model.register_forward_pre_hook(lambda *_: seen[name].add(products.switched()))
        return model

    fit(watched("suite"), tokenizer, made_up_rows(8), made_up_rows(2))
    made = own_trainer(tmp_path, made_up_rows(8), model=watched("own"), eval_dataset=made_up_rows(2))
    made.train()
    made.evaluate()
    assert seen == {"suite": {True}, "own": {True}}
    assert not products.switched()
