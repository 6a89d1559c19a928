"""Memory of a GPU as the plan prints it, against sums made by hand."""

import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs.errors import InputError
from qrpo_lib.sampling import vllm_engine
from qrpo_lib.suite import cli, plan_memory
from qrpo_lib.tasks import registry

GIB = 2**30


def profile(tmp_path, text, arm="llama-magpieair"):
    path = tmp_path / "my.toml"
    path.write_text(f'extends = "gh200"\n{text}')
    return profiles.load(path, arm)


@pytest.mark.parametrize("arm", profiles.arms("gh200"))
def test_the_papers_scale_fits_a_gh200_with_room(arm, runs_folder):
    found = plan_memory.of_arm(profiles.load("gh200", arm))
    assert {one.kind for one in found} == {"training", "sft"}
    assert all(one.total < 85 * GIB for one in found)
    plan_memory.check(profiles.load("gh200", arm), found)


def test_zero_1_shares_the_optimizer_alone(runs_folder):
    """8.03 G parameters: 2 bytes a weight, 4 a sum of gradients; 12 for float32 weights and Adam's two, over 8 GPUs."""
    training = next(one for one in plan_memory.of_arm(profiles.load("gh200")) if one.kind == "training")
    assert training.weights == 2 * 8.03e9
    assert training.gradients == 4 * 8.03e9
    assert training.optimizer == 12 * 8.03e9 / 8


def test_more_gpus_take_less_each(tmp_path, runs_folder):
    two, four = (
        plan_memory.of_arm(profile(tmp_path, f"[dispatch.resources.training]\nnodes = {nodes}"))[0] for nodes in (2, 4)
    )
    assert two.optimizer == 2 * four.optimizer
    assert two.weights == four.weights


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("[training]\ngradient_checkpointing = false", "gradient_checkpointing = true"),
        ("[training]\nbatch_size = 256\nmicro_batch_size = 32", "a smaller micro_batch_size"),
        ("[dispatch]\ngpu_memory_gb = 40", "more GPUs"),
        ("[dispatch.resources.training.environment]\nACCELERATE_USE_DEEPSPEED = 'false'", "more GPUs"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(text, remedy, tmp_path, runs_folder):
    given = profile(tmp_path, text)
    sentence = r"llama-magpieair does not fit its GPUs of \d+ GiB: training \d+ GiB a GPU"
    with pytest.raises(InputError, match=sentence) as error:
        plan_memory.check(given, plan_memory.of_arm(given))
    assert remedy in str(error.value)


def test_a_local_copys_configuration_counts(tmp_path, runs_folder, monkeypatch):
    monkeypatch.setenv("QRPO_DATA", str(tmp_path))
    copy = tmp_path / "allenai" / "Llama-3.1-Tulu-3-8B-SFT"
    copy.mkdir(parents=True)
    config = '{"num_attention_heads": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 64, '
    (copy / "config.json").write_text(config + '"num_key_value_heads": 8, "vocab_size": 128264}')
    deeper = plan_memory._of_configuration(copy)
    assert deeper == plan_memory.Shape(4096, 14336, 1024, 64, 128264)
    (copy / "config.json").write_text(config)  # a download that is not whole
    assert plan_memory._of_configuration(copy) is None


def test_profiles_without_gpus_say_nothing(runs_folder):
    assert plan_memory.of_arm(profiles.load("tiny")) == []


def test_what_does_not_fit_is_not_submitted_either(tmp_path, runs_folder, monkeypatch, capsys):
    """`qrpo reproduce` refuses it before anything begins; `qrpo status`, which needs no vLLM, lists what is to do."""
    path = tmp_path / "my.toml"
    path.write_text('extends = "gh200"\n[training]\ngradient_checkpointing = false\n')
    monkeypatch.setattr(registry, "check_available", lambda profile: None)  # data and models are there
    monkeypatch.setattr(vllm_engine, "vllm_python", lambda: None)
    for command in ("reproduce", "status"):
        assert cli.main([command, "--profile", str(path)]) != 0
        said = " ".join(capsys.readouterr().out.split())
        assert "does not fit its GPUs of 95 GiB: training" in said
        assert "set training.gradient_checkpointing = true" in said
    assert said.count("would stop here") == 1
    assert "to do results/claims notebook-results-claims-" in said
    assert not list(runs_folder.glob("*-*"))
