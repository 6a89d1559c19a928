"""log pi_ref of the pairs, as a step of its own; that trainings share it is tested with them (`test_fitting`)."""

from pathlib import Path

import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import reference_log_probs


def test_reference_log_probabilities_are_rounded_as_the_training_rounds(tmp_path, runs_folder):
    """DeepSpeed rounds the weights themselves: another result, and not one that plain processes may compute."""
    path, base = tmp_path / "engines.toml", Path(__file__).parents[1] / "data" / "smallest.toml"
    text = f'extends = "{base}"\n[training]\nprecision = "bfloat16"\n[dispatch]\nwhere = "{{where}}"\n'
    text += '[dispatch.resources.training.environment]\nACCELERATE_USE_DEEPSPEED = "true"\n'
    steps = []
    for where in ("here", "processes"):
        path.write_text(text.format(where=where))
        steps.append(reference_log_probs.step(profiles.load(path)))
    assert [step.parameters.get("engine") for step in steps] == [None, "DeepSpeed"]
    with pytest.raises(InputError, match="training with DeepSpeed, but this process computes with none of them"):
        reference_log_probs._make(profiles.load(path), tmp_path)
