import json
import os
from pathlib import Path

import pytest

from qrpo_lib.paper import published

SHARED = Path(os.environ.get("QRPO_SHARED", Path(__file__).parents[3] / "shared"))

# Read off the paper's Table 3: the methods in bold, by model, dataset and column.
BOLD = {
    ("llama", "magpieair"): {
        "lc_reward": {"qrpo"},
        "reward": {"simpo", "qrpo"},
        "alpaca_lc": {"qrpo"},
        "alpaca_wr": {"dpo", "qrpo"},
    },
    ("llama", "ultrafeedback"): {
        "lc_reward": {"simpo", "qrpo"},
        "reward": {"simpo"},
        "alpaca_lc": {"qrpo"},
        "alpaca_wr": {"qrpo"},
    },
    ("mistral", "magpieair"): {
        "lc_reward": {"dpo", "qrpo"},
        "reward": {"dpo"},
        "alpaca_lc": {"qrpo"},
        "alpaca_wr": {"dpo", "simpo", "rebel", "qrpo"},
    },
    ("mistral", "ultrafeedback"): {
        "lc_reward": {"dpo", "simpo", "rebel", "qrpo"},
        "reward": {"dpo", "simpo", "qrpo"},
        "alpaca_lc": {"dpo", "simpo", "qrpo"},
        "alpaca_wr": {"dpo", "qrpo"},
    },
}


@pytest.mark.parametrize("arm", BOLD)
@pytest.mark.parametrize("column", ["lc_reward", "reward", "alpaca_lc", "alpaca_wr"])
def test_the_rule_found_for_bold_gives_the_papers_table_3(arm, column):
    rows = published.table("table_3").set_index(["model", "dataset", "method"]).loc[arm]
    bold = published.bold(rows[column], rows[f"{column}_std"])
    assert set(bold[bold].index) == BOLD[arm][column]


def test_table_2_has_one_bold_value():
    rows = published.table("table_2").set_index("method")
    bold = published.bold(rows["avg_pass_percent"], rows["std"])
    assert list(bold[bold].index) == ["qrpo"]


def test_the_appendix_has_one_best_cell_a_method_and_setting():
    rows = published.table("appendix_m")
    chat = rows[(rows["arm"] != "llama-leetcode") & (rows["method"] != "sft")]
    assert chat.groupby(["arm", "method"]).size().eq(6).all()
    assert chat.groupby(["arm", "method"])["selected"].sum().eq(1).all()


def test_an_unknown_table_is_refused():
    with pytest.raises(ValueError, match="no published table 'table_1'"):
        published.table("table_1")
    assert published.where("table_3").startswith("Table 3")
    assert published.value("trained_models_per_algorithm") == 225


def test_the_numbers_are_those_of_the_reference_file():
    path = SHARED / "paper" / "reference_results.json"
    if not path.is_file():
        pytest.skip(f"the reference results are not beside the checkout ({path})")
    reference = json.loads(path.read_text(encoding="utf-8"))
    assert published.table("table_2").to_dict("records") == reference["table2"]
    assert published.table("table_3").to_dict("records") == reference["table3"]
    for arm, rows in published.table("length_bias_spearman").groupby("arm"):
        assert dict(zip(rows["method"], rows["rho"], strict=True)) == reference["length_bias_spearman"][arm]
