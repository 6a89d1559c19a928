"""What all results report is made in one go; which reports those are: `test_best_models`."""

import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import best_models, reports, studies
from qrpo_lib.runs.errors import InputError


@pytest.fixture
def made(monkeypatch):
    """The names of the parts that were made; the best models cannot be."""
    made = []
    parts = {"scaling_cells": studies, "transformation_cells": studies}
    for name, module in parts.items():
        monkeypatch.setattr(module, name, lambda profile, name=name: made.append(name))

    def fail(profile):
        raise InputError("None of these runs is complete.")

    monkeypatch.setattr(best_models, "best_models", fail)
    return made


def test_a_part_that_cannot_be_made_is_told_and_stops_no_other(made):
    assert reports.make(profiles.load("tiny", "chat")) == ["None of these runs is complete."]
    assert made == ["scaling_cells", "transformation_cells"]


def test_an_arm_without_studies_has_its_best_models_alone(made):
    assert reports.make(profiles.load("tiny", "code")) == ["None of these runs is complete."]
    assert made == []


def test_an_error_of_the_programs_own_is_not_swallowed(made, monkeypatch):
    def fail(profile):
        raise ValueError("a defect")

    monkeypatch.setattr(studies, "scaling_cells", fail)
    with pytest.raises(ValueError, match="a defect"):
        reports.make(profiles.load("tiny", "chat"))
