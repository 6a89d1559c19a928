import json
import os
import subprocess
import sys

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


@pytest.mark.parametrize(("write", "count"), [(parquet, 2), (json_lines, 2), (saved, 2)])
def test_rows_of_a_local_copy_are_counted_without_converting_it(data, runs_folder, write, count):
    folder = data / "owner" / "name"
    write(folder)
    assert [hub.rows(folder, split) for split in ("train_prefs", "test_prefs")] == [count, 1]
    with pytest.raises(hub.HubError, match=r"has no readable split 'dev': it has test_prefs, train_prefs\."):
        hub.rows(folder, "dev")
    assert not runs_folder.exists()
    assert not list(data.rglob("*.arrow")) or write is saved


def test_rows_that_cannot_be_counted_are_unknown(data):
    folder = data / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text('a\n"one\nrow"\n')
    assert hub.rows(folder, "train") is None


def broken_json(folder):
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"a": 1}\n{"a": \n')


def broken_parquet(folder):
    folder.mkdir(parents=True)
    (folder / "train.parquet").write_bytes(b"PAR1 and no more")


@pytest.mark.parametrize("write", [broken_json, broken_parquet, lambda folder: folder.mkdir(parents=True)])
def test_a_local_copy_that_is_broken_is_said_in_one_sentence(data, write):
    write(data / "owner" / "name")
    with pytest.raises(hub.HubError, match=r"local copy .*owner/name has no readable split 'train': \S+") as caught:
        hub.dataset("owner/name", None, "train")
    assert "\n" not in str(caught.value)
    assert "error occurred while generating" not in str(caught.value)  # that says nothing


def read_in_a_process(folder, **environment):
    code = (
        "import sys; from qrpo_lib import hub\n"
        "try: print(hub.dataset(sys.argv[1], None, 'train_prefs').to_list())\n"
        "except hub.HubError as error: print(error)"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        env=kept | {"HF_HUB_OFFLINE": "1"} | environment,
    )


@pytest.mark.parametrize("runs_too", [False, True])
def test_a_home_folder_that_cannot_be_written_is_no_hindrance(tmp_path, runs_too):
    parquet(tmp_path / "copy")
    (tmp_path / "file").write_text("below a file nobody makes a folder, whatever the rights")
    places = {"HOME": str(tmp_path / "file" / "home"), "QRPO_RUNS": str(tmp_path / "runs")}
    if runs_too:
        places["QRPO_RUNS"] = str(tmp_path / "file" / "runs")
    answer = read_in_a_process(tmp_path / "copy", TMPDIR=str(tmp_path), **places)
    assert answer.stdout.strip().splitlines()[-1:] == [str(ROWS)], answer.stderr
    assert (tmp_path / "runs" / ".cache" / "datasets").is_dir() is not runs_too
    assert not list(tmp_path.glob("qrpo-datasets-*"))


def test_the_true_reason_is_said_where_a_copy_cannot_be_converted(data, monkeypatch):
    parquet(data / "owner" / "name")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets, "load_dataset", full)
    with pytest.raises(hub.HubError, match=r"could not be read: .*No space left on device\.$"):
        hub.dataset("owner/name", None, "train_prefs")
