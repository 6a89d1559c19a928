"""Errors that users meet: a sentence, without a traceback, which may say where it is about."""

import pytest

from qrpo_lib.runs.errors import InputError, about


def test_a_notebook_shows_the_sentence_of_an_error_alone():
    assert InputError("do this")._render_traceback_() == ["InputError: do this"]


def test_where_an_error_is_stands_before_it_and_its_kind_stays():
    class OfRows(InputError):
        pass

    with pytest.raises(OfRows, match=r"^train row 3: reward is missing\.$") as caught, about("train row 3"):
        raise OfRows("reward is missing.")
    assert caught.value.__suppress_context__  # the same sentence is not told twice
    with pytest.raises(KeyError, match=r"^.reward.$"), about("train row 3"):
        raise KeyError("reward")  # no error that a user can fix is changed
