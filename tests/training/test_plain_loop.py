"""The plain loop against the suite's trainer."""

import dataclasses

import pytest
import torch
from small_llama import fit, llama, made_up_rows, plain_log_prob, plainly_trained, weights, with_reference

from qrpo_lib.objective import losses
from qrpo_lib.training import plain_loop, samples
from qrpo_lib.training.configuration import Optimization

SETTINGS = Optimization(3e-3, batch_size=8, micro_batch_size=8, seed=3)
BETA = 0.1


def test_on_qrpos_loss_it_ends_where_the_trainer_ends(tokenizer):
    rows = with_reference(made_up_rows(40), tokenizer)
    model = llama()
    changes = {"seed": SETTINGS.seed, "learning_rate": SETTINGS.learning_rate, "loss": {"beta": BETA}}
    theirs = fit(model, tokenizer, rows, algorithm="qrpo", **changes).history

    def qrpo(batch, logps, ref, lengths):
        rewards = [torch.tensor([row[f"{side}_reward"] for row in batch]) for side in ("chosen", "rejected")]
        references = torch.tensor([row["ref_rewards"] for row in batch])
        return losses.qrpo_pair(*logps.unbind(1), *ref.unbind(1), *rewards, references, beta=BETA).mean()

    ours, history = plainly_trained(rows, tokenizer, qrpo, SETTINGS)
    assert (weights(llama()) - ours).abs().max() > 1e-3  # it has moved
    torch.testing.assert_close(ours, weights(model), rtol=1e-4, atol=1e-6)
    train = [row for row in theirs if row["split"] == "train"]
    for name in ("learning_rate", "grad_norm"):
        assert [row[name] for row in history] == pytest.approx([row[name] for row in train], rel=1e-3)


def test_log_probabilities_of_tokens_add_up(tokenizer):
    model, rows = llama().eval(), made_up_rows(5)
    rows = [{"prompt_ids": row["prompt_ids"], "completion_ids": row["chosen_ids"]} for row in rows]
    logps, mask = plain_loop.token_log_probs(model, samples.Collator(1)(rows))
    assert mask.sum(1).tolist() == [len(row["completion_ids"]) for row in rows]
    expected = [float(plain_log_prob(model, row["prompt_ids"], row["completion_ids"])) for row in rows]
    assert logps.sum(1).tolist() == pytest.approx(expected, rel=1e-5)


def test_another_precision_is_refused():
    settings = dataclasses.replace(SETTINGS, precision="bfloat16")
    with pytest.raises(ValueError, match="computes in float32"):
        plain_loop.fit(llama(), 1, lambda step: None, settings)
