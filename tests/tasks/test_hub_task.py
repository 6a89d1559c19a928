"""Tasks whose rows come from a dataset of the hub."""

from collections import Counter

import numpy as np

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.tasks import hub_task
from qrpo_lib.tasks import registry as tasks


def test_hub_prompts_and_demonstrations_belong_together(hub_profile, runs_folder):
    task = profiles.load(hub_profile).task
    prompts, found = tasks.of(task).prompts(0), tasks.of(task).demonstrations(0)
    assert [prompt.id for prompt in prompts] == [one.prompt_id for one in found]
    assert [step.name for step in tasks.of(task).inputs()] == ["chat_data"]
    assert prompts[3].text == "what is the green"
    assert (found[3].chosen, found[3].rejected) == ("a of sea tree", "a")


def test_test_rows_fall_into_the_authors_halves():
    # scikit-learn's split at seed 43 takes the first half of NumPy's legacy permutation as its test set.
    for count in (11, 1992):
        order = np.random.RandomState(43).permutation(count)
        splits = hub_task.held_out_splits(count)
        assert [i for i, split in enumerate(splits) if split == "selection"] == sorted(order[: -(-count // 2)])
        assert set(splits) == {"selection", "reporting"}


def test_halves_with_strata_have_as_many_of_each():
    difficulties = ["Easy"] * 20 + ["Hard"] * 34 + ["Medium"] * 50
    splits = hub_task.held_out_splits(104, difficulties)
    assert Counter(zip(splits, difficulties, strict=True)) == {
        (split, difficulty): of / 2
        for split in ("selection", "reporting")
        for difficulty, of in Counter(difficulties).items()
    }
    assert splits == hub_task.held_out_splits(104, difficulties)
