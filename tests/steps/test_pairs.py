import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qrpo_lib.steps import pairs, shifts


def candidates(rewards, prompt="p", width=1):
    rows = range(len(rewards))
    return pd.DataFrame(
        {
            "prompt_id": prompt,
            "prompt_ids": [[1, 2] for _ in rows],
            "token_ids": [[10 + i] * width for i in rows],
            "reward": np.array(rewards, dtype=np.float32),
        }
    )


def dataset(rewards, prompt="p"):
    return candidates(rewards, prompt).assign(side=["chosen", "rejected"])


def build(frame, setting="off-policy-best", seed=0, references=None, **changes):
    references = references or {prompt: [0.5, 0.6] for prompt in frame["prompt_id"].unique()}
    return pairs.build_pairs(frame, references, setting=setting, seed=seed, **changes)


def counted(report):
    return {name: count for name, count in report.items() if count}


def test_best_takes_the_best_and_the_worst():
    (row,), report = build(candidates([0.25, 0.75, 0.125, 0.5]))
    assert (row["chosen_ids"], row["rejected_ids"]) == ([11], [12])
    assert (row["chosen_reward"], row["rejected_reward"]) == (0.75, 0.125)
    assert row["prompt_ids"] == [1, 2]
    assert row["ref_rewards"] == [0.5, 0.6]
    assert counted(report) == {"prompts": 1, "pairs": 1}


def test_random_takes_every_pair_equally_often_and_ranks_it():
    frame = pd.concat([candidates([0.25, 0.75, 0.125], f"p{i}") for i in range(300)])
    rows, _ = build(frame, "off-policy-random")
    seen = pd.Series([(row["chosen_reward"], row["rejected_reward"]) for row in rows]).value_counts()
    assert set(seen.index) == {(0.75, 0.25), (0.75, 0.125), (0.25, 0.125)}
    assert seen.min() > 70  # of 300, 100 expected; below 70 once in 10,000


def test_random_pairs_of_a_prompt_share_no_completion():
    rows, report = build(candidates(list(range(20))), "off-policy-random", pairs_per_prompt=10)
    used = [row[side][0] for row in rows for side in ("chosen_ids", "rejected_ids")]
    assert sorted(used) == list(range(10, 30))
    assert all(row["chosen_reward"] > row["rejected_reward"] for row in rows)
    assert counted(report) == {"prompts": 1, "pairs": 10}


def test_a_prompts_pairs_depend_on_seed_and_prompt_alone():
    frame = pd.concat([candidates([1, 2, 3, 4, 5, 6], prompt) for prompt in "abc"])
    together, _ = build(frame, "off-policy-random")
    alone, _ = build(frame[frame["prompt_id"] == "b"], "off-policy-random")
    assert alone == [row for row in together if row["prompt_id"] == "b"]
    assert len({tuple(build(frame, "off-policy-random", seed=seed)[0][1]["chosen_ids"]) for seed in range(9)}) > 1


def test_offline_keeps_the_datasets_labels_and_counts_what_the_reward_contradicts():
    frame = pd.concat([dataset([0.75, 0.25], "a"), dataset([0.25, 0.75], "b"), dataset([0.5, 0.5], "c")])
    rows, report = build(frame, "offline")
    assert [(row["chosen_ids"], row["rejected_ids"]) for row in rows] == [([10], [11])] * 3
    assert [(row["chosen_reward"], row["rejected_reward"]) for row in rows] == [(0.75, 0.25), (0.25, 0.75), (0.5, 0.5)]
    assert counted(report) == {"prompts": 3, "pairs": 3, "contradicted": 1}


@pytest.mark.parametrize("setting", ["off-policy-best", "off-policy-random"])
def test_a_tie_is_left_out_or_kept_and_counted(setting):
    frame = pd.concat([candidates([0.25, 0.25], "a"), candidates([0.125, 0.25], "b")])
    rows, report = build(frame, setting)
    assert [row["prompt_id"] for row in rows] == ["b"]
    assert counted(report) == {"prompts": 2, "pairs": 1, "ties": 1}
    rows, report = build(frame, setting, ties="keep")
    assert [row["prompt_id"] for row in rows] == ["a", "b"]
    assert rows[0]["chosen_ids"] != rows[0]["rejected_ids"]
    assert counted(report) == {"prompts": 2, "pairs": 2, "ties": 1}


def test_a_kept_tie_is_in_random_order():
    frame = pd.concat([candidates([0.25, 0.25], f"p{i}") for i in range(100)])
    first = sum(row["chosen_ids"] == [10] for row in build(frame, ties="keep").rows)
    assert 25 < first < 75  # 50 expected; outside once in a million


def test_prompts_that_cannot_be_used_are_left_out_and_counted_by_reason():
    nan = float("nan")
    frame = pd.concat(
        [
            candidates([0.25], "one completion"),
            candidates([0.25, nan, 0.75], "one of three unscored"),
            candidates([nan, 0.5], "one of two unscored"),
            candidates([0.25, 0.75], "one reference"),
            candidates([0.25, 0.75], "good"),
        ]
    )
    references = {prompt: [0.5, 0.6, nan] for prompt in frame["prompt_id"]} | {"one reference": [0.5, nan, nan]}
    rows, report = build(frame, references=references, num_ref_rewards=2)
    assert [row["prompt_id"] for row in rows] == ["good", "one of three unscored"]
    assert [row["ref_rewards"] for row in rows] == [[0.5, 0.6]] * 2
    expected = {"prompts": 5, "pairs": 2, "unscored": 2, "too_few_completions": 2, "too_few_reference_rewards": 1}
    assert counted(report) == expected


def test_long_completions_are_cut_and_prompts_without_room_left_out():
    rows, report = build(candidates([0.25, 0.75], width=5), max_tokens=6)
    assert (rows[0]["chosen_ids"], rows[0]["rejected_ids"]) == ([11] * 4, [10] * 4)
    assert counted(report) == {"prompts": 1, "pairs": 1, "cut": 2}
    assert counted(build(candidates([0.25, 0.75], width=5), max_tokens=7).report) == {"prompts": 1, "pairs": 1}
    assert counted(build(candidates([0.25, 0.75]), max_tokens=2).report) == {"prompts": 1, "prompt_too_long": 1}


@pytest.mark.parametrize("sft", ["", "sft-"])
@pytest.mark.parametrize("setting", shifts.SOURCES)
def test_rows_have_the_same_columns_and_types_whatever_their_source(setting, sft):
    assert shifts.is_tuned_first(sft + setting) == bool(sft)
    frame = dataset([0.75, 0.25]) if setting == "offline" else candidates([0.25, 0.75])
    (row,), _ = build(frame, sft + setting)
    assert pa.Table.from_pylist([row]).schema == pairs.schema()
    assert list(row) == pairs.schema().names


def test_unknown_setting():
    with pytest.raises(ValueError, match="There is no setting 'online': use offline, off-policy-best"):
        build(candidates([0.25, 0.5]), "online")
