"""What a notebook notes of itself: the file that it is told of, and nothing without one."""

import json
import os

from qrpo_lib.runs import account, usage


def test_what_is_noted_is_read_back(tmp_path):
    path = tmp_path / "accounts" / "abc.jsonl"
    with account.kept_in(path):
        account.rests_on(["b-2", "a-1"])
        account.failed("training of é", "training-1", "first: {error}")
        account.rests_on(["c-3", "a-1"])
        account.failed("training of é", "training-1", "second")
        account.failed("other", "training-2", "third")
        account.took(usage.Usage(1.5, 300, {"library": "MKL"}))
        account.took(usage.Usage(2.5))
    noted = account.read(path)
    assert noted.took == [usage.Usage(1.5, 300, {"library": "MKL"}), usage.Usage(2.5, None, None)]
    assert noted.rests_on == {"a-1", "b-2", "c-3"}
    assert noted.failed == {"training of é": "first: {error}", "other": "third"}
    assert next(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()) == {
        "rests_on": ["a-1", "b-2"]
    }


def test_without_a_file_nothing_is_noted_and_nothing_is_known(tmp_path, monkeypatch):
    monkeypatch.delenv(account.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    account.rests_on(["a-1"])
    account.failed("name", "training-1", "error")
    assert list(tmp_path.iterdir()) == []
    assert account.failed_before() == {}
    assert account.read(tmp_path / "none.jsonl") == account.Account(set(), {})


def test_the_variable_is_as_it_was_afterwards(tmp_path, monkeypatch):
    monkeypatch.delenv(account.VARIABLE, raising=False)
    with account.kept_in(tmp_path / "first"):
        with account.kept_in(tmp_path / "second"):
            assert os.environ[account.VARIABLE] == str(tmp_path / "second")
        assert os.environ[account.VARIABLE] == str(tmp_path / "first")
    assert account.VARIABLE not in os.environ


def test_a_command_knows_what_failed_in_any_of_its_notebooks(tmp_path):
    for number in (1, 2):
        with account.kept_in(tmp_path / f"{number}.jsonl"):
            account.rests_on(["a-1"])
            account.failed("name", f"training-{number}", f"error {number}")
    (tmp_path / "other.txt").write_text('{"failed": "x", "folder": "training-3", "error": "x"}\n')
    with account.kept_in(tmp_path / "3.jsonl"):
        assert account.failed_before() == {"training-1": "error 1", "training-2": "error 2"}


def test_a_line_that_is_being_written_is_not_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"rests_on": ["a-1"]}\n{"failed": "x", "err')
    assert account.read(path) == account.Account({"a-1"}, {})
    path.write_bytes(b'{"rests_on": ["a-1"]}\n{"failed": "\xc3')  # in the middle of a letter
    assert account.read(path).rests_on == {"a-1"}


def test_what_failed_twice_is_not_tried_again_by_the_next_notebook_of_a_command(tmp_path, monkeypatch):
    from qrpo_lib.runs import account

    with account.kept_in(tmp_path / "first.jsonl"):
        account.failed("dpo, seed 0", "training-aaaaaaaaaaaa", "KeyError: 'first'")
    with account.kept_in(tmp_path / "second.jsonl"):
        assert account.failed_before() == {"training-aaaaaaaaaaaa": "KeyError: 'first'"}
    assert account.read(tmp_path / "second.jsonl") == account.Account()
    assert account.failed_before() == {}  # of no command
