"""What the trainers of TRL promise their users, asked of `QRPOTrainer`: each case one that their own tests check."""

import copy
import json

import pytest
import torch
from small_llama import VOCABULARY, llama, made_up_rows, made_up_tokenizer

from qrpo_lib import QRPOConfig, QRPOTrainer


def trained(folder, rows, model, *, changes=None, **arguments):
    settings = {"beta": 0.1, "learning_rate": 3e-2, "per_device_train_batch_size": 4, "save_strategy": "no"}
    settings |= {"report_to": "none", "disable_tqdm": True, "warmup_steps": 0} | (changes or {})
    trainer = QRPOTrainer(
        model, QRPOConfig(str(folder), **settings), rows, processing_class=made_up_tokenizer(), **arguments
    )
    trainer.train()
    return trainer


def copies(model):
    return {name: values.detach().clone() for name, values in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", ["qrpo", "dpo", "rebel", "simpo"])
def test_every_weight_is_trained_and_the_reference_is_not(loss_type, tmp_path):
    model, reference = llama(tie_word_embeddings=False), llama(tie_word_embeddings=False, seed=1)
    before, of_reference = copies(model), copies(reference)
    trained(tmp_path, made_up_rows(8), model, changes={"loss_type": loss_type}, ref_model=reference)
    for name, values in model.named_parameters():
        assert not torch.equal(values, before[name]), name
    for name, values in reference.named_parameters():
        assert torch.equal(values, of_reference[name]), name


@pytest.mark.slow
def test_several_evaluation_sets_are_evaluated_on_the_way(tmp_path):
    rows = made_up_rows(12)
    changes = {"eval_strategy": "steps", "eval_steps": 1}
    trainer = trained(tmp_path, rows[:8], llama(), changes=changes, eval_dataset={"one": rows[8:], "two": rows[:3]})
    logged = trainer.state.log_history
    for name in ("eval_one_loss", "eval_two_loss"):
        found = {entry["step"]: entry[name] for entry in logged if name in entry}
        assert sorted(found) == [1, 2]
        assert found[1] != found[2]


def test_models_are_tagged_for_the_hub(tmp_path):
    model = llama()
    QRPOTrainer(model, QRPOConfig(str(tmp_path)), made_up_rows(4), processing_class=made_up_tokenizer())
    assert {"trl", "qrpo"} <= set(model.model_tags)


def test_the_size_of_reference_batches_changes_nothing(tmp_path):
    rows, found = made_up_rows(9), []
    for size in (1, 4):
        config = QRPOConfig(str(tmp_path), precompute_ref_batch_size=size)
        trainer = QRPOTrainer(llama(), config, rows, processing_class=made_up_tokenizer())
        found.append(torch.tensor(trainer.train_dataset["ref_chosen_logps"][:]))
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("as_object", [False, True])
def test_adapters_are_trained_and_their_base_is_not(as_object, gradient_checkpointing, tmp_path):
    peft = pytest.importorskip("peft")
    rows, model = made_up_rows(8), llama()
    adapter = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    given = {"peft_config": adapter}
    if as_object:
        model, given = peft.get_peft_model(model, adapter), {}
    changes = {"gradient_checkpointing": gradient_checkpointing, "learning_rate": 1e-1}
    plain = llama().state_dict()
    trainer = trained(tmp_path, rows, model, changes=changes, **given)
    for name, values in trainer.model.named_parameters():
        if ".ref." in name:  # the adapter as it came, which is the reference
            assert "lora_B" not in name or values.abs().max() == 0, name
        elif "lora_B" in name:  # zero at the start
            assert values.abs().max() > 0, name
        elif "lora_" not in name:
            place = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.equal(values, plain[place]), name
    trainer.save_model()
    assert (tmp_path / "adapter_config.json").is_file()


def test_tools_reach_the_chat_template(tmp_path):
    """As JSON text or as a list: the prompt that is trained on holds their names."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", "user", "assistant", "search", "go", "hi"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = (
        "{% for tool in tools or [] %}{{ tool['function']['name'] }} {% endfor %}"
        "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} "
        "{% if message['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="</s>", unk_token="<unk>", chat_template=template
    )
    tools = [{"type": "function", "function": {"name": "search"}}]
    row = {
        "prompt": [{"role": "user", "content": "hi"}],
        "completion": [{"role": "assistant", "content": "go"}],
        "reward": 1.0,
        "reference_rewards": [0.0, 2.0],
    }
    rows = [row | {"tools": given} for given in (tools, json.dumps(tools), None)]
    trainer = QRPOTrainer(llama(VOCABULARY), QRPOConfig(str(tmp_path)), rows, processing_class=tokenizer)
    found = trainer.train_dataset["prompt_ids"][:]
    assert found[0] == found[1] == [words.index(word) for word in ("search", "user", "hi", "assistant")]
    assert found[2] == found[0][1:]


def test_a_copied_trainer_configuration_is_the_same_run(tmp_path):
    """`output_dir` refuses other settings; a copy of the same, or the same from JSON, are no others."""
    config = QRPOConfig(str(tmp_path), beta=0.3, report_to="none")
    first = QRPOTrainer(llama(), config, made_up_rows(4), processing_class=made_up_tokenizer())
    again = QRPOTrainer(llama(), copy.deepcopy(config), made_up_rows(4), processing_class=made_up_tokenizer())
    assert first._identity == again._identity
