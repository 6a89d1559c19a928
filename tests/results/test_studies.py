"""The scaling studies' cells in numbers that are summed by hand; their verdicts are tested with the best models."""

import numpy as np
import pandas as pd
import pytest

from qrpo_lib.results import studies

# values of a cell: (2 seeds, 2 prompts)
CELLS = {
    ("offline", 0.1, 1e-6, 1, "exact"): studies.ReportedCell(4, 0.0, np.array([[1.0, 2.0], [3.0, 4.0]])),
    ("offline", 0.1, 1e-5, 1, "exact"): studies.ReportedCell(0, 0.0, np.array([[3.0, 2.0], [1.0, 0.0]])),
    ("offline", 0.1, 1e-6, 50, "exact"): studies.ReportedCell(4, 0.0, np.full((2, 2), 10.0)),
    ("offline", 0.1, 1e-6, 1, "finite"): studies.ReportedCell(0, 0.0, np.full((2, 2), 1000.0)),
    ("offline", 0.3, 1e-6, 1, "exact"): studies.ReportedCell(0, 0.0, np.full((2, 2), 1000.0)),
    ("off-policy", 0.1, 1e-6, 1, "exact"): studies.ReportedCell(0, 0.0, np.full((2, 2), 1000.0)),
}


def test_a_mean_is_over_learning_rates_and_the_asked_numbers_of_references_alone():
    np.testing.assert_array_equal(studies.mean_over(CELLS, "offline", 0.1, [1]), [[2, 2], [2, 2]])
    both = studies.mean_over(CELLS, "offline", 0.1, [1, 50])
    np.testing.assert_allclose(both, np.array([[1 + 3, 2 + 2], [3 + 1, 4 + 0]]) / 3 + 10 / 3)
    with pytest.raises(ValueError, match=r"no cell of offline at beta 0\.1 with \[3, 10\] references"):
        studies.mean_over(CELLS, "offline", 0.1, [10, 3])


def test_untrained_cells_are_those_of_step_0_with_the_exact_partition_function():
    assert studies.untrained_cells(CELLS, ["offline"]) == ["offline, beta 0.1, n = 1", "offline, beta 0.3, n = 1"]
    assert studies.untrained_cells(CELLS, ["offline"], [0.3]) == ["offline, beta 0.3, n = 1"]
    assert studies.untrained_cells(CELLS, ["offline", "off-policy"], [0.1]) == [
        "offline, beta 0.1, n = 1",
        "off-policy, beta 0.1, n = 1",
    ]


def test_what_is_told_of_unmoved_cells_counts_them():
    rows = pd.DataFrame({"setting": ["offline", "offline", "off-policy"], "beta": [0.1, 0.1, 0.3], "step": [0, 0, 8]})
    told = studies.told_unmoved(rows)
    assert told.startswith("2 of 3 cells")
    assert told.endswith("; offline, beta 0.1.")
    assert studies.told_unmoved(rows[rows["step"] > 0]).startswith("0 of 1 cells")


def test_curves_hold_what_each_table_says_of_the_same_step(monkeypatch):
    """Rewards are means over prompts and repeats; log-ratios those of the validation pairs, joined by run and step."""
    rows = [("qrpo", seed, step, seed + step + change) for seed in (0, 1) for step in (0, 4) for change in (-0.5, 0.5)]
    answers = pd.DataFrame(rows, columns=["algorithm", "seed", "step", "reward"])
    histories = pd.DataFrame(
        [
            ("qrpo", 0.1, seed, step, split, sign * step, -sign * step, 0.9, 0.2)
            for seed in (0, 1)
            for step in (0, 4)
            for split, sign in (("train", 100.0), ("validation", 1.0))
        ],
        columns=[
            *("algorithm", "beta", "seed", "step", "split"),
            *("chosen_log_ratio", "rejected_log_ratio", "chosen_quantile", "rejected_quantile"),
        ],
    )
    monkeypatch.setattr(studies.read, "evaluations", lambda profile, runs: answers)
    monkeypatch.setattr(studies.read, "histories", lambda profile, runs: histories)
    curves = studies.training_curves(None, []).set_index(["seed", "step"])
    assert len(curves) == 4
    assert curves["reward"].to_dict() == {(0, 0): 0, (0, 4): 4, (1, 0): 1, (1, 4): 5}
    assert curves["chosen_log_ratio"].to_dict() == {(0, 0): 0, (0, 4): 4, (1, 0): 0, (1, 4): 4}
    drawn = studies.log_ratio_curves(None, [])
    assert drawn["rejected_log_ratio"].tolist() == [0, -4, 0, -4]
    assert "split" not in drawn
