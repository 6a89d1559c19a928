"""The notebook for data of one's own: rows with reference rewards, a look at them, before and after."""

import json
import math

import pandas as pd
import pytest
from small_llama import llama, tokenizer_of_words

from qrpo_lib.experiment import your_own
from qrpo_lib.runs.errors import InputError

USER = [{"role": "user", "content": "w3"}]
ANSWER = [{"role": "assistant", "content": "w5"}]


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


@pytest.fixture
def with_completions(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"w{i}", "completion": "w5"}) for i in range(2, 8)))
    return str(path)


def test_the_last_rows_are_held_out(with_completions):
    training, testing = your_own.split(with_completions, "", 4, 2)
    assert [row["prompt"] for row in training] == ["w2", "w3", "w4", "w5"]
    assert [row["prompt"] for row in testing] == ["w6", "w7"]
    assert [len(rows) for rows in your_own.split(with_completions, with_completions, 4, 2)] == [4, 2]
    with pytest.raises(InputError, match="leaves none to train on"):
        your_own.split(with_completions, "", 4, 6)


@pytest.mark.parametrize(("prompts", "held_out"), [(4, 0), (4, -1), (0, 2)])
@pytest.mark.parametrize("in_a_file", [False, True])
def test_there_must_be_rows_of_both_kinds(prompts, held_out, in_a_file, with_completions):
    """None held out would make all of them held out, as Python counts from the end."""
    with pytest.raises(InputError, match="must be at least 1"):
        your_own.split(with_completions, with_completions if in_a_file else "", prompts, held_out)


def test_requests_are_the_prompts_of_any_form():
    rows = [{"prompt": "w3"}, {"prompt": USER}, {"chosen": USER + ANSWER, "rejected": USER + ANSWER, "prompt": None}]
    assert your_own.requests(rows) == ["w3", USER, USER]
    with pytest.raises(InputError, match="row 1: it has no prompt: its columns are text"):
        your_own.requests([{"prompt": "w3"}, {"text": "w3"}])


def test_rows_without_completions_get_two_and_others_keep_theirs():
    """Also where a dataset says None."""

    def reward(prompts, completions):
        return [float(len(text)) for text in completions]

    given = {"prompt": "w3", "completion": "w5 w6", "reward": 9.0}
    data = [{"prompt": "w4", "completion": None}, given]
    found = your_own.completed(data, llama(), tokenizer_of_words(), reward, references=3, max_new_tokens=4)
    assert [row["prompt"] for row in found] == ["w3", "w4", "w4"]
    assert (found[0]["completion"], found[0]["reward"]) == ("w5 w6", 9.0)
    assert found[1]["reference_rewards"] == found[2]["reference_rewards"]
    assert [row["reward"] for row in found[1:]] == reward([], [row["completion"] for row in found[1:]])
    assert all(len(row["reference_rewards"]) == 3 for row in found)
    with pytest.raises(InputError, match="it has no prompt"):
        your_own.completed([{"text": "w4"}], llama(), tokenizer_of_words(), reward, references=1, max_new_tokens=1)
    with pytest.raises(InputError, match="no prompts to evaluate on"):
        your_own.evaluated(llama(), tokenizer_of_words(), [], reward, repeats=1, max_new_tokens=1)


def test_the_reward_is_told_the_columns_of_the_rows():
    """As `QRPOTrainer` and a profile tell it, also of rows without completions and of those that are held out."""

    def reward(completions, target):
        return [float(value) for value in target]

    data = [{"prompt": "w3", "target": 5}, {"prompt": "w4", "target": 7}]
    model, tokenizer, settings = llama(), tokenizer_of_words(), {"max_new_tokens": 2}
    found = your_own.completed(data, model, tokenizer, reward, references=2, **settings)
    assert [(row["reward"], row["reference_rewards"]) for row in found] == [(5, [5, 5])] * 2 + [(7, [7, 7])] * 2
    frame = your_own.evaluated(model, tokenizer, data, reward, repeats=2, **settings)
    assert frame["reward"].tolist() == [5, 5, 7, 7]
    with pytest.raises(InputError, match="asks for target, which the rows do not have"):
        your_own.evaluated(None, tokenizer, [{"prompt": "w3"}], reward, repeats=2, **settings)


def test_quantiles_of_pairs_and_of_completions_as_a_dataset_has_them():
    """Its rows have all columns, with None in those that are not theirs."""
    references = {"reference_rewards": [0.0, 1.0, 2.0, 3.0]}
    pair = references | {"chosen": "a", "rejected": "b", "chosen_reward": 2.0, "rejected_reward": -1.0}
    single = references | {"completion": "a", "reward": 3.0}
    none = dict.fromkeys((*pair, *single))
    assert your_own.quantiles([none | pair, none | single]).tolist() == [0.75, 0.0, 1.0]


def test_relevance_reads_all_turns_as_profiles_do(monkeypatch):
    from qrpo_lib.rewards import models

    class Watched:
        def score(self, prompts, completions):
            return list(zip(prompts, completions, strict=True))

    monkeypatch.setattr(models, "RelevanceReward", Watched)
    turns = [*USER, *ANSWER, {"role": "user", "content": "w4"}]
    found = your_own.reward("relevance")([turns, USER, "w3"], [ANSWER, ANSWER, "w5"])
    assert found == [("user: w3\nassistant: w5\nuser: w4", "w5"), ("w3", "w5"), ("w3", "w5")]


def test_a_model_that_is_not_there_is_said_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"The model .*nowhere cannot be loaded"):
        your_own.policy(str(tmp_path / "nowhere"))
