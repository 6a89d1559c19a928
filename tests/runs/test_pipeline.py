"""The kinds of steps: the list is whole, and all that shows or removes run folders follows it."""

import ast
import json

import pytest

from qrpo_lib.experiment import grid
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import cleaning, listing, pipeline, records, times
from qrpo_lib.runs.code_version import own_package
from qrpo_lib.steps import checkpoint_evaluation


def names_in_the_code():
    """What the package calls its steps, where it says so in words: the first argument of `keys.Step(...)`."""
    for path in own_package().root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_step = isinstance(node, ast.Call) and ast.unparse(node.func) in ("Step", "keys.Step")
            if is_step and node.args and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value


def test_every_kind_of_step_is_in_the_list():
    profile = profiles.load("tiny", "chat")
    run = next(run for run in grid.possible(profile) if run.algorithm == "qrpo")
    evaluated = run.step(profile)
    reported = checkpoint_evaluation.report_step(run.settings(profile), run.algorithm, run.seed, 5)
    assert {*names_in_the_code(), evaluated.name, reported.name} == set(pipeline.STEPS)
    assert len(pipeline.STEPS) == len(set(pipeline.STEPS))


def test_steps_come_after_what_they_rest_on():
    profile = profiles.load("tiny", "chat")
    step = next(run for run in grid.possible(profile) if run.algorithm == "qrpo").step(profile)
    waiting = [step]
    while waiting:
        step = waiting.pop()
        for needed in step.inputs:
            assert pipeline.place(needed.name) < pipeline.place(step.name), (needed.name, step.name)
            waiting.append(needed)


@pytest.mark.parametrize("name", [*pipeline.STEPS, pipeline.notebook("results/tables")])
def test_a_damaged_folder_of_every_kind_is_known_by_its_name(runs_folder, name):
    folder = runs_folder / f"{name}-0123456789ab"
    folder.mkdir(parents=True)
    (folder / records.RECORD).write_text("{")
    assert cleaning.damaged() == [folder.name]
    assert [found.kind for found in cleaning.named(folder.name)] == ["damaged run folder"]


def test_people_see_the_order_of_the_pipeline(runs_folder):
    names = [*pipeline.STEPS, "anything_else", pipeline.notebook("a/b")]
    made = [{"name": name, "key": f"{number:012x}", "seconds": 1.0} for number, name in enumerate(reversed(names))]
    for record in made:
        folder = runs_folder / f"{record['name']}-{record['key']}"
        folder.mkdir(parents=True)
        (folder / records.RECORD).write_text(json.dumps(record))
    assert [row.name for row in listing.rows()] == names
    assert [phase.name for phase in times.phases(made)] == [*names[:-1], times.NOTEBOOKS]


def test_a_notebook_is_told_by_its_name():
    assert pipeline.notebook("results/length_bias") == "notebook-results-length_bias"
    assert pipeline.is_notebook("notebook-results-length_bias-0123456789ab")
    assert not pipeline.is_notebook("training-0123456789ab")
