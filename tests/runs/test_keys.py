"""Steps and their keys: what determines a result, and where it lies."""

import hashlib
import json
from functools import partial

from qrpo_lib.objective import losses
from qrpo_lib.runs import code_version, folders, keys
from qrpo_lib.runs.keys import Step


def step(**parameters):
    return Step("work", parameters, code=("statistics",))


def test_key_depends_on_parameters_inputs_and_code():
    base = step(a=1)
    every = {
        base.key,
        step(a=2).key,
        Step("other", {"a": 1}, code=("statistics",)).key,
        Step("work", {"a": 1}, inputs=(step(a=3),), code=("statistics",)).key,
        Step("work", {"a": 1}, inputs=(step(a=4),), code=("statistics",)).key,
        Step("work", {"a": 1}, code=("style",)).key,
        Step("work", {"a": 1}, code=("statistics",), source="1").key,
        Step("work", {"a": 1}, code=("statistics",), make=losses.dpo).key,
        Step("work", {"a": 1}, code=("statistics",), shared=losses.rebel).key,
    }
    assert len(every) == 9
    assert step(a=1).key == base.key
    assert step(a=1, b=2).key == step(b=2, a=1).key


def test_of_steps_and_what_they_rest_on_those_that_are_there_are_named(runs_folder):
    first, lost = step(a=1), step(a=2)
    last = Step("last", {}, inputs=(Step("middle", {}, inputs=(first, lost)),))
    for one in (first, last):
        one.folder.mkdir(parents=True)
    assert keys.there(last, first) == {first.folder_name, last.folder_name}
    assert keys.there(lost) == keys.there() == set()


def test_a_key_is_the_hash_of_its_determinants_as_the_docs_say():
    """Written out: another way to compute keys would make every result anew."""
    source = step(a=1)
    made = Step("next", {"b": [1, 2]}, inputs=(source,), code=("losses:dpo",), source="x = 1")
    determinants = {
        "name": "next",
        "parameters": {"b": [1, 2]},
        "inputs": [source.key],
        "code": code_version.code_version(("losses:dpo",), "x = 1"),
    }
    content = json.dumps(determinants, sort_keys=True).encode()
    assert made.key == hashlib.sha256(content).hexdigest()[:12]


def test_the_code_of_its_maker_counts_and_what_the_maker_is_given_does_not():
    plain, given, other = (
        Step("work", {}, make=make, shared=partial(losses.rebel, beta=1))
        for make in (losses.dpo, partial(losses.dpo, beta=1), partial(losses.simpo, beta=1))
    )
    assert plain.code == given.code == (losses.dpo, losses.rebel)
    assert plain.key == given.key != other.key


def test_a_seed_and_whether_it_can_be_resumed_are_no_part_of_the_key():
    assert Step("work", {}, seed=1, resumable=True).key == Step("work", {}).key


def test_folders_lie_where_their_state_says(runs_folder):
    made = step(a=1)
    assert made.folder_name == f"work-{made.key}"
    assert made.folder == runs_folder / made.folder_name
    assert made.partial == runs_folder / ".partial" / made.folder_name
    assert made.shards == runs_folder / ".shards" / made.folder_name
    assert not made.is_complete()
    folders.complete(made, lambda folder: None)
    assert made.is_complete()


def test_with_inputs_goes_through_all_that_a_step_rests_on_once():
    first = step(a=1)
    left, right = (Step(name, {}, inputs=(first,)) for name in ("left", "right"))
    top = Step("top", {}, inputs=(left, right))
    found = [one.name for one in keys.with_inputs(top, right)]
    assert sorted(found) == ["left", "right", "top", "work"]
    assert list(keys.with_inputs()) == []
