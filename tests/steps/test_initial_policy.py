"""The initial policy from the hub: that model, with the padding token that the profile names."""

import json

import pytest
from hub_copies import tokenizer
from transformers import AutoTokenizer

from qrpo_lib.models import chat_template, hub
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import (
    initial_policy,
    reference_sampling,
    shifts,
)


def test_a_hub_policy_is_that_model_with_its_padding_token_set(hub_profile, runs_folder, tmp_path):
    profile = profiles.load(hub_profile)
    folder = initial_policy.run(profile)
    made = AutoTokenizer.from_pretrained(folder)
    assert (made.pad_token, made.eos_token) == ("<pad>", "</s>")
    assert chat_template.prompt_ids(made, "what is it") == chat_template.prompt_ids(tokenizer(), "what is it")
    from safetensors.torch import load_file

    original = load_file(tmp_path / "copies" / "owner" / "model" / "model.safetensors")
    saved = load_file(folder / "model.safetensors")
    assert original.keys() == saved.keys()
    assert all((original[name] == saved[name]).all() for name in original)


def test_evaluation_values_are_no_part_of_a_hub_policy(hub_profile):
    profile = profiles.load(hub_profile)
    assert profile.evaluation_sampling == {"temperature": 0.6, "top_p": 0.9}
    other = profile.model_copy(update={"policy": profile.policy.model_copy(update={"temperature": 0.7})})
    assert initial_policy.step(other).key == initial_policy.step(profile).key


def test_a_padding_token_that_does_not_exist_is_named(hub_profile, runs_folder):
    hub_profile.write_text(hub_profile.read_text().replace('pad_token = "<pad>"', 'pad_token = "<fill>"'))
    with pytest.raises(hub.HubError, match="has no token '<fill>'"):
        initial_policy.run(profiles.load(hub_profile))


def test_a_padding_token_outside_the_embeddings_is_named(hub_profile, runs_folder, tmp_path):
    """As models have it whose tokenizer was given a token that their embeddings never had."""
    source = tmp_path / "copies" / "owner" / "model"
    longer = tokenizer()
    embedded = len(longer)
    longer.add_special_tokens({"pad_token": "<fill>"})
    longer.save_pretrained(source)
    text = hub_profile.read_text()
    hub_profile.write_text(text.replace('pad_token = "<pad>"', 'pad_token = "<fill>"'))
    message = rf"'<fill>' of owner/model has the id {embedded}, but the model embeds the ids below {embedded} alone"
    with pytest.raises(hub.HubError, match=message):
        initial_policy.run(profiles.load(hub_profile))
    # The model's own padding token may be such a one: the profile's takes its place.
    settings = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(settings | {"pad_token_id": embedded}))
    hub_profile.write_text(text)
    folder = initial_policy.run(profiles.load(hub_profile))
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == tokenizer().convert_tokens_to_ids(
        "<pad>"
    )


@pytest.mark.parametrize("name", ["tiny", "smol"])
def test_code_arm_shares_the_policy_of_the_chat_arm(name):
    chat, code = profiles.load(name, "chat"), profiles.load(name, "code")
    assert initial_policy.step(chat).key == initial_policy.step(code).key
    assert reference_sampling.step(chat).key != reference_sampling.step(code).key
    assert shifts.source(code.training.setting) == "off-policy-random" != chat.training.setting
