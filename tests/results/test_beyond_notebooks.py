"""The notebooks of the studies beyond the paper, cell by cell, on made-up results: claims judged, words at the end."""

import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from qrpo_lib.experiment import relatives
from qrpo_lib.paper import claims
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import beyond, beyond_targets
from qrpo_lib.suite import notebook_file

ROOT = Path(__file__).parents[2]
STUDIES = [
    ("estimated_z", "chat"),
    ("relatives", "chat"),
    ("online", "chat"),
    ("best_of_n", "chat"),
    ("partitions", "code"),
]
PROMPTS = 12


def made_up(profile, study):
    """Cells as a study has them, with a reward and a KL that grow from method to method."""
    generator = np.random.default_rng(0)
    seeds = tuple(profile.experiment.seeds)
    found = {}
    for model in relatives.models(profile, study):
        key = model.label, model.method.beta, model.method.num_ref_rewards
        level = 1 + 0.1 * list(dict.fromkeys(one[0] for one in [*found, key])).index(model.label)
        noise = [0.05 * generator.normal(size=(len(seeds), PROMPTS)) for _ in range(4)]
        columns = {"reward": level + noise[0], "kl": level / (3 + key[1]) + abs(noise[1]), "length": 10 + noise[2]}
        found.setdefault(key, beyond.Cell(*key, seeds, **columns, length_correlation=noise[3], selection=level))
    return found


@pytest.fixture
def without_models(monkeypatch):
    """Results as if all models of a study were there."""
    generator = np.random.default_rng(1)

    def rates(profile, study):
        return {n: np.full((2, PROMPTS), 0.6) + 0.01 * generator.normal(size=(2, PROMPTS)) for n in (2, 4, 8)}

    def sums(profile, made):
        each = itertools.product(("exact", "finite", "discrete"), sorted({key[1] for key in made}), range(PROMPTS))
        rows = [(name, beta, prompt, generator.normal() + (name == "exact")) for name, beta, prompt in each]
        return pd.DataFrame(rows, columns=["partition", "beta", "prompt", "log_sum"])

    references = {str(prompt): generator.normal(size=20) for prompt in range(PROMPTS)}
    monkeypatch.setattr(beyond, "cells", made_up)
    monkeypatch.setattr(beyond, "before", lambda profile, study: np.full((1, PROMPTS), 0.8))
    monkeypatch.setattr(beyond, "win_rate_cells", rates)
    monkeypatch.setattr(beyond, "reference_rewards", lambda profile, study: references)
    monkeypatch.setattr(beyond_targets, "partition_table", sums)
    monkeypatch.setattr(
        beyond_targets, "train_references", lambda profile, study, prompts: np.round(generator.normal(size=(4, 20)), 1)
    )


@pytest.mark.parametrize(("study", "arm"), STUDIES)
def test_a_notebook_judges_its_claims_and_ends_in_words(study, arm, without_models, tmp_path, capsys):
    mpl.use("agg")
    name = f"results/beyond_{study}"
    cells = notebook_file.cells(ROOT / "notebooks" / f"{name}.ipynb")
    space = {"In": []}  # what a kernel has of its history
    for kind, source in cells:
        if kind == "code":
            space["In"].append(source)
            exec(source.replace("%matplotlib inline", ""), space)
            if "profile: str" in source:
                space |= {"figures": str(tmp_path), "profile": "tiny-beyond", "repeats": 50, "prompts": 4}
                assert space["arm"] == arm
    judged = {one.id: one.verdict for one in space["ledger"].judged}
    assert judged.keys() == {claim.id for claim in claims.judged_by(name)}
    assert "not testable" not in judged.values()
    words = capsys.readouterr().out
    assert any(verdict in words for verdict in judged.values())
    assert len(list(tmp_path.glob(f"tiny-beyond/{arm}/*.png"))) >= 1
    assert profiles.load("tiny-beyond", arm).arm == arm
