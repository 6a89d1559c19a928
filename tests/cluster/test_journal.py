"""The journal of submissions: what it holds, in which order, and what is said of a damaged one."""

import json
import time

import pytest
import toys
from in_memory import InMemory, following

from qrpo_lib.cluster import journal
from qrpo_lib.runs.errors import InputError


def test_the_journal_holds_no_more_than_names_and_ids(diamond):
    following(InMemory(), diamond[0]).advance()
    (record,) = journal.folder().glob("*/batch.json")
    assert json.loads(record.read_text()).keys() == {"name", "executor", "host", "submitted", "tasks", "jobs"}


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda record: '{"name": "x', "no whole JSON"),
        (lambda record: "[]", "a list where a table"),
        (lambda record: "null", "nothing"),
        (lambda record: json.dumps({"name": "x"}), "not a submission of this version"),
        (lambda record: json.dumps(record | {"tasks": "b0"}), "tasks: Input should be a valid list"),
        (lambda record: json.dumps(record | {"submitted": None}), "submitted: Input should be a valid number"),
        (lambda record: json.dumps(record | {"name": "another"}), "it is the submission another"),
        (lambda record: json.dumps(record | {"jobs": ["1", "2"], "tasks": ["a"]}), "2 jobs for 1 tasks"),
    ],
)
def test_a_damaged_submission_is_one_sentence_with_its_file(diamond, damage, why):
    following(InMemory(), diamond[0]).advance()
    (path,) = journal.folder().glob("*/batch.json")
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(InputError) as caught:
        following(InMemory(), diamond[0]).advance()
    assert str(path) in str(caught.value)
    assert why in str(caught.value)
    assert f"remove the folder {path.parent}" in str(caught.value)


def test_an_earlier_submission_stamped_in_the_future_does_not_stand_for_the_new_one(runs_folder):
    """Its host's clock was ahead; its job has ended with an error since."""
    executor, task = InMemory(), toys.task("a")
    following(executor, task).advance()
    executor.end("1", "error", "ValueError: of long ago")
    (path,) = journal.folder().glob("*/batch.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"submitted": time.time() + 3600}))
    dispatcher = following(executor, task)
    for _ in range(3):
        assert dispatcher.advance().status == {task.name: "queued"}
    executor.makes("2", task)
    assert dispatcher.advance().status == {task.name: "complete"}
