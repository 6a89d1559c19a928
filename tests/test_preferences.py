import pandas as pd
import pytest

from qrpo_lib.preferences import build_pairs


def candidates(rewards, prompt="p"):
    rows = range(len(rewards))
    return pd.DataFrame(
        {
            "prompt_id": prompt,
            "prompt_ids": [[1, 2] for _ in rows],
            "token_ids": [[10 + i] for i in rows],
            "reward": rewards,
        }
    )


def pairs(frame, setting="off-policy-best", seed=0):
    references = {prompt: [0.5, 0.6] for prompt in frame["prompt_id"].unique()}
    return build_pairs(frame, references, setting=setting, seed=seed)


def test_best_takes_the_best_and_the_worst():
    (row,) = pairs(candidates([0.3, 0.9, 0.1, 0.5]))
    assert (row["chosen_ids"], row["rejected_ids"]) == ([11], [12])
    assert (row["chosen_reward"], row["rejected_reward"]) == (0.9, 0.1)
    assert row["prompt_ids"] == [1, 2]
    assert row["ref_rewards"] == [0.5, 0.6]


def test_random_takes_every_pair_and_ranks_it():
    frame = candidates([0.3, 0.9, 0.1])
    seen = set()
    for seed in range(40):
        (row,) = pairs(frame, "off-policy-random", seed)
        assert row["chosen_reward"] > row["rejected_reward"]
        seen.add((row["chosen_reward"], row["rejected_reward"]))
    assert seen == {(0.9, 0.3), (0.9, 0.1), (0.3, 0.1)}


def test_a_tie_is_no_preference():
    frame = pd.concat([candidates([0.2, 0.2], "a"), candidates([0.1, 0.2], "b")])
    assert [row["prompt_id"] for row in pairs(frame)] == ["b"]


def test_one_completion_is_no_pair():
    with pytest.raises(ValueError, match="Prompt p has 1 completion"):
        pairs(candidates([0.2]))


def test_unknown_setting():
    with pytest.raises(ValueError, match="There is no setting"):
        pairs(candidates([0.2, 0.3]), "online")
