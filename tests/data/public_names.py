"""A program that uses every public name as its documentation says, for type checkers (`make types`); it is not run."""

from __future__ import annotations

from typing import assert_type

import numpy as np
import torch

import qrpo_lib
from qrpo_lib import (
    QRPOConfig,
    QRPOTrainer,
    SampledReferences,
    length_controlled_reward,
    losses,
    quantile_reward,
    transforms,
)


def reward(prompts: list[str], completions: list[str], level: list[int]) -> list[float]:
    return [float(len(text) + one) for text, one in zip(completions, level, strict=True)]


def trained() -> QRPOTrainer:
    args = QRPOConfig(
        "out", beta=0.01, learning_rate=1e-5, transform="log", partition="finite", loss_type="qrpo", report_to="none"
    )
    references = SampledReferences(reward, n=8, engine="transformers", max_new_tokens=64)
    rows = [{"prompt": "a", "completion": "b", "reward": 1.0, "reference_rewards": [0.0]}]
    trainer = QRPOTrainer("model", args, rows, {"test": "rows.jsonl"}, reference_rewards=references)
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()
    assert_type(trainer.args.beta, float)
    return trainer


def computed() -> None:
    logps, rewards, ref_rewards = torch.zeros(3), torch.zeros(3), torch.zeros(3, 8)
    assert_type(losses.qrpo(logps, logps, rewards, ref_rewards, beta=0.1, transform="sqrt"), torch.Tensor)
    assert_type(losses.dpo(logps, logps, logps, logps, beta=0.1), torch.Tensor)
    assert_type(losses.rebel(logps, logps, logps, logps, rewards, rewards, beta=0.1), torch.Tensor)
    assert_type(losses.simpo(logps, logps, rewards, rewards, beta=2.0, gamma_ratio=0.3), torch.Tensor)
    assert_type(losses.calibrated_target(rewards, ref_rewards, beta=0.1), torch.Tensor)
    quantile_reward(rewards, ref_rewards)
    quantile_reward(np.zeros(3), np.zeros((3, 8)))
    f = transforms.get({"name": "scaled-normal", "mu": 0.0, "sigma": 1.0})
    assert_type(f, transforms.Transformation)
    f.log_partition(0.1)
    transforms.finite_log_partition("log", [0.1, 0.2], 8)
    transforms.discrete_log_partition(f, 0.1, [0.5, 0.5])
    length_controlled_reward(np.zeros(3), np.ones(3), np.zeros((3, 2)), np.ones((3, 2)))
    assert_type(qrpo_lib.__version__, str)
