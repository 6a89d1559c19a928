"""Lengths as the authors count them, against counts by hand, and where they are used."""

import numpy as np
import pandas as pd
import pytest
from hub_copies import loaded_profile

from qrpo_lib.results import best_models, length_control, selection


@pytest.fixture
def profile(runs_folder, tmp_path, monkeypatch):
    """Lengths counted as the paper's, by a tokenizer of words; a conversation is cut at 16 tokens."""
    counted = ("max_tokens = 16", 'max_tokens = 16\nlengths = "paper"')
    figure_4 = ("repeats = 1", 'repeats = 1\nfigure_4 = "paper"')
    return loaded_profile(tmp_path, monkeypatch, lambda text: text.replace(*counted).replace(*figure_4))


def test_the_limit_holds_on_the_reporting_prompts_too():
    cell = {"algorithm": "qrpo", "setting": "offline", "beta": 0.1, "learning_rate": 1e-4}
    rows = [
        cell | {"step": step, "split": split, "reward": float(step), "length": length}
        for step, lengths in ((1, (900.0, 900.0)), (2, (900.0, 1100.0)), (3, (1100.0, 900.0)))
        for split, length in zip(("selection", "reporting"), lengths, strict=True)
    ]
    scores = pd.DataFrame(rows)
    assert selection.best_of_settings(scores)["step"].tolist() == [2]
    assert selection.best_of_settings(scores, limited=("selection", "reporting"))["step"].tolist() == [1]


def test_each_repeat_has_a_length_coefficient_of_its_own():
    generator = np.random.default_rng(0)
    prompts = [f"p{i}" for i in range(12)]
    references = pd.DataFrame(
        {"prompt_id": name, "reward": generator.normal(size=5), "length": generator.integers(5, 50, 5)}
        for name in prompts
    )
    references = references.explode(["reward", "length"], ignore_index=True).astype({"reward": float, "length": float})
    rows = pd.DataFrame(
        {"prompt_id": name, "seed": 0, "split": "reporting", "repeat": repeat}
        for repeat in range(3)
        for name in prompts
    )
    rows = rows.assign(
        **{name: 0.0 for name in ("beta", "learning_rate")}, algorithm="dpo", setting="offline", step=1
    ).assign(reward=generator.normal(size=36), length=generator.integers(5, 50, 36).astype(float))
    found = selection.with_lc_reward(rows, references, each_repeat=True)
    of_prompts = {name: length_control.by_prompt(references, name) for name in ("reward", "length")}
    for _, of_repeat in found.groupby("repeat"):
        expected = length_control.length_controlled_reward(
            of_repeat["reward"].to_numpy(),
            of_repeat["length"].to_numpy(),
            of_prompts["reward"].loc[of_repeat["prompt_id"]].to_numpy(),
            of_prompts["length"].loc[of_repeat["prompt_id"]].to_numpy(),
        )
        np.testing.assert_allclose(of_repeat["lc_reward"], expected)
    together = selection.with_lc_reward(rows, references)
    assert not np.allclose(together["lc_reward"], found["lc_reward"])


def test_figure_4_shows_the_first_repeat_of_the_reporting_prompts(profile, monkeypatch):
    rows = pd.DataFrame(
        {"prompt_id": f"{split}-{i}", "split": split, "repeat": repeat, "seed": 0, "setting": "off-policy-best"}
        for split in ("selection", "reporting")
        for repeat in range(3)
        for i in range(4)
    )
    seen = []
    monkeypatch.setattr(best_models, "references", lambda profile: None)
    monkeypatch.setattr(best_models.length_bias, "points", lambda rows, references: seen.append(rows))
    best = best_models.BestModels(pd.DataFrame(), rows.assign(algorithm="qrpo"), pd.DataFrame())
    monkeypatch.setattr(best_models.BestModels, "rows", lambda self, method: self.evaluations)
    best_models.length_points(profile, best)
    assert [len(one) for one in seen] == [4]
    assert set(seen[0]["split"]) == {"reporting"}
    assert set(seen[0]["repeat"]) == {0}
