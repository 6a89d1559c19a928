"""Tasks that need one another: their order, what is told of them, why one was not made."""

import json

import pytest
import toys

from qrpo_lib.cluster import task
from qrpo_lib.cluster.task import Progress, ScheduledTask, in_order
from qrpo_lib.runs import keys


def never():
    raise AssertionError("nothing is called")


def test_what_most_others_wait_for_comes_first_and_each_after_what_it_needs():
    first = ScheduledTask("first", never)
    others = [ScheduledTask(f"alone{number}", never) for number in range(3)]
    after = [ScheduledTask(f"after{number}", never, needs=(first,)) for number in range(4)]
    assert list(in_order([*others, *after])) == ["first", *(one.name for one in [*others, *after])]


def test_a_model_is_evaluated_before_the_next_one_is_trained():
    """So the first runs of a sweep are complete early, and no more checkpoints than needed are on the disk."""
    pairs = ScheduledTask("pairs", never)
    models = [ScheduledTask(f"train{number}", never, needs=(pairs,)) for number in range(3)]
    evaluated = [ScheduledTask(f"evaluate{number}", never, needs=(model,)) for number, model in enumerate(models)]
    expected = [name for number in range(3) for name in (f"train{number}", f"evaluate{number}")]
    assert list(in_order(evaluated)) == ["pairs", *expected]


def test_why_is_the_first_error_of_what_a_task_needs():
    shared = ScheduledTask("shared", never)
    between = ScheduledTask("between", never, needs=(shared,))
    last = ScheduledTask("last", never, needs=(ScheduledTask("made", never), between))
    progress = Progress(in_order([last]))
    assert progress.why(last) == ""
    progress.failures["shared"] = "The disk is full"
    assert progress.why(last) == progress.why(shared) == "The disk is full"
    progress.failures["last"] = "its own"
    assert progress.why(last) == "its own"


def test_time_left_is_the_mean_of_what_was_done():
    progress = Progress(in_order(ScheduledTask(f"task{number}", never) for number in range(10)))
    assert progress.seconds_left() is None
    progress.status |= {"task0": "complete", "task1": "complete", "task2": "failed", "task3": "running"}
    progress.seconds |= {"task0": 2.0, "task1": 4.0}
    assert progress.seconds_left() == pytest.approx(7 * 3.0)
    progress.status["task4"] = "running"
    assert progress.seconds_left() == pytest.approx(7 * 3.0 / 2)
    assert progress.is_open()
    progress.status |= dict.fromkeys(progress.status, "blocked")
    assert not progress.is_open()


def test_what_its_process_tells_is_read_and_the_share_is_one(runs_folder):
    """By the key of its step; of one without, by its name, which may be no file's."""
    told = ScheduledTask("a [b]/c", never)
    assert told.told == runs_folder / ".status" / "a-b-c.json"
    step = keys.Step("toy", {})
    assert ScheduledTask.of(step, never).told == runs_folder / ".status" / f"{step.key}.json"
    assert told.state() == ("", 0.0)
    told.told.parent.mkdir(parents=True)
    for done, share in ((3, 0.25), (99, 1.0), (-1, 0.0)):
        told.told.write_text(json.dumps({"text": "training", "done": done, "total": 12, "detail": "loss 2.5"}))
        assert told.state() == (f"training {done}/12 loss 2.5", share)
    assert told.doing() == "training -1/12 loss 2.5"


def test_a_task_is_complete_with_its_steps_folder_alone(runs_folder):
    made = toys.task("made")
    without = ScheduledTask("made", never)
    assert not made.is_complete()
    assert not made.accept()
    toys.perform(made.step, "write", {})
    assert made.is_complete()
    assert made.accept()
    assert not without.is_complete()  # only its job can say
    assert without.accept()
    assert task.to_be_made([made, without]) == [made, without]  # a folder that was made here is looked at again
