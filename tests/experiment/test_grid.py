import contextlib
import shutil
import types

import numpy as np
import pytest

from qrpo_lib.cluster.task import SubmittedJob
from qrpo_lib.experiment import grid, jobs, kept, read, train
from qrpo_lib.experiment.grid import Run
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import account, folders, keys

# The paper's grid (section 4, App. L): two models, two chat datasets, six settings, three betas, three learning rates;
# and code with one model and one setting.
PAPER = """
extends = "tiny"
name = "paper"

[experiment]
algorithms = ["dpo", "simpo", "rebel", "qrpo"]
seeds = [0]

[experiment.learning_rates]
dpo = [1e-7, 3e-7, 1e-6]
simpo = [1e-7, 3e-7, 1e-6]
rebel = [1e-7, 3e-7, 1e-6]
qrpo = [1e-7, 3e-7, 1e-6]

[experiment.betas]
dpo = [0.01, 0.03, 0.1]
simpo = [2.0, 2.5, 10.0]
rebel = [1e-6, 1e-4, 1e-2]
qrpo = [3e-4, 1e-3, 3e-3]

[arms.chat.experiment]
settings = [
    "offline", "off-policy-best", "off-policy-random", "sft-offline", "sft-off-policy-best", "sft-off-policy-random"
]
scaling = []
"""


@pytest.fixture
def load(tmp_path):
    def loaded(text):
        path = tmp_path / "made.toml"
        path.write_text(text)
        return profiles.load(str(path), "chat")

    return loaded


def test_the_papers_grid_has_225_models_an_algorithm(load):
    chat = grid.grid(load(PAPER))
    code = grid.grid(
        load(
            PAPER.replace('"offline", "off-policy-best", "off-policy-random", "sft-offline", ', "").replace(
                '"sft-off-policy-best", ', ""
            )
        )
    )
    for algorithm in ("dpo", "simpo", "rebel", "qrpo"):
        of_chat, of_code = (sum(run.algorithm == algorithm for run in found) for found in (chat, code))
        assert (of_chat, of_code) == (54, 9)
        assert 4 * of_chat + of_code == 225


def test_gh200_has_the_papers_grid():
    found = {arm: grid.grid(profiles.load("gh200", arm)) for arm in profiles.arms("gh200")}
    for algorithm in ("dpo", "simpo", "rebel", "qrpo"):
        cells = {
            arm: [(run.setting, run.beta, run.learning_rate) for run in runs if run.algorithm == algorithm]
            for arm, runs in found.items()
        }
        assert all(len(of_arm) == len(set(of_arm)) for of_arm in cells.values())
        assert {arm: len(of_arm) for arm, of_arm in cells.items()} == {
            "llama-magpieair": 54,
            "llama-ultrafeedback": 54,
            "mistral-magpieair": 54,
            "mistral-ultrafeedback": 54,
            "llama-leetcode": 9,
        }
        assert sum(map(len, cells.values())) == 225
        if algorithm == "qrpo":
            assert {beta for _, beta, _ in cells["llama-leetcode"]} == {0.003, 0.01, 0.03}
            assert {beta for _, beta, _ in cells["mistral-magpieair"]} == {3e-4, 1e-3, 3e-3}


def test_gh200_has_the_papers_figure_3():
    """After fine-tuning, offline and random pairs, five numbers of references, three betas and rates (App. M)."""
    profile = profiles.load("gh200", "llama-magpieair")
    found = grid.scaling(profile)
    assert len(found) == 2 * 5 * 3 * 3
    assert {run.setting for run in found} == {"sft-offline", "sft-off-policy-random"}
    (study,) = profile.experiment.scaling
    main = dict(zip(study.betas, study.main_learning_rates, strict=True))
    assert main == {0.003: 1e-6, 0.01: 3e-7, 0.1: 1e-7}
    assert {run.setting for run in grid.figure_6(profile)} == {"sft-offline"}


def test_main_rates_are_one_for_each_beta_and_trained(load):
    study = "[[arms.chat.experiment.scaling]]\nsettings = ['offline']\nnum_ref_rewards = [1]\nbetas = [0.1, 0.3]\n"
    for lines, message in (
        ("main_learning_rates = [1e-4]", "has 1 values for 2 betas"),
        ("learning_rates = [1e-4]\nmain_learning_rates = [1e-4, 2e-4]", "are not all among learning_rates"),
    ):
        with pytest.raises(profiles.ProfileError, match=message):
            load(f'extends = "tiny"\n{study}{lines}\n')


def test_what_is_not_in_the_grid_is_the_profiles_own(load):
    profile = load(
        'extends = "tiny"\n[experiment]\nalgorithms = ["dpo", "qrpo"]\nseeds = [3, 4]\n'
        'grid_seeds = 2\n[arms.chat.experiment]\nsettings = ["off-policy-random"]\nscaling = []\n'
        "[experiment.betas]\ndpo = [0.5]\n"
    )
    own = profile.training
    dpo = [run for run in grid.grid(profile) if run.algorithm == "dpo"]
    assert dpo == [Run("dpo", "off-policy-random", 0.5, own.dpo.learning_rate, seed) for seed in (3, 4)]
    settings = dpo[0].settings(profile).training
    assert (settings.setting, settings.dpo.beta, settings.qrpo) == ("off-policy-random", 0.5, own.qrpo)


def test_runs_that_differ_in_the_loss_share_all_before_it(load):
    profile = load(PAPER)
    runs = [run for run in grid.grid(profile) if run.setting == "off-policy-best"]
    steps = [run.training(profile) for run in runs]
    assert len({step.key for step in steps}) == len({run.step(profile).key for run in runs}) == len(runs)
    assert len({tuple(source.key for source in step.inputs) for step in steps}) == 1
    settings = {run.setting: run.training(profile).inputs for run in grid.grid(profile)}
    # The settings without SFT share policy and completions, and so do those with SFT.
    assert len({inputs[0].key for inputs in settings.values()}) == 2
    assert len({inputs[1].key for inputs in settings.values()}) == 2


def test_steps_that_share_their_inputs_are_those_made_one_by_one(load):
    profile = load('extends = "tiny"\n[arms.chat.task]\ntrain_prompts = 5\n')
    runs = list({(run.setting, run.algorithm): run for run in grid.possible(profile)}.values())
    steps = grid.Steps(profile)
    assert len({run.setting for run in runs}) == 6
    for run in runs:
        alone = run.step(profile)
        assert (steps[run].key, steps[run].inputs) == (alone.key, alone.inputs)
        assert steps[run] is steps[run]
    tasks = jobs.evaluations(profile, runs)
    for run, task in zip(runs, tasks, strict=True):
        alone = jobs.evaluation(run.settings(profile), run.algorithm, run.seed)
        assert (task.name, task.arguments, task.cores) == (alone.name, alone.arguments, alone.cores)
        assert [need.name for need in task.needs] == [need.name for need in alone.needs]
        for shared, made in zip(task.needs, alone.needs, strict=True):
            assert [need.name for need in shared.needs] == [need.name for need in made.needs]


def test_plan_counts_every_model_once(load):
    profile = profiles.load("tiny", "chat")
    counts, steps = grid.planned(profile), grid.Steps(profile)
    assert counts["grid"] == 4 * 6 * 3
    assert counts["further seeds of the best cells"] == 4 * 6 * 2
    every = {steps[run].key for run in grid.possible(profile)}
    certain = [*grid.grid(profile), *grid.scaling(profile), *grid.transformations(profile)]
    keys_of_certain = {steps[run].key for run in certain}
    assert len(keys_of_certain) == counts["grid"] + counts["scaling"] + counts["transformations"]
    assert keys_of_certain <= every
    names = [run.name for run in grid.possible(profile)]
    assert len(set(names)) == len(names)


def test_scaling_and_figure_6_come_from_the_same_runs(load):
    profile = profiles.load("tiny", "chat")
    scaling, figure = grid.scaling(profile), grid.figure_6(profile)
    assert set(figure) <= set(scaling)
    assert {run.seed for run in figure} == set(profile.experiment.seeds)
    betas = {run.beta for run in figure}
    assert len(betas) == 2
    thresholds = sorted(beta * np.log(beta * np.expm1(1 / beta)) for beta in betas)
    assert thresholds[0] < 0.91 < thresholds[1]  # the paper's mean quantile reward of chosen completions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[experiment]\ngrid_seeds = 4\n", "grid_seeds is 4, but there are 3"),
        ("[reference_sampling]\nref_rewards = 20\n", "goes to 50, but only 20 are sampled"),
        ('[experiment]\nalgorithms = ["ppo"]\n', "ppo"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(load, text, message):
    with pytest.raises(profiles.ProfileError, match=message):
        load(f'extends = "tiny"\n{text}')


class Making:
    """An executor that makes the folder of each task, unless `failing` has an error for a part of its name."""

    takes_dependencies = False
    turn = staticmethod(contextlib.nullcontext)

    def __init__(self):
        self.failing, self.seen, self.leaving = {}, [], False

    def has_room(self, busy, task):
        return True

    def submit(self, tasks, after):
        self.seen += [task.name for task in tasks]
        for task in tasks:
            if not self.leaving and not self.error(task.name):
                complete(task.step)
        return {task.name: [task.name] for task in tasks}

    def error(self, name):
        return next((error for part, error in self.failing.items() if part in name), None)

    def look(self, names):
        return {name: [SubmittedJob(name)] for name in names if name in self.seen}

    def outcome(self, job):
        error = self.error(job.id)
        return ("error", error) if error else ("success", "")

    def log(self, job):
        return ""

    def wait(self):
        pass

    interrupt = wait


@pytest.fixture
def training(load, monkeypatch, runs_folder):
    """A profile, three of its runs, and the executor that makes them."""
    profile = load('extends = "tiny"\n[experiment]\nalgorithms = ["dpo", "qrpo"]\nseeds = [0, 1]\ngrid_seeds = 2\n')
    making = Making()
    monkeypatch.setattr(train.Workers, "kept", lambda cores, threads: making)
    monkeypatch.setattr(jobs, "make_data", lambda profile: None)
    return profile, grid.grid(profile)[:3], making


def complete(step):
    from qrpo_lib.runs import folders

    for one in [*step.inputs, step]:
        if one is not step:
            complete(one)
        folders.complete(one, lambda folder: (folder / "out").write_text("x"))


def test_failures_are_told_to_the_command_and_where_results_are_asked_for(training, tmp_path):
    profile, runs, making = training
    names = [run.name for run in runs]
    making.failing = {runs[1].step(profile).folder_name: "ValueError: beta"}
    with account.kept_in(tmp_path / "first.jsonl"):
        made = train.train(profile, runs)
    assert made.failed == {names[1]: "ValueError: beta"}
    assert set(made.seconds) == {names[0], names[2]}
    assert making.seen.count(runs[1].step(profile).folder_name) == 2  # it is tried once more
    told = account.read(tmp_path / "first.jsonl")
    assert told.failed == made.failed
    there = {run.step(profile).folder_name for run in runs if run is not runs[1]}
    assert there | {source.folder_name for source in runs[0].step(profile).inputs} <= told.rests_on
    assert runs[1].step(profile).folder_name not in told.rests_on
    with pytest.raises(read.MissingRunsError, match=f"training failed. {names[1]}: ValueError: beta"):
        read.evaluations(profile, [runs[1]])
    with pytest.raises(read.MissingRunsError, match="train them first"):
        read.histories(profile, [grid.with_seed(runs[1], 77)])


def test_the_next_notebook_of_a_command_does_not_try_again_and_is_incomplete_too(training, tmp_path):
    profile, runs, making = training
    making.failing = {runs[1].step(profile).folder_name: "ValueError: beta"}
    with account.kept_in(tmp_path / "first.jsonl"):
        train.train(profile, runs)
    making.failing, making.seen = {}, []
    with account.kept_in(tmp_path / "second.jsonl"):
        assert train.train(profile, runs).failed == {runs[1].name: "ValueError: beta"}
    assert making.seen == []
    assert account.read(tmp_path / "second.jsonl").failed == {runs[1].name: "ValueError: beta"}
    assert train.train(profile, runs).failed == {}  # another command does
    assert runs[1].step(profile).folder_name in making.seen


def test_what_runs_share_is_made_once_before_them_and_its_error_is_that_of_all_of_them(training):
    profile, runs, making = training
    making.failing = {"reference_sampling": "The disk is full (OSError)"}
    made = train.train(profile, runs)
    assert made.failed == {run.name: "The disk is full (OSError)" for run in runs}
    assert made.total == len(runs)
    assert [name for name in making.seen if name.startswith("training")] == []  # nothing was trained without it
    making.failing, making.seen = {}, []
    assert train.train(profile, runs).failed == {}
    kinds = [name.rpartition("-")[0] for name in making.seen]
    assert kinds.count("training") == kinds.count("evaluation") == 3
    assert kinds.index("evaluation") > kinds.index("training") > kinds.index("reference_log_probs")
    assert len(set(making.seen)) == len(making.seen)


def test_a_result_under_another_key_is_a_failure(training):
    profile, runs, making = training
    making.leaving = True
    complete(runs[0].step(profile))
    shutil.rmtree(runs[0].step(profile).folder)
    failed = train.train(profile, runs).failed
    assert set(failed) == {run.name for run in runs}
    assert all("edited meanwhile" in error for error in failed.values())


def test_what_complete_runs_rest_on_is_made_again(training):
    profile, runs, making = training
    train.train(profile, runs)
    making.seen = []
    train.train(profile, runs)
    assert making.seen == []
    for lost in runs[0].step(profile).inputs:  # its training; what the policy answered before training
        shutil.rmtree(lost.folder)
        train.train(profile, runs)
        assert making.seen == [lost.folder_name]
        making.seen = []
    # An evaluation is wanted once more, and checkpoints have gone since the first one.
    shutil.rmtree(runs[0].step(profile).folder)
    train.train(profile, runs)
    assert making.seen == [runs[0].step(profile).folder_name]
    making.seen = []
    shutil.rmtree(runs[0].step(profile).folder)
    folders.remove_parts(runs[0].training(profile).folder, ["checkpoints/2"])
    train.train(profile, runs)
    assert making.seen == [runs[0].training(profile).folder_name, runs[0].step(profile).folder_name]
    making.failing = {"training": "ValueError: beta"}
    shutil.rmtree(runs[0].training(profile).folder)
    assert train.train(profile, runs).failed == {runs[0].name: "ValueError: beta"}


def test_a_checkpoint_that_another_arm_had_no_use_for_is_made_again_to_be_reported(training, monkeypatch):
    """Arms share trainings; what one keeps is not all that another reports."""
    profile, runs, making = training
    train.train(profile, runs)
    made = runs[0].training(profile)
    kept_steps = {0, 2, 4}
    monkeypatch.setattr(kept, "steps", lambda profile, run: kept_steps)
    for step, again in ((2, False), (4, False), (2, True)):
        if again:
            folders.remove_parts(made.folder, ["checkpoints/2"])
            kept_steps.remove(2)
            shutil.rmtree(runs[0].report(profile, 2).folder)
        making.seen = []
        train.report(profile, {runs[0]: {step}})
        assert runs[0].report(profile, step).folder_name in making.seen
        assert (made.folder_name in making.seen) == again
    # What is left serves for the other steps.
    shutil.rmtree(runs[0].report(profile, 4).folder)
    folders.remove_parts(made.folder, ["checkpoints/2"])
    making.seen = []
    train.report(profile, {runs[0]: {4}})
    assert making.seen == [runs[0].report(profile, 4).folder_name]


def test_removed_data_is_prepared_again(load, monkeypatch, runs_folder):
    prepared, task = [], types.SimpleNamespace(inputs=lambda: [keys.Step("data", {})], prompts=None)
    task.prompts = lambda seed: prepared.append(seed)
    monkeypatch.setattr(jobs.tasks, "of", lambda settings: task)
    profile = load('extends = "tiny"\nseed = 5\n')
    jobs.make_data(profile)
    folders.complete(task.inputs()[0], lambda folder: (folder / "out").write_text("x"))
    jobs.make_data(profile)
    assert prepared == [5]
