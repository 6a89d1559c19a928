"""The plan's numbers against counts made by hand, and that it changes nothing."""

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from qrpo_lib import cli, pipeline, plan, profiles, runs


def by_kind(profile, arm, **assumed):
    found = plan.stages(profile, plan.Assumptions(**assumed))
    return {stage.kind: stage for stage in found if stage.arm == arm}


def test_tiny_counts_its_steps_and_writes_nothing(runs_folder, capsys):
    found = by_kind("tiny", "chat", completion_tokens=50, prompt_tokens=10)
    profile = profiles.load("tiny", "chat")
    experiment, sampling, task = profile.experiment, profile.reference_sampling, profile.task
    prompts = task.train_prompts + task.selection_prompts + task.reporting_prompts
    assert found["training"].steps >= len(experiment.algorithms) * len(experiment.seeds)
    assert (
        found["sampling"].tokens
        == found["sampling"].steps * prompts * (sampling.completions + sampling.ref_rewards) * 50
    )
    assert cli.main(["plan", "--profile", "tiny"]) == 0
    assert "Assumed, not measured" in capsys.readouterr().out
    assert not runs_folder.exists()


def test_what_is_done_is_not_planned(runs_folder):
    task = pipeline.policy(profiles.load("tiny", "chat"))
    before = by_kind("tiny", "chat")["policy"]
    runs.complete(task.step, lambda folder: None)
    after = by_kind("tiny", "chat")["policy"]
    assert (before.done, before.jobs, after.done, after.jobs, after.disk) == (0, 1, 1, 0, 0)


def test_parameters_of_tiny_are_those_of_the_model():
    settings = profiles.load("tiny").policy
    config = LlamaConfig(
        vocab_size=settings.vocabulary_size,
        hidden_size=settings.hidden_size,
        intermediate_size=3 * settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        tie_word_embeddings=True,
    )
    assert plan._parameters(profiles.load("tiny")) == LlamaForCausalLM(config).num_parameters()


def test_the_papers_scale_by_hand(runs_folder):
    """Magpie-Air with Llama: 97,812 pairs of two completions of 500 tokens, on devices of 100 teraflops."""
    found = by_kind(
        "gh200", "llama-magpieair", completion_tokens=500, prompt_tokens=100, tflops=100, tokens_a_second=1e9
    )
    training = found["training"]
    tokens = 97_812 * 2 * 600
    seconds = 10 * 8.03e9 * tokens / 100e12
    assert training.hours == pytest.approx(training.steps * seconds / 3600, rel=1e-3)
    assert training.disk == pytest.approx(training.steps * 16.06)
    assert found["sampling"].jobs == 2 * 16  # of the initial and of the fine-tuned policy
    assert training.steps == 4 * 54 + 84  # of the 90 models of Figure 3 and its versions, 6 are in the grid
    assert (training.nodes, training.done) == (2, 0)


def test_the_papers_code_arm_by_hand(runs_folder):
    """LeetCode: 2,563 problems, 10 pairs and 40 completions each, from the fine-tuned policy alone."""
    found = by_kind("gh200", "llama-leetcode", completion_tokens=500, prompt_tokens=100, tokens_a_second=1000)
    assert found["training"].steps == 4 * 9
    assert (found["sft"].steps, found["sampling"].steps) == (1, 1)
    assert found["sft"].tokens == 2_563 * 3 * 600
    assert found["sampling"].hours == pytest.approx((2_563 + 223) * 40 * 500 / 1000 / 3600)
    evaluations = 5 * 223 * 3 * 500
    assert found["training"].tokens == 36 * (2_563 * 10 * 2 * 600 + evaluations)


def test_a_policy_that_two_arms_share_is_planned_once(runs_folder):
    found = plan.stages("gh200", plan.Assumptions())
    assert [stage.arm for stage in found if stage.kind == "policy"] == ["llama-magpieair", "mistral-magpieair"]
