"""A tokenizer of single letters, whose turns end with a token of their own and a new line."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from qrpo_lib.training import preference_rows

WORDS = ["<unk>", "</s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "\n", *"abcdefgh"]
ID = {word: i for i, word in enumerate(WORDS)}
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
USER = [{"role": "user", "content": "ab"}]


def answer(text):
    return [{"role": "assistant", "content": text}]


def ids(*words):
    return [ID[word] for word in words]


def tokenizer_of_letters():
    """One letter a token; a turn ends with <|end|> and a new line."""
    backend = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tokenised(tokenizer, rows, ends=None, **settings):
    return preference_rows.tokenised(rows, tokenizer, ends or (ID["<|end|>"],), **({"max_length": None} | settings))
