"""ArmoRM (`RLHFlow/ArmoRM-Llama3-8B-v0.1`): a Llama whose reward is a mixture of 19 objectives, weighted by the prompt.

The checkpoint brings Python code of its own, which transformers 5 cannot import (a name it uses was removed). This is
the same network under the same parameter names, so that `ArmoRM.from_pretrained` reads the checkpoint. With h the last
hidden states, e the last token of the chat, g the token that ends the user's turn (before the assistant's header),

    score = w(h_g) . (T^T (A h_e)),   w = scale * softmax(MLP(h_g) / temperature)

where A is `regression_layer`, T `reward_transform_matrix` and MLP `gating` (Wang et al., 2024).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel

# <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n: where the answer begins in Llama 3's chat template.
ANSWER_BEGINS = (128009, 128006, 78191, 128007, 271)


class Gating(nn.Module):
    """Weights of the objectives, from the hidden state at the end of the request."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        hidden, count = getattr(config, "gating_hidden_dim", 1024), getattr(config, "gating_n_hidden", 3)
        widths = [config.hidden_size, *[hidden] * count, config.num_objectives]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.temperature = getattr(config, "gating_temperature", 10)

    def forward(self, hidden: Tensor) -> Tensor:
        """(chats, width) to (chats, objectives)."""
        for layer in self.layers[:-1]:
            hidden = layer(hidden).relu()
        return (self.layers[-1](hidden) / self.temperature).softmax(-1) * self.logit_scale


class ArmoRM(LlamaPreTrainedModel):
    """The reward model. `forward` gives one score a chat."""

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        config.num_objectives = getattr(config, "num_objectives", 19)
        self.model = LlamaModel(config)
        self.regression_layer = nn.Linear(config.hidden_size, config.num_objectives, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.eye(config.num_objectives), requires_grad=False)
        self.gating = Gating(config)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Right-padded chats (chats, tokens) twice to scores (chats,).

        Not a number for a chat without the beginning of an answer, as when its request alone fills what is looked at.
        """
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        chats = torch.arange(len(input_ids), device=input_ids.device)
        rewards = self.regression_layer(hidden[chats, attention_mask.sum(1) - 1])
        request_ends = torch.tensor([_last(ids, ANSWER_BEGINS) for ids in input_ids.tolist()], device=input_ids.device)
        weights = self.gating(hidden[chats, request_ends.clamp(min=0)])
        score = (weights * (rewards @ self.reward_transform_matrix)).sum(1)
        return score.masked_fill(request_ends < 0, torch.nan)


def _last(ids: list[int], pattern: tuple[int, ...]) -> int:
    """Where the pattern begins for the last time, or -1."""
    width = len(pattern)
    return next((i for i in range(len(ids) - width, -1, -1) if tuple(ids[i : i + width]) == pattern), -1)
