"""Training on a GPU, where there is one: the same numbers as plain autograd on the CPU."""

import copy

import numpy as np
import pytest
import torch
from small_llama import DPO, column, fine_tune, fit, llama, made_up_rows, plain_dpo, plain_log_prob

from qrpo_lib.sampling import sampler
from qrpo_lib.training import reference_logps

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]


def test_log_probabilities_are_those_of_a_plain_forward_pass_on_the_cpu(tokenizer):
    model, rows = llama().eval(), made_up_rows(9)
    found = reference_logps.log_probs(model, tokenizer, rows, micro_batch_size=4)
    assert model.device.type == "cpu", "the model of the caller stays where it was"
    with torch.no_grad():
        expected = [float(plain_log_prob(model, row["prompt_ids"], row["chosen_ids"])) for row in rows]
    np.testing.assert_allclose(found["ref_chosen_logps"], expected, rtol=1e-4)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_gradient_norm_is_that_of_the_mean_loss(gradient_checkpointing, tokenizer):
    model, rows = llama(), made_up_rows(6)
    _, norm = plain_dpo(model, copy.deepcopy(model), rows)
    changes = {"micro_batch_size": 2, "gradient_checkpointing": gradient_checkpointing}
    history = fit(model, tokenizer, rows, **changes, **DPO).history
    assert history[0]["grad_norm"] == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("reference", ["computed", "live"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_starts_at_the_reference_and_can_be_sampled_from(precision, reference, tokenizer):
    rows, drawn = made_up_rows(16), []

    def on_checkpoint(step, model):
        assert model.device.type == "cuda"
        prompts = [row["prompt_ids"] for row in rows[:2]]
        drawn.extend(sampler.sample(model, tokenizer, prompts, completions=2, max_new_tokens=4, seed=0))

    changes = {"precision": precision, "reference": reference, "on_checkpoint": on_checkpoint}
    history = fit(llama(), tokenizer, rows, rows, **changes).history
    assert column(history, "chosen_log_ratio", "validation")[0] == pytest.approx(0, abs=1e-5)
    assert len(drawn) == 3 * 4
    assert all(np.isfinite(one.logp) for one in drawn)


def test_fine_tuning_runs(tokenizer):
    sequences = [row["prompt_ids"] + row["chosen_ids"] for row in made_up_rows(16)]
    losses = column(
        fine_tune(llama(), tokenizer, sequences, learning_rate=1e-2, batch_size=4, epochs=4).history, "loss"
    )
    assert losses[-1] < losses[0]
