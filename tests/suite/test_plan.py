"""The plan's numbers against counts made by hand, and that it changes nothing."""

from types import SimpleNamespace

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from qrpo_lib.experiment import jobs
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import folders
from qrpo_lib.suite import cli, plan, plan_sizes


def by_kind(profile, arm, **assumed):
    found = plan.stages(profile, plan.Assumptions(**assumed))
    return {stage.kind: stage for stage in found if stage.arm == arm}


COUNTED = """
extends = "tiny"
name = "counted"

[arms.chat.task]
train_prompts = 8
selection_prompts = 2
reporting_prompts = 3

[reference_sampling]
completions = 4
ref_rewards = 11

[sft]
epochs = 2

[training]
epochs = 3
checkpoints = 7

[evaluation]
repeats = 2
reporting_repeats = 6

[experiment]
arms = ["chat"]
algorithms = ["dpo", "qrpo"]
seeds = [0, 1, 2]
grid_seeds = 2

[experiment.betas]
dpo = [0.1]
qrpo = [0.1, 0.3]

[arms.chat.experiment]
settings = ["off-policy-best", "sft-off-policy-random"]
scaling = [{ settings = ["off-policy-random"], num_ref_rewards = [1, 11], betas = [0.3] }]

[arms.chat.experiment.transformations]
setting = "off-policy-best"
transforms = ["identity", "sqrt"]
betas = [0.3]
"""
# A Llama of width 128 with 640 words: the words' vectors, then of each of 4 layers four square matrices of attention,
# three of the feed-forward block three times as wide, and two norms; one more norm. The head shares the vectors.
PARAMETERS = 640 * 128 + 4 * (4 * 128 * 128 + 3 * 128 * 384 + 2 * 128) + 128


def test_every_stage_by_hand_and_nothing_is_written(runs_folder, tmp_path, capsys):
    """Answers of 50 tokens to 13 prompts of 10; 10^9 operations and 100 sampled tokens a second."""
    path = tmp_path / "counted.toml"
    path.write_text(COUNTED)
    assumed = {"completion_tokens": 50, "prompt_tokens": 10, "tflops": 1e-3, "tokens_a_second": 100}
    found = by_kind(str(path), "chat", **assumed)
    steps = {
        "policy": 1,
        "sft": 1,
        "sampling": 2,  # of the initial and of the fine-tuned policy
        "reference_log_probs": 3,  # of the pairs of three settings
        # DPO and QRPO in two settings with two seeds; Figure 3 with three; the square root, since the grid has t
        "training": 2 * 1 * 2 + 2 * 2 * 2 + 2 * 3 + 2,
    }
    # Of each training, and of the start of each seed; the study of Figure 3, without SFT, has a third one.
    steps["evaluation"] = steps["training"] + 3 + 2
    # Two algorithms in two settings, and the last of each, with two seeds; six runs of Figure 3; two
    # transformations with two seeds; the starts.
    steps["reports"] = 2 * (4 + 2) + 6 + 2 * 2 + 5
    checkpoints = 7 * steps["training"]
    read = 3 * 8 * 2 * (10 + 50)
    tokens = {
        "policy": 0,
        "sft": steps["sft"] * 2 * 8 * (10 + 50),
        "sampling": steps["sampling"] * 13 * (4 + 11) * 50,
        "evaluation": (3 + 2 + checkpoints) * 2 * 2 * 50,  # 2 selection prompts, 2 answers
        "reports": steps["reports"] * 3 * 6 * 50,  # 3 reporting prompts, 6 answers
        "reference_log_probs": steps["reference_log_probs"] * 8 * 2 * (10 + 50),
        "training": steps["training"] * read,
    }
    # Of DPO and QRPO with two seeds the log-probabilities of what was answered, under policy and reference.
    passed = 2 * 2 * 2 * 3 * 6 * (10 + 50)
    seconds = {
        "policy": 0,
        "sft": 6 * PARAMETERS * tokens["sft"] / 1e9,  # without gradient checkpointing
        "sampling": tokens["sampling"] / 100,
        "evaluation": tokens["evaluation"] / 100,
        "reports": tokens["reports"] / 100 + 2 * PARAMETERS * passed / 1e9,
        "reference_log_probs": 2 * PARAMETERS * tokens["reference_log_probs"] / 1e9,
        "training": 6 * PARAMETERS * tokens["training"] / 1e9,
    }
    disk = {kind: steps[kind] * 4 * PARAMETERS for kind in ("policy", "sft")}  # float32
    disk["training"] = steps["training"] * 2 * 4 * PARAMETERS  # the best and the last
    disk |= {kind: 8 * tokens[kind] for kind in ("sampling", "evaluation", "reports")}
    disk["reference_log_probs"] = steps["reference_log_probs"] * 8 * 8  # a pair, and its two numbers
    assert {kind: stage.steps for kind, stage in found.items()} == steps
    for kind, stage in found.items():
        assert (stage.done, stage.jobs, stage.nodes, stage.notes) == (0, steps[kind], 1, ())
        assert stage.tokens == tokens[kind], kind
        assert stage.hours == pytest.approx(seconds[kind] / 3600), kind
        assert stage.disk == pytest.approx(disk[kind] / 1e9), kind
    options = [f"--{name.replace('_', '-')}={value}" for name, value in assumed.items()]
    assert cli.main(["plan", "--profile", str(path), *options]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    (total,) = [line for line in lines if line[:1] == ["all"]]
    every = sum(steps.values())
    hours = sum(seconds.values()) / 3600
    assert total[1:4] == [str(every), "0", str(every)]
    assert f"{hours:,.1f}" in total
    assert not runs_folder.exists()


def test_what_is_done_is_not_planned(runs_folder):
    task = jobs.policy(profiles.load("tiny", "chat"))
    before = by_kind("tiny", "chat")["policy"]
    folders.complete(task.step, lambda folder: None)
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
    assert plan_sizes.policy(profiles.load("tiny")).number == LlamaForCausalLM(config).num_parameters()


def test_the_papers_scale_by_hand(runs_folder):
    """Magpie-Air with Llama: 97,812 pairs of two completions of 500 tokens, on devices of 100 teraflops."""
    found = by_kind(
        "gh200", "llama-magpieair", completion_tokens=500, prompt_tokens=100, tflops=100, tokens_a_second=1e9
    )
    training = found["training"]
    tokens = 764 * 128 * 2 * 600  # whole batches
    seconds = 8 * 8.03e9 * tokens / 100e12
    assert training.hours == pytest.approx(training.steps * seconds / 3600, rel=1e-3)
    reference = found["reference_log_probs"]  # of all pairs
    assert reference.steps == 6
    assert reference.hours == pytest.approx(6 * 2 * 8.03e9 * tokens / 100e12 / 3600, rel=1e-3)
    assert training.disk == pytest.approx(training.steps * 2 * 16.06)  # the best and the last
    assert found["sampling"].jobs == 2 * 16  # of the initial and of the fine-tuned policy
    # Of the 90 models of Figure 3 and its versions, the grid has those with 1 reference and beta 0.003: 2 x 3.
    assert training.steps == 4 * 54 + 84
    evaluation = found["evaluation"]
    assert evaluation.tokens == (2 + 5 * training.steps) * 996 * 3 * 500
    assert evaluation.jobs == training.steps + 2
    # 24 cells of the grid and 4 last ones, 90 of Figure 3; 2 starts.
    assert found["reports"].tokens == (24 + 4 + 90 + 2) * 996 * 3 * 500
    assert (training.nodes, training.done) == (2, 0)


def test_the_papers_code_arm_by_hand(runs_folder):
    """LeetCode: 2,563 problems, 10 pairs and 50 completions each, from the fine-tuned policy alone."""
    found = by_kind("gh200", "llama-leetcode", completion_tokens=500, prompt_tokens=100, tokens_a_second=1000)
    assert found["training"].steps == 4 * 9
    assert (found["sft"].steps, found["sampling"].steps) == (1, 1)
    assert found["sft"].tokens == 20 * 128 * 3 * 600
    assert found["sampling"].hours == pytest.approx((2_563 + 223) * 50 * 500 / 1000 / 3600)
    assert found["training"].tokens == 36 * 200 * 128 * 2 * 600
    assert found["evaluation"].tokens == (1 + 36 * 5) * 112 * 3 * 500
    assert found["reports"].tokens == (4 + 4 + 1) * 111 * 3 * 500


def test_imported_references_are_neither_sampled_nor_scored(runs_folder):
    stages = [by_kind(name, "llama-magpieair") for name in ("gh200", "gh200-released")]
    sampled, imported = (of_profile["sampling"] for of_profile in stages)
    assert (imported.tokens, imported.hours, imported.steps) == (0, 0, 2)
    assert sampled.hours > 0
    assert imported.disk == sampled.disk  # what is kept is the same
    assert imported.jobs == imported.steps  # the file is read by one job, not by sixteen that wait for it
    assert imported.arithmetic.startswith("imported: 99,804 prompts x 50 completions")
    assert stages[0]["training"].hours == stages[1]["training"].hours


def test_what_trainings_resume_from_is_counted_for_those_that_run_at_once(runs_folder, tmp_path):
    path = tmp_path / "few.toml"
    path.write_text('extends = "gh200"\n[dispatch]\nsimultaneous = 3\n[experiment]\narms = ["llama-leetcode"]\n')
    found = plan.stages(str(path), plan.Assumptions())
    # and five policies each in bfloat16, until they are evaluated
    assert plan.resuming_disk(str(path), found) == (3, pytest.approx(3 * (2 * 12 + 5 * 2) * 8.03))


@pytest.mark.parametrize(("free", "is_enough"), [(1e18, True), (1e13, False)])
def test_a_disk_that_is_too_small_is_told(free, is_enough, runs_folder, capsys, monkeypatch):
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert cli.main(["plan", "--profile", "gh200"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert ("TOO LITTLE" in text) == (not is_enough)
    disk = sum(stage.disk for stage in plan.stages("gh200", plan.Assumptions()))
    needed = disk + plan.resuming_disk("gh200", plan.stages("gh200", plan.Assumptions()))[1]
    assert is_enough or f"TOO LITTLE: {needed:,.0f} GB are needed there" in text


def test_every_assumption_says_where_it_is_from(runs_folder, capsys):
    assert cli.main(["plan", "--profile", "gh200", "--tflops", "200"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "tokens a second 6000: the authors' note on vLLM" in text
    assert "completion tokens at most 422: what the authors note, 1,024 prompts x 50 completions in an hour" in text
    assert "tflops 200: given" in text


def test_a_policy_that_two_arms_share_is_planned_once(runs_folder):
    found = plan.stages("gh200", plan.Assumptions())
    assert [stage.arm for stage in found if stage.kind == "policy"] == ["llama-magpieair", "mistral-magpieair"]


@pytest.mark.parametrize(
    ("option", "value"), [("--tflops", "0"), ("--tokens-a-second", "-1"), ("--completion-tokens", "nan")]
)
def test_an_assumption_that_cannot_be_is_refused(option, value, capsys):
    assert cli.main(["plan", option, value]) == 2
    assert f"{option} must be a number above 0" in capsys.readouterr().out


def test_studies_of_relatives_are_counted_model_by_model(tmp_path):
    """Each model once, with its answers to both splits, beside what the policy before training answers to both."""
    stages = by_kind("tiny-beyond", "chat")
    models = 5 * (6 + 6 + 6 + 3 + 3) + 5 * 18 + 5 * (4 * 3 + 4) + 5 * 3
    assert stages["training"].steps == models
    assert stages["evaluation"].steps == 2 * models + 2
    assert stages["sampling"].steps == 1
    assert "reports" not in stages
    assert "96 prompts x 24" in stages["evaluation"].arithmetic
