"""What the profile gh200 takes from the hub, in small: for tests/data/miniature_gh200.toml, below $QRPO_DATA."""

import json

import hub_copies
import torch

POLICY, REWARD = "allenai/Llama-3.1-Tulu-3-8B-SFT", "RLHFlow/ArmoRM-Llama3-8B-v0.1"
DATA, ALPACA = "HuggingFaceH4/ultrafeedback_binarized", "tatsu-lab/alpaca_eval"
PAD = "<|finetune_right_pad_id|>"
TRAIN, HELD_OUT = 19, 10


def hub(folder):
    """A policy and a classifier in bfloat16, rows of the dataset, AlpacaEval's instructions."""
    # heads of width 32: vLLM takes nothing smaller on a CPU; far from uniform, so that a wrong policy shows
    hub_copies.chat_model(folder / POLICY, torch.bfloat16, PAD, hidden_size=64, initializer_range=0.15)
    hub_copies.classifier(folder / REWARD, dtype=torch.bfloat16, pad=PAD)
    hub_copies.ultrafeedback(folder / DATA, TRAIN, HELD_OUT)
    (folder / ALPACA).mkdir(parents=True)
    asked = [f"what is the {word}" for word in ("sea", "tree", "blue sea", "tall tree")]
    entries = [{"instruction": text, "output": "it is", "generator": "gpt4_1106_preview"} for text in asked]
    (folder / ALPACA / "alpaca_eval_gpt4_baseline.json").write_text(json.dumps(entries))
