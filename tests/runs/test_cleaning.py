"""What may be removed, found and told; `tests/suite/test_clean.py` has the command."""

import os

import pytest

from qrpo_lib.runs import cleaning, folders, keys, records

NAME = "training-0123456789ab"


@pytest.fixture(autouse=True)
def fresh(runs_folder):
    return runs_folder


def complete(name="training", **parameters):
    step = keys.Step(name, parameters)
    folders.complete(step, lambda folder: (folder / "x").write_text("x" * 1000))
    return step


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def told(found):
    return [(one.path.name, one.kind) for one in found]


def test_of_a_name_its_folder_and_its_attempts_are_found_with_their_sizes(runs_folder):
    step = complete()
    for parent in (".partial", ".shards"):
        (runs_folder / parent / step.folder_name / "deep").mkdir(parents=True)
        (runs_folder / parent / step.folder_name / "deep" / "file").write_text("12345")
        (runs_folder / parent / NAME).mkdir()
    found = cleaning.named(step.folder_name)
    assert told(found) == [
        (step.folder_name, "run folder"),
        (step.folder_name, "interrupted attempt"),
        (step.folder_name, "shards of an interrupted attempt"),
    ]
    assert [one.size for one in found] == [size(step.folder), 5, 5]
    assert found[0].path == step.folder
    assert all(one.files is None for one in found)
    assert told(cleaning.named(NAME)) == [(NAME, "interrupted attempt"), (NAME, "shards of an interrupted attempt")]


def test_what_is_unneeded_is_all_of_other_names(runs_folder):
    kept, old = complete(a=1), complete(a=2)
    (runs_folder / ".partial" / NAME).mkdir(parents=True)
    (runs_folder / ".partial" / kept.folder_name).mkdir(parents=True)
    (runs_folder / ".partial" / "notes").mkdir()
    (runs_folder / ".partial" / "training-ba9876543210").write_text("a file")
    (runs_folder / ".removed" / f"{NAME}.12.ab").mkdir(parents=True)
    (runs_folder / ".removed" / "notes").mkdir()
    assert told(cleaning.unneeded({kept.folder_name})) == [
        (old.folder_name, "run folder"),
        (NAME, "interrupted attempt"),
        (f"{NAME}.12.ab", "rest of a removed folder"),
    ]
    assert len(cleaning.unneeded(set())) == 5


def cache(runs_folder):
    whole = [
        f".cache/reference_log_probs/{'ab' * 16}.npy",
        f".cache/reference_log_probs/{'ab' * 32}",
        f".cache/code-versions/{'ab' * 8}/{'cd' * 16}",
        f".cache/code-versions/{'ab' * 8}/{'cd' * 16}.123",
        ".checksums/12345.json",
    ]
    foreign = [".cache/reference_log_probs/mine.txt", ".cache/other/x", ".checksums/notes.txt", ".checksums/1.jsonl"]
    for name in (*whole, *foreign):
        (runs_folder / name).parent.mkdir(parents=True, exist_ok=True)
        (runs_folder / name).write_text("123")
    return whole, foreign


def test_caches_are_told_by_their_own_files_and_only_these_go(runs_folder):
    whole, foreign = cache(runs_folder)
    found = cleaning.everything()
    assert [(one.path.relative_to(runs_folder).as_posix(), one.kind, one.size) for one in found] == [
        (".cache/reference_log_probs", "cache", 6),
        (".cache/code-versions", "cache", 6),
        (".checksums", "cache", 3),
    ]
    assert sorted(path.relative_to(runs_folder).as_posix() for one in found for path in one.files) == sorted(whole)
    assert all(cleaning.remove(one) for one in found)
    assert not any((runs_folder / name).exists() for name in whole)
    assert all((runs_folder / name).exists() for name in foreign)
    assert cleaning.everything() == []


def test_links_in_a_caches_place_or_in_it_are_no_cache(runs_folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "reference_log_probs").mkdir(parents=True)
    (elsewhere / "reference_log_probs" / ("ab" * 16)).write_text("mine")
    runs_folder.mkdir()
    (runs_folder / ".cache").symlink_to(elsewhere)
    (runs_folder / ".checksums").mkdir()
    (runs_folder / ".checksums" / "1.json").symlink_to(elsewhere / "reference_log_probs" / ("ab" * 16))
    (runs_folder / ".checksums" / "2.json").write_text("12")
    (found,) = cleaning.everything()
    assert ([path.name for path in found.files], found.size) == (["2.json"], 2)


def test_a_cache_that_is_gone_meanwhile_is_no_error(runs_folder):
    cache(runs_folder)
    found = cleaning.everything()
    assert all(cleaning.remove(one) for one in (*found, *found))


@pytest.mark.parametrize("lock", ["", ".shard-1"])
def test_what_is_being_made_is_not_removed(runs_folder, lock):
    step = complete()
    (found,) = cleaning.named(step.folder_name)
    with folders.lock(f"{step.folder_name}{lock}"):
        assert not cleaning.remove(found)
        assert step.folder.exists()
    with folders.lock("training-ba9876543210"):  # another one's
        assert cleaning.remove(found)
    assert not step.folder.exists()
    assert not (runs_folder / ".removed").exists()


def test_what_is_no_run_folder_any_more_stays(runs_folder):
    step = complete()
    (found,) = cleaning.named(step.folder_name)
    (step.folder / records.RECORD).write_text("{}")
    assert cleaning.remove(found)
    assert step.folder.exists()
    (damaged,) = cleaning.named(step.folder_name)
    assert damaged.kind == "damaged run folder"
    assert cleaning.remove(damaged)
    assert not step.folder.exists()
    assert cleaning.remove(damaged)  # twice is no error


def test_the_rest_of_a_removed_folder_goes_at_once(runs_folder):
    rest = runs_folder / ".removed" / f"{NAME}.12.ab"
    rest.mkdir(parents=True)
    (found,) = cleaning.unneeded(set())
    with folders.lock(NAME):
        assert cleaning.remove(found)
    assert not rest.exists()
    assert cleaning.remove(found)


@pytest.mark.parametrize(
    ("record", "damaged"),
    [
        ("{", True),
        ("[" * 100_000, True),
        ('{"name": "training"}', True),
        ('{"name": "training", "key": 3}', True),
        ('{"name": "training", "key": "0123456789ab"}', False),
        ('{"name": "training", "key": "other"}', False),
        (None, False),
    ],
)
def test_a_folder_is_damaged_if_it_has_a_record_that_says_no_name(runs_folder, record, damaged):
    folder = runs_folder / NAME
    folder.mkdir(parents=True)
    if record is not None:
        (folder / records.RECORD).write_text(record)
    assert cleaning.damaged() == ([NAME] if damaged else [])
    assert cleaning.is_run_folder(folder) == (record is not None and record.endswith('"0123456789ab"}'))


def test_a_lock_shows_that_a_folder_without_a_record_was_made_here(runs_folder):
    (runs_folder / NAME).mkdir(parents=True)
    (runs_folder / "thesis-0123456789ab").mkdir()
    assert cleaning.damaged() == []
    for name in (NAME, "thesis-0123456789ab"):
        with folders.lock(name):
            pass
    assert cleaning.damaged() == [NAME]
    assert told(cleaning.named(NAME)) == [(NAME, "damaged run folder")]
    with pytest.raises(cleaning.CleaningError, match="cannot be told whether the suite made it"):
        cleaning.named("thesis-0123456789ab")


def test_records_and_locks_that_are_links_say_nothing(runs_folder, tmp_path):
    step = complete()
    (tmp_path / "record").write_bytes((step.folder / records.RECORD).read_bytes())
    (step.folder / records.RECORD).unlink()
    (step.folder / records.RECORD).symlink_to(tmp_path / "record")
    (runs_folder / ".locks" / f"{step.folder_name}.lock").unlink(missing_ok=True)
    (runs_folder / ".locks" / f"{step.folder_name}.lock").symlink_to(tmp_path / "record")
    assert not cleaning.is_run_folder(step.folder)
    assert cleaning.damaged() == []


def test_a_link_is_never_removed(runs_folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    runs_folder.mkdir()
    (runs_folder / NAME).symlink_to(elsewhere)
    with pytest.raises(OSError, match=f"{NAME} is a link, not a run folder"):
        cleaning.remove_own(runs_folder / NAME)
    with pytest.raises(cleaning.CleaningError, match="is a link or a file"):
        cleaning.named(NAME)
    assert cleaning.unneeded(set()) == cleaning.everything() == []
    assert elsewhere.exists()


def test_sizes_follow_no_links(runs_folder, tmp_path):
    step = complete()
    before = size(step.folder)
    (tmp_path / "large").write_text("x" * 5000)
    (step.folder / "link").symlink_to(tmp_path / "large")
    (found,) = cleaning.named(step.folder_name)
    assert found.size == before + os.lstat(step.folder / "link").st_size


def test_a_runs_folder_that_is_not_there_holds_nothing(runs_folder):
    assert cleaning.everything() == cleaning.unneeded(set()) == cleaning.damaged() == []
    with pytest.raises(cleaning.CleaningError, match=f"There is no run folder '{NAME}'"):
        cleaning.named(NAME)
    assert not runs_folder.exists()
