"""How a policy's own training went: the first and the last tenth of each stage, from a history written by hand."""

import pandas as pd

from qrpo_lib.results import samples


def test_losses_of_the_first_and_the_last_tenth_of_each_stage(tmp_path):
    stages = {"pretraining": [float(step) for step in range(20)], "instructions": [5.0, 4.0, 3.0]}
    rows = [
        {"stage": stage, "step": i, "loss": loss} for stage, losses in stages.items() for i, loss in enumerate(losses)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "history.csv", index=False)
    found = samples.training_losses(tmp_path).set_index("stage")
    assert list(found.index) == ["pretraining", "instructions"]  # in the order of training
    assert found["steps"].tolist() == [20, 3]
    assert found.loc["pretraining", ["first", "last"]].tolist() == [0.5, 18.5]
    assert found.loc["instructions", ["first", "last"]].tolist() == [5.0, 3.0]  # of few steps one


def test_a_policy_from_elsewhere_has_no_losses(tmp_path):
    assert "trained elsewhere" in samples.training_losses(tmp_path)
