"""What the notebook on one's own model, data and reward does with rows: split, completed, asked."""

import json

import pytest
from small_llama import llama, tokenizer_of_words

from qrpo_lib.experiment import your_own
from qrpo_lib.runs.errors import InputError

USER = [{"role": "user", "content": "w3"}]
ANSWER = [{"role": "assistant", "content": "w5"}]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"w{i}", "completion": "w5"}) for i in range(2, 8)))
    return str(path)


def test_the_last_rows_are_held_out(source):
    training, testing = your_own.split(source, "", 4, 2)
    assert [row["prompt"] for row in training] == ["w2", "w3", "w4", "w5"]
    assert [row["prompt"] for row in testing] == ["w6", "w7"]
    assert [len(rows) for rows in your_own.split(source, source, 4, 2)] == [4, 2]
    with pytest.raises(InputError, match="leaves none to train on"):
        your_own.split(source, "", 4, 6)


@pytest.mark.parametrize(("prompts", "held_out"), [(4, 0), (4, -1), (0, 2)])
@pytest.mark.parametrize("in_a_file", [False, True])
def test_there_must_be_rows_of_both_kinds(prompts, held_out, in_a_file, source):
    """None held out would make all of them held out, as Python counts from the end."""
    with pytest.raises(InputError, match="must be at least 1"):
        your_own.split(source, source if in_a_file else "", prompts, held_out)


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
