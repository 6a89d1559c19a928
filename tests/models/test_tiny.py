"""The suite's own Llama: its tokenizer, and its training from nothing."""

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qrpo_lib.models import tiny
from qrpo_lib.profiles.settings import TinyPolicy

TEXTS = ["The red fox runs softly.", "A blue bird sings.", "Tell me a story.", "def f(n):\n    return n + 1"]
CONVERSATIONS = [("Tell me a story.", "The red fox runs."), ("Sing.", "A blue bird sings softly.")]
SETTINGS = TinyPolicy(
    source="tiny",
    vocabulary_size=280,
    hidden_size=16,
    layers=1,
    heads=2,
    pretraining_documents=4,
    instruction_examples=2,
    code_documents=1,
    code_examples=1,
    pretraining_learning_rate=1e-2,
    instruction_learning_rate=1e-2,
    batch_size=2,
)


def test_every_text_comes_back_and_a_turn_ends_with_one_token():
    tokenizer = tiny._tokenizer(280, TEXTS)
    assert len(tokenizer) <= 280
    for text in [*TEXTS, "A story softly.<|end|>"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    ids = tiny._conversation_ids(tokenizer, *CONVERSATIONS[0])
    assert tokenizer.decode(ids) == "<|user|>Tell me a story.<|end|><|assistant|>The red fox runs.<|end|>"
    assert ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert ids.count(tokenizer.eos_token_id) == 2


def test_a_seed_gives_its_policy_and_both_stages_are_told(tmp_path):
    saved, threads = {}, torch.get_num_threads()
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        tiny.train(SETTINGS, TEXTS, CONVERSATIONS, seed=seed, threads=1, folder=tmp_path / name)
        saved[name] = (tmp_path / name / "model.safetensors").read_bytes()
    torch.set_num_threads(threads)
    assert saved["first"] == saved["again"] != saved["other"]
    history = pd.read_csv(tmp_path / "first" / "history.csv")
    assert history["stage"].unique().tolist() == ["pretraining", "instruction tuning"]
    model, tokenizer = (kind.from_pretrained(tmp_path / "first") for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.chat_template
