"""Messages, tools and options of chat templates in the user's rows: written as they are meant, or refused."""

import json

import numpy as np
import pytest
from small_llama import CHAT, EOS, llama, tokenizer_of_words
from small_llama import own_trainer as trainer

from qrpo_lib import QRPOConfig, QRPOTrainer
from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import conversations, preference_rows

USER = [{"role": "user", "content": "w3"}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "find"}}]}
NUMBERS = {"reward": 0.3, "reference_rewards": [0.1, 0.2, 0.5]}
# As Llama 3's: a message that has tool calls, even none, is one that calls tools.
CALLING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}w8 {% endif %}"
    "{% if 'tool_calls' in m %}{{ m.tool_calls | length }} {% else %}{{ m.content }} {% endif %}"
    "{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}w8 {% endif %}"
)


def answer(text, **more):
    return [{"role": "assistant", "content": text, **more}]


def row(**changes):
    return {"prompt": USER, "completion": answer("w5")} | NUMBERS | changes


def tokenised(rows, template=CHAT):
    tokenizer = tokenizer_of_words()
    tokenizer.chat_template = template
    return preference_rows.tokenised(rows, tokenizer, (EOS,), max_length=None)


@pytest.mark.parametrize("as_dataset", [False, True])
def test_a_row_says_the_same_in_memory_and_in_arrow(as_dataset):
    """Arrow gives all objects of a column the same keys, with None where there was no value: no template is told."""
    from datasets import Dataset

    schemas = [{"properties": {name: {"type": "string"}}} for name in "ab"]
    tools = [[{"type": "function", "function": {"name": "f", "parameters": one}}] for one in schemas]
    rows = [row(tools=tools[0], chat_template_kwargs={"x": 1}), row(tools=tools[1], chat_template_kwargs={"y": 2})]
    data = preference_rows.load(Dataset.from_list(rows) if as_dataset else rows, "train")
    assert [preference_rows.template_options(one) for one in data] == [
        {"tools": tools[0], "x": 1},
        {"tools": tools[1], "y": 2},
    ]
    called = [*USER, CALL, {"role": "tool", "content": "w4"}]
    rows = [row(prompt=called), row()]
    data = preference_rows.load(Dataset.from_list(rows) if as_dataset else rows, "train")
    assert [list(map(dict, preference_rows.prompt_of(one))) for one in data] == [called, USER]


def test_messages_that_call_no_tools_are_none_that_do():
    explicit = [{"role": "user", "content": "w3", "tool_calls": None, "name": None}]
    found = tokenised([row(prompt=explicit), row()], CALLING).rows
    assert found[0]["prompt_ids"] == found[1]["prompt_ids"] == [3, 8]


def test_rows_of_a_data_frame_hold_arrays():
    """`frame.to_dict("records")` of a file of Parquet has arrays where its columns have lists."""
    parts = np.array([{"type": "text", "text": "w3"}], dtype=object)
    pair = {
        "prompt": np.array([{"role": "user", "content": parts}], dtype=object),
        "chosen": np.array(answer("w5"), dtype=object),
        "rejected": np.array(answer("w6"), dtype=object),
    }
    expected = {"prompt": USER, "chosen": answer("w5"), "rejected": answer("w6")}
    for names in (("prompt", "chosen", "rejected"), ("chosen", "rejected")):
        given, plain = ({name: one[name] for name in names} for one in (pair, expected))
        if "prompt" not in names:
            given = {name: np.array([*pair["prompt"], *values], dtype=object) for name, values in given.items()}
            plain = {name: [*USER, *values] for name, values in plain.items()}
        assert tokenised(preference_rows.load([given], "train")).rows == tokenised([plain]).rows


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": json.dumps(USER)}, "prompt is a text that spells a list of messages"),
        ({"prompt": str(USER)}, "prompt is a text that spells a list of messages"),
        ({"prompt": "w3", "completion": json.dumps(answer("w5"))}, "completion is a text that spells"),
        ({"prompt": [{"role": None, "content": "w3"}]}, "a message of prompt has no role"),
        ({"prompt": [{"role": 5, "content": "w3"}]}, "a message of prompt has no role"),
        ({"prompt": "w3 \ud800", "completion": "w5"}, r"prompt holds half of a character \('\\ud800'"),
        ({"prompt": [{"role": "user", "content": "\udfff"}]}, "a message of prompt holds half of a character"),
        (
            {"prompt": "w3", "completion": "w5", "tools": [{}]},
            "it has tools for the chat template, and a prompt that is",
        ),
        ({"tools": "find"}, "tools is a text that is not JSON: 'find'"),
        ({"tools": {"name": "find"}}, "tools must be a list"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs is a text that is not JSON"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs must be an object"),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs cannot set tokenize"),
        ({"chat_template_kwargs": {"continue_final_message": True}}, "cannot set continue_final_message"),
        ({"reward": 10**400}, "reward must be one number"),
        ({"reference_rewards": [0.1, 10**400]}, "each of reference_rewards must be one number"),
        ({"reference_rewards": b"ab"}, "reference_rewards must be a list"),
        ({"reference_rewards": {0.1, 0.2}}, "reference_rewards must be a list"),
        ({"ref_rewards": [0.5, 0.6]}, "it has ref_rewards and other reference_rewards"),
    ],
)
def test_rows_that_would_be_misread(changes, said):
    with pytest.raises(InputError, match=said):
        tokenised([row(**changes)])


@pytest.mark.parametrize("name", ["tool_calls", "reasoning_content", "thinking"])
def test_answers_that_say_more_than_a_text_are_left_out(name):
    """Their text alone would be trained on, as if the rest had not been said."""
    rows = [row(), row(completion=answer("w5", **{name: [{"function": {"name": "find"}}]})), row(completion=[])]
    found = tokenised(rows)
    assert found.sources == [0]
    assert f"train row 1: The answer has {name}" in found.warning("train")
    assert tokenised([row(completion=answer("w5", **{name: None}))]).sources == [0]


def test_options_of_each_row_reach_the_template(tmp_path):
    """Also as JSON text; what one row says holds for no other."""
    tokenizer = tokenizer_of_words()
    tokenizer.chat_template = "{{ 'w7 ' if loud else 'w6 ' }}" + CHAT
    rows = [row(), row(chat_template_kwargs={"loud": True}), row(chat_template_kwargs='{"loud": true}'), row()]
    made = QRPOTrainer(llama(), QRPOConfig(str(tmp_path), report_to="none"), rows, processing_class=tokenizer)
    assert [ids[0] for ids in made.train_dataset["prompt_ids"]] == [6, 7, 7, 6]


def test_references_in_a_file_are_for_the_rows_without(tmp_path):
    """Of prompts as they are, their tool calls included; a row's own count before those."""
    called = [
        [*USER, CALL | {"tool_calls": [{"function": {"name": name}}]}, {"role": "tool", "content": "w4"}]
        for name in "ab"
    ]
    path = tmp_path / "references.jsonl"
    lines = [{"prompt": one, "reference_rewards": [float(i), 2.0]} for i, one in enumerate(called)]
    path.write_text("\n".join(map(json.dumps, lines)))
    bare = {"completion": answer("w5"), "reward": 0.3}
    rows = [bare | {"prompt": called[0]}, bare | {"prompt": called[1]}, row(reference_rewards=[7.0, 8.0])]
    made = trainer(tmp_path / "out", rows, tokenizer_of_words(), reference_rewards=path)
    assert made.train_dataset["ref_rewards"][:] == [[0.0, 2.0], [1.0, 2.0], [7.0, 8.0]]


def test_every_prompt_that_is_read_can_be_kept_as_a_text():
    for prompt in (USER, [*USER, CALL], "w3"):
        kept = conversations.encoded(preference_rows.prompt_of(row(prompt=prompt)))
        kept.encode()
