"""Where steps are made: with a cluster nothing heavy is left to the process of a notebook."""

import json

import hub_copies
import pandas as pd
import pytest

from qrpo_lib.cluster import dispatch
from qrpo_lib.experiment import grid, jobs, train
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import best_models, rounds, samples
from qrpo_lib.steps import answers, initial_policy, reference_evaluation
from qrpo_lib.steps.rounds import Plan
from qrpo_lib.suite import notebooks
from qrpo_lib.tasks import registry as tasks
from qrpo_lib.training.conversations import TemplateError

# Data of one's own for a policy in a folder.
OWN = """extends = "smol"
unset = ["arms.code"]
policy = { source = "hub", model = "./my-model", pad_token = "<pad>", temperature = 0.7, top_p = 0.9 }
[arms.chat.task]
name = "pointwise"
dataset = "rows.jsonl"
reward = { kind = "python", function = "my_reward.py:reward" }
[experiment]
algorithms = ["qrpo"]
[training]
setting = "offline"
"""


@pytest.fixture
def profile(tmp_path, runs_folder):
    path = tmp_path / "far.toml"
    path.write_text('extends = "tiny"\n[dispatch]\nwhere = "slurm"\n')
    return profiles.load(str(path), "chat")


@pytest.fixture
def submitted(monkeypatch):
    """Names of the steps that were asked of the cluster, of which nothing is made."""
    asked = []

    def make(tasks, settings):
        asked.extend(task.step.name for task in tasks)
        return train.Progress({})

    monkeypatch.setattr(dispatch, "make", make)
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


def test_rounds_are_made_side_by_side_where_the_notebook_is(runs_folder, monkeypatch):
    """As `train.make_all` does, which is tested by itself."""
    asked = []
    monkeypatch.setattr(train, "make_all", lambda profile, tasks, what: asked.append([task.name for task in tasks]))
    rounds.run(profiles.load("tiny", "chat"), [Plan(), Plan(2, "renewed")], [0, 1])
    assert len(asked) == 1
    assert len(set(asked[0])) == 4


def test_what_tables_start_from_is_made_side_by_side(profile, monkeypatch):
    submitted = []  # a list of what was asked for at once
    monkeypatch.setattr(train, "make_all", lambda of, tasks, what: submitted.append([task.step.name for task in tasks]))
    row = pd.DataFrame({"prompt_id": ["a"], "reward": [1.0], "length": [3]})
    monkeypatch.setattr(reference_evaluation, "load", lambda folder: row.assign(token_ids=[[1]]))
    monkeypatch.setattr(best_models, "has_lc_reward", lambda profile: False)
    best_models._starts(profile)
    settings = profile.experiment.settings
    policies = {setting.startswith("sft-") for setting in settings} | {False}
    of_both_splits = 2 * len(policies) * len(profile.experiment.seeds)
    assert submitted == [["reference_evaluation"] * of_both_splits]


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


def test_a_template_that_leaves_out_part_of_a_conversation_is_refused_before_sampling(tmp_path, runs_folder):
    hub_copies.chat_model(tmp_path / "my-model")
    turns = [{"role": "system", "content": "very deep"}, {"role": "user", "content": "what is"}]
    rows = [{"prompt": [turns[0], turns[1] | {"content": f"what is {i}"}], "completion": "the sea"} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "my_reward.py").write_text("def reward(prompts, completions):\n    return [1.0] * len(prompts)\n")
    (tmp_path / "mine.toml").write_text(OWN)
    profile = profiles.load(str(tmp_path / "mine.toml"), "chat")
    tasks.check_template(profile, initial_policy.run(profile))

    tokenizer = hub_copies.tokenizer()
    for old, new, said in (
        ("in messages", "in messages if m.role != 'system'", "leaves out the message of the role system"),
        ("m['content']", "m['content'].split('the ')[-1]", "does not write all of completion"),
    ):
        tokenizer.chat_template = hub_copies.TEMPLATE.replace(old, new)
        tokenizer.save_pretrained(tmp_path / "my-model")
        task = jobs.sampling(profile)
        with pytest.raises(TemplateError, match=said):
            task.make(*task.arguments)
        assert not task.step.folder.exists()
