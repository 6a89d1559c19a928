"""Adapters as people bring them to `QRPOTrainer`: what they train is in the policy alone, or they are refused."""

import pytest
import torch
from small_llama import llama, made_up_rows, plain_log_prob, tokenizer_of_words
from small_llama import own_trainer as trainer

from qrpo_lib import SampledReferences
from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import guard, run_identity


def pointwise(rows):
    names = {"prompt_ids": "prompt_ids", "chosen_ids": "completion_ids", "chosen_reward": "reward"}
    return [{new: row[old] for old, new in (names | {"ref_rewards": "ref_rewards"}).items()} for row in rows]


def lora(**settings):
    peft = pytest.importorskip("peft")
    return peft.LoraConfig(**({"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | settings))


ADAPTERS = {
    "head": {"modules_to_save": ["lm_head"]},
    "head and embedding": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "all linear": {"target_modules": "all-linear"},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "tokens": {"trainable_token_indices": [5, 6]},
    "dora": {"use_dora": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", ADAPTERS.values(), ids=ADAPTERS)
def test_what_an_adapter_trains_is_in_the_policy_and_not_in_the_reference(settings, tmp_path):
    """log pi_ref is that of the model as it was; the trained log-ratio that of plain forward passes."""
    adapter, rows = lora(**settings), pointwise(made_up_rows(8))
    changes = {"learning_rate": 3e-2, "warmup_steps": 0, "per_device_train_batch_size": 4}
    model, untouched = llama(tie_word_embeddings=False), llama(tie_word_embeddings=False)
    made = trainer(tmp_path, rows, model=model, changes=changes, peft_config=adapter)
    with torch.no_grad():
        before = [plain_log_prob(untouched, row["prompt_ids"], row["completion_ids"]).item() for row in rows]
    assert made.train_dataset["ref_logps"][:] == pytest.approx(before, abs=1e-4)
    made.train()
    found = made.evaluate(rows)["eval_log_ratio"]
    made.model.eval()
    with torch.no_grad():
        after = [plain_log_prob(made.model, row["prompt_ids"], row["completion_ids"]).item() for row in rows]
    assert found == pytest.approx(sum(after) / 8 - sum(before) / 8, abs=1e-4)
    assert abs(found) > 0.01


@pytest.mark.slow
def test_biases_that_an_adapter_has_trained_are_no_longer_the_reference(tmp_path):
    """PEFT leaves them in place when it switches the adapter off."""
    changes = {"learning_rate": 3e-1, "warmup_steps": 0, "per_device_train_batch_size": 4}
    model, rows = llama(attention_bias=True), made_up_rows(8)
    made = trainer(tmp_path, rows, model=model, changes=changes, peft_config=lora(bias="all"), eval_dataset=rows)
    made.train()
    made.evaluate()  # whose reference was computed before
    with pytest.raises(guard.UnsupportedModelError, match="is not the model that was given"):
        made.evaluate(rows)


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_an_adapter_that_changes_the_model_under_it(kind, tmp_path):
    """Without the adapter it is no longer the model that was given; a second one as ref_model is."""
    rows, adapter = made_up_rows(4), lora(init_lora_weights=kind)
    with pytest.raises(guard.UnsupportedModelError, match="is not the model that was given"):
        trainer(tmp_path, rows, peft_config=adapter)
    made = trainer(tmp_path, rows, peft_config=adapter, ref_model=llama())
    with torch.no_grad():
        expected = plain_log_prob(llama(), rows[0]["prompt_ids"], rows[0]["chosen_ids"]).item()
    assert made.train_dataset["ref_chosen_logps"][0] == pytest.approx(expected, abs=1e-4)


def test_a_model_whose_second_adapter_is_in_use(tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(llama(), lora(init_lora_weights=False))
    model.add_adapter("other", lora(init_lora_weights=False))
    model.set_adapter("other")
    with pytest.raises(guard.UnsupportedModelError, match='alone, named "default"'):
        trainer(tmp_path, made_up_rows(4), model=model)


def test_virtual_tokens(tmp_path):
    peft = pytest.importorskip("peft")
    adapter = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(guard.UnsupportedModelError, match="virtual tokens"):
        trainer(tmp_path, made_up_rows(4), peft_config=adapter)


def test_another_adapter_in_the_same_folder(tmp_path):
    rows, made = made_up_rows(4), []
    for alpha in (8, 16):
        made.append(trainer(tmp_path / str(alpha), rows, peft_config=lora(lora_alpha=alpha))._identity)
    folder = tmp_path / "run"
    (folder / "checkpoint-1").mkdir(parents=True)
    run_identity.begin(folder, made[0])
    run_identity.check(folder, made[0])
    with pytest.raises(InputError, match="adapter's lora_alpha 8, not 16"):
        run_identity.check(folder, made[1])


@pytest.mark.slow
def test_references_of_later_rows_are_sampled_from_the_reference_too(tmp_path):
    """After training, which has changed the adapter."""
    references = SampledReferences(lambda completions: list(map(len, completions)), n=8, max_new_tokens=6)
    changes = {"learning_rate": 1e-1, "warmup_steps": 0, "num_train_epochs": 4}
    adapter = lora(target_modules=["q_proj", "v_proj", "up_proj"])
    given = {"changes": changes, "peft_config": adapter, "reference_rewards": references}
    row = {"prompt": "w3 w4", "completion": "w5 w6"}
    made = trainer(tmp_path, [row] * 4, tokenizer_of_words(), **given)
    before = references.completions[:]
    made.train()
    references.completions.clear()
    assert abs(made.evaluate([row])["eval_log_ratio"]) > 1
    assert references.completions == before


def test_an_adapter_as_a_dictionary(tmp_path):
    pytest.importorskip("peft")
    with pytest.raises(InputError, match=r"LoraConfig\(...\), not a dict"):
        trainer(tmp_path, made_up_rows(4), peft_config={"r": 8})
