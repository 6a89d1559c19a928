"""What all results together report of an arm's models, made in one go on all cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qrpo_lib.experiment import grid
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.results import best_models, studies
from qrpo_lib.runs.errors import InputError


def make(profile: Profile) -> list[str]:
    """Have the checkpoints that are reported answer the reporting prompts; what could not be, in sentences.

    The models must be trained. What is made here the results' notebooks only read.
    """
    parts: list[Callable[[Profile], Any]] = [best_models.best_models]
    parts += [studies.scaling_cells] if grid.scaling(profile) else []
    parts += [studies.transformation_cells] if grid.transformations(profile) else []
    said = []
    for part in parts:
        try:
            part(profile)
        except InputError as error:  # a run that failed stops nothing else; the notebook that shows it says so too
            said.append(str(error))
    return said
