"""Where rows of one's own are, and what tables call them."""

import pytest
from pydantic import ValidationError

from qrpo_lib.profiles.own_data import PairsSettings, Source


def test_one_dataset_is_one_source():
    settings = PairsSettings(name="dataset", dataset="./rows/", test_split="held-out")
    assert settings.all_sources == [Source(dataset="./rows/", test_split="held-out")]
    assert settings.shown == "rows"
    assert PairsSettings(name="dataset", dataset="owner/mine", label="Mine").shown == "Mine"


def test_a_mixture_has_several():
    sources = [{"dataset": "owner/one", "weight": 2.0}, {"dataset": "two.jsonl"}]
    settings = PairsSettings(name="dataset", sources=[Source(**one) for one in sources])
    assert [one.weight for one in settings.all_sources] == [2.0, 1.0]
    assert settings.shown == "one + two.jsonl"
    assert hash(settings) == hash(settings.model_copy())  # settings are keys of caches


@pytest.mark.parametrize("given", [{}, {"dataset": "a", "sources": [Source(dataset="b")]}])
def test_either_of_them_says_where_the_rows_are(given):
    with pytest.raises(ValidationError, match="either dataset, or"):
        PairsSettings(name="dataset", **given)


def test_a_revision_is_a_full_commit():
    Source(dataset="owner/mine", revision="a" * 40)
    with pytest.raises(ValidationError, match="revision"):
        Source(dataset="owner/mine", revision="main")
