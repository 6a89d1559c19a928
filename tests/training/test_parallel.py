"""Devices, precision and the share of each process, as far as one process shows them; the rest is in test_groups."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_llama import column, fine_tune, fit, llama, made_up_rows, weights
from torch.distributed.fsdp import MixedPrecision, MixedPrecisionPolicy
from transformers import AutoModelForCausalLM

from qrpo_lib.training import parallel, policy_trainer, reference_logps

ENGINES = {"DeepSpeed": "ACCELERATE_USE_DEEPSPEED", "FSDP": "ACCELERATE_USE_FSDP"}


@pytest.fixture
def bfloat16_policy(tokenizer, tmp_path):
    """A policy as the hub has them."""
    llama().to(torch.bfloat16).save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_bfloat16_policy_trains_and_is_compared_with_itself(precision, bfloat16_policy, tokenizer):
    """The reference may be loaded in any precision: it is computed in the one that the policy trains in."""
    rows, ratios = made_up_rows(8), {}
    reference = AutoModelForCausalLM.from_pretrained(bfloat16_policy).eval()
    assert reference.dtype == torch.bfloat16

    def on_checkpoint(step, model):
        both = [
            reference_logps.log_probs(one, tokenizer, rows, micro_batch_size=4, precision=precision)
            for one in (model, reference)
        ]
        ratios[step] = both[0]["ref_chosen_logps"] - both[1]["ref_chosen_logps"]

    changes = {"precision": precision, "on_checkpoint": on_checkpoint, "epochs": 4, "learning_rate": 1e-2}
    fitted = fit(bfloat16_policy, tokenizer, rows, rows, **changes)
    assert fitted.model.dtype == torch.float32
    assert reference.dtype == torch.bfloat16
    assert column(fitted.history, "chosen_log_ratio", "validation")[0] == 0
    np.testing.assert_array_equal(ratios[0], 0)
    assert np.abs(ratios[max(ratios)]).max() > 1e-2


def test_a_bfloat16_policy_is_fine_tuned(bfloat16_policy, tokenizer):
    sequences = [row["prompt_ids"] + row["chosen_ids"] for row in made_up_rows(8)]
    tuned = fine_tune(bfloat16_policy, tokenizer, sequences, learning_rate=1e-6, batch_size=4)
    assert tuned.model.dtype == torch.float32
    moved = weights(tuned.model) - weights(AutoModelForCausalLM.from_pretrained(bfloat16_policy, dtype=torch.float32))
    assert 0 < moved.abs().max() < 1e-4


@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_the_reference_is_rounded_as_the_engine_rounds_the_policy(engine, monkeypatch):
    if engine:
        monkeypatch.setenv(ENGINES[engine], "true")
    assert parallel.forward("float32") == (torch.float32, False)
    expected = {None: (torch.float32, True), "DeepSpeed": (torch.bfloat16, False), "FSDP": (torch.bfloat16, True)}
    assert parallel.forward("bfloat16") == expected[engine]


def test_rounding_leaves_the_model_and_the_frequencies_of_positions_alone():
    """bfloat16 frequencies would turn a position of 2,000 by whole turns."""
    model = llama()
    before = weights(model)
    rounded = parallel.Forward(torch.bfloat16, autocast=False).of(model)
    assert rounded is not model
    assert torch.equal(weights(model), before)
    assert torch.equal(weights(rounded), before.bfloat16())
    for name, buffer in model.named_buffers():
        assert torch.equal(dict(rounded.named_buffers())[name], buffer)
    assert parallel.Forward(torch.float32, autocast=True).of(model) is model
    assert rounded.lm_head.weight is rounded.model.embed_tokens.weight, "tied weights stay tied"


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_processes_share_the_validation_rows(processes, monkeypatch):
    """Each row counts once, and every process computes as often: one alone would wait for the others."""
    rows = [row | {"weight": 1.0, "name": i} for i, row in enumerate(made_up_rows(21))]
    seen, counts = [], []
    for process in range(processes):
        state = SimpleNamespace(num_processes=processes, process_index=process)
        monkeypatch.setattr(parallel, "state", lambda state=state: state)
        batches = policy_trainer._share(rows, 4)
        counts.append(len(batches))
        seen += [row["name"] for batch in batches for row in batch if row["weight"]]
    assert sorted(seen) == list(range(21))
    assert len(set(counts)) == 1


def test_gradients_are_summed_in_float32_and_clipped_as_asked():
    config = {"bf16": {"enabled": True}, "gradient_clipping": "auto"}
    fsdp = SimpleNamespace(mixed_precision_policy=MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16))
    state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(deepspeed_config=config), fsdp_plugin=fsdp)
    parallel.accumulate_in_float32(SimpleNamespace(state=state), 0.0)
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert config["gradient_clipping"] == 0.0
    assert fsdp.mixed_precision_policy.param_dtype == torch.bfloat16
    assert fsdp.mixed_precision_policy.reduce_dtype == torch.float32
    fsdp.mixed_precision_policy = MixedPrecision(torch.bfloat16, torch.bfloat16)  # of FSDP1
    parallel.accumulate_in_float32(SimpleNamespace(state=state), 0.0)
    assert fsdp.mixed_precision_policy.reduce_dtype == torch.float32


def test_gradient_checkpointing_changes_no_number(tokenizer):
    rows = made_up_rows(16)
    fits = [fit(llama(), tokenizer, rows, rows[:4], gradient_checkpointing=value) for value in (False, True)]
    assert fits[0].history == fits[1].history
    assert torch.equal(weights(fits[0].model), weights(fits[1].model))
