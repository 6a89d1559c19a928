"""Data, rewards and models as people bring them to `QRPOTrainer`: used as they are meant, or refused in a sentence."""

import json

import numpy as np
import pytest
import torch
from small_llama import CHAT, EOS, VOCABULARY, llama, made_up_rows, made_up_tokenizer, tokenizer_of_words
from small_llama import own_trainer as trainer

from qrpo_lib import QRPOConfig, QRPOTrainer, SampledReferences
from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import guard, qrpo_trainer

ROW = {"prompt": "w3 w4", "completion": "w5 w6", "reward": 0.3, "reference_rewards": [0.1, 0.2, 0.5]}


def messages_of(text):
    return [{"role": "user", "content": text}]


@pytest.fixture
def words():
    return tokenizer_of_words()


def answer(text):
    return [{"role": "assistant", "content": text}]


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reference_rewards": [0.1]}, "1 to 3 reference rewards"),
        ({"reference_rewards": [0.1] * 8}, "3 to 8 reference rewards"),
        ({"reference_rewards": [[0.1], [0.2], [0.3]]}, "row 1: each of reference_rewards must be one number"),
        ({"reference_rewards": 0.2}, "row 1: reference_rewards must be a list"),
        ({"reference_rewards": "0.2"}, "row 1: reference_rewards must be a list"),
        ({"reference_rewards": [0.1, None, 0.3]}, "not finite"),
        ({"reward": [0.3]}, "row 1: reward must be one number"),
        ({"reward": 1 + 2j}, "row 1: reward must be one number"),
        ({"reward": float("inf")}, "row 1: reward is not finite"),
        ({"completion": answer("w5")}, "its prompt is a text"),
        ({"completion": 5}, "completion is neither a text nor a list of messages"),
        ({"prompt": 5}, "prompt is neither a text nor a list of messages"),
        ({"prompt": [*messages_of("w3"), {"content": "w4"}], "completion": "w5"}, "a message of prompt has no role"),
        ({"prompt": [{"role": "user", "text": "w3"}]}, "a message of prompt has no text as its content, but None"),
        ({"prompt": [{"role": "user", "content": 5}]}, "a message of prompt has no text as its content, but 5"),
        ({"prompt": messages_of([{"type": "image"}])}, r"a message of prompt has a part that is no text \('image'\)"),
        ({"images": ["a.png"]}, "row 1: it has images"),
        ({"image": b"..."}, "row 1: it has image"),
        ({"reward": "1_0"}, "row 1: reward must be one number, not '1_0'"),
        ({"reference_rewards": []}, "0 to 3 reference rewards each: leave rows out"),
        ({"ref_logps": 5.0}, "row 1: ref_logps must be the logarithm of a probability"),
        ({"chat_template_kwargs": {5: 1}, "prompt": messages_of("w3")}, "row 1: chat_template_kwargs cannot set 5"),
        ({"chat_template_kwargs": {"messages": []}, "prompt": messages_of("w3")}, "cannot set messages"),
    ],
)
def test_rows_that_would_be_misread(changes, said, words, tmp_path):
    with pytest.raises(InputError, match=said):
        trainer(tmp_path, [ROW, ROW | changes], words)


def test_the_log_probability_of_a_completion_that_is_cut_is_not_that_of_the_whole(words, tmp_path):
    row = ROW | {"completion": "w5 w6 w7", "ref_logps": -9.0}
    trainer(tmp_path, [row], words, changes={"max_length": 6})
    with pytest.raises(InputError, match="row 0: its ref_logps is of the whole completion, which is cut at 5 tokens"):
        trainer(tmp_path, [row], words, changes={"max_length": 5})


def test_parts_of_text_are_a_text(words, tmp_path):
    """Also where the chat template would write the list of them as it is."""
    parts = [{"type": "text", "text": "w3 "}, {"type": "text", "text": "w4"}]
    row = {"completion": [{"role": "assistant", "content": [{"type": "text", "text": "w5"}]}], "images": []}
    made = trainer(tmp_path, [ROW | row | {"prompt": messages_of(parts)}], words)
    assert (made.train_dataset["prompt_ids"][0], made.train_dataset["completion_ids"][0]) == ([0, 3, 4, 0], [5, EOS])


def test_numbers_as_csv_holds_them(words, tmp_path):
    import csv

    with open(tmp_path / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ROW)
        writer.writeheader()
        writer.writerow(ROW | {"reference_rewards": json.dumps(ROW["reference_rewards"])})
    made = trainer(tmp_path, tmp_path / "rows.csv", words)
    assert (made.train_dataset["reward"][0], made.train_dataset["ref_rewards"][0]) == (0.3, [0.1, 0.2, 0.5])


# --- chat templates ---------------------------------------------------------------------------------------------------


def conversation(prompt=None):
    return [ROW | {"prompt": prompt or messages_of("w3"), "completion": answer("w5")}]


def test_what_a_template_says_about_a_system_message(words, tmp_path):
    words.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT
    )
    trainer(tmp_path, conversation(), words)
    with pytest.raises(InputError, match=r"row 0: the chat template refuses it \(no system role\)"):
        trainer(tmp_path, conversation([{"role": "system", "content": "w9"}, *messages_of("w3")]), words)
    # after rows without one, which this template writes rightly
    words.chat_template = "{% set messages = messages | rejectattr('role', 'eq', 'system') %}" + CHAT
    rows = [*conversation(), *conversation([{"role": "system", "content": "w9"}, *messages_of("w3")])]
    with pytest.raises(InputError, match="row 1: The chat template leaves out the message of the role system"):
        trainer(tmp_path, rows, words)


ANSWERS_END = CHAT.partition("{% for m in messages %}")[2]


@pytest.mark.parametrize(
    ("template", "prompt", "said"),
    [
        ("{{ 1 / 0 }}" + CHAT, messages_of("w3"), "row 1: division by zero"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", messages_of("w3"), "row 1: maximum recursion depth"),
        (
            "{% for m in messages if m['role'] != 'tool' %}" + ANSWERS_END,
            [*messages_of("w3"), {"role": "tool", "content": "w9"}],
            "row 1: The chat template leaves out the message of the role tool at place 1",
        ),
        (
            "{% for m in (messages[-2:] if messages[-1]['role'] == 'assistant' else messages[-1:]) %}" + ANSWERS_END,
            [*messages_of("w9"), *answer("w8"), *messages_of("w3")],
            "row 1: The chat template leaves out the message of the role user at place 0",
        ),
        (
            CHAT.replace("m['content']", "m['content'].split('w6')[-1]"),
            messages_of("w3"),
            "row 1: The chat template does not write all of completion",
        ),
    ],
)
def test_templates_that_leave_something_out(template, prompt, said, words, tmp_path):
    """Rows of one turn are written rightly by most of them."""
    words.chat_template = template
    row = ROW | {"prompt": prompt, "completion": answer("w6 w5")}
    first = ROW if "row 1: d" in said or "row 1: m" in said else ROW | {"prompt": messages_of("w3"), "completion": "w5"}
    with pytest.raises(InputError, match=said):
        trainer(tmp_path, [first, row], words)


def test_a_template_without_a_generation_prompt(words, tmp_path):
    """Its header would be sampled, and scored, with each reference; one without any header is right, as Mistral's."""
    words.chat_template = CHAT.partition("{% if add_generation_prompt")[0]
    with pytest.raises(InputError, match="'assistant ', the header of its turn"):
        trainer(tmp_path, conversation(), words)
    words.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}w8 {{ m['content'] }} w9 {% else %}"
        "{{ m['content'] }} </s>{% endif %}{% endfor %}"
    )
    made = trainer(tmp_path, conversation(), words)
    assert (made.train_dataset["prompt_ids"][0], made.train_dataset["completion_ids"][0]) == ([8, 3, 9], [5, EOS])


# --- reference completions --------------------------------------------------------------------------------------------


def length(prompts, completions):
    return [float(len(text)) for text in completions]


def bare(**columns):
    return {"prompt": "w3 w4", "completion": "w5 w6", **columns}


def sampled_texts(references):
    return [text for _, text, _ in references.completions]


def test_references_are_sampled_from_the_reference_model(words, tmp_path):
    found = []
    for model, given in ((llama(), {"ref_model": llama(seed=5)}), (llama(seed=5), {})):
        references = SampledReferences(length, n=8, max_new_tokens=6)
        trainer(tmp_path, [bare()], words, model, reference_rewards=references, **given)
        found.append(sampled_texts(references))
    assert found[0] == found[1]
    assert len(set(found[0])) > 1


def test_references_are_sampled_without_dropout(words, tmp_path):
    found = []
    for training in (True, False):
        references = SampledReferences(length, n=8, max_new_tokens=6)
        model = llama(attention_dropout=0.9).train(training)
        trainer(tmp_path, [bare()], words, model, reference_rewards=references)
        assert model.training is False or training
        found.append(sampled_texts(references))
    assert found[0] == found[1]


def test_references_of_one_prompt_are_scored_with_the_columns_of_each_row(words, tmp_path):
    def of_target(completions, target):
        return [float(len(text.split()) * value) for text, value in zip(completions, target, strict=True)]

    references = SampledReferences(of_target, n=3, max_new_tokens=3)
    made = trainer(tmp_path, [bare(target=1), bare(target=10)], words, reference_rewards=references)
    first, second = made.train_dataset["ref_rewards"][:]
    assert second == [10 * value for value in first]
    texts = sampled_texts(references)
    assert texts[:3] == texts[3:]  # sampled once


def test_the_end_token_may_be_the_models_alone(words, tmp_path):
    references = [SampledReferences(length, n=np.int64(4), max_new_tokens=6) for _ in range(2)]
    trainer(tmp_path, [bare()], words, reference_rewards=references[0])
    words.eos_token, words.pad_token = None, "w2"
    trainer(tmp_path, [bare()], words, reference_rewards=references[1])
    assert sampled_texts(references[0]) == sampled_texts(references[1])


def test_a_reward_is_given_what_it_names(words, tmp_path):
    made = trainer(
        tmp_path,
        [bare()],
        words,
        reference_rewards=SampledReferences(lambda completions: [1.0] * len(completions), n=2, max_new_tokens=2),
    )
    assert made.train_dataset["ref_rewards"][0] == [1.0, 1.0]


def test_a_reward_that_asks_for_more_than_the_rows_have(words, tmp_path):
    def reward(prompts, completions, completion_ids):
        raise AssertionError

    row = bare(reward=1.0)  # so that nothing is to be scored before the sampling
    references = SampledReferences(reward, n=2, max_new_tokens=3)
    with pytest.raises(InputError, match="asks for completion_ids"):
        trainer(tmp_path, [row], words, reference_rewards=references)
    assert not references.completions


def test_whole_conversations_beside_a_text_are_sampled_and_scored_as_conversations(words, tmp_path):
    seen = []

    def reward(prompts, completions):
        seen.extend(zip(prompts, completions, strict=True))
        return [float(i) for i in range(len(prompts))]

    row = {"prompt": "w3", "chosen": messages_of("w3") + answer("w5"), "rejected": messages_of("w3") + answer("w6")}
    trainer(tmp_path, [row], words, reference_rewards=SampledReferences(reward, n=2, max_new_tokens=3))
    assert [prompt for prompt, _ in seen] == [messages_of("w3")] * 4
    assert [completion[0]["role"] for _, completion in seen] == ["assistant"] * 4


def test_references_past_the_context_of_the_model(words, tmp_path):
    with pytest.raises(InputError, match="passes the model's context of 32"):
        trainer(tmp_path, [bare()], words, reference_rewards=SampledReferences(length, n=2, max_new_tokens=31))


def test_what_computes_no_reference_rewards(words, tmp_path):
    for given in (length, SampledReferences, [[0.1, 0.2]]):
        with pytest.raises(InputError, match="reference_rewards must be a file"):
            trainer(tmp_path, [bare()], words, reference_rewards=given)


def test_a_completion_of_token_ids_alone_is_not_scored(tmp_path):
    rows = [{"prompt_ids": [3], "completion_ids": [5, EOS]}]
    with pytest.raises(InputError, match="row 0: it has no completion as a text or a message"):
        trainer(tmp_path, rows, reference_rewards=SampledReferences(length, n=2, max_new_tokens=2))


# --- models -----------------------------------------------------------------------------------------------------------


def offloaded():
    from accelerate import cpu_offload

    return cpu_offload(llama(), execution_device=torch.device("cpu"))


def classifier():
    from transformers import LlamaForSequenceClassification

    return LlamaForSequenceClassification(llama().config)


def broken():
    model = llama()
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    return model


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (offloaded, "offloaded or not loaded"),
        (classifier, "LlamaForSequenceClassification is no causal language model"),
        (lambda: torch.nn.Linear(2, 2), "Linear is no causal language model"),
        (broken, "not finite"),
    ],
)
@pytest.mark.parametrize("place", ["model", "ref_model"])
def test_models_that_cannot_be_used(place, make, said, tmp_path):
    given = {place: make()}
    with pytest.raises(guard.UnsupportedModelError, match=said):
        trainer(tmp_path, made_up_rows(4), **given)


def learned_positions():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": EOS, "eos_token_id": EOS}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes))


def test_a_reference_model_without_the_tokens_is_not_sampled_from(words, tmp_path):
    references = SampledReferences(length, n=2, max_new_tokens=2)
    with pytest.raises(InputError, match="a vocabulary of 16"):
        trainer(tmp_path, [bare(prompt="w23")], words, ref_model=llama(16), reference_rewards=references)


def test_a_model_that_could_not_be_saved_in_the_end(tmp_path):
    """transformers writes no generation configuration that contradicts itself."""
    model = llama()
    model.generation_config.temperature, model.generation_config.do_sample = 0.3, False
    with pytest.raises(InputError, match=r"could not be saved .* `temperature`"):
        trainer(tmp_path, made_up_rows(4), model=model)
    model.generation_config.do_sample = True
    trainer(tmp_path, made_up_rows(4), model=model).save_model()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{}/nothing", "The tokenizer of .*nothing cannot be loaded: there is no such folder"),
        ("./nothing", "there is no such folder"),
        ("{}", "The tokenizer of .* cannot be loaded: .* pass processing_class"),
    ],
)
def test_models_that_are_not_there(name, said, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match=said):
        QRPOTrainer(name.format(tmp_path), QRPOConfig(str(tmp_path)), made_up_rows(4))
    with pytest.raises(InputError, match=r"The model .* cannot be loaded"):
        trainer(tmp_path, made_up_rows(4), ref_model=name.format(tmp_path))


def test_a_model_that_brings_its_own_code(tmp_path):
    """It is run only where that is asked for."""
    llama().save_pretrained(tmp_path)
    made_up_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "modeling_mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class MineConfig(LlamaConfig):\n    model_type = 'mine'\n\n\n"
        "class MineForCausalLM(LlamaForCausalLM):\n    config_class = MineConfig\n"
    )
    path = tmp_path / "config.json"
    names = {"AutoConfig": "modeling_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
    own = {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": names}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    settings = {"beta": 0.1, "report_to": "none"}
    with pytest.raises(InputError, match="contains custom code"):
        QRPOTrainer(str(tmp_path), QRPOConfig(str(tmp_path), **settings), made_up_rows(4))
    config = QRPOConfig(str(tmp_path / "out"), trust_remote_code=True, **settings)
    assert type(QRPOTrainer(str(tmp_path), config, made_up_rows(4)).model).__name__ == "MineForCausalLM"


def test_a_model_is_loaded_whole(tmp_path):
    """TRL spreads a model that is named over all GPUs of a machine."""
    assert qrpo_trainer._loading(QRPOConfig(str(tmp_path)))["device_map"] is None
    model = llama()
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    with pytest.raises(guard.UnsupportedModelError, match=r"in different places \(0, 1\)"):
        trainer(tmp_path, made_up_rows(4), model=model)


class Processor:
    tokenizer = None


class Unreachable(Exception):
    """As the client of the hub raises, which is no OSError."""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": " "}, "model names no folder or model of the hub"),
        ({"tokenizer": "name"}, "processing_class must be a tokenizer, not a str"),
        ({"tokenizer": Processor()}, "must be a tokenizer, its .tokenizer, not a Processor"),
        ({"changes": {"eval_strategy": "steps"}}, "eval_strategy asks for evaluations.*pass eval_dataset"),
        ({"changes": {"eval_on_start": True}}, "eval_on_start asks for evaluations"),
        ({"changes": {"push_to_hub": True}}, r"cannot be pushed to the hub \(no network\): leave"),
    ],
)
def test_arguments_of_another_kind(arguments, said, tmp_path, monkeypatch):
    from transformers import Trainer

    def unreachable(*_, **__):
        raise Unreachable("no network")

    monkeypatch.setattr(Trainer, "init_hf_repo", unreachable)
    with pytest.raises(InputError, match=said):
        trainer(tmp_path, made_up_rows(4), **arguments)


def test_which_of_a_pair_is_not_said_of_single_completions(words, tmp_path):
    with pytest.raises(InputError, match="completions says which of a pair"):
        trainer(tmp_path, [ROW], words, changes={"completions": "chosen"})


def test_batches_of_similar_length(tmp_path):
    """Each row once in an epoch, and the longest first, as transformers' sampler has it."""
    rows = made_up_rows(24)
    made = trainer(tmp_path, rows, changes={"train_sampling_strategy": "group_by_length"})
    order = list(made._get_train_sampler())
    assert sorted(order) == list(range(24))
    lengths = [len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows]
    assert lengths[order[0]] == max(lengths)
