"""Variables for a while: set, replaced or taken away, in processes that are started too, and afterwards as before."""

import os
import subprocess
import sys

import pytest

from qrpo_lib.runs import environment

NAMES = ("QRPO_NEW", "QRPO_KEPT", "QRPO_GONE")


def seen():
    return {name: os.environ.get(name) for name in NAMES}


def test_variables_are_set_replaced_and_taken_away_for_a_while(monkeypatch):
    monkeypatch.delenv("QRPO_NEW", raising=False)
    monkeypatch.setenv("QRPO_KEPT", "first")
    monkeypatch.setenv("QRPO_GONE", "there")
    before, values = seen(), {"QRPO_NEW": "", "QRPO_KEPT": "second", "QRPO_GONE": None}
    with environment.given(values):
        assert seen() == values
        told = subprocess.check_output([sys.executable, "-c", f"import os; print([*map(os.environ.get, {NAMES})])"])
        assert told.decode().strip() == str(list(values.values()))
        with environment.given({"QRPO_KEPT": "third"}):
            assert os.environ["QRPO_KEPT"] == "third"
        assert seen() == values
    assert seen() == before


def test_after_an_error_they_are_as_before(monkeypatch):
    monkeypatch.setenv("QRPO_KEPT", "first")
    with pytest.raises(KeyError), environment.given({"QRPO_KEPT": None}):
        os.environ["QRPO_KEPT"]
    assert os.environ["QRPO_KEPT"] == "first"
