"""Draws from a model's distribution by this suite's own engine."""

import math

import numpy as np
import pytest
import torch

from qrpo_lib.sampling import transformers_engine


@pytest.mark.parametrize("top_p", [1.0, 0.65])
def test_a_draw_inverts_the_distribution_function(top_p):
    probabilities = np.array([0, 1, 0, 3, 2, 0, 4, 0]) / 10  # tokens that must never come, at both ends too
    uniform = torch.cat([(torch.arange(10, dtype=torch.float64) + 0.5) / 10, torch.tensor([0, 1 - 2**-53]).double()])
    logits = torch.tensor(probabilities).log().float().expand(len(uniform), -1)
    drawn = transformers_engine._draw(logits, 1.0, top_p, uniform).tolist()
    if top_p == 1:
        assert drawn[:10] == [1, 3, 3, 3, 4, 4, 6, 6, 6, 6]
        assert drawn[10:] == [1, 6]
    else:  # 4/10 and 3/10 hold 0.7 together, in the order of their probabilities: 4/7 of 10 draws are token 6
        assert drawn[:10] == [6] * 6 + [3] * 4
        assert drawn[10:] == [6, 3]


def test_logits_that_are_not_numbers_are_refused():
    with pytest.raises(RuntimeError, match="logits are not finite"):
        transformers_engine._draw(torch.tensor([[0.0, math.nan]]), 1.0, 1.0, torch.zeros(1, dtype=torch.float64))
