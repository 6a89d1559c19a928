"""Imported reference completions against the files that they are read from, and what is refused."""

import json

import datasets
import numpy as np
import pytest
from hub_copies import chat_model, magpieair, released_references, tokenizer

from qrpo_lib.experiment import jobs
from qrpo_lib.models import hub
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import fitting, reference_sampling, released
from qrpo_lib.steps import pairs as preferences
from qrpo_lib.tasks import registry as tasks

PROFILE = """
seed = 0
[policy]
source = "hub"
model = "owner/model"
pad_token = "<pad>"
temperature = 1.0
top_p = 1.0
[arms.chat.task]
name = "magpieair"
dataset = "owner/data"
train_split = "train"
test_split = "test"
tokenizer = "owner/model"
max_tokens = 16
reward.kind = "relevance"
[reference_sampling]
backend = "transformers"
completions = 3
ref_rewards = 4
references = "shared"
max_new_tokens = 8
batch_size = 8
threads = 1
released = { initial = "owner/released" }
[training]
setting = "off-policy-best"
batch_size = 8
micro_batch_size = 8
epochs = 1
checkpoints = 1
precision = "float32"
threads = 1
qrpo = { beta = 0.1, learning_rate = 1e-4, num_ref_rewards = 7 }
dpo = { beta = 0.1, learning_rate = 1e-4 }
rebel = { beta = 0.1, learning_rate = 1e-4 }
simpo = { beta = 2.0, learning_rate = 1e-4 }
[sft]
learning_rate = 1e-4
batch_size = 8
micro_batch_size = 8
epochs = 1
[evaluation]
repeats = 1
[experiment]
algorithms = ["qrpo"]
seeds = [0]
"""


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    magpieair(folder / "owner" / "data")
    chat_model(folder / "owner" / "model")
    return folder


@pytest.fixture
def profile(copies, runs_folder, tmp_path, monkeypatch):
    """Its dataset and model are there, the released references are not yet."""
    monkeypatch.setenv("QRPO_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data" / "owner").mkdir(parents=True)
    for name in ("data", "model"):
        (tmp_path / "data" / "owner" / name).symlink_to(copies / "owner" / name)
    path = tmp_path / "mine.toml"
    path.write_text(PROFILE)
    return profiles.load(path)


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
    train, selection = fitting.pairs(profile, profile_policy(profile), reference_sampling.run(profile))
    assert isinstance(train, preferences.Pairs)
    assert len(train.rows) == 22
    assert all(len(row["ref_rewards"]) == 7 and row["chosen_reward"] in row["ref_rewards"] for row in train.rows)
    assert all(row["chosen_reward"] - row["rejected_reward"] == 2.0 for row in train.rows)  # of 3 candidates
    assert selection.rows


def profile_policy(profile):
    from qrpo_lib.steps import initial_policy

    return initial_policy.run(profile)


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


def test_data_of_another_schema_are_refused(profile, place, copies):
    place.symlink_to(copies / "owner" / "data")
    with pytest.raises(hub.HubError, match="has no column ref_completions and ref_rewards"):
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
