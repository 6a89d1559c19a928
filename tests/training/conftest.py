"""What tests of training share."""

import pytest


@pytest.fixture
def letters():
    from letter_tokens import tokenizer_of_letters  # here: most tests do without

    return tokenizer_of_letters()
