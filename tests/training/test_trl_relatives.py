"""TRL's KTO and IPO against the plain loop with the papers' formulas."""

import pytest
import torch
from small_llama import llama, made_up_rows, plain_log_prob, plainly_trained, weights, with_reference

from qrpo_lib.objective import relatives
from qrpo_lib.training import plain_loop, trl_relatives
from qrpo_lib.training.configuration import Optimization

SETTINGS = Optimization(3e-3, batch_size=8, micro_batch_size=8, seed=3)
BETA = 0.1


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_ipo_by_trl_is_ipo_of_mean_log_ratios(tokenizer):
    rows = with_reference(made_up_rows(40), tokenizer)
    model = plain_loop.prepared(llama())
    history = trl_relatives.fit("ipo", model, tokenizer, rows, 1.0, SETTINGS)

    def ipo(batch, logps, ref, lengths):
        return relatives.ipo(*(logps / lengths).unbind(1), *(ref / lengths).unbind(1), beta=1.0).mean()

    ours, expected = plainly_trained(rows, tokenizer, ipo, SETTINGS)
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
