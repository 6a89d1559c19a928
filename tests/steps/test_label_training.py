"""KTO's labels."""

from qrpo_lib.steps import label_training


def test_a_completion_is_desirable_from_the_median_on_or_if_all_tests_pass():
    rows = [{"chosen_reward": 1.0, "rejected_reward": 0.99, "ref_rewards": [0.0, 0.99, 5.0, 9.0]}]
    names = ("chosen_label", "rejected_label")
    assert [label_training.labelled(rows, solutions=False, count=3)[0][name] for name in names] == [True, True]
    assert [label_training.labelled(rows, solutions=False, count=4)[0][name] for name in names] == [False, False]
    assert [label_training.labelled(rows, solutions=True, count=3)[0][name] for name in names] == [True, False]
