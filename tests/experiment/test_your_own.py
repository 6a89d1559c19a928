"""The notebook for data of one's own: rows with reference rewards, a look at them, before and after."""

import json
import math

import pandas as pd
import pytest
from small_llama import llama, tokenizer_of_words

from qrpo_lib.experiment import your_own
from qrpo_lib.runs.errors import InputError


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"w{number}"}) + "\n" for number in range(5)))
    return str(path)


def prompts(rows):
    return [row["prompt"] for row in rows]


def test_held_out_rows_are_the_last_ones_or_a_file_of_their_own(source, tmp_path):
    train, test = your_own.split(source, "", prompts=10, held_out=2)
    assert (prompts(train), prompts(test)) == (["w0", "w1", "w2"], ["w3", "w4"])
    train, test = your_own.split(source, "", prompts=1, held_out=2)
    assert (prompts(train), prompts(test)) == (["w0"], ["w1", "w2"])
    assert tuple(map(prompts, your_own.split(source, source, 1, 3))) == (["w0"], ["w0", "w1", "w2"])
    with pytest.raises(InputError, match="There are 5 rows, and held_out=5 leaves none"):
        your_own.split(source, "", prompts=3, held_out=5)
    (written,) = your_own.rows("", 1)
    assert written["prompt"][0]["role"] == "user"


def test_a_look_at_reference_rewards_by_hand():
    data = [{"reference_rewards": [0.0, 0.0, 1.0, 1.0]}, {"reference_rewards": [2.0] * 5}]
    table = your_own.look(data).set_index("question")
    assert table.loc["reference rewards a prompt", "answer"] == 4
    assert table.loc["neighbouring reference rewards that are equal", "answer"] == "83%"  # 2 of 3, and all
    assert table.loc["prompts whose reference rewards are all equal", "answer"] == "50%"
    assert table.loc["standard deviation within a prompt", "answer"] == "0.25"
    assert table.loc["standard deviation between prompts' means", "answer"] == "0.75"


def test_quantiles_of_completions_and_of_pairs():
    references = {"reference_rewards": [0.0, 1.0, 1.0, 3.0]}
    data = [{"completion": "a", "reward": 1.0}, {"chosen_reward": 3.0, "rejected_reward": -1.0}]
    assert your_own.quantiles([row | references for row in data]).tolist() == [0.75, 1.0, 0.0]


def test_the_gain_has_an_error_over_prompts():
    before = pd.DataFrame({"number": [0, 0, 1, 1], "reward": [0.0, 2.0, 10.0, 10.0]})
    after = before.assign(reward=[2.0, 2.0, 13.0, 13.0])  # gains of 1 and 3
    found = your_own.difference(before, after)
    assert found == {"before": 5.5, "after": 7.5, "gain": 2.0, "standard error": pytest.approx(1.0)}
    alone = your_own.difference(*(one[one["number"] == 0] for one in (before, after)))
    assert alone["gain"] == 1.0
    assert math.isnan(alone["standard error"])  # one prompt says nothing of others


def test_a_row_without_completions_becomes_two_whose_references_are_other_samples():
    def length(prompts, completions):
        return [float(len(completion)) for completion in completions]

    whole = {"prompt": "w3", "completion": "w5", "reward": 0.5, "reference_rewards": [0.0, 1.0, 2.0]}
    settings = {"references": 3, "max_new_tokens": 6, "seed": 1}
    rows = your_own.completed([{"prompt": "w3 w4"}, whole], llama(), tokenizer_of_words(), length, **settings)
    assert whole in rows
    first, second = (row for row in rows if row is not whole and row != whole)
    assert first["reference_rewards"] == second["reference_rewards"]
    assert len(first["reference_rewards"]) == 3
    assert [row["reward"] for row in (first, second)] == [len(row["completion"]) for row in (first, second)]
