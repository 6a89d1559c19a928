"""Which checkpoints are kept."""

from functools import partial

import pandas as pd
import pytest

from qrpo_lib.experiment import grid, kept
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import folders, records
from qrpo_lib.steps import evaluation, fitting, reference_evaluation


@pytest.fixture
def profile(tmp_path, runs_folder):
    path = tmp_path / "far.toml"
    path.write_text('extends = "tiny"\n[dispatch]\nwhere = "slurm"\n')
    return profiles.load(str(path), "chat")


def test_every_checkpoint_is_kept_until_all_seeds_that_choose_are_evaluated(profile, monkeypatch, tmp_path):
    """Then of each seed the best of the cell and the last; of the grid the best of those that answer shortly."""
    experiment = profile.experiment.model_copy(update={"seeds": [0, 1]})
    short = profile.evaluation.model_copy(update={"max_mean_length": 5})
    profile = profile.model_copy(update={"experiment": experiment, "evaluation": short})
    of_study = next(run for run in grid.scaling(profile) if run not in grid.grid(profile))
    cells = {"grid": grid.grid(profile)[0], "study": of_study}
    # Mean reward by step: the second, which answers at length, is best of both cells; of the study's first seed alone
    # it is the first, of the short ones of the grid's cell the last.
    rewards = {2: 0.5, 4: 1.0, 6: 0.6, 8: 0.9}
    first = {2: 0.9, 4: 0.7, 6: 0.6, 8: 0.5}
    later = {2: 0.1, 4: 0.8, 6: 0.6, 8: 0.5}

    def evaluated(run, rewards):
        made = run.training(profile)
        steps = [step for step in rewards if step != max(rewards)]

        def write(folder):
            pd.DataFrame({"step": [0, max(rewards)]}).to_csv(folder / fitting.HISTORY)
            for name in ("policy", *(f"checkpoints/{step}" for step in steps)):
                (folder / name).mkdir(parents=True)
                (folder / name / "weights").write_text(name)

        rows = [
            {"prompt_id": "a", "split": "selection", "step": step, "repeat": 0, "length": 9 if step == 4 else 3}
            for step in rewards
        ]
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
