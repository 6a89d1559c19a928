"""Prompts and answers as token ids."""

import pytest
from hub_copies import TEMPLATE, tokenizer

from qrpo_lib.models import chat_template
from qrpo_lib.runs.errors import InputError

EOS = 2


def ids(text):
    return tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_prompt_and_completion_are_the_chat_template_in_two_parts():
    prompt = chat_template.prompt_ids(tokenizer(), "what is the sea")
    completion = chat_template.completion_ids(tokenizer(), "what is the sea", "it is deep")
    assert prompt == ids("<|user|> what is the sea <|assistant|>")
    assert completion == ids("it is deep </s>")


def test_a_completion_ends_with_one_end_of_sequence_token_whatever_follows_it_in_the_template():
    made = tokenizer()
    made.chat_template = TEMPLATE.replace("' </s>'", "' </s> \\n'")  # as SmolLM2 has it
    assert chat_template.completion_ids(made, "what is it", "it is deep") == ids("it is deep </s>")
    assert chat_template.completion_ids(made, "what is it", "") == [EOS]


def test_a_template_whose_turns_have_no_end_is_refused():
    """What is sampled would run on past the turn."""
    made = tokenizer()
    made.chat_template = TEMPLATE.replace("' </s>'", "' '")
    with pytest.raises(InputError, match="does not end an answer with an end token"):
        chat_template.completion_ids(made, "what is it", "it is deep")


@pytest.mark.parametrize("answer", ["it is </s> deep", "it is deep </s>"])
def test_an_answer_that_writes_the_end_of_sequence_token_is_refused(answer):
    with pytest.raises(chat_template.UnusableAnswer, match="end-of-sequence"):
        chat_template.completion_ids(tokenizer(), "what is it", answer)


def test_a_token_across_the_border_of_prompt_and_answer_is_split():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # "\n\n" is one token, so an answer that begins with a line break merges with the end of the prompt.
    vocabulary = {"</s>": 0, ":": 1, "\u010a": 2, "\u010a\u010a": 3, "a": 4, "b": 5}
    backend = Tokenizer(models.BPE(vocabulary, [("\u010a", "\u010a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    made.chat_template = (
        "{% for m in messages %}{{ m['content'] + (':\\n' if m['role'] == 'user' else '</s>') }}{% endfor %}"
    )
    assert chat_template.prompt_ids(made, "a") == [4, 1, 2]
    whole = made.apply_chat_template(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\nb"}], tokenize=True, return_dict=False
    )
    assert whole == [4, 1, 3, 5, 0]
    assert chat_template.completion_ids(made, "a", "\nb") == [2, 5, 0]
    assert made.decode([*chat_template.prompt_ids(made, "a"), 2, 5]) == "a:\n\nb"
