"""AlpacaEval's instructions, answered by small models."""

import pandas as pd
import pytest
from hub_copies import ALPACA, INSTRUCTIONS, alpaca_baseline, loaded_profile

from qrpo_lib.models import hub
from qrpo_lib.runs.errors import InputError
from qrpo_lib.sampling import sampler
from qrpo_lib.steps import alpaca_answers, fitting, initial_policy


@pytest.fixture
def place(tmp_path):
    """Where AlpacaEval's file is to be."""
    return tmp_path / "copies" / "owner" / "alpaca"


@pytest.fixture
def profile(runs_folder, tmp_path, monkeypatch):
    return loaded_profile(tmp_path, monkeypatch, lambda text: text + ALPACA)


def test_every_instruction_is_answered_by_the_policy_as_in_evaluation(profile, place):
    alpaca_baseline(place)
    entries = alpaca_answers.load(alpaca_answers.run(profile, None, 0, 0))
    assert [entry["instruction"] for entry in entries] == INSTRUCTIONS
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from qrpo_lib.models import chat_template

    policy = initial_policy.run(profile)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    drawn = sampler.sample(
        AutoModelForCausalLM.from_pretrained(policy),
        tokenizer,
        [chat_template.prompt_ids(tokenizer, one) for one in INSTRUCTIONS],
        completions=1,
        max_new_tokens=8,
        batch_size=8,
        seed=0,
        temperature=1.0,
        top_p=1.0,
    )
    assert [entry["output"] for entry in entries] == [one.text.strip() for one in drawn]


@pytest.mark.parametrize(
    ("instructions", "generator", "message"),
    [
        (INSTRUCTIONS[:2], "gpt4_1106_preview", "has 2 different instructions in 2 entries; the profile says 3"),
        ([*INSTRUCTIONS[:2], INSTRUCTIONS[0]], "gpt4_1106_preview", "2 different instructions in 3 entries"),
        (INSTRUCTIONS, "text_davinci_003", "are of text_davinci_003, not of gpt4_1106_preview"),
    ],
)
def test_another_file_is_refused(profile, place, instructions, generator, message):
    alpaca_baseline(place, instructions, generator)
    with pytest.raises(hub.HubError, match=message):
        alpaca_answers.baseline(profile)


def test_without_the_file_it_is_said_what_is_missing(profile, place):
    with pytest.raises(hub.HubError, match="names no revision of the dataset owner/alpaca"):
        alpaca_answers.baseline(profile)
    place.mkdir(parents=True)
    with pytest.raises(hub.HubError, match=f"has no {alpaca_answers.BASELINE_FILE}"):
        alpaca_answers.baseline(profile)


def test_the_checkpoint_that_was_selected_answers(profile, tmp_path, monkeypatch):
    """The last one lies in `policy`, another one where it was kept; one that was not kept is refused."""
    monkeypatch.setattr(fitting, "load_history", lambda folder: pd.DataFrame({"step": [0, 10, 20]}))
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    assert alpaca_answers.weights(tmp_path, 20) == tmp_path / "policy"
    assert alpaca_answers.weights(tmp_path, 10) == tmp_path / "checkpoints" / "10"
    with pytest.raises(InputError, match="no policy after 5 steps any more"):
        alpaca_answers.weights(tmp_path, 5)
    assert alpaca_answers.weights(tmp_path, 0) == tmp_path
