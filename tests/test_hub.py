import json

import datasets
import pytest

from qrpo_lib import hub

COMMIT = "0" * 40
ROWS = [{"a": 1, "b": ["x"]}, {"a": 2, "b": []}]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder of local copies, and no hub."""
    monkeypatch.setenv("QRPO_DATA", str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def parquet(folder):
    (folder / "data").mkdir(parents=True)
    datasets.Dataset.from_list(ROWS).to_parquet(folder / "data" / "train_prefs-00000-of-00001.parquet")
    datasets.Dataset.from_list(ROWS[:1]).to_parquet(folder / "data" / "test_prefs-00000-of-00001.parquet")


def json_lines(folder):
    folder.mkdir(parents=True)
    for split, rows in (("train_prefs", ROWS), ("test_prefs", ROWS[:1])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in ("train_prefs", "test_prefs"))
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")


def saved(folder):
    splits = {"train_prefs": datasets.Dataset.from_list(ROWS), "test_prefs": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(splits).save_to_disk(folder)


@pytest.mark.parametrize("write", [parquet, json_lines, saved])
def test_a_local_copy_of_a_dataset_is_read_as_it_was_left(data, write):
    write(data / "owner" / "name")
    assert hub.dataset("owner/name", None, "train_prefs").to_list() == ROWS
    assert hub.dataset("owner/name", COMMIT, "test_prefs").to_list() == ROWS[:1]
    assert hub.dataset(str(data / "owner" / "name"), None, "test_prefs").to_list() == ROWS[:1]
    with pytest.raises(hub.HubError, match=r"local copy .*owner/name has no readable split 'dev'"):
        hub.dataset("owner/name", None, "dev")


def test_what_is_not_at_hand_says_what_to_download_and_where_to(data):
    with pytest.raises(hub.HubError) as caught:
        hub.dataset("owner/name", COMMIT, "train")
    message = str(caught.value)
    assert "\n" not in message
    assert f"hf download --repo-type dataset --revision {COMMIT} owner/name" in message
    assert f"put it into {data}/owner/name" in message
    with pytest.raises(hub.HubError, match=r"hf download --repo-type model .* owner/model"):
        hub.model("owner/model", COMMIT)


def test_nothing_is_downloaded_without_a_commit(monkeypatch):
    monkeypatch.delenv("QRPO_DATA", raising=False)
    for fetch in (lambda: hub.dataset("owner/name", None, "train"), lambda: hub.check("owner/name", None, "dataset")):
        with pytest.raises(
            hub.HubError, match=r"no revision .*git ls-remote https://huggingface.co/datasets/owner/name"
        ):
            fetch()
    with pytest.raises(hub.HubError, match=r"https://huggingface.co/owner/model main.*set QRPO_DATA"):
        hub.model("owner/model", None)
    hub.check("owner/name", COMMIT, "dataset")


def test_a_local_copy_needs_no_commit(data):
    (data / "owner" / "model").mkdir(parents=True)
    hub.check("owner/model", None, "model")
    assert hub.model("owner/model", None) == data / "owner" / "model"
