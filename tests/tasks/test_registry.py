import inspect
import json
import typing

import datasets
import pytest
from hub_copies import TEMPLATE, chat_model, classifier, tokenizer, ultrafeedback
from transformers import AutoTokenizer

from qrpo_lib.models import chat_template, hub
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import initial_policy
from qrpo_lib.tasks import base, topics
from qrpo_lib.tasks import registry as tasks

ULTRA = "HuggingFaceH4/ultrafeedback_binarized"
EOS = 2


def ids(text):
    return tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_prompt_and_completion_are_the_chat_template_in_two_parts():
    prompt = chat_template.prompt_ids(tokenizer(), "what is the sea")
    completion = chat_template.completion_ids(tokenizer(), "what is the sea", "it is deep")
    assert prompt == ids("<|user|> what is the sea <|assistant|>")
    assert completion == ids("it is deep </s>")


def test_a_completion_ends_with_one_end_of_sequence_token_whatever_follows_it_in_the_template():
    made = tokenizer()
    made.chat_template = TEMPLATE.replace("' </s>'", "' </s> \\n'")  # as SmolLM2 has it
    assert chat_template.completion_ids(made, "what is it", "it is deep") == ids("it is deep </s>")
    assert chat_template.completion_ids(made, "what is it", "") == [EOS]


def test_a_template_whose_turns_have_no_end_is_refused():
    """What is sampled would run on past the turn."""
    made = tokenizer()
    made.chat_template = TEMPLATE.replace("' </s>'", "' '")
    with pytest.raises(InputError, match="does not end an answer with an end token"):
        chat_template.completion_ids(made, "what is it", "it is deep")


@pytest.mark.parametrize("answer", ["it is </s> deep", "it is deep </s>"])
def test_an_answer_that_writes_the_end_of_sequence_token_is_refused(answer):
    with pytest.raises(chat_template.UnusableAnswer, match="end-of-sequence"):
        chat_template.completion_ids(tokenizer(), "what is it", answer)


def test_a_token_across_the_border_of_prompt_and_answer_is_split():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # "\n\n" is one token, so an answer that begins with a line break merges with the end of the prompt.
    vocabulary = {"</s>": 0, ":": 1, "\u010a": 2, "\u010a\u010a": 3, "a": 4, "b": 5}
    backend = Tokenizer(models.BPE(vocabulary, [("\u010a", "\u010a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    made.chat_template = (
        "{% for m in messages %}{{ m['content'] + (':\\n' if m['role'] == 'user' else '</s>') }}{% endfor %}"
    )
    assert chat_template.prompt_ids(made, "a") == [4, 1, 2]
    whole = made.apply_chat_template(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\nb"}], tokenize=True, return_dict=False
    )
    assert whole == [4, 1, 3, 5, 0]
    assert chat_template.completion_ids(made, "a", "\nb") == [2, 5, 0]
    assert made.decode([*chat_template.prompt_ids(made, "a"), 2, 5]) == "a:\n\nb"


def test_topics_demonstrations_are_ranked_pairs_better_than_the_policys_own():
    sizes = {"train_prompts": 200, "selection_prompts": 10, "reporting_prompts": 10}
    task = profiles.load("tiny", "chat").task.model_copy(update=sizes)
    every = tasks.of(task).prompts(0)
    found = tasks.of(task).demonstrations(0)
    assert [one.prompt_id for one in found] == [prompt.id for prompt in every]
    reward = topics.TopicReward()
    texts = [prompt.text for prompt in every]
    chosen = reward.score(texts, [one.chosen for one in found])
    rejected = reward.score(texts, [one.rejected for one in found])
    assert (chosen >= rejected).all()
    assert chosen.mean() > rejected.mean() + 0.3
    # the writer of the instruction examples, as the policy was taught: one answer to a request each
    taught = topics.conversations(200, 1)
    assert chosen.mean() > reward.score(*zip(*taught, strict=True)).mean() + 0.3
    assert tasks.of(task).demonstrations(0) == found
    assert tasks.of(task).demonstrations(1) != found


def test_written_prompts_have_no_demonstrations():
    with pytest.raises(ValueError, match="task written has no completions of its own"):
        tasks.of(profiles.load("smol", profiles.arms("smol")[0]).task).demonstrations(0)


@pytest.fixture
def hub_profile(tmp_path, monkeypatch):
    """A profile with policy, data and reward of the hub, all local copies."""
    copies = tmp_path / "copies"
    ultrafeedback(copies / ULTRA)
    chat_model(copies / "owner" / "model")
    monkeypatch.setenv("QRPO_DATA", str(copies))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "hub.toml"
    path.write_text(HUB_PROFILE)
    return path


HUB_PROFILE = f"""
seed = 0
[arms.chat]
[policy]
source = "hub"
model = "owner/model"
pad_token = "<pad>"
temperature = 0.6
top_p = 0.9
[task]
name = "ultrafeedback"
dataset = "{ULTRA}"
train_split = "train_prefs"
test_split = "test_prefs"
tokenizer = "owner/model"
max_tokens = 30
[task.reward]
kind = "classifier"
model = "owner/reward"
max_tokens = 2048
batch_size = 4
dtype = "float32"
[reference_sampling]
backend = "transformers"
completions = 6
ref_rewards = 3
max_new_tokens = 6
batch_size = 64
threads = 1
[sft]
learning_rate = 1e-3
batch_size = 8
micro_batch_size = 8
epochs = 1
[training]
setting = "sft-offline"
batch_size = 8
micro_batch_size = 8
epochs = 1
checkpoints = 1
precision = "float32"
threads = 1
max_tokens = 12
[training.qrpo]
beta = 0.1
learning_rate = 1e-3
num_ref_rewards = 3
[training.dpo]
beta = 0.1
learning_rate = 1e-3
[training.rebel]
beta = 0.1
learning_rate = 1e-3
[training.simpo]
beta = 2.0
learning_rate = 1e-3
[evaluation]
repeats = 2
[experiment]
algorithms = ["qrpo"]
seeds = [0]
"""


def test_hub_prompts_and_demonstrations_belong_together(hub_profile, runs_folder):
    task = profiles.load(hub_profile).task
    prompts, found = tasks.of(task).prompts(0), tasks.of(task).demonstrations(0)
    assert [prompt.id for prompt in prompts] == [one.prompt_id for one in found]
    assert [step.name for step in tasks.of(task).inputs()] == ["chat_data"]
    assert prompts[3].text == "what is the green"
    assert (found[3].chosen, found[3].rejected) == ("a of sea tree", "a")


def test_what_of_the_hub_is_missing_is_said_before_work(hub_profile, monkeypatch):
    profile = profiles.load(hub_profile)
    with pytest.raises(hub.HubError, match="no revision of the model owner/reward"):
        tasks.check_available(profile)
    monkeypatch.delenv("QRPO_DATA")
    with pytest.raises(hub.HubError, match=f"no revision of the dataset {ULTRA}"):
        tasks.check_available(profile)


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
    hub_profile.write_text(HUB_PROFILE.replace('pad_token = "<pad>"', 'pad_token = "<fill>"'))
    with pytest.raises(hub.HubError, match="has no token '<fill>'"):
        initial_policy.run(profiles.load(hub_profile))


def test_a_padding_token_outside_the_embeddings_is_named(hub_profile, runs_folder, tmp_path):
    """As models have it whose tokenizer was given a token that their embeddings never had."""
    source = tmp_path / "copies" / "owner" / "model"
    longer = tokenizer()
    embedded = len(longer)
    longer.add_special_tokens({"pad_token": "<fill>"})
    longer.save_pretrained(source)
    hub_profile.write_text(HUB_PROFILE.replace('pad_token = "<pad>"', 'pad_token = "<fill>"'))
    message = rf"'<fill>' of owner/model has the id {embedded}, but the model embeds the ids below {embedded} alone"
    with pytest.raises(hub.HubError, match=message):
        initial_policy.run(profiles.load(hub_profile))
    # The model's own padding token may be such a one: the profile's takes its place.
    settings = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(settings | {"pad_token_id": embedded}))
    hub_profile.write_text(HUB_PROFILE)
    folder = initial_policy.run(profiles.load(hub_profile))
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == tokenizer().convert_tokens_to_ids(
        "<pad>"
    )


@pytest.mark.slow
def test_a_hub_profile_runs_from_its_data_to_the_trained_policy(hub_profile, runs_folder, tmp_path):
    from qrpo_lib.steps import checkpoint_evaluation, evaluation, fitting

    classifier(tmp_path / "copies" / "owner" / "reward")
    profile = profiles.load(hub_profile)
    tasks.check_available(profile)
    answered = checkpoint_evaluation.run(profile, "qrpo", 0)
    made = fitting.step(profile, "qrpo", 0).folder
    assert {path.name.rpartition("-")[0] for path in runs_folder.glob("*-*")} == {
        "chat_data",
        "dataset_pairs",
        "initial_policy",
        "reference_sampling",
        "reference_evaluation",
        "reference_log_probs",
        "sft",
        "training",
        "evaluation",
    }
    report = json.loads((made / fitting.PAIRS).read_text())
    assert report["train"]["pairs"] == 24
    assert report["validation"]["pairs"] == 6
    (sft,) = runs_folder.glob("sft-*")
    assert json.loads((sft / "sequences.json").read_text())["sequences"] == 24
    assert evaluation.load(answered).groupby("split").size().to_dict() == {"selection": 6 * 2}
    last = checkpoint_evaluation.report(profile, "qrpo", 0, fitting.last_step(made))
    assert evaluation.load(last).groupby("split").size().to_dict() == {"reporting": 5 * 2}


def test_every_kind_of_task_that_a_profile_can_name_has_its_class():
    """And a class of its own settings: two kinds share one only where the settings say what differs."""
    named = set(typing.get_args(typing.get_args(profiles.Task)[0]) or typing.get_args(profiles.Task))
    assert named == set(tasks._CLASSES)
    for kind in named:
        settings = kind.model_construct()
        assert issubclass(tasks._class_of(settings), base.Task)
        assert not inspect.isabstract(tasks._class_of(settings))
