"""The plain loop against the suite's trainer, and TRL's KTO and IPO against the loop with the papers' formulas."""

import dataclasses

import pytest
import torch
from small_llama import fit, llama, made_up_rows, plain_log_prob, weights

from qrpo_lib.objective import losses, relatives
from qrpo_lib.training import causal_lm, plain_loop, reference_logps, samples, trl_relatives
from qrpo_lib.training.configuration import Optimization

SETTINGS = Optimization(3e-3, batch_size=8, micro_batch_size=8, seed=3)
BETA = 0.1


def with_reference(rows, tokenizer):
    """The rows with their log-probabilities under the model that training starts at."""
    logps = reference_logps.log_probs(llama(), tokenizer, rows, micro_batch_size=8)
    return [row | {name: float(values[i]) for name, values in logps.items()} for i, row in enumerate(rows)]


def trained(rows, tokenizer, loss):
    """The weights after the plain loop on `loss(rows, log pi, log pi_ref, lengths)`, a mean over a batch."""
    model = plain_loop.prepared(llama())
    collate, of_steps = samples.Collator(causal_lm.pad_token_id(tokenizer)), plain_loop.batches(rows, SETTINGS)

    def loss_of_step(step):
        batch = of_steps[step]
        logps, lengths = plain_loop.log_probs(model, collate(batch), 2)
        ref = torch.tensor([[row["ref_chosen_logps"], row["ref_rejected_logps"]] for row in batch])
        return loss(batch, logps, ref, lengths), {}

    history = plain_loop.fit(model, len(of_steps), loss_of_step, SETTINGS)
    return weights(model), history


def test_on_qrpos_loss_it_ends_where_the_trainer_ends(tokenizer):
    rows = with_reference(made_up_rows(40), tokenizer)
    model = llama()
    changes = {"seed": SETTINGS.seed, "learning_rate": SETTINGS.learning_rate, "loss": {"beta": BETA}}
    theirs = fit(model, tokenizer, rows, algorithm="qrpo", **changes).history

    def qrpo(batch, logps, ref, lengths):
        rewards = [torch.tensor([row[f"{side}_reward"] for row in batch]) for side in ("chosen", "rejected")]
        references = torch.tensor([row["ref_rewards"] for row in batch])
        return losses.qrpo_pair(*logps.unbind(1), *ref.unbind(1), *rewards, references, beta=BETA).mean()

    ours, history = trained(rows, tokenizer, qrpo)
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


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_ipo_by_trl_is_ipo_of_mean_log_ratios(tokenizer):
    rows = with_reference(made_up_rows(40), tokenizer)
    model = plain_loop.prepared(llama())
    history = trl_relatives.fit("ipo", model, tokenizer, rows, 1.0, SETTINGS)

    def ipo(batch, logps, ref, lengths):
        return relatives.ipo(*(logps / lengths).unbind(1), *(ref / lengths).unbind(1), beta=1.0).mean()

    ours, expected = trained(rows, tokenizer, ipo)
    torch.testing.assert_close(weights(model), ours, rtol=1e-3, atol=1e-5)
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in expected], rel=1e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_kto_by_trl_is_kto_with_another_prompts_completions_for_the_kl(tokenizer):
    rows = [row | {"chosen_label": True, "rejected_label": i % 3 == 0} for i, row in enumerate(made_up_rows(32))]
    rows = with_reference(rows, tokenizer)
    model = plain_loop.prepared(llama())
    history = trl_relatives.fit("kto", model, tokenizer, rows, BETA, SETTINGS)
    policy, reference = plain_loop.prepared(llama()), llama().eval()

    def kto_of(batch):
        sides = [(row, side) for side in ("chosen", "rejected") for row in batch]
        own = [(row["prompt_ids"], row[f"{side}_ids"]) for row, side in sides]
        mixed = [(prompt, own[i - 1][1]) for i, (prompt, _) in enumerate(own)]  # of the one before: another prompt's
        assert all(sides[i][0] is not sides[i - 1][0] for i in range(1, len(sides)))
        logps, ref, kl, ref_kl = (
            torch.stack([plain_log_prob(of, *pair) for pair in pairs])
            for pairs, of in ((own, policy), (own, reference), (mixed, policy), (mixed, reference))
        )
        labels = torch.tensor([row[f"{side}_label"] for row, side in sides])
        return relatives.kto(logps, ref.detach(), labels, (kl - ref_kl).mean().detach(), beta=BETA).mean()

    of_steps = plain_loop.batches(rows, SETTINGS)
    plain_loop.fit(policy, len(of_steps), lambda step: (kto_of(of_steps[step]), {}), SETTINGS)
    torch.testing.assert_close(weights(model), weights(policy), rtol=1e-3, atol=1e-5)
    assert len(history) == len(of_steps)


def test_another_method_is_not_trls(tokenizer):
    with pytest.raises(ValueError, match="use one of kto, ipo"):
        trl_relatives.fit("apo", llama(), tokenizer, [], BETA, SETTINGS)
