"""The model card says what is known, in the hub's form; that a trainer writes it: `test_qrpo_trainer`."""

import dataclasses

import pytest
from huggingface_hub import ModelCard

from qrpo_lib.training import model_card

FACTS = model_card.Facts(
    name="mine",
    base="owner/model",
    dataset="owner/data",
    tags=("trl", "qrpo", "trl"),
    rows=40,
    pairs=True,
    adapter=False,
    settings={"loss_type": "qrpo", "beta": 0.1},
    reference_rewards=8,
    step=3,
    steps=5,
)


def card(**changes):
    return ModelCard(model_card.text(dataclasses.replace(FACTS, **changes)))


def test_the_hub_reads_its_metadata():
    data = card().data
    assert (data.library_name, data.model_name, data.base_model) == ("transformers", "mine", "owner/model")
    assert (data.datasets, data.tags) == (["owner/data"], ["generated_from_trainer", "trl", "qrpo"])
    assert card(adapter=True).data.library_name == "peft"


def test_it_says_what_was_done_and_how_far():
    text = " ".join(card().text.split())
    assert "of owner/model, trained with Quantile Reward Policy Optimization (QRPO) on 40 preference pairs" in text
    assert "each with 8 reference rewards. The card was written at step 3 of 5." in text
    assert "| beta | 0.1 |" in text
    single = card(pairs=False, adapter=True, reference_rewards=None, settings={"loss_type": "dpo"}).text
    assert "A LoRA adapter of owner/model, trained with Direct Preference Optimization (DPO)" in single
    assert "40 single completions with rewards" in single
    assert "reference rewards" not in single


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_folder_of_this_machine_is_no_model_of_the_hub(tmp_path, in_memory):
    (tmp_path / "policy").mkdir()
    made = card(base=None if in_memory else str(tmp_path / "policy"), dataset=None)
    assert made.data.base_model is None
    assert str(tmp_path) not in made.content
    assert f"version of {'a model given in memory' if in_memory else 'policy'}, trained" in made.text
