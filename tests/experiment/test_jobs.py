"""Where steps are made: with a cluster nothing heavy is left to the process of a notebook."""

from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoTokenizer

from qrpo_lib.cluster import dispatch
from qrpo_lib.experiment import grid, jobs, kept, train
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import best_models, rounds, samples
from qrpo_lib.runs import folders, records
from qrpo_lib.steps import answers, evaluation, fitting, initial_policy, reference_evaluation
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


def test_sample_answers_are_drawn_where_the_engine_draws(profile, monkeypatch):
    """The engine puts a saved policy on the GPU; a model in memory stays on the CPU that it was loaded on."""
    seen = []
    monkeypatch.setattr(answers.sampler, "sample", lambda policy, *_, **__: seen.append(policy) or [])
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda folder: None)
    monkeypatch.setattr(answers.chat_template, "prompt_ids", lambda *_: [1])
    answers.sample(profile, Path("saved"), 0)
    assert seen == [Path("saved")]


def test_what_tables_start_from_is_a_job(profile, submitted, monkeypatch):
    row = pd.DataFrame({"prompt_id": ["a"], "reward": [1.0], "length": [3]})
    monkeypatch.setattr(reference_evaluation, "load", lambda folder: row.assign(token_ids=[[1]]))
    monkeypatch.setattr(best_models, "has_lc_reward", lambda profile: False)
    best_models._starts(profile)
    settings = profile.experiment.settings
    policies = {setting.startswith("sft-") for setting in settings} | {False}
    assert submitted == ["reference_evaluation"] * 2 * len(policies) * len(profile.experiment.seeds)  # of both splits


def test_what_rewards_are_adjusted_for_length_with_is_a_job(profile, submitted, monkeypatch):
    """Where all settings fine-tune first, no training needs the initial policy's reference completions."""
    row = pd.DataFrame({"prompt_id": ["a"], "reward": [1.0], "token_ids": [[1, 2]]})
    monkeypatch.setattr(pd, "read_parquet", lambda path, **_: row)
    assert best_models.references(profile)["length"].tolist() == [2]
    assert submitted == ["reference_sampling"]


def test_further_seeds_are_jobs(profile, monkeypatch):
    asked = []

    def make(tasks, settings):
        asked.extend(task.step.name for task in tasks)
        return train.Progress({})

    monkeypatch.setattr(dispatch, "make", make)
    monkeypatch.setattr(jobs, "make_data", lambda profile: None)
    train.train(profile, grid.grid(profile)[:2])
    assert asked == ["evaluation"] * 2


def test_training_and_evaluation_are_jobs_of_their_own_and_each_is_after_what_it_reads(profile):
    """A group of GPUs trains; answers are given by a job with the resources of an evaluation."""
    run = grid.grid(profile)[0]
    arguments = (run.settings(profile), run.algorithm, run.seed)
    tasks = {
        "training": jobs.training(*arguments),
        "evaluation": jobs.evaluation(*arguments),
        "report": jobs.report(*arguments, 14),
        "log_ratios": jobs.log_ratios(*arguments, 14, "reporting"),
    }
    assert {name: (task.step.name, task.kind, task.group) for name, task in tasks.items()} == {
        "training": ("training", "training", True),
        "evaluation": ("evaluation", "evaluation", False),
        "report": ("report", "evaluation", False),
        "log_ratios": ("log_ratios", "evaluation", False),
    }
    needs = {name: [need.step.name for need in task.needs] for name, task in tasks.items()}
    assert needs["evaluation"] == needs["report"] == ["training", "reference_evaluation"]
    assert needs["log_ratios"] == ["report"]
    assert "reference_evaluation" not in needs["training"]
    assert jobs.report(*arguments, 0).step.name == "reference_evaluation"
    assert run.step(profile).key == tasks["evaluation"].step.key
    assert run.training(profile).key == tasks["training"].step.key


def test_every_checkpoint_is_kept_until_all_seeds_that_choose_are_evaluated(profile, monkeypatch, tmp_path):
    """Then of each seed the best of the cell and the last; where a study shows its course, the best before the last."""
    profile = profile.model_copy(update={"experiment": profile.experiment.model_copy(update={"seeds": [0, 1]})})
    of_study = next(run for run in grid.scaling(profile) if run not in grid.grid(profile))
    cells = {"grid": grid.grid(profile)[0], "study": of_study}
    # Mean reward by step: the last is best, then the second; of the study's first seed alone it is the first.
    rewards = {2: 0.5, 4: 0.7, 6: 0.6, 8: 0.9}
    first = {2: 0.9, 4: 0.7, 6: 0.6, 8: 1.0}
    later = {2: 0.1, 4: 0.8, 6: 0.6, 8: 1.0}

    def evaluated(run, rewards):
        made = run.training(profile)
        steps = [step for step in rewards if step != max(rewards)]

        def write(folder):
            pd.DataFrame({"step": [0, max(rewards)]}).to_csv(folder / fitting.HISTORY)
            for name in ("policy", *(f"checkpoints/{step}" for step in steps)):
                (folder / name).mkdir(parents=True)
                (folder / name / "weights").write_text(name)

        rows = [{"prompt_id": "a", "split": "selection", "step": step, "repeat": 0, "length": 3} for step in rewards]
        frame = pd.DataFrame(rows).assign(finish_reason="stop", reward=list(rewards.values()), logp=-1.0, text="x")
        start = frame.head(1).assign(step=0, reward=0.8)
        before = reference_evaluation.step(run.settings(profile), run.seed, "selection")
        for step, content in ((made, write), (before, start), (run.step(profile), frame)):
            if not callable(content):
                content = partial(_write, content)
            folders.complete(step, content)

    def saved(run):
        return sorted(int(path.name) for path in (run.training(profile).folder / "checkpoints").glob("*"))

    for name, run in cells.items():
        second = grid.with_seed(run, 1)
        evaluated(run, rewards if name == "grid" else first)
        everything = kept_all(profile)
        kept.remove_others(everything, [run])
        assert saved(run) == [2, 4, 6]
        kept.remove_others(profile, [run])
        # The grid's one seed has chosen the last; of the study the other seed is still to come.
        assert saved(run) == ([] if name == "grid" else [2, 4, 6])
        if name == "study":
            evaluated(second, later)
            kept.remove_others(profile, [second])
            assert (saved(run), saved(second)) == ([4], [4])
            assert kept.steps(profile, run) == {0, 4, 8}
        records.check(run.training(profile).folder)


def kept_all(profile):
    return profile.model_copy(update={"evaluation": profile.evaluation.model_copy(update={"kept": "all"})})


def _write(answers, folder):
    answers.to_parquet(folder / evaluation.EVALUATION)
