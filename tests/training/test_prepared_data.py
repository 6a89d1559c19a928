"""The user's data as QRPOTrainer makes them ready: token ids the model has, references for every prompt."""

import json

import pytest
from small_llama import EOS, VOCABULARY, llama, made_up_rows, tokenizer_of_words
from small_llama import own_trainer as trainer

from qrpo_lib.runs.errors import InputError

ROW = {"prompt": "w3 w4", "completion": "w5 w6", "reward": 0.3, "reference_rewards": [0.1, 0.2, 0.5]}


@pytest.fixture
def words():
    return tokenizer_of_words()


def test_how_many_reference_rewards_count_may_be_said(words, tmp_path):
    rows = [ROW, ROW | {"reference_rewards": [0.1] * 8}]
    made = trainer(tmp_path, rows, words, changes={"num_reference_rewards": 2})
    assert made.train_dataset["ref_rewards"][:] == [[0.1, 0.2], [0.1, 0.1]]


@pytest.mark.parametrize("ids", [[VOCABULARY], [-1], [2.7]])
def test_token_ids_that_the_model_does_not_have(ids, tmp_path):
    """The last token of a completion is predicted and never read, so that no embedding fails for it."""
    rows = made_up_rows(4)
    rows[2]["chosen_ids"] = ids
    with pytest.raises(InputError, match="row 2: chosen_ids"):
        trainer(tmp_path, rows)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (5, "Row 0 of .* prompt is neither"),
        ([{"role": "user"}], "Row 0 of .* has no text as its content"),
        ("w3", "train row 0: it has no prompt as a text or messages, only token ids"),
    ],
)
def test_a_file_of_references_for_prompts_that_are_none(prompt, said, tmp_path):
    path = tmp_path / "references.jsonl"
    path.write_text(json.dumps({"prompt": prompt, "reference_rewards": [0.0, 1.0]}))
    rows = [{"prompt_ids": [3], "completion_ids": [5, EOS], "reward": 1.0}]
    with pytest.raises(InputError, match=said):
        trainer(tmp_path, rows, reference_rewards=path)


def test_a_file_of_references_calls_them_as_rows_may(words, tmp_path):
    path = tmp_path / "references.jsonl"
    path.write_text(json.dumps({"prompt": ROW["prompt"], "ref_rewards": [0.0, 1.0]}))
    row = {name: value for name, value in ROW.items() if name != "reference_rewards"}
    assert trainer(tmp_path, [row], words, reference_rewards=path).train_dataset["ref_rewards"][:] == [[0.0, 1.0]]


def test_a_file_with_two_answers_for_one_prompt(words, tmp_path):
    row = {name: value for name, value in ROW.items() if name != "reference_rewards"}
    path = tmp_path / "references.jsonl"
    lines = [{"prompt": row["prompt"], "reference_rewards": some} for some in ([0.0, 1.0], [0.0, 2.0])]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(InputError, match=r"Row 1 of .* has other reference_rewards"):
        trainer(tmp_path, [row], words, reference_rewards=path)


def learned_positions():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": EOS, "eos_token_id": EOS}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: llama(16), "a vocabulary of 16, and the rows hold the token id 23"),
        (learned_positions, "ref_model takes 16 tokens, and a row has 2[0-9]"),
        (lambda: llama(max_position_embeddings=16), "set max_length to 16"),
    ],
)
def test_a_reference_model_for_other_rows(make, said, words, tmp_path):
    row = ROW | {"completion": "w23 " * 20}
    with pytest.raises(InputError, match=said):
        trainer(tmp_path, [row], words, ref_model=make())
