"""What all settings have in common: what is refused, and how a setting that came later stays out of keys."""

import math

import pytest
from pydantic import ValidationError

from qrpo_lib.profiles import base


class Table(base.Settings):
    name: base.Name
    share: base.Fraction = 0.5
    later: int = base.added(3, gt=0)


@pytest.mark.parametrize(
    "given",
    [
        {"unknown": 1},
        {"name": "Upper"},
        {"share": math.nan},
        {"share": "0.5"},  # a text is no number
        {"share": 0.0},
        {"later": 0},
    ],
)
def test_what_cannot_be_used_is_refused(given):
    with pytest.raises(ValidationError):
        Table(**({"name": "mine"} | given))


def test_nothing_changes_later():
    table = Table(name="mine")
    with pytest.raises(ValidationError):
        table.share = 0.1


def test_a_setting_that_came_later_is_in_no_dump_at_its_default():
    assert Table(name="mine").model_dump() == Table(name="mine", later=3).model_dump() == {"name": "mine", "share": 0.5}
    assert Table(name="mine", later=4).model_dump() == {"name": "mine", "share": 0.5, "later": 4}
