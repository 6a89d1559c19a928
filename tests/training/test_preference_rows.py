"""Rows in TRL's forms as token ids: what follows the prompt, one end token, what is refused and what is left out."""

import json
import re

import pytest
from letter_tokens import USER, answer, ids, tokenised

from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import preference_rows, samples


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
        ({"prompt": "a", "chosen": 5, "rejected": 6}, "chosen is neither a text nor a list of messages, but a int"),
        ({"prompt": "a", "chosen": answer("c")[0], "rejected": "c"}, "chosen is neither .* but a dict"),
        ({"chosen": [*USER, *answer("c")], "rejected": 5}, "it has no prompt"),
        ({"prompt_ids": 5, "completion_ids": [5]}, "prompt_ids must be a list of token ids, whole numbers, not 5"),
        ({"prompt_ids": "345", "completion_ids": [5]}, "prompt_ids must be a list of token ids"),
        ({"prompt_ids": [[3]], "completion_ids": [5]}, "prompt_ids must be a list of token ids"),
        ({"prompt_ids": [3, None], "completion_ids": [5]}, "prompt_ids must be a list of token ids"),
        ({"prompt_ids": [float("nan")], "completion_ids": [5]}, "prompt_ids must be a list of token ids"),
        ({"prompt_ids": {3: 4}, "completion_ids": [5]}, "prompt_ids must be a list of token ids"),
        ({"prompt_ids": [3], "chosen_ids": [5], "rejected_ids": None}, "it has token ids, but no rejected_ids"),
    ],
)
def test_rows_that_cannot_be_used(row, said, letters):
    with pytest.raises(InputError, match=said):
        tokenised(letters, [row])


def test_pairs_and_completions_do_not_mix(letters):
    rows = [{"prompt": "a", "completion": "b", "reward": 0}, {"prompt": "a", "chosen": "b", "rejected": "c"}]
    with pytest.raises(InputError, match="row 1: it has another form"):
        tokenised(letters, rows)


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


ROW = {"prompt": "w3 w4", "completion": "w5 w6", "reward": 0.3, "reference_rewards": [0.1, 0.2, 0.5]}


@pytest.mark.parametrize("form", ["torch", "numpy", "pandas"])
def test_rows_are_read_whatever_form_a_dataset_gives_them(form):
    from datasets import Dataset

    rows = preference_rows.load(Dataset.from_list([ROW, ROW]).with_format(form), "train")
    assert list(rows) == [ROW, ROW]


def test_a_transformation_of_a_dataset_is_part_of_it():
    from datasets import Dataset

    data = Dataset.from_list([ROW]).with_transform(lambda batch: batch | {"reward": [7.0]})
    assert preference_rows.load(data, "train")[0]["reward"] == 7.0


@pytest.mark.parametrize("between", ["\u2028", "\u0085", "\x1c"])
def test_lines_of_json_end_at_newlines_alone(between, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [ROW | {"prompt": f"w3{between}w4"}, ROW]
    path.write_text("\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    if between == "\x1c":  # which JSON writes as an escape
        assert "\\u001c" in path.read_text(encoding="utf-8")
    assert preference_rows.load(path, "train") == rows


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (["a", "b"], "must hold dictionaries"),
        ({"prompt": ["a"]}, "not dict"),
        (" ", "train names no file, folder or dataset of the hub"),
        ("torn", r"torn cannot be read as rows \(ArrowInvalid"),
        ([{0: "a", 1: "b"}], "has a column called 0: names of columns are texts"),
        ("rows.txt", r"cannot be read as rows .* Files end in .jsonl"),
    ],
)
def test_what_are_no_rows(source, said, tmp_path, monkeypatch):
    from datasets import Dataset

    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.txt").write_text("a")
    Dataset.from_list([ROW]).save_to_disk(tmp_path / "torn")
    next((tmp_path / "torn").glob("*.arrow")).write_bytes(b"a")
    source = str(tmp_path / source) if isinstance(source, str) and source.strip() else source
    with pytest.raises(InputError, match=said):
        preference_rows.load(source, "train")


def test_a_data_frame_is_no_list_of_rows():
    import pandas as pd

    with pytest.raises(InputError, match=re.escape("Dataset.from_pandas(frame)")):
        preference_rows.load(pd.DataFrame([ROW]), "train")


def test_text_in_another_encoding(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(ROW | {"prompt": "é"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8 text"):
        preference_rows.load(path, "train")
