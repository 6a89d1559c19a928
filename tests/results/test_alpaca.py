"""What AlpacaEval's package is asked, and of which model; the package itself is made up."""

import sys
from types import SimpleNamespace

import pandas as pd
import pytest
from hub_copies import ALPACA, INSTRUCTIONS, alpaca_baseline, loaded_profile

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import alpaca, best_models
from qrpo_lib.steps import alpaca_answers, fitting


@pytest.fixture
def place(tmp_path):
    """Where AlpacaEval's file is to be."""
    return tmp_path / "copies" / "owner" / "alpaca"


@pytest.fixture
def profile(runs_folder, tmp_path, monkeypatch):
    return loaded_profile(tmp_path, monkeypatch, lambda text: text + ALPACA)


def reported(**changes):
    """Best models of which one is QRPO's, with these values of its row."""
    row = {"setting": "off-policy-best", "beta": 0.2, "learning_rate": 3e-4, "step": 4} | changes
    best = best_models.BestModels(
        pd.DataFrame(), pd.DataFrame({"algorithm": ["initial", "sft", "qrpo"]}), pd.DataFrame()
    )
    best.chosen = lambda method: pd.Series(row)
    return best


def test_the_reported_model_is_the_one_that_was_selected(profile, place):
    alpaca_baseline(place)
    of, algorithm, seed, checkpoint = alpaca._model(profile, reported(), "qrpo")
    assert (algorithm, seed, checkpoint) == ("qrpo", 0, 4)
    assert (of.training.setting, of.training.qrpo.beta) == ("off-policy-best", 0.2)
    (made_by,) = alpaca_answers.step(of, algorithm, seed, checkpoint).inputs
    assert made_by.key == fitting.step(of, "qrpo", 0).key
    untrained = alpaca._model(profile, reported(step=0), "qrpo")
    assert [one.name for one in alpaca_answers.step(*untrained).inputs] == ["initial_policy"]
    assert [one.name for one in alpaca_answers.step(*alpaca._model(profile, reported(), "sft")).inputs] == ["sft"]


def test_the_package_is_asked_for_the_papers_annotator_and_baseline(profile, place, monkeypatch):
    entries, asked = alpaca_baseline(place), []

    def evaluate(**arguments):
        asked.append(arguments)
        values = {"length_controlled_winrate": [50.0], "win_rate": [40.0], "standard_error": [1.5]}
        return pd.DataFrame(values, index=[arguments["name"]]), None

    monkeypatch.setitem(sys.modules, "alpaca_eval", SimpleNamespace(evaluate=evaluate))
    found = {
        name: [{"instruction": one, "output": "x", "generator": name} for one in INSTRUCTIONS]
        for name in ("initial", "qrpo")
    }
    board = alpaca.evaluate(found, profile)
    assert [one["name"] for one in asked] == ["initial", "qrpo"]
    assert all(one["reference_outputs"] == entries for one in asked)
    assert {one["annotators_config"] for one in asked} == {"alpaca_eval_gpt4_turbo_fn"}
    assert board["method"].tolist() == ["initial", "qrpo"]
    assert board.loc[1, ["alpaca_lc", "alpaca_wr", "alpaca_wr_error"]].tolist() == [50.0, 40.0, 1.5]
    assert (
        "3 instructions of owner/alpaca, against gpt4_1106_preview, judged by alpaca_eval_gpt4_turbo_fn"
        in alpaca.told(profile)
    )


def test_the_papers_scale_has_the_papers_evaluation():
    settings = profiles.load("gh200").alpaca_eval
    assert (settings.instructions, settings.baseline) == (805, "gpt4_1106_preview")
    assert profiles.load("tiny").alpaca_eval is None


def test_without_a_key_it_stops_and_says_so(monkeypatch):
    monkeypatch.setattr(alpaca.importlib.util, "find_spec", lambda name: True)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert alpaca.missing() == "the environment variable OPENAI_API_KEY is not set; the annotator is a paid service."
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert alpaca.missing() is None
