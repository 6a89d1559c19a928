import json

import datasets
import pytest
from hub_copies import chat_model, magpieair, ultrafeedback

from qrpo_lib.models import hub
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.profiles.settings import ChatDataTask, Relevance
from qrpo_lib.tasks import hub_task
from qrpo_lib.tasks import registry as tasks

MAGPIE = "Magpie-Align/Magpie-Air-DPO-100K-v0.1"
ULTRA = "HuggingFaceH4/ultrafeedback_binarized"


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    magpieair(folder / MAGPIE)
    ultrafeedback(folder / ULTRA)
    chat_model(folder / "owner" / "model")
    return folder


@pytest.fixture
def data(copies, runs_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("QRPO_DATA", str(copies))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def task(name="magpieair", **changes):
    dataset, train, test = (MAGPIE, "train", "test") if name == "magpieair" else (ULTRA, "train_prefs", "test_prefs")
    settings = {"dataset": dataset, "train_split": train, "test_split": test, "tokenizer": "owner/model"}
    settings |= {"max_tokens": 16, "reward": Relevance(kind="relevance")}
    return ChatDataTask(name=name, **settings | changes)


@pytest.mark.parametrize("name", ["magpieair", "ultrafeedback"])
def test_rows_keep_their_texts_in_order(data, name):
    frame = hub_task.load(tasks.of(task(name)).prepared())
    source = {
        role: hub.dataset(task(name).dataset, None, getattr(task(name), f"{role}_split")) for role in ("train", "test")
    }
    for row in frame.to_dict("records"):
        role, number = row["prompt_id"].split("-")
        original = source[role][int(number)]
        assert row["prompt"] == original["chosen"][0]["content"] == original["rejected"][0]["content"]
        assert row["chosen"] == original["chosen"][1]["content"]
        assert row["rejected"] == original["rejected"][1]["content"]
        assert (role == "train") == (row["split"] == "train")
    assert list(frame["prompt_id"]) == sorted(frame["prompt_id"], key=lambda name: (name[:2] != "tr", name))


def test_what_is_left_out_is_counted_with_its_reason(data):
    folder = tasks.of(task()).prepared()
    counts = json.loads((folder / hub_task.COUNTS).read_text())
    assert counts == {
        "train": {"rows": 24, "not_one_request_and_answer": 1, "too_long": 1, "remain": 22},
        "test": {"rows": 11, "not_one_request_and_answer": 0, "too_long": 0, "remain": 11},
    }
    assert not {"train-000001", "train-000002"} & set(hub_task.load(folder)["prompt_id"])


def test_the_limit_counts_prompt_template_and_the_longer_answer(data):
    # <|user|> + 4 words + <|assistant|> + 4 words + </s>
    assert len(hub_task.load(tasks.of(task(max_tokens=11)).prepared())) == 33
    with pytest.raises(hub.HubError, match=r"Of 24 rows of .*, train, none can be used: .*'too_long': 23"):
        tasks.of(task(max_tokens=10)).prepared()


def test_held_out_splits_are_those_halves(data):
    frame = hub_task.load(tasks.of(task("ultrafeedback")).prepared())
    assert list(frame["split"]) == ["train"] * (len(frame) - 11) + hub_task.held_out_splits(11)


def test_a_dataset_of_another_schema_is_named(data, monkeypatch):
    rows = hub.dataset(ULTRA, None, "train_prefs").remove_columns("rejected")
    monkeypatch.setattr(hub, "dataset", lambda *arguments: rows)
    with pytest.raises(hub.HubError, match=f"{ULTRA} has no column rejected; it has prompt"):
        tasks.of(task("ultrafeedback")).prepared()


def test_the_reward_does_not_determine_the_data():
    other = task().model_copy(update={"reward": profiles.Relevance(kind="relevance")})
    assert tasks.of(task()).data().key == tasks.of(other).data().key
    assert tasks.of(task()).data().key != tasks.of(task(max_tokens=15)).data().key
