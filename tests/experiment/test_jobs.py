"""Where steps are made: with a cluster nothing heavy is left to the process of a notebook."""

import pandas as pd
import pytest

from qrpo_lib.cluster import dispatch
from qrpo_lib.experiment import grid, jobs, train
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import best_models, rounds, samples
from qrpo_lib.steps import answers, initial_policy, reference_evaluation
from qrpo_lib.steps.rounds import Plan
from qrpo_lib.suite import notebooks


@pytest.fixture
def profile(tmp_path, runs_folder):
    path = tmp_path / "far.toml"
    path.write_text('extends = "tiny"\n[dispatch]\nwhere = "slurm"\n')
    return profiles.load(str(path), "chat")


@pytest.fixture
def submitted(monkeypatch):
    """Names of the steps that were asked of the cluster, of which nothing is made."""
    asked = []
    monkeypatch.setattr(dispatch, "make", lambda tasks, settings: asked.extend(task.step.name for task in tasks))
    return asked


def test_every_plan_and_seed_of_the_rounds_is_a_job(profile, submitted):
    plans = [Plan(), Plan(3, "renewed")]
    found = rounds.run(profile, plans, [0, 1])
    assert submitted == ["iterative"] * 4
    assert {label: len(folders) for label, folders in found.items()} == {
        (plan, seed): plan.rounds for plan in plans for seed in (0, 1)
    }
    assert all(path.parent.name == "runs" for of_plan in found.values() for path in of_plan)


def test_sample_answers_are_a_job_and_no_notebook_cleans_them_away(profile, submitted, monkeypatch):
    step, table = answers.step(profile, 8), pd.DataFrame({"answer": ["yes"]})
    monkeypatch.setattr(answers, "load", lambda folder: table if folder == step.folder else None)
    folder = initial_policy.step(profile).folder
    assert samples.sample_answers(profile, folder, count=8) is table
    assert submitted == ["sample_answers"]
    every = notebooks.jobs(str(folder.parents[1] / "far.toml"))
    (job,) = (job for job in every if job.id == "experiments/initial_policy[chat]")
    assert job.possible == (step,)
    assert all(not job.possible for job in notebooks.jobs("tiny") if job.path == "experiments/initial_policy")


def test_what_tables_start_from_is_a_job(profile, submitted, monkeypatch):
    row = pd.DataFrame({"prompt_id": ["a"], "reward": [1.0], "length": [3]})
    monkeypatch.setattr(reference_evaluation, "load", lambda folder: row)
    monkeypatch.setattr(best_models, "has_lc_reward", lambda profile: False)
    best_models._starts(profile)
    settings = profile.experiment.settings
    policies = {setting.startswith("sft-") for setting in settings} | {False}
    assert submitted == ["reference_evaluation"] * len(policies) * len(profile.experiment.seeds)


def test_further_seeds_are_jobs(profile, monkeypatch):
    asked = []

    def make(tasks, settings):
        asked.extend(task.step.name for task in tasks)
        return train.Progress({})

    monkeypatch.setattr(dispatch, "make", make)
    monkeypatch.setattr(jobs, "make_data", lambda profile: None)
    train.train(profile, grid.grid(profile)[:2])
    assert asked == ["training"] * 2
