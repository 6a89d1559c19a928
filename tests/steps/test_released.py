"""Imported reference completions against the files that they are read from, and what is refused."""

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from hub_copies import chat_model, magpieair, released_references, tokenizer

from qrpo_lib.experiment import jobs
from qrpo_lib.models import hub
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import initial_policy, reference_sampling, released, training_pairs
from qrpo_lib.steps import pairs as preferences
from qrpo_lib.tasks import registry as tasks

PROFILE = (Path(__file__).parents[1] / "data" / "hub_copies.toml").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Copies of a dataset and a model, and the run folders that are made of them once for all tests."""
    folder = tmp_path_factory.mktemp("made")
    magpieair(folder / "copies" / "owner" / "data")
    chat_model(folder / "copies" / "owner" / "model")
    (folder / "mine.toml").write_text(PROFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QRPO_DATA", str(folder / "copies"))
        patch.setenv("QRPO_RUNS", str(folder / "runs"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        profile = profiles.load(folder / "mine.toml")
        tasks.of(profile.task).prepared()
        initial_policy.run(profile)
    return folder


@pytest.fixture
def profile(made, runs_folder, tmp_path, monkeypatch):
    """Its dataset and model are there, the released references are not yet."""
    monkeypatch.setenv("QRPO_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data" / "owner").mkdir(parents=True)
    for name in ("data", "model"):
        (tmp_path / "data" / "owner" / name).symlink_to(made / "copies" / "owner" / name)
    runs_folder.mkdir()
    for one in (made / "runs").glob("*-*"):
        (runs_folder / one.name).symlink_to(one)
    return profiles.load(made / "mine.toml")


@pytest.fixture
def place(profile, tmp_path):
    return tmp_path / "data" / "owner" / "released"


def texts(profile):
    prompts = tasks.of(profile.task).prompts(profile.seed)
    return {
        "train": [one.text for one in prompts if one.split == "train"],
        "test": [one.text for one in prompts if one.split != "train"],
    }


def test_every_completion_and_reward_is_the_released_one(profile, place):
    released_references(place, texts(profile))
    folder = reference_sampling.run(profile)
    frame = reference_sampling.load(folder)
    theirs = datasets.load_from_disk(str(place))
    by_prompt = dict(tuple(frame.groupby("prompt_id")))
    of_split = {"train": 0, "test": 0}
    for prompt in tasks.of(profile.task).prompts(profile.seed):
        split = "train" if prompt.split == "train" else "test"
        row = theirs[split][of_split[split]]  # prompts that are equal stay in order
        of_split[split] += 1
        of_prompt = by_prompt[prompt.id]
        candidates = of_prompt[of_prompt["role"] == "candidate"].sort_values("sample_index")
        assert candidates["text"].tolist() == json.loads(row["ref_completions"][1]["content"])[:3]
        references = of_prompt[of_prompt["role"] == "reference"]["reward"]
        np.testing.assert_array_equal(references, np.float32(row["ref_rewards"]))
        assert set(of_prompt["split"]) == {prompt.split}
    one = frame[frame["role"] == "candidate"].iloc[0]
    made = tokenizer()
    assert made.decode(one["token_ids"]) == f"{one['text']} </s>"
    assert made.decode(one["prompt_ids"]) == f"<|user|> {one['prompt']} <|assistant|>"
    record = json.loads((folder / released.RECORD).read_text())
    assert record["train"] == {"rows": 22, "unusable_answers": 0, "prompts": 22}


def test_pairs_come_of_them_as_of_sampled_ones(profile, place):
    released_references(place, texts(profile))
    train, selection = training_pairs.build(profile, initial_policy.run(profile), reference_sampling.run(profile))
    assert isinstance(train, preferences.Pairs)
    assert len(train.rows) == 22
    assert all(len(row["ref_rewards"]) == 7 and row["chosen_reward"] in row["ref_rewards"] for row in train.rows)
    assert all(row["chosen_reward"] - row["rejected_reward"] == 2.0 for row in train.rows)  # of 3 candidates
    assert selection.rows


def test_a_missing_prompt_is_refused(profile, place):
    of_splits = texts(profile)
    of_splits["test"] = of_splits["test"][1:]
    released_references(place, of_splits)
    with pytest.raises(hub.HubError, match=r"Of the task's 11 prompts, 1 are not among the 10 rows of owner/released"):
        reference_sampling.run(profile)


def test_further_rows_are_counted_and_left_out(profile, place):
    of_splits = texts(profile)
    of_splits["train"].insert(3, "and")
    released_references(place, of_splits)
    folder = reference_sampling.run(profile)
    assert json.loads((folder / released.RECORD).read_text())["train"]["of_no_prompt"] == 1
    assert len(reference_sampling.load(folder)) == (22 + 11) * (3 + 7)


def test_too_few_completions_are_refused(profile, place):
    released_references(place, texts(profile), completions=6)
    with pytest.raises(hub.HubError, match=r"are 6 completions and 6 rewards; the profile needs 7 of each"):
        reference_sampling.run(profile)


def test_rewards_of_another_tokenizer_are_refused(profile, place):
    other = tokenizer()
    other.chat_template = other.chat_template.replace("</s>", "</s> </s>")
    released_references(place, texts(profile), counted_with=other)
    with pytest.raises(hub.HubError, match="computed on other tokens than owner/model"):
        reference_sampling.run(profile)


def test_data_of_another_schema_are_refused(profile, place, made):
    place.symlink_to(made / "copies" / "owner" / "data")
    with pytest.raises(hub.HubError, match="has no column ref_completions and ref_rewards"):
        reference_sampling.run(profile)


def changed(place, column, value, row=1):
    """The released references with another value in a row of the training split."""
    theirs = {split: rows.to_list() for split, rows in datasets.load_from_disk(str(place)).items()}
    features = datasets.load_from_disk(str(place))["train"].features
    theirs["train"][row][column] = value
    shutil.rmtree(place)
    made = {split: datasets.Dataset.from_list(rows, features=features) for split, rows in theirs.items()}
    datasets.DatasetDict(made).save_to_disk(str(place))


NO_ANSWER = "Row 1 of the released references is not a prompt and, as its answer, a JSON list of completions"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("ref_completions", [("user", "what"), ("assistant", "not JSON")], NO_ANSWER),
        ("ref_completions", [("user", "what"), ("assistant", '{"a": 1}')], NO_ANSWER),
        ("ref_completions", [("user", "what"), ("assistant", "[1, 2]")], NO_ANSWER),
        ("ref_completions", [("user", "what")], NO_ANSWER),
        ("ref_completions", None, NO_ANSWER),
        ("ref_rewards", None, "7 completions and 0 rewards"),
        ("ref_rewards", [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, float("nan")], r"prompt train-\d+ is no finite number"),
        ("ref_rewards", [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, None], r"prompt train-\d+ is no finite number"),
        ("ref_completions_reward_tokens", [], "computed on other tokens than"),
    ],
)
def test_a_damaged_row_is_named(profile, place, column, value, message):
    released_references(place, texts(profile))
    if column == "ref_completions" and value:
        value = [{"role": role, "content": text} for role, text in value]
    changed(place, column, value)
    with pytest.raises(hub.HubError, match=message):
        reference_sampling.run(profile)


def test_an_answer_that_cannot_be_one_is_no_candidate_and_still_a_reference(profile, place):
    released_references(
        place, texts(profile), answer=lambda i, j: "yes </s> no" if (i, j) == (0, 1) else f"yes {'no ' * j}"
    )
    frame = reference_sampling.load(reference_sampling.run(profile))
    of_first = frame[frame["prompt_id"] == "train-000000"]
    assert of_first[of_first["role"] == "candidate"]["sample_index"].tolist() == [0, 2]
    assert of_first[of_first["role"] == "reference"]["reward"].tolist() == list(range(7))


def test_settings_that_tune_first_sample_unless_their_own_are_named(profile):
    tuned = profile.with_training(setting="sft-off-policy-best")
    assert released.source(profile) == ("owner/released", None)
    assert released.source(tuned) is None
    assert [one.name for one in reference_sampling.step(tuned).inputs] == ["sft", "chat_data"]
    assert [one.name for one in reference_sampling.step(profile).inputs] == ["initial_policy", "chat_data"]
    assert jobs.sampling(profile).kind == "sampling"


def test_its_key_follows_its_content(profile, place):
    released_references(place, texts(profile))
    before = reference_sampling.step(profile).key
    assert reference_sampling.step(profile).key == before
    place.rename(place.with_name("other"))
    released_references(place, texts(profile), reward=lambda i, j: float(i - j))
    assert reference_sampling.step(profile).key != before
