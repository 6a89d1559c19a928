"""Downloads against a hub in memory: what it says about files must be true of the files."""

import hashlib
from types import SimpleNamespace

import pytest

from qrpo_lib.models import hub
from qrpo_lib.suite import download

COMMIT = "0" * 40
FILES = {"config.json": b'{"a": 1}', "weights/model.safetensors": bytes(range(256)) * 9}


class Hub:
    """Describes FILES as the hub does: large ones by SHA-256, small ones by git's hash; writes `served` to disk."""

    def __init__(self, served=FILES):
        self.served, self.downloads = served, 0

    def repo_info(self, name, repo_type, revision, files_metadata):
        assert (revision, files_metadata) == (COMMIT, True)
        siblings = []
        for path, content in FILES.items():
            large = path.endswith(".safetensors")
            lfs = SimpleNamespace(sha256=hashlib.sha256(content).hexdigest()) if large else None
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            siblings.append(SimpleNamespace(rfilename=path, size=len(content), lfs=lfs, blob_id=blob))
        return SimpleNamespace(siblings=siblings)

    def snapshot_download(self, name, repo_type, revision, local_dir):
        self.downloads += 1
        for path, content in self.served.items():
            (local_dir / path).parent.mkdir(parents=True, exist_ok=True)
            (local_dir / path).write_bytes(content)


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("QRPO_DATA", str(tmp_path))
    return download.HubSource("model", "owner/name", COMMIT)


def test_a_download_is_found_by_the_jobs_and_not_done_twice(source):
    server = Hub()
    download.fetch(source, server)
    download.fetch(source, server)
    assert server.downloads == 1
    assert hub.model("owner/name", COMMIT) == source.folder
    assert hashlib.sha256(FILES["config.json"]).hexdigest() in (source.folder / download.SUMS).read_text()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"X" + content[1:]])
def test_a_file_that_the_hub_describes_differently_is_refused(source, name, damage):
    with pytest.raises(hub.HubError, match=name):
        download.fetch(source, Hub(FILES | {name: damage(FILES[name])}))
    assert not (source.folder / download.SUMS).exists()


def test_a_missing_file_is_refused(source):
    with pytest.raises(hub.HubError, match="is missing"):
        download.fetch(source, Hub({"config.json": FILES["config.json"]}))


def test_a_copy_that_changed_later_is_refused(source):
    download.fetch(source, Hub())
    (source.folder / "config.json").write_bytes(b'{"a": 2}')
    with pytest.raises(hub.HubError, match="was changed"):
        download.fetch(source, Hub())


def test_a_copy_of_somebody_elses_is_not_overwritten(source):
    source.folder.mkdir(parents=True)
    (source.folder / "config.json").write_text("mine")
    server = Hub()
    with pytest.raises(hub.HubError, match="holds files that `qrpo download` did not put there"):
        download.fetch(source, server)
    assert server.downloads == 0
    assert (source.folder / "config.json").read_text() == "mine"
    (source.folder / ".cache" / "huggingface").mkdir(parents=True)  # the downloader was interrupted
    download.fetch(source, server)
    assert (source.folder / "config.json").read_bytes() == FILES["config.json"]


def test_without_a_commit_nothing_is_downloaded(source):
    with pytest.raises(hub.HubError, match="names no revision"):
        download.fetch(download.HubSource("model", "owner/name", None), Hub())


def test_the_papers_models_and_datasets_are_each_wanted_once():
    wanted = {(one.kind, one.name) for one in download.sources("gh200")}
    assert wanted == {
        ("model", "allenai/Llama-3.1-Tulu-3-8B-SFT"),
        ("model", "mistralai/Mistral-7B-Instruct-v0.2"),
        ("model", "RLHFlow/ArmoRM-Llama3-8B-v0.1"),
        ("dataset", "Magpie-Align/Magpie-Air-DPO-100K-v0.1"),
        ("dataset", "HuggingFaceH4/ultrafeedback_binarized"),
        ("dataset", "newfacade/LeetCodeDataset"),
        ("dataset", "tatsu-lab/alpaca_eval"),
    }
    assert len(download.sources("gh200")) == 7
    released = {one.name for one in download.sources("gh200-released")} - {name for _, name in wanted}
    assert len(released) == 8  # of two policies, with and without fine-tuning, on two datasets
    assert all(name.startswith("skandermoalla/qrpo-paper-") and "-ref50-offline-" in name for name in released)
    assert download.sources("tiny") == []


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"0123  config.json\n", b"null", b"<html>"])
def test_a_damaged_list_of_sums_is_refused(source, damage):
    download.fetch(source, Hub())
    (source.folder / download.SUMS).write_bytes(damage)
    with pytest.raises(hub.HubError, match=f"{download.SUMS} .*remove it and download again"):
        download.fetch(source, Hub())


def test_a_folder_of_ones_own_is_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("QRPO_DATA", str(tmp_path / "data"))
    told = []
    download.fetch(download.HubSource("model", str(tmp_path), None), api=Hub(), tell=told.append)
    assert told == [f"a folder of your own: {tmp_path}"]
    with pytest.raises(hub.HubError, match=f"There is no folder {tmp_path}/gone, which the profile names as its model"):
        download.fetch(download.HubSource("model", f"{tmp_path}/gone", None), api=Hub(), tell=told.append)
