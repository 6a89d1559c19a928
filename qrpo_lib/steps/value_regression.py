"""DRO's value V(x): ridge regression on the reference policy's hidden state at the end of the prompt.

The authors train a second network along with the policy. For a model of a million parameters and a few hundred prompts
the value is a linear function of the reference policy's last hidden state at the end of the prompt, set before each
step to the least squares of R - beta log-ratio over all training completions: the minimum over V of DRO's loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RIDGE = 10.0  # on standardised features, against one residual a completion


def features(model, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Standardised hidden states of the last prompt token, and 1: (prompts, width + 1), float64."""
    states = []
    with torch.no_grad():
        for ids in prompts:
            output = model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False)
            states.append(output.hidden_states[-1][0, -1].double())
    stacked = torch.stack(states)
    scaled = (stacked - stacked.mean(0)) / stacked.std(0).clamp(min=1e-6)
    return torch.cat([scaled, torch.ones(len(scaled), 1, dtype=torch.float64)], 1)


def values(of_prompts: Tensor, residuals: Tensor) -> Tensor:
    """V of each prompt (prompts,) from features (prompts, width) and residuals (prompts, sides), float64.

    The last feature, the constant, is not shrunk.
    """
    sides = residuals.shape[1]
    penalty = RIDGE * torch.eye(of_prompts.shape[1], dtype=torch.float64)
    penalty[-1, -1] = 0
    normal = sides * of_prompts.T @ of_prompts + penalty
    return of_prompts @ torch.linalg.solve(normal, of_prompts.T @ residuals.sum(1))
