"""A folder's hash: which files are in it, under which names, and nothing else."""

import hashlib

import pytest

from qrpo_lib.runs import content, files


@pytest.fixture
def folder(tmp_path, runs_folder):
    root = tmp_path / "model"
    (root / "deep").mkdir(parents=True)
    (root / "b.safetensors").write_bytes(b"weights")
    (root / "deep" / "a.json").write_bytes(b"{}")
    return root


def by_hand(*named):
    lines = [f"{hashlib.sha256(value).hexdigest()}  {name}" for name, value in named]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_it_is_that_of_sha256sum_lines_in_order(folder):
    expected = by_hand(("b.safetensors", b"weights"), ("deep/a.json", b"{}"))
    assert content.folder_sha256(folder) == expected
    assert content.folder_sha256(folder, ("*.json",)) == by_hand(("deep/a.json", b"{}"))
    assert content.folder_sha256(folder, ("*.json", "*.safetensors")) == expected


def test_what_downloaders_note_does_not_count_and_links_do(folder, tmp_path):
    before = content.folder_sha256(folder)
    for name in (".hidden", ".cache/huggingface/x.json", "deep/.lock", "SHA256SUMS", "deep/SHA256SUMS"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    assert content.folder_sha256(folder) == before
    (tmp_path / "blob").write_bytes(b"weights")
    (folder / "b.safetensors").unlink()
    (folder / "b.safetensors").symlink_to(tmp_path / "blob")
    assert content.folder_sha256(folder) == before
    (folder / "b.safetensors").rename(folder / "c.safetensors")
    assert content.folder_sha256(folder) != before


def test_a_large_file_is_read_once(folder, monkeypatch):
    read, plain = [], files.file_sha256
    monkeypatch.setattr(files, "LARGE", 4)
    monkeypatch.setattr(files, "file_sha256", lambda path: read.append(path.name) or plain(path))
    assert content.folder_sha256(folder) == content.folder_sha256(folder)
    assert read.count("b.safetensors") == 1
