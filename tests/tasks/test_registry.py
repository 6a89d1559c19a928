import json

import pytest
from hub_copies import classifier

from qrpo_lib.models import hub
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.tasks import registry as tasks
from qrpo_lib.tasks import topics

ULTRA = "HuggingFaceH4/ultrafeedback_binarized"


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


def test_what_of_the_hub_is_missing_is_said_before_work(hub_profile, monkeypatch):
    profile = profiles.load(hub_profile)
    with pytest.raises(hub.HubError, match="no revision of the model owner/reward"):
        tasks.check_available(profile)
    monkeypatch.delenv("QRPO_DATA")
    with pytest.raises(hub.HubError, match=f"no revision of the dataset {ULTRA}"):
        tasks.check_available(profile)


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
