"""Conversations as token ids: where a turn ends, and templates that completions cannot be taken from."""

import pytest
from letter_tokens import ID, TEMPLATE, USER, answer, ids, tokenised

from qrpo_lib.runs.errors import InputError
from qrpo_lib.training import conversations


def test_any_end_token_of_the_generation_configuration_ends_a_turn(letters):
    """A model whose tokenizer says </s> but whose template ends turns with <|end|>."""
    letters.eos_token = "</s>"
    row = {"prompt": USER, "completion": answer("c"), "reward": 0.0}
    ends = conversations.end_tokens(letters, type("Config", (), {"eos_token_id": [ID["<|end|>"], ID["</s>"]]}))
    assert tokenised(letters, [row], ends).rows[0]["completion_ids"] == ids("c", "<|end|>")
    with pytest.raises(InputError, match="does not end an answer with an end token"):
        tokenised(letters, [row], conversations.end_tokens(letters))


def test_sampling_stops_where_a_turn_ends(letters):
    assert conversations.ending_turns(letters) is letters
    letters.eos_token = "</s>"
    both = type("Config", (), {"eos_token_id": [ID["</s>"], ID["<|end|>"]]})
    assert conversations.ending_turns(letters, both).eos_token == "<|end|>"
    assert letters.eos_token == "</s>"
    with pytest.raises(InputError, match="does not end an answer"):
        conversations.ending_turns(letters)


def test_a_template_that_rewrites_the_prompt_is_refused(letters):
    letters.chat_template = TEMPLATE.replace("'<|assistant|>' }}{% endif", "'<|assistant|>h' }}{% endif")
    with pytest.raises(InputError, match="<think>"):
        tokenised(letters, [{"prompt": USER, "completion": answer("c"), "reward": 0.0}])


def test_conversations_need_a_template(letters):
    letters.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        tokenised(letters, [{"prompt": USER, "completion": answer("b"), "reward": 0}])


REQUEST = {"role": "user", "content": "ab"}


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("ab", None),
        ([REQUEST], "ab"),  # as it is, since most prompts are single requests
        ([REQUEST | {"content": "\ue000[]"}], None),  # which would be taken for a mark
        ([{"role": "system", "content": "c"}, REQUEST], None),
        ([REQUEST | {"name": "somebody"}], None),
    ],
)
def test_every_prompt_comes_back_from_its_text(prompt, text):
    kept = conversations.encoded(prompt)
    assert conversations.decoded(kept) == prompt
    assert text is None or kept == text
    assert isinstance(conversations.readable(kept), str)
    assert conversations.readable(kept).endswith(prompt if isinstance(prompt, str) else prompt[-1]["content"])


def test_what_a_completion_says():
    assert conversations.text_of("c") == conversations.text_of([{"role": "assistant", "content": "c"}]) == "c"
    for wrong in ([], [REQUEST], [{"role": "assistant", "content": None}], [{"role": "assistant", "content": "c"}] * 2):
        with pytest.raises(conversations.UnusableAnswer):
            conversations.text_of(wrong)
