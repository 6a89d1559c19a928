"""Every reward wants one prompt a completion."""

import pytest

from qrpo_lib.rewards import base


def test_prompts_and_completions_are_as_many():
    base.check_lengths(["a", "b"], ["c", "d"])
    for prompts, completions in ((["a"], []), ([], ["c"]), (["a"], ["c", "d"])):
        message = f"{len(prompts)} prompts for {len(completions)} completions"
        with pytest.raises(ValueError, match=message):
            base.check_lengths(prompts, completions)
