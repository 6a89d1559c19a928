"""Evaluation as a stage of its own: what checkpoints answer, from which folders, by whom, and what is computed once."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qrpo_lib.models import chat_template
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import folders, records
from qrpo_lib.runs.errors import InputError
from qrpo_lib.sampling import sampler
from qrpo_lib.steps import (
    checkpoint_evaluation,
    evaluation,
    fitting,
    initial_policy,
    log_ratios,
    reference_evaluation,
    reference_policy,
)
from qrpo_lib.tasks import registry as tasks
from qrpo_lib.tasks import topics

BASE = Path(__file__).parents[1] / "data" / "smallest.toml"
pytestmark = pytest.mark.usefixtures("shared_runs")


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """The smallest, with two answers to a selection prompt and three to a reporting one."""
    path = tmp_path_factory.mktemp("profile") / "evaluated.toml"
    path.write_text(f'extends = "{BASE}"\n[evaluation]\nrepeats = 2\nreporting_repeats = 3\n')
    return profiles.load(path)


@pytest.fixture(scope="module")
def answers(profile):
    """What the checkpoints of one training answer to the selection prompts."""
    return evaluation.load(checkpoint_evaluation.run(profile, "qrpo", 0))


def plain_log_probs(policy, prompts, tokenizer, row):
    """Sum of the token's log-probabilities by the logits of one forward pass."""
    start = chat_template.prompt_ids(tokenizer, prompts[row.prompt_id])
    ids = list(row.token_ids)
    with torch.no_grad():
        logits = policy(torch.tensor([start + ids])).logits[0].log_softmax(-1)
    return sum(float(logits[len(start) + i - 1, token]) for i, token in enumerate(ids))


def test_the_selection_prompts_are_answered_by_every_checkpoint(profile, answers):
    assert list(answers.columns) == [*evaluation.RECORDED, "token_ids"]
    assert answers.groupby("step").size().to_dict() == {2: 8 * 2, 4: 8 * 2}
    prompts = {one.id: one for one in tasks.of(profile.task).prompts(profile.seed)}
    assert {prompts[name].split for name in answers["prompt_id"]} == {"selection"} == set(answers["split"])
    assert (answers["length"] <= profile.reference_sampling.max_new_tokens).all()
    texts = [prompts[name].text for name in answers["prompt_id"]]
    np.testing.assert_array_equal(answers["reward"], topics.TopicReward().score(texts, answers["text"].tolist()))


def test_each_checkpoint_answers_with_its_own_weights(profile, answers):
    """Answers are those of its folder's policy sampled alone, and their log-probabilities are that policy's."""
    training = fitting.step(profile, "qrpo", 0).folder
    tokenizer = AutoTokenizer.from_pretrained(reference_policy.step(profile).folder)
    prompts = {one.id: one.text for one in tasks.of(profile.task).prompts(profile.seed)}
    asked = [name for name in prompts if name in set(answers["prompt_id"])]
    weights = []
    for step, folder in fitting.checkpoints(training).items():
        of_step = answers[answers["step"] == step]
        drawn = sampler.sample(
            folder,
            tokenizer,
            [chat_template.prompt_ids(tokenizer, prompts[name]) for name in asked],
            completions=2,
            max_new_tokens=profile.reference_sampling.max_new_tokens,
            batch_size=profile.reference_sampling.batch_size,
            seed=0,
            **profile.evaluation_sampling,
        )
        assert [list(ids) for ids in of_step["token_ids"]] == [one.token_ids for one in drawn]
        policy = AutoModelForCausalLM.from_pretrained(folder).eval()
        for row in of_step.head(4).itertuples():
            assert row.logp == pytest.approx(plain_log_probs(policy, prompts, tokenizer, row), abs=2e-3)
        weights.append(policy.lm_head.weight)
    assert not torch.equal(*weights)


def test_a_report_is_of_one_checkpoint_on_the_reporting_prompts(profile):
    for step in (2, 4):
        rows = evaluation.load(checkpoint_evaluation.report(profile, "qrpo", 0, step))
        assert set(rows["step"]) == {step}
        assert rows["split"].value_counts().to_dict() == {"reporting": 12 * 3}
    start = reference_evaluation.load(reference_evaluation.run(profile, 0, "reporting"))
    assert len(start) == 12 * 3
    np.testing.assert_array_equal(start["logp"], start["ref_logp"])


def test_log_ratios_are_those_of_plain_forward_passes(profile):
    rows = evaluation.load(checkpoint_evaluation.report(profile, "qrpo", 0, 4))
    made = log_ratios.load(log_ratios.run(profile, "qrpo", 0, 4, "reporting"))
    assert made[["prompt_id", "repeat"]].equals(rows[["prompt_id", "repeat"]])
    start = reference_policy.step(profile).folder
    tokenizer = AutoTokenizer.from_pretrained(start)
    prompts = {one.id: one.text for one in tasks.of(profile.task).prompts(profile.seed)}
    trained = checkpoint_evaluation.policy(fitting.step(profile, "qrpo", 0).folder, 4)
    policies = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (trained, start)]
    for row, computed in zip(rows.head(6).itertuples(), made.head(6).itertuples(), strict=True):
        for policy, value in zip(policies, (computed.logp, computed.ref_logp), strict=True):
            assert value == pytest.approx(plain_log_probs(policy, prompts, tokenizer, row), abs=2e-3)
    assert not np.allclose(made["logp"], made["ref_logp"])
    of_selection = log_ratios.load(log_ratios.run(profile, "qrpo", 0, 4, "selection"))
    assert len(of_selection) == 8 * 2


def test_an_answer_that_is_known_is_not_scored_again(profile, monkeypatch):
    """Neither one of the policy before training nor the same one of two checkpoints; its reward is the known one."""
    scored, score = [], topics.TopicReward.score
    monkeypatch.setattr(topics.TopicReward, "score", lambda self, p, c: scored.extend(c) or score(self, p, c))
    known = reference_evaluation.load(reference_evaluation.run(profile, 1, "selection"))
    scored.clear()
    rows = evaluation.load(checkpoint_evaluation.run(profile, "dpo", 1))
    before = set(zip(known["prompt_id"], known["text"], strict=True))
    given = set(zip(rows["prompt_id"], rows["text"], strict=True))
    assert len(scored) == len(given - before)
    assert given & before
    training = fitting.step(profile, "dpo", 1).folder
    told = known.assign(reward=known["reward"] + 1)  # as nobody would compute it
    asked = evaluation.Asked(profile, 1, "selection", fitting.checkpoints(training), told)
    this = checkpoint_evaluation.step(profile.with_training(**{"dpo.beta": 0.7}), "dpo", 1)  # a place for shards
    evaluation.share(this, asked)
    again = evaluation.recorded(this, asked)
    is_known = np.array([key in before for key in zip(rows["prompt_id"], rows["text"], strict=True)])
    np.testing.assert_allclose(again["reward"], rows["reward"] + is_known)


class Killed(Exception):
    pass


def test_what_was_sampled_before_a_kill_is_not_sampled_again(profile, monkeypatch):
    """Killed between training and evaluation, and in the midst of it: the same bytes, each checkpoint sampled once."""
    whole = checkpoint_evaluation.run(profile, "qrpo", 0)
    content = (whole / evaluation.EVALUATION).read_bytes()
    folders.discard(whole)
    sampled, plain = [], sampler.Sampler.sample

    def sample(self, *arguments, **settings):
        if len(sampled) == 1 and not resumed:
            raise Killed
        sampled.append(1)
        return plain(self, *arguments, **settings)

    resumed = False
    monkeypatch.setattr(sampler.Sampler, "sample", sample)
    with pytest.raises(Killed):
        checkpoint_evaluation.run(profile, "qrpo", 0)
    resumed = True
    assert (checkpoint_evaluation.run(profile, "qrpo", 0) / evaluation.EVALUATION).read_bytes() == content
    assert len(sampled) == 2


def test_one_policy_is_loaded_at_a_time_and_none_when_rewards_are_computed(profile, monkeypatch):
    loaded, most = [], []
    opened, closed, score = sampler.Sampler.__init__, sampler.Sampler.close, topics.TopicReward.score
    monkeypatch.setattr(sampler.Sampler, "__init__", lambda s, *a, **k: loaded.append(s) or opened(s, *a, **k))
    monkeypatch.setattr(sampler.Sampler, "close", lambda s: closed(s) or (loaded.remove(s) if s in loaded else None))
    plain = sampler.Sampler.sample
    monkeypatch.setattr(sampler.Sampler, "sample", lambda s, *a, **k: most.append(len(loaded)) or plain(s, *a, **k))
    monkeypatch.setattr(topics.TopicReward, "score", lambda s, p, c: most.append(-len(loaded)) or score(s, p, c))
    folders.discard(checkpoint_evaluation.run(profile, "qrpo", 0))
    most.clear()
    checkpoint_evaluation.run(profile, "qrpo", 0)
    assert most == [1, 1, 0]  # two checkpoints sampled, one after the other, then scored


def test_a_checkpoint_that_is_gone_is_named_with_what_to_do(profile):
    training = fitting.run(profile, "simpo", 0)
    folders.remove_parts(training, ["checkpoints/2"])
    records.check(training)  # nobody misses it
    assert list(fitting.checkpoints(training)) == [4]
    with pytest.raises(InputError, match=f"no policy after 2 steps any more.*qrpo clean --run {training.name}"):
        checkpoint_evaluation.run(profile, "simpo", 0)
    assert len(evaluation.load(checkpoint_evaluation.report(profile, "simpo", 0, 4))) == 36


def test_what_an_evaluation_depends_on(profile):
    step = checkpoint_evaluation.step(profile, "qrpo", 0)
    assert [one.name for one in step.inputs] == ["training", "reference_evaluation"]
    training = fitting.step(profile, "qrpo", 0)
    changed = profile.model_copy(update={"evaluation": profile.evaluation.model_copy(update={"reporting_repeats": 5})})
    assert fitting.step(changed, "qrpo", 0).key == training.key
    assert checkpoint_evaluation.step(changed, "qrpo", 0).key == step.key
    reports = [checkpoint_evaluation.report_step(one, "qrpo", 0, 4) for one in (profile, changed)]
    assert reports[0].key != reports[1].key
    other = checkpoint_evaluation.step(profile.with_training(**{"qrpo.beta": 0.7}), "qrpo", 0)
    assert other.parameters["loss"]["beta"] == 0.7  # so that records alone tell one training's answers from another's
    assert {one.name: one.key == source.key for one, source in zip(other.inputs, step.inputs, strict=True)} == {
        "training": False,
        "reference_evaluation": True,
    }
    kept = profile.model_copy(update={"evaluation": profile.evaluation.model_copy(update={"kept": "all"})})
    assert checkpoint_evaluation.step(kept, "qrpo", 0).key == step.key


def test_a_profile_of_one_number_asks_both_splits_as_often():
    smallest = profiles.load(BASE)
    assert [smallest.evaluation.of_split(split) for split in evaluation.HELD_OUT] == [1, 1]
    gh200 = profiles.load("gh200")
    assert [gh200.evaluation.of_split(split) for split in evaluation.HELD_OUT] == [3, 3]
    assert checkpoint_evaluation.step(gh200, "qrpo", 0).parameters["backend"] == "vllm"


@pytest.mark.slow
def test_two_processes_share_the_checkpoints(profile, monkeypatch):
    """As tasks of a cluster's job do: the folder is that of one process, and neither made all of it."""
    whole = checkpoint_evaluation.run(profile, "rebel", 0)
    content = (whole / evaluation.EVALUATION).read_bytes()
    folders.discard(whole)
    path = initial_policy.step(profile).folder.parent / "shared.toml"
    path.write_text(f'extends = "{BASE}"\n[evaluation]\nrepeats = 2\nreporting_repeats = 3\n')
    code = "import sys; from qrpo_lib.profiles import settings; from qrpo_lib.steps import checkpoint_evaluation as c\n"
    code += "c.run(settings.load(sys.argv[1]), 'rebel', 0)"
    command = [sys.executable, "-c", code, str(path)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=900)
        assert process.returncode == 0, said[-2000:]
    assert (whole / evaluation.EVALUATION).read_bytes() == content
    assert not checkpoint_evaluation.step(profile, "rebel", 0).shards.exists()


def test_recorded_answers_read_as_the_reference_says(profile):
    frame = reference_evaluation.load(reference_evaluation.run(profile, 3, "selection"), ["prompt_id", "reward"])
    assert list(frame.columns) == ["prompt_id", "reward"]
    pandas.testing.assert_frame_equal(
        frame, reference_evaluation.load(reference_evaluation.step(profile, 3, "selection").folder)[frame.columns]
    )
