import math

import numpy as np
import pytest
import torch

from qrpo_lib.training import samples

TOKENS = ("prompt_ids", "chosen_ids", "rejected_ids")


def row(**changes):
    plain = {
        "prompt_ids": [3, 4],
        "chosen_ids": [5, 1],
        "rejected_ids": [6, 7, 1],
        "chosen_reward": 0.5,
        "rejected_reward": -0.5,
        "ref_rewards": [0.1, -0.2, 0.3],
    }
    return plain | changes


def check(rows, algorithm="qrpo", num_ref_rewards=None, context=8, **settings):
    limits = {"num_ref_rewards": num_ref_rewards, "context": context}
    return samples.checked(rows, "train", algorithm=algorithm, settings={"beta": 0.1} | settings, **limits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chosen_reward": math.nan}, "chosen_reward is not finite"),
        ({"rejected_reward": math.inf}, "rejected_reward is not finite"),
        ({"chosen_reward": None}, "chosen_reward is missing"),
        ({"ref_rewards": [0.1, math.nan, 0.2]}, "ref_rewards is not finite"),
        ({"ref_rewards": [0.1, 0.2]}, "2 reference rewards, but 3 are asked for"),
        ({"ref_rewards": []}, "0 reference rewards, but 3 are asked for"),
        ({"chosen_ids": []}, "chosen_ids is empty"),
        ({"rejected_ids": []}, "rejected_ids is empty"),
        ({"prompt_ids": []}, "prompt_ids is empty"),
        ({"prompt_ids": list(range(8))}, r"the prompt fills the context \(8 of 8 tokens\)"),
        ({"rejected_ids": list(range(7))}, "the prompt with rejected_ids has 9 tokens, the context 8"),
        ({"chosen_ids": None}, "chosen_ids is missing"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(changes, message):
    with pytest.raises(ValueError, match=f"^train row 1: .*{message}"):
        check([row(), row(**changes)])


def test_no_rows():
    with pytest.raises(ValueError, match="there are no train rows"):
        check([])


def test_transformation_undefined_for_one_reference_names_the_row():
    with pytest.raises(ValueError, match=r"^train row 0: .*at least 2 reference rewards"):
        check([row()], num_ref_rewards=1, transform="normal")


def test_what_an_algorithm_does_not_need_may_be_missing():
    tokens = {name: row()[name] for name in TOKENS}
    assert check([tokens], algorithm="dpo") == [tokens | {"weight": 1.0}]
    with pytest.raises(ValueError, match="row 0: chosen_reward is missing"):
        check([tokens], algorithm="rebel")


def test_ids_are_kept_and_reference_rewards_cut():
    (checked,) = check([row(prompt_ids=np.array([3, 4]), text="dropped")], num_ref_rewards=2)
    assert checked == row(ref_rewards=[0.1, -0.2], weight=1.0)
    assert all(type(token) is int for token in checked["prompt_ids"])


@pytest.mark.parametrize(
    ("algorithm", "settings", "message"),
    [
        ("ppo", {"beta": 0.1}, "unknown algorithm 'ppo': use one of qrpo, dpo, rebel, simpo"),
        ("dpo", {}, "the dpo loss needs beta"),
        ("dpo", {"beta": 0.1, "gamma": 1}, "does not take gamma: its settings are beta"),
        ("qrpo", {"beta": -1.0}, "beta must be a positive number"),
        ("qrpo", {"beta": 0.1, "transform": "cube"}, "unknown transformation"),
        ("qrpo", {"beta": 0.1, "partition": "both"}, "unknown partition"),
    ],
)
def test_loss_settings_are_checked(algorithm, settings, message):
    with pytest.raises(ValueError, match=message):
        samples.check_loss(algorithm, settings)


def test_collator_keeps_tokens_as_sampled_and_rewards_exact():
    rows = [row(), row(prompt_ids=[3], chosen_ids=[5, 6, 7], chosen_reward=0.1)]  # the second has no end of sequence
    batch = samples.Collator(pad_token_id=1)(rows)
    sequences = [[3, 4, 5, 1], [3, 5, 6, 7], [3, 4, 6, 7, 1], [3, 6, 7, 1]]
    completions = [[5, 1], [5, 6, 7], [6, 7, 1], [6, 7, 1]]
    for ids, mask, sequence, completion in zip(
        batch["input_ids"], batch["completion_mask"], sequences, completions, strict=True
    ):
        assert ids[: len(sequence)].tolist() == sequence
        assert ids[mask.bool()].tolist() == completion
    assert batch["chosen_reward"].tolist() == [0.5, 0.1]


def test_sample_loss_of_qrpo_is_the_mean_of_its_pointwise_losses():
    columns = {"chosen_logps": torch.tensor([-1.0]), "rejected_logps": torch.tensor([-2.0])}
    columns |= {"ref_chosen_logps": torch.tensor([-1.5]), "ref_rejected_logps": torch.tensor([-1.0])}
    columns |= {"chosen_reward": torch.tensor([2.0]), "rejected_reward": torch.tensor([0.0])}
    columns |= {"ref_rewards": torch.tensor([[1.0, 3.0]])}
    beta_log_z = 0.5 * math.log(0.5 * math.expm1(2.0))
    chosen = (0.5 - beta_log_z - 0.5 * 0.5) ** 2
    rejected = (0.0 - beta_log_z + 0.5 * 1.0) ** 2
    loss = samples.sample_loss("qrpo", columns, beta=0.5)
    assert float(loss) == pytest.approx((chosen + rejected) / 2, rel=1e-6)
    metrics = {name: float(value) for name, value in samples.sample_metrics("qrpo", columns, {"beta": 0.5}).items()}
    assert metrics == pytest.approx(
        {
            "chosen_log_ratio": 0.5,
            "rejected_log_ratio": -1.0,
            "implicit_reward_accuracy": 1.0,
            "chosen_quantile": 0.5,
            "rejected_quantile": 0.0,
            "chosen_target": 0.5 - beta_log_z,
            "rejected_target": -beta_log_z,
            "share_above_threshold": 0.0,
        }
    )
