"""What peers' tests ask of their trainers, asked of `QRPOTrainer`: TRL's DPO, KTO, RLOO, GRPO and online DPO, and the
port of QRPO to verl in swiss-ai's posttraining. Each case here is one that they check and no other test of ours does.

Theirs that ask nothing of this trainer: images and processors, Liger kernels, batches without padding, several losses
with weights, synchronised references and streams (refused); weights in 4 bits (no test: it needs bitsandbytes); prompts
that two texts begin with (a pair of texts says its prompt); KTO's mismatched completions for its estimate of the KL;
`compute_metrics` (nothing is predicted); ratios, clipping, importance weights, filters by entropy, scaled rewards,
several iterations and replay (there are none: each row is a regression); generation while training, its servers and its
masks of truncated completions (references are sampled before; online training is a profile's); tools that are called (a
completion is one turn); several rewards with weights (one function adds them up); rewards that log or ask for the
trainer's state (they are called before there is one).
"""

import copy
import json

import pytest
import torch
from small_llama import VOCABULARY, llama, made_up_rows, made_up_tokenizer
from transformers import TrainerCallback

from qrpo_lib import QRPOConfig, QRPOTrainer, SampledReferences
from qrpo_lib.runs.errors import InputError

COMMON = {"beta": 0.1, "learning_rate": 3e-2, "per_device_train_batch_size": 4, "save_strategy": "no"}
COMMON |= {"report_to": "none", "disable_tqdm": True, "warmup_steps": 0}


class StopAfter(TrainerCallback):
    """Ends a training after so many steps."""

    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.steps


def trained(folder, rows, model, *, changes=None, **arguments):
    trainer = QRPOTrainer(
        model,
        QRPOConfig(str(folder), **(COMMON | (changes or {}))),
        rows,
        processing_class=made_up_tokenizer(),
        **arguments,
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


@pytest.mark.parametrize("form", ["pairs", "single"])
def test_evaluation_may_come_before_the_first_step(form, tmp_path):
    """There all log-ratios are 0, so that the loss is the mean square of the targets."""
    from qrpo_lib import losses

    rows = made_up_rows(8)
    if form == "single":
        names = {"chosen_ids": "completion_ids", "chosen_reward": "reward"}
        kept = {"prompt_ids", "chosen_ids", "chosen_reward", "ref_rewards"}
        rows = [{names.get(name, name): row[name] for name in kept} for row in rows]
    changes = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True, "max_steps": 1}
    made = trained(tmp_path, rows, llama(), changes=changes, eval_dataset=rows)
    first, after = (entry for entry in made.state.log_history if "eval_loss" in entry)
    references = torch.tensor([row["ref_rewards"] for row in rows], dtype=torch.float64)
    sides = ["reward"] if form == "single" else ["chosen_reward", "rejected_reward"]
    rewards = [torch.tensor([row[side] for row in rows], dtype=torch.float64) for side in sides]
    targets = torch.stack([losses.calibrated_target(reward, references, beta=0.1) for reward in rewards])
    assert (first["step"], after["step"]) == (0, 1)
    assert first["eval_loss"] == pytest.approx(targets.square().mean().item(), rel=1e-4)
    assert after["eval_loss"] != first["eval_loss"]


def test_weights_that_are_loaded_in_half_precision_are_refused(tmp_path):
    """KTO trains on them; the paper's steps are too small for their rounding."""
    llama().save_pretrained(tmp_path / "model")
    made_up_tokenizer().save_pretrained(tmp_path / "model")
    for dtype in ("bfloat16", torch.float16):
        config = QRPOConfig(str(tmp_path / "out"), model_init_kwargs={"dtype": dtype})
        with pytest.raises(InputError, match="The weights to be trained are torch"):
            QRPOTrainer(str(tmp_path / "model"), config, made_up_rows(4))


def test_log_probabilities_of_the_reference_may_come_with_single_completions(tmp_path):
    """As KTO's collator takes them; they are not computed again."""
    names = {"chosen_ids": "completion_ids", "chosen_reward": "reward"}
    kept = {"prompt_ids", "chosen_ids", "chosen_reward", "ref_rewards"}
    rows = [{names.get(name, name): row[name] for name in kept} for row in made_up_rows(6)]
    config = QRPOConfig(str(tmp_path), report_to="none")
    computed = QRPOTrainer(llama(), config, rows, processing_class=made_up_tokenizer()).train_dataset["ref_logps"][:]
    given = [row | {"ref_logps": value - 1.0} for row, value in zip(rows, computed, strict=True)]
    made = QRPOTrainer(llama(), config, given, processing_class=made_up_tokenizer())
    batch = made.data_collator([made.train_dataset[i] for i in range(6)])
    assert batch["ref_logps"].tolist() == pytest.approx([value - 1.0 for value in computed])
    assert batch["reward"].dtype == torch.float64
    assert (batch["input_ids"].shape[0], batch["ref_rewards"].shape) == (6, (6, 3))


def test_what_may_be_evaluated(tmp_path, monkeypatch):
    """A file, rows, a dictionary, the trainer's own sets by their names; streams and predictions are refused."""
    from datasets import Dataset, DatasetDict, IterableDatasetDict

    rows = made_up_rows(8)
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows[:5])))
    sets = DatasetDict({"one": Dataset.from_list(rows[:5]), "two": Dataset.from_list(rows[5:])})
    config = QRPOConfig(str(tmp_path), report_to="none", disable_tqdm=True)
    made = QRPOTrainer(llama(), config, rows, sets, processing_class=made_up_tokenizer())
    losses = {made.evaluate(given)["eval_loss"] for given in ("one", str(path), path, rows[:5])}
    assert len(losses) == 1
    found = made.evaluate({"a": rows[:5], "b": rows[5:]})
    assert {found["eval_a_loss"]} == losses != {found["eval_b_loss"]}
    assert made.evaluate().keys() >= {"eval_one_loss", "eval_two_loss"}
    with pytest.raises(InputError, match="streaming"):
        made.evaluate(IterableDatasetDict({"a": sets["one"].to_iterable_dataset()}))
    with pytest.raises(InputError, match="nothing to predict"):
        made.predict(rows)
    alone = QRPOTrainer(llama(), config, rows, processing_class=made_up_tokenizer())
    with pytest.raises(InputError, match="no rows to evaluate"):
        alone.evaluate()


def test_an_evaluation_set_may_be_called_train(tmp_path):
    """It is not what the run and its card are of."""
    rows = made_up_rows(8)
    given = {"processing_class": made_up_tokenizer()}
    config = QRPOConfig(str(tmp_path), report_to="none")
    named = QRPOTrainer(llama(), config, rows, {"train": [row | {"ref_rewards": [0.0]} for row in rows[:3]]}, **given)
    plain = QRPOTrainer(llama(), config, rows, **given)
    assert named._identity == plain._identity
    named.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "on 8 preference pairs" in card
    assert "each with 3 reference rewards" in card


def test_a_trainer_needs_a_model_and_rows_alone(tmp_path, monkeypatch):
    """All else has a default; the run's folder is called after the model."""
    monkeypatch.chdir(tmp_path)
    llama().save_pretrained("models/small")
    made_up_tokenizer().save_pretrained("models/small")
    made = QRPOTrainer("models/small", train_dataset=made_up_rows(4))
    assert (made.args.output_dir, made.args.loss_type, made.args.beta) == ("small-QRPO", "qrpo", QRPOConfig("x").beta)
    assert QRPOTrainer(made.model, train_dataset=made_up_rows(4)).args.output_dir == "small-QRPO"


def test_a_run_goes_on_from_checkpoints_that_there_are(tmp_path):
    made = QRPOTrainer(llama(), QRPOConfig(str(tmp_path)), made_up_rows(4), processing_class=made_up_tokenizer())
    for given, said in ((True, "no checkpoint in"), ("nowhere", "no checkpoint nowhere"), (5, "must be a folder or")):
        with pytest.raises(InputError, match=said):
            made.train(resume_from_checkpoint=given)


@pytest.mark.slow
def test_processes_that_load_rows_change_nothing(tmp_path):
    found = []
    for workers in (0, 2):
        changes = {"dataloader_num_workers": workers, "num_train_epochs": 2, "logging_steps": 1}
        made = trained(tmp_path / str(workers), made_up_rows(12), llama(), changes=changes)
        found.append([one["loss"] for one in made.state.log_history if "loss" in one])
    assert found[0] == found[1]
    assert len(set(found[0])) == 6


def test_a_trained_model_generates_as_what_is_saved(tmp_path):
    """Layers that are computed twice would leave the cache of generation empty."""
    from transformers import AutoModelForCausalLM

    made = trained(tmp_path, made_up_rows(8), llama(), changes={"gradient_checkpointing": True})
    made.save_model()
    written = []
    for model in (made.model, AutoModelForCausalLM.from_pretrained(tmp_path)):
        for ids in ([3, 4], [7, 2, 9]):
            settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
            written.append(model.generate(torch.tensor([ids]), **settings)[0].tolist())
    assert written[:2] == written[2:]
    assert not any(module.training for module in made.model.modules())


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_batches_cut_otherwise(tmp_path):
    """In other micro-batches, as on another machine; batches of another size are another run."""
    rows, settings = made_up_rows(16), {"save_strategy": "steps", "save_steps": 1, "logging_steps": 1}
    whole = trained(tmp_path / "whole", rows, llama(), changes={"logging_steps": 1})
    trained(tmp_path / "run", rows, llama(), changes=settings, callbacks=[StopAfter(2)])
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    again = QRPOTrainer(
        llama(),
        QRPOConfig(str(tmp_path / "run"), **(COMMON | settings | cut)),
        rows,
        processing_class=made_up_tokenizer(),
    )
    again.train(resume_from_checkpoint=True)
    found = [[one["loss"] for one in made.state.log_history if "loss" in one] for made in (whole, again)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert len(set(found[0])) == 4
    with pytest.raises(InputError, match="batch size 4, not 8"):
        trained(tmp_path / "run", rows, llama(), changes=settings | {"per_device_train_batch_size": 8})


@pytest.mark.slow
def test_adapters_of_experts_alone(tmp_path):
    """PEFT trains them as parameters, not modules; the reference is the model without them, as it was."""
    peft = pytest.importorskip("peft")
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 8, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=VOCABULARY, num_experts_per_tok=2, **sizes))
    adapter = peft.LoraConfig(r=2, target_modules=[], target_parameters=["mlp.experts.down_proj"])
    before, rows = copies(model), made_up_rows(8)
    made = trained(tmp_path, rows, model, changes={"learning_rate": 1e-1}, peft_config=adapter)
    now = dict(made.model.named_parameters())
    assert all(now[name].abs().max() > 0 for name in now if "lora_B" in name)
    for name, values in now.items():
        if "lora_" not in name:
            place = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.equal(values, before[place]), name
    assert {"trl", "qrpo"} <= set(made.model.model_tags)


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


def test_the_model_itself_may_be_named_as_the_reference(tmp_path):
    """Which KTO refuses: here the reference is what it was before training, and stays so."""
    rows, model = made_up_rows(8), llama()
    alone = trained(tmp_path / "alone", rows, llama(), changes={"logging_steps": 1})
    same = trained(tmp_path / "same", rows, model, changes={"logging_steps": 1}, ref_model=model)
    logged = [[one["loss"] for one in made.state.log_history if "loss" in one] for made in (alone, same)]
    assert logged[0] == pytest.approx(logged[1], rel=1e-5)
    assert len(set(logged[0])) == 2


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_on_which_a_tokenizer_pads_changes_nothing_and_stays(side, tmp_path):
    tokenizer, rows = made_up_tokenizer(), made_up_rows(6)
    tokenizer.padding_side = side
    made = QRPOTrainer(llama(), QRPOConfig(str(tmp_path)), rows, processing_class=tokenizer)
    expected = QRPOTrainer(llama(), QRPOConfig(str(tmp_path)), rows, processing_class=made_up_tokenizer())
    assert tokenizer.padding_side == side
    assert made.train_dataset["ref_chosen_logps"][:] == expected.train_dataset["ref_chosen_logps"][:]
    batch = made.data_collator([made.train_dataset[i] for i in range(6)])
    assert batch["completion_mask"][:, 0].sum() == 0  # the prompt comes first
    counted = batch["completion_mask"].sum(1).tolist()
    assert counted == [len(row[side]) for side in ("chosen_ids", "rejected_ids") for row in rows]


def test_a_models_settings_for_generation_do_not_act_on_references(tmp_path):
    """Greedy, top-k or a temperature would make other quantiles than those of the policy."""
    row = {"prompt": "t7", "completion": "t5", "reward": 0.0}
    found = []
    for settings in ({}, {"do_sample": True, "top_k": 1, "temperature": 0.1, "repetition_penalty": 3.0}):
        model = llama()
        for name, value in settings.items():
            setattr(model.generation_config, name, value)
        references = SampledReferences(
            lambda completions: [float(len(one)) for one in completions], n=8, max_new_tokens=6
        )
        QRPOTrainer(
            model, QRPOConfig(str(tmp_path)), [row], processing_class=made_up_tokenizer(), reference_rewards=references
        )
        found.append([text for _, text, _ in references.completions])
    assert found[0] == found[1]
    assert len(set(found[0])) > 1


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
