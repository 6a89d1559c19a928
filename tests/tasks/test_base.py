"""How generated requests get their splits."""

from types import SimpleNamespace

import pytest

from qrpo_lib.tasks import base

SETTINGS = SimpleNamespace(train_prompts=3, selection_prompts=0, reporting_prompts=2, name="made")


def test_generated_requests_fill_the_splits_in_order():
    texts = [f"request {i}" for i in range(base.generated_prompts(SETTINGS))]
    prompts = base.in_splits(texts, SETTINGS)
    assert [prompt.split for prompt in prompts] == ["train"] * 3 + ["reporting"] * 2
    assert [prompt.text for prompt in prompts] == texts
    assert len({prompt.id for prompt in prompts}) == 5
    # ids sort as they were made, up to 100,000 prompts
    assert sorted(prompt.id for prompt in prompts) == [prompt.id for prompt in prompts]


@pytest.mark.parametrize("count", [4, 6])
def test_another_number_of_requests_than_the_settings_say_is_an_error(count):
    with pytest.raises(ValueError, match="zip"):
        base.in_splits(["text"] * count, SETTINGS)


def test_a_task_without_completions_of_its_own_says_so():
    class Bare(base.Task):
        def prompts(self, seed):
            return []

        def reward(self):
            return None

    with pytest.raises(ValueError, match="The task made has no completions of its own"):
        Bare(SETTINGS).demonstrations(0)
