"""How many prompts, rows and parameters a plan counts: those at hand, or what is said to be unknown."""

import json

import pytest
from hub_copies import chat_model, classifier, magpieair, tokenizer
from transformers import LlamaForCausalLM

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.suite import cli, plan, plan_sizes
from qrpo_lib.tasks import registry as tasks


def by_kind(profile, arm, **assumed):
    found = plan.stages(profile, plan.Assumptions(**assumed))
    return {stage.kind: stage for stage in found if stage.arm == arm}


OWN = """
extends = "gh200"
[experiment]
arms = ["llama-magpieair"]
[policy]
model = "own/model"
pad_token = "<pad>"
[task]
dataset = "own/data"
tokenizer = "own/model"
reward.model = "own/reward"
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A profile with a dataset and models of one's own, and the folder where their local copies would be."""
    monkeypatch.setenv("QRPO_DATA", str(tmp_path / "copies"))
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return path, tmp_path / "copies" / "own"


def shown(path, capsys):
    assert cli.main(["plan", "--profile", str(path)]) == 0
    return capsys.readouterr().out


def test_what_is_not_at_hand_is_said_to_be_unknown(own, runs_folder, capsys):
    path, _ = own
    text = " ".join(shown(path, capsys).split())
    assert "UNKNOWN: how many prompts own/data has (no local copy); assumed as many as the paper's magpieair" in text
    assert "UNKNOWN: how many parameters own/model has (no local copy); assumed 8 G" in text
    assert "UNKNOWN: how many parameters own/reward has (no local copy); assumed 7.5 G" in text
    assert "Memory in training: llama-magpieair: UNKNOWN for own/model (no local copy" in text
    assert "UNKNOWN" not in " ".join(shown("gh200", capsys).split())
    assert not runs_folder.exists()


def test_own_data_and_models_are_counted(own, runs_folder, capsys):
    path, copies = own
    magpieair(copies / "data", train=20, test=7)
    chat_model(copies / "model")
    classifier(copies / "reward")
    model = LlamaForCausalLM.from_pretrained(copies / "model")
    sizes = plan_sizes.of_arm(profiles.load(path))
    assert (sizes.train.number, sizes.held_out.number) == (20, 7)
    assert sizes.policy.number == model.num_parameters()
    head = model.lm_head.weight.numel() - model.config.hidden_size  # one output instead of the vocabulary
    assert sizes.reward_model.number == model.num_parameters() - head
    assert sizes.notes == ["own/data: all rows of its local copy, of which the task's filters may leave fewer"]
    text = shown(path, capsys)
    assert "UNKNOWN" not in text
    found = by_kind(str(path), "llama-magpieair", completion_tokens=10)
    assert found["sampling"].tokens == found["sampling"].steps * 27 * (6 + 44) * 10
    assert not runs_folder.exists()


def test_a_configuration_without_weights_is_enough(own):
    path, copies = own
    chat_model(copies / "model")
    with_weights = plan_sizes.policy(profiles.load(path))
    (copies / "model" / "model.safetensors").write_bytes(b"a download that broke off")
    assert plan_sizes.policy(profiles.load(path)) == with_weights
    (copies / "model" / "config.json").write_text("{}")
    assert plan_sizes.policy(profiles.load(path)).note.startswith("UNKNOWN: how many parameters own/model has (no read")


def test_shards_are_summed(own):
    path, copies = own
    chat_model(copies / "model")
    whole = plan_sizes.policy(profiles.load(path))
    LlamaForCausalLM.from_pretrained(copies / "model").save_pretrained(copies / "model", max_shard_size="8KB")
    assert len(list((copies / "model").glob("model-*.safetensors"))) > 1
    assert plan_sizes.policy(profiles.load(path)) == whole


def test_prepared_data_are_counted_after_their_filter(own, runs_folder):
    from qrpo_lib.tasks import hub_task

    path, copies = own
    path.write_text(f"{OWN}max_tokens = 16\n")
    magpieair(copies / "data")
    copies.joinpath("model").mkdir(parents=True)
    tokenizer().save_pretrained(copies / "model")
    task = profiles.load(path).task
    assert [size.number for size in plan_sizes.prompts(profiles.load(path))] == [24, 11]
    counts = json.loads((tasks.of(task).prepared() / hub_task.COUNTS).read_text())
    assert counts["train"]["remain"] == 22  # one is too long, one has two turns
    assert plan_sizes.prompts(profiles.load(path)) == (plan_sizes.Size(22), plan_sizes.Size(11))


def test_a_split_that_the_local_copy_has_not_is_refused(own, capsys):
    path, copies = own
    magpieair(copies / "data")
    path.write_text(OWN + 'train_split = "training"\n')
    assert cli.main(["plan", "--profile", str(path)]) == 2
    assert "has no readable split 'training': it has test, train" in " ".join(capsys.readouterr().out.split())
