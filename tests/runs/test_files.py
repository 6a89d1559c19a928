"""Files that are read back: damaged ones are recognised, whatever the damage."""

import json
import os

import pytest

from qrpo_lib.runs import files


def test_a_sealed_file_gives_what_was_written(tmp_path):
    for content in (b"", b"x", b"\nsha256:" * 20, os.urandom(1000)):
        files.write_sealed(tmp_path / "file", content)
        assert files.read_sealed(tmp_path / "file") == content
    assert files.read_sealed(tmp_path / "none") is None


def test_every_flipped_bit_and_every_cut_is_seen(tmp_path):
    path = tmp_path / "file"
    files.write_sealed(path, b"some content")
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert files.read_sealed(path) is None, position
        path.write_bytes(whole[:position])
        assert files.read_sealed(path) is None, position
    path.write_bytes(whole + b"\n")
    assert files.read_sealed(path) is None


def test_all_of_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, synced, fsync = tmp_path / "file", [], os.fsync

    def watched(descriptor):
        synced.append((os.fstat(descriptor).st_size, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    files.write_atomically(path, b"some content")
    assert synced == [(len(b"some content"), False)]
    assert path.read_bytes() == b"some content"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b'{"a": 1', "it is no whole JSON"),
        (b"[" * 100_000, "it is no whole JSON"),
        (b"\xff\xfe{}", "it is not UTF-8 text"),
        (b"[1]", "it holds a list where a table is expected"),
        (b"null", "it holds nothing (null) where"),
        (b"3", "it holds a number where"),
        (b"true", "it holds a truth value where"),
        (b'"a"', "it holds a text where"),
    ],
)
def test_what_is_not_the_json_that_was_written_is_one_sentence_with_name_and_remedy(tmp_path, content, why):
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(files.UnreadableFileError) as caught:
        files.read_json(path, "Remove it.")
    assert str(caught.value).startswith(f"{path} cannot be used: {why}")
    assert str(caught.value).endswith(". Remove it.")


def test_a_file_that_is_not_there_is_the_same_error(tmp_path):
    with pytest.raises(files.UnreadableFileError, match=r"No such file or directory. Remove it."):
        files.read_json(tmp_path / "none.json", "Remove it.")


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large, and how often one was hashed."""
    hashed, plain = [], files.file_sha256
    monkeypatch.setattr(files, "LARGE", 10)
    monkeypatch.setattr(files, "file_sha256", lambda path: hashed.append(path) or plain(path))
    path = tmp_path / "making" / "weights"
    path.parent.mkdir()
    path.write_bytes(b"0123456789abcdef")
    return path, tmp_path / "memory", hashed


def test_a_large_file_is_hashed_once_until_it_changes(large):
    path, memory, hashed = large
    first = files.remembered_sha256(path, memory)
    assert first == files.remembered_sha256(path, memory)
    assert len(hashed) == 1
    final = path.parent.with_name("final")
    path.parent.rename(final)  # as a result that is moved into place
    changed = final / path.name
    assert files.remembered_sha256(changed, memory) == first
    assert len(hashed) == 1
    changed.write_bytes(b"0123456789abcdeF")  # the same size
    os.utime(changed, ns=(1, 2))
    assert files.remembered_sha256(changed, memory) != first
    assert len(hashed) == 2


@pytest.mark.parametrize("damage", [b"", b"null", b'{"sha256": "0"}', b"\xff"])
def test_a_damaged_memory_is_made_again(large, damage):
    path, memory, hashed = large
    first = files.remembered_sha256(path, memory)
    (noted,) = memory.iterdir()
    noted.write_bytes(damage)
    assert files.remembered_sha256(path, memory) == first
    assert files.remembered_sha256(path, memory) == first
    assert len(hashed) == 2


def test_a_sealed_folder_is_whole_until_one_of_its_files_is_not(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/weights", "state.json"):
        (tmp_path / name).write_text(json.dumps(name))
    assert not files.is_sealed(tmp_path)
    files.seal_folder(tmp_path)
    assert files.is_sealed(tmp_path)
    (tmp_path / "a" / "weights").write_text("others")
    assert not files.is_sealed(tmp_path)
    files.seal_folder(tmp_path)
    (tmp_path / "state.json").unlink()
    assert not files.is_sealed(tmp_path)


def test_atomic_write_keeps_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def killed(descriptor):
        raise OSError("killed")

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(OSError, match="killed"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
