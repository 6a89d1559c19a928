"""Small local copies of what the suite takes from the model hub: files of the same schema, written by hand.

`magpieair` and `ultrafeedback` have the columns of the real datasets, `chat_model` and `classifier` are random Llamas
whose tokenizer knows single words.
"""

import json
from pathlib import Path

import datasets
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.steps import alpaca_answers

SPECIAL = ["<pad>", "<unk>", "</s>", "<|user|>", "<|assistant|>"]
WORDS = [
    "what",
    "is",
    "the",
    "a",
    "of",
    "sea",
    "tree",
    "blue",
    "green",
    "deep",
    "tall",
    "it",
    "and",
    "very",
    "no",
    "yes",
]
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] }}"
    "{{ ' </s>' if m['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)
# AlpacaEval's instructions and its table in a profile, at the smallest size.
INSTRUCTIONS = ["what is the sea", "what is the tree", "and the blue"]
ALPACA = """
[alpaca_eval]
dataset = "owner/alpaca"
instructions = 3
annotator = "alpaca_eval_gpt4_turbo_fn"
"""
_SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer(pad=SPECIAL[0]):
    """Of words, one token each; `pad` is no padding token yet, as in the paper's models."""
    vocabulary = {word: i for i, word in enumerate([pad, *SPECIAL[1:], *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    made.chat_template = TEMPLATE
    return made


def chat_model(folder, dtype=torch.float32, pad=SPECIAL[0], **sizes):
    """A language model with that tokenizer."""
    torch.manual_seed(0)
    vocabulary, tokens = len(SPECIAL) + len(WORDS), {"bos_token_id": None, "eos_token_id": 2}
    config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=64, **tokens, **(_SIZES | sizes))
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer(pad).save_pretrained(folder)


def classifier(folder, num_labels=1, dtype=torch.float32, pad=SPECIAL[0]):
    """A sequence classifier with that tokenizer."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS), num_labels=num_labels, pad_token_id=0, initializer_range=0.5, **_SIZES
    )
    LlamaForSequenceClassification(config).to(dtype).save_pretrained(folder)
    made = tokenizer(pad)
    made.pad_token = pad
    made.save_pretrained(folder)


def _messages(prompt, answer):
    return [{"content": prompt, "role": "user"}, {"content": answer, "role": "assistant"}]


def _row(i, words=4):
    prompt = f"what is the {WORDS[5 + i % 6]}"
    chosen = " ".join(WORDS[(i + j) % len(WORDS)] for j in range(words))
    return prompt, chosen, WORDS[i % len(WORDS)]


def magpieair(folder, train=24, test=11):
    """Columns of Magpie-Align/Magpie-Air-DPO-100K-v0.1. Train row 1 is too long for 16 tokens, row 2 has two turns."""
    (folder / "data").mkdir(parents=True)
    for split, count in (("train", train), ("test", test)):
        rows = []
        for i in range(count):
            prompt, chosen, rejected = _row(i, words=40 if (split, i) == ("train", 1) else 4)
            conversation = [_messages(prompt, chosen), _messages(prompt, rejected)]
            if (split, i) == ("train", 2):
                conversation[0] += _messages("and", "yes")
            rows.append(
                {
                    "uuid": f"{split}-{i}",
                    "instruction": prompt,
                    "responses": [chosen, rejected],
                    "rewards_armorm": [{"score": 0.2 - 0.01 * j} for j in range(2)],
                    "chosen": conversation[0],
                    "rejected": conversation[1],
                }
            )
        datasets.Dataset.from_list(rows).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def ultrafeedback(folder, train=24, test=11):
    """Columns of HuggingFaceH4/ultrafeedback_binarized."""
    (folder / "data").mkdir(parents=True)
    for split, count in (("train_prefs", train), ("test_prefs", test), ("train_sft", 1)):
        rows = []
        for i in range(count):
            prompt, chosen, rejected = _row(i)
            both = _messages(prompt, chosen), _messages(prompt, rejected)
            row = {"prompt": prompt, "prompt_id": f"{i:064x}", "chosen": both[0], "rejected": both[1]}
            rows.append(row | {"messages": both[0], "score_chosen": 8.0, "score_rejected": 4.5})
        datasets.Dataset.from_list(rows).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def _two_words(i, j):
    return f"{WORDS[(i + j) % len(WORDS)]} {WORDS[j % len(WORDS)]}"


def _number(i, j):
    return float(100 * i + j)


def released_references(folder, prompts, completions=7, counted_with=None, answer=_two_words, reward=_number):
    """A dataset with the columns of the authors' released reference completions, for prompts {split: [text, …]}.

    Completion j of a split's prompt i is `answer(i, j)`, its reward `reward(i, j)`; the reward model's tokens are those
    of `counted_with` (default: `tokenizer()`).
    """
    counting = counted_with or tokenizer()
    splits = {}
    for split, texts in prompts.items():
        rows = []
        for i, prompt in enumerate(texts):
            answers = [answer(i, j) for j in range(completions)]
            read = [counting.apply_chat_template(_messages(prompt, one), return_dict=False) for one in answers]
            rows.append(
                {
                    "chosen": _messages(prompt, answers[0]),
                    "rejected": _messages(prompt, answers[1]),
                    "ref_completions": _messages(prompt, json.dumps(answers)),
                    "ref_rewards": [reward(i, j) for j in range(completions)],
                    "ref_completions_reward_tokens": [list(ids) for ids in read],
                    "ref_completions_reward_tokens_len": [len(ids) for ids in read],
                }
            )
        splits[split] = datasets.Dataset.from_list(rows)
    datasets.DatasetDict(splits).save_to_disk(str(folder))


def loaded_profile(folder, monkeypatch, change=str):
    """The profile of data/hub_copies.toml, its text changed, with local copies of its dataset and model."""
    monkeypatch.setenv("QRPO_DATA", str(folder / "copies"))
    magpieair(folder / "copies" / "owner" / "data")
    chat_model(folder / "copies" / "owner" / "model")
    text = (Path(__file__).parent / "data" / "hub_copies.toml").read_text()
    (folder / "mine.toml").write_text(change(text))
    return profiles.load(folder / "mine.toml")


def alpaca_baseline(folder, instructions=INSTRUCTIONS, generator="gpt4_1106_preview"):
    """AlpacaEval's file of answers to compare with, and its entries."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [{"instruction": one, "output": f"to {one}", "generator": generator} for one in instructions]
    (folder / alpaca_answers.BASELINE_FILE).write_text(json.dumps(entries))
    return entries
