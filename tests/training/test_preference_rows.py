"""Rows in TRL's forms as token ids: what follows the prompt, one end token, what is refused and what is left out."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import conversations, preference_rows, samples

WORDS = ["<unk>", "</s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "\n", *"abcdefgh"]
ID = {word: i for i, word in enumerate(WORDS)}
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
USER = [{"role": "user", "content": "ab"}]


def answer(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture
def letters():
    """One letter a token; a turn ends with <|end|> and a new line."""
    backend = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def ids(*words):
    return [ID[word] for word in words]


def tokenised(tokenizer, rows, ends=None, **settings):
    return preference_rows.tokenised(rows, tokenizer, ends or (ID["<|end|>"],), **({"max_length": None} | settings))


def test_standard_pairs(letters):
    row = {"prompt": "ab", "chosen": "cd", "rejected": "e", "chosen_reward": 2, "rejected_reward": 1}
    (found,) = tokenised(letters, [row | {"reference_rewards": [0.0, 1.5]}]).rows
    assert found["prompt_ids"] == ids("a", "b")
    assert found["chosen_ids"] == ids("c", "d", "<|end|>")
    assert found["rejected_ids"] == ids("e", "<|end|>")
    assert (found["chosen_reward"], found["rejected_reward"], found["ref_rewards"]) == (2, 1, [0.0, 1.5])


def test_an_end_token_that_is_written_already_is_not_doubled(letters):
    (found,) = tokenised(letters, [{"prompt": "a", "completion": "b<|end|>", "reward": 1.0}]).rows
    assert found["completion_ids"] == ids("b", "<|end|>")


def test_conversations_end_with_the_turn_and_keep_system_and_earlier_turns(letters):
    prompt = [{"role": "system", "content": "h"}, *USER, *answer("c"), {"role": "user", "content": "d"}]
    (found,) = tokenised(letters, [{"prompt": prompt, "completion": answer("ef"), "reward": 1.0}]).rows
    turns = ids("<|system|>", "h", "<|end|>", "\n", "<|user|>", "a", "b", "<|end|>", "\n")
    turns += ids("<|assistant|>", "c", "<|end|>", "\n", "<|user|>", "d", "<|end|>", "\n", "<|assistant|>")
    assert found["prompt_ids"] == turns
    assert found["completion_ids"] == ids("e", "f", "<|end|>")


@pytest.mark.parametrize("prompt", [{}, {"prompt": "ab"}])
def test_pairs_that_hold_whole_conversations(prompt, letters):
    """TRL's implicit prompt; some datasets repeat it as a text."""
    row = {"chosen": [*USER, *answer("c")], "rejected": [*USER, *answer("d")]} | prompt
    (found,) = tokenised(letters, [row]).rows
    assert found["prompt_ids"] == ids("<|user|>", "a", "b", "<|end|>", "\n", "<|assistant|>")
    assert (found["chosen_ids"], found["rejected_ids"]) == (ids("c", "<|end|>"), ids("d", "<|end|>"))


def test_any_end_token_of_the_generation_configuration_ends_a_turn(letters):
    """A model whose tokenizer says </s> but whose template ends turns with <|end|>."""
    letters.eos_token = "</s>"
    row = {"prompt": USER, "completion": answer("c"), "reward": 0.0}
    ends = conversations.end_tokens(letters, type("Config", (), {"eos_token_id": [ID["<|end|>"], ID["</s>"]]}))
    assert tokenised(letters, [row], ends).rows[0]["completion_ids"] == ids("c", "<|end|>")
    with pytest.raises(InputError, match="does not end an answer with an end token"):
        tokenised(letters, [row], conversations.end_tokens(letters))


def test_sampling_stops_where_a_turn_ends(letters):
    assert conversations.ending_turns(letters) is letters
    letters.eos_token = "</s>"
    both = type("Config", (), {"eos_token_id": [ID["</s>"], ID["<|end|>"]]})
    assert conversations.ending_turns(letters, both).eos_token == "<|end|>"
    assert letters.eos_token == "</s>"
    with pytest.raises(InputError, match="does not end an answer"):
        conversations.ending_turns(letters)


def test_a_template_that_rewrites_the_prompt_is_refused(letters):
    letters.chat_template = TEMPLATE.replace("'<|assistant|>' }}{% endif", "'<|assistant|>h' }}{% endif")
    with pytest.raises(InputError, match="<think>"):
        tokenised(letters, [{"prompt": USER, "completion": answer("c"), "reward": 0.0}])


def test_unusable_and_too_long_rows_are_left_out_and_counted(letters):
    rows = [
        {"prompt": "a", "completion": "b<|end|>c", "reward": 0.0},
        {"prompt": "abcdef", "completion": "b", "reward": 0.0},
        {"prompt": "abc", "completion": "defgh", "reward": 0.0},
        {"prompt": "a", "completion": "b", "reward": 0.0},
    ]
    found = tokenised(letters, rows, max_length=5)
    assert found.sources == [2, 3]
    assert found.rows[0]["completion_ids"] == ids("d", "e")
    assert found.counts == {"left out": 2, "cut": 1}
    said = found.warning("train")
    assert "2 cannot be used and are left out (train row 0: The answer contains an end-of-sequence token" in said
    assert "1 is cut" in said
    with pytest.raises(InputError, match="None of the 1 train rows"):
        tokenised(letters, rows[:1])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": USER}, "fine-tuning"),
        ({"prompt": "a", "chosen": "b"}, "have the columns prompt, chosen"),
        ({"prompt": "", "completion": "b"}, "prompt is empty"),
        ({"prompt": [*USER, *answer("c")], "completion": answer("d")}, "ends with the assistant's turn"),
    ],
)
def test_rows_that_cannot_be_used(row, said, letters):
    with pytest.raises(InputError, match=said):
        tokenised(letters, [row])


def test_pairs_and_completions_do_not_mix(letters):
    rows = [{"prompt": "a", "completion": "b", "reward": 0}, {"prompt": "a", "chosen": "b", "rejected": "c"}]
    with pytest.raises(InputError, match="row 1: it has another form"):
        tokenised(letters, rows)


def test_conversations_need_a_template(letters):
    letters.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        tokenised(letters, [{"prompt": USER, "completion": answer("b"), "reward": 0}])


def test_sources_of_rows(tmp_path):
    from datasets import Dataset, DatasetDict

    rows = [{"prompt": "a", "completion": "b", "reward": 1.0}, {"prompt": "c", "completion": "d", "reward": 2.0}]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    for source in (rows, iter(rows), Dataset.from_list(rows), lines, tmp_path / "rows.parquet", tmp_path / "saved"):
        assert [dict(row) for row in preference_rows.load(source, "train")] == rows
    for source, said in (
        (DatasetDict({"train": Dataset.from_list(rows)}), "with splits"),
        (Dataset.from_list(rows).to_iterable_dataset(), "streaming"),
        (tmp_path / "none.jsonl", "there is no file"),
        ({"prompt": "a"}, "not dict"),
    ):
        with pytest.raises(InputError, match=said):
            preference_rows.load(source, "train")
    lines.write_text('{"prompt": "a"}\n{"prompt": \n')
    with pytest.raises(InputError, match="Line 2"):
        preference_rows.load(lines, "train")


def test_rows_of_token_ids_are_taken_as_they_are(letters):
    row = {"prompt_ids": [7], "completion_ids": [8, 2], "reward": 1.0, "ref_rewards": [0.0], "other": "x"}
    (found,) = tokenised(letters, [row]).rows
    assert found == {name: row[name] for name in ("prompt_ids", "completion_ids", "reward", "ref_rewards")}
    assert samples.sides(found) == samples.POINTWISE
