"""The code arm of the pipeline at its smallest: the policy of both tasks, sampling, the sandbox's rewards, training."""

from pathlib import Path

import numpy as np
import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import (
    checkpoint_evaluation,
    evaluation,
    fitting,
    reference_sampling,
)
from qrpo_lib.tasks import base
from qrpo_lib.tasks import registry as tasks

SMALLEST = Path(__file__).parents[1] / "data" / "smallest.toml"


@pytest.mark.parametrize("name", ["tiny", "smol"])
def test_splits_have_no_problem_in_common_and_every_solution_is_one(name):
    task = profiles.load(name, "code").task
    every = tasks.of(task).prompts(0)
    assert len({prompt.text for prompt in every}) == len(every) == len({prompt.id for prompt in every})
    assert {prompt.split for prompt in every} == set(base.SPLITS)
    some = every[::60]
    solutions = {one.prompt_id: one.chosen for one in tasks.of(task).demonstrations(0)}
    scores = tasks.of(task).reward().score([prompt.text for prompt in some], [solutions[prompt.id] for prompt in some])
    assert (scores == 1).all()


@pytest.mark.slow
def test_code_arm_runs_from_policy_to_evaluation(runs_folder):
    profile = profiles.load(SMALLEST, "code")
    completions = reference_sampling.load(reference_sampling.run(profile))
    assert completions.groupby("prompt_id").size().eq(8).all()
    assert set(np.round(completions["reward"] * 24, 4)) <= set(range(25))
    folder = fitting.run(profile, "qrpo", seed=0)
    assert fitting.load_history(folder)["loss"].notna().any()
    last = fitting.last_step(folder)
    made = {
        "selection": checkpoint_evaluation.run(profile, "qrpo", 0),
        "reporting": checkpoint_evaluation.report(profile, "qrpo", 0, last),
    }
    for split, of_split in made.items():
        answers = evaluation.load(of_split)
        assert answers["reward"].between(0, 1).all()
        assert set(answers["split"]) == {split}
        assert answers["step"].max() == last
