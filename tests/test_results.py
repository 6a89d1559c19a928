import numpy as np
import pandas as pd
import pytest

from qrpo_lib import reference_results, results


def evaluation(algorithm, seed, step, selection, reporting):
    """Two prompts a split, two repeats; `reporting` are the two prompts' mean rewards."""
    rows = []
    for split, rewards in (("selection", (selection, selection)), ("reporting", reporting)):
        for prompt, reward in enumerate(rewards):
            for repeat, difference in enumerate((-0.5, 0.5)):
                row = {"prompt_id": f"{split}{prompt}", "split": split, "repeat": repeat, "length": 10 * (step + 1)}
                rows.append(row | {"reward": reward + difference})
    return pd.DataFrame(rows).assign(algorithm=algorithm, seed=seed, step=step)


@pytest.fixture
def evaluations():
    return pd.concat(
        [
            evaluation("dpo", 0, 0, 9.0, (1.0, 2.0)),  # step 0 is never selected
            evaluation("dpo", 0, 5, 4.0, (2.0, 3.0)),
            evaluation("dpo", 0, 9, 3.0, (7.0, 7.0)),  # better on reporting only: not looked at
            evaluation("qrpo", 0, 0, 9.0, (1.0, 2.0)),
            evaluation("qrpo", 0, 5, 3.0, (0.0, 0.0)),
            evaluation("qrpo", 0, 9, 4.0, (4.0, 3.0)),
            evaluation("qrpo", 1, 0, 9.0, (1.0, 2.0)),
            evaluation("qrpo", 1, 5, 4.0, (2.0, 5.0)),
        ],
        ignore_index=True,
    )


def test_checkpoints_are_selected_on_the_selection_split_alone(evaluations):
    selected = results.select_checkpoints(evaluations)
    found = {(row.algorithm, row.seed): row.step for row in selected.itertuples()}
    assert found == {("dpo", 0): 5, ("qrpo", 0): 9, ("qrpo", 1): 5}


def test_prompts_are_means_over_repeats_and_seeds(evaluations):
    prompts = results.per_prompt(evaluations, results.select_checkpoints(evaluations))
    assert prompts["reward"]["initial"].tolist() == [1.0, 2.0]
    assert prompts["reward"]["dpo"].tolist() == [2.0, 3.0]
    assert prompts["reward"]["qrpo"].tolist() == [3.0, 4.0]
    assert prompts["length"]["qrpo"].tolist() == [80.0, 80.0]


def test_table_of_means_gains_and_sample_sizes(evaluations):
    selected = results.select_checkpoints(evaluations)
    table = results.reward_table(results.per_prompt(evaluations, selected), evaluations, selected).set_index("policy")
    assert table["reward"].to_dict() == {"Initial": 1.5, "DPO": 2.5, "QRPO": 3.5}
    assert table["gain"].to_dict() == {"Initial": 0.0, "DPO": 1.0, "QRPO": 2.0}
    assert table["seeds"].to_dict() == {"Initial": 0, "DPO": 1, "QRPO": 2}
    assert set(table["prompts"]) == {2}
    assert table.loc["QRPO", "seed_std"] == 0.0  # both seeds have a mean of 3.5
    text = results.reward_table_markdown(table.reset_index())
    assert "| QRPO | 3.5000" in text
    assert "+2.0000" in text


def test_training_curves_join_rewards_and_log_ratios(evaluations):
    steps = evaluations[["algorithm", "seed", "step"]].drop_duplicates()
    histories = pd.concat(
        [
            steps.assign(split=s, chosen_log_ratio=v, rejected_log_ratio=-v)
            for s, v in (("validation", 1.0), ("train", 5.0))
        ]
    )
    curves = results.training_curves(histories, evaluations)
    assert len(curves) == len(steps)
    assert set(curves["chosen_log_ratio"]) == {1.0}
    dpo = curves[(curves["algorithm"] == "dpo") & (curves["step"] == 5)]
    assert dpo["reward"].item() == pytest.approx((4 + 4 + 2 + 3) / 4)


def reference_completions(shift, n=4, prompts=2000):
    generator = np.random.default_rng(0)
    rows = []
    for prompt in range(prompts):
        rewards = generator.normal(prompt, 1 + prompt % 3, size=n + 1)
        rewards[0] += shift
        for index, reward in enumerate(rewards):
            role = "candidate" if index == 0 else "reference"
            rows.append({"prompt_id": prompt, "sample_index": index, "role": role, "reward": reward})
    return pd.DataFrame(rows)


def test_quantiles_of_reference_completions_are_uniform_and_others_are_not():
    shares, test = reference_results.uniformity(reference_completions(0.0))
    assert (test.prompts, test.n, len(shares)) == (2000, 4, 5)
    assert shares["share"].sum() == pytest.approx(1)
    assert test.p_value > 1e-3
    assert reference_results.uniformity(reference_completions(0.5))[1].p_value < 1e-6
