"""DRO's value, against a linear one; that it is fitted to residuals of the current policy: test_relative_training."""

import pytest
import torch

from qrpo_lib.steps import value_regression


def test_the_learned_value_is_what_least_squares_make_of_a_linear_one():
    """Residuals that are linear in the features but for a little noise: ridge gives them back, the mean not shrunk."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(400, 5, generator=generator, dtype=torch.float64)
    features = torch.cat([states, torch.ones(400, 1, dtype=torch.float64)], 1)
    truth = features @ torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 40.0], dtype=torch.float64)
    noise = 0.1 * torch.randn(400, 2, generator=generator, dtype=torch.float64)
    values = value_regression.values(features, truth[:, None] + noise)
    assert (values - truth).abs().max() < 0.25
    assert values.mean().item() == pytest.approx((truth[:, None] + noise).mean().item(), abs=0.02)
