import re

import numpy as np
import pandas as pd
import pytest

from qrpo_lib.paper import published, style
from qrpo_lib.results import tables


def columns_of(line):
    """How many columns a row of a LaTeX table spans."""
    cells = re.split(r"(?<!\\)&", line.removesuffix("\\\\"))
    return sum(int(found[1]) if (found := re.search(r"\\multicolumn\{(\d+)\}", cell)) else 1 for cell in cells)


def papers_appendix_m(arm):
    """The hyperparameters of a table of the paper's App. M, without its rewards."""
    rows = published.table("appendix_m")
    return rows[rows["arm"] == arm].assign(selected=lambda of_arm: of_arm["selected"].eq(True))


TABLES = {
    "1": tables.table_1(),
    "2": tables.table_2(tables.published_table_2()),
    "3": tables.table_3(tables.published_table_3(), "ArmoRM Reward"),
    "M": tables.appendix_m(papers_appendix_m("llama-magpieair")),
    "M, code": tables.appendix_m(papers_appendix_m("llama-leetcode"), lc=False),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_all_columns(name):
    table = TABLES[name]
    alignment = re.search(r"\\begin\{tabular\}\{(\w+)\}", table.latex)[1]
    lines = [line for line in table.latex.splitlines() if line.endswith("\\\\")]
    assert {columns_of(line) for line in lines} == {len(alignment)}
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.markdown.splitlines()}) == 1
    assert table.latex.count("{") == table.latex.count("}")


def test_published_numbers_come_back_out():
    markdown, latex = TABLES["3"].markdown, TABLES["3"].latex
    for row in published.table("table_3").itertuples():
        for text in (f"{row.lc_reward:.4f}", f"{row.reward:.4f}", f"{row.alpaca_wr:.1f}"):
            assert text in markdown
            assert text in latex
    assert (
        "| Mistral 7B Instruct v0.2 | **QRPO** | **0.1893** ± 0.0003 | 0.1886 ± 0.0002 | **44.4** ± 0.1 |" in markdown
    )
    assert "| + QRPO | **32.7** ± 1.0 |" in TABLES["2"].markdown


def test_the_reported_setting_has_a_star():
    lines = TABLES["M"].markdown.splitlines()
    starred = [line.split("|")[2].strip() for line in lines if "\\*" in line]
    assert starred == ["sft-offline\\*"] * 4
    assert sum(line.startswith("| DPO") for line in lines) == 1  # a method's name stands once


def test_what_was_not_measured_is_a_dash():
    rows = pd.DataFrame(
        [
            {
                "model": "m",
                "dataset": "a",
                "method": "initial",
                "reward": 1.0,
                "reward_error": np.nan,
                "lc_reward": 2.0,
            },
            {
                "model": "m",
                "dataset": "b",
                "method": "qrpo",
                "reward": np.nan,
                "lc_reward": 3.0,
                "lc_reward_bold": True,
            },
        ]
    )
    table = tables.table_3(rows, "Reward")
    assert table.markdown.splitlines()[2:] == [
        "| m | Initial | 2.0000 | 1.0000 | – | – |",
        "| m | **QRPO** | – | – | **3.0000** | – |",
    ]
    assert "AlpacaEval" not in table.markdown


def test_tables_are_saved_in_three_forms(tmp_path):
    table = TABLES["2"]
    data = tables.published_table_2()
    paths = style.save_table("table-2", data, table.markdown, tmp_path, table.latex)
    assert [path.name for path in paths] == ["table-2.csv", "table-2.md", "table-2.tex"]
    assert pd.read_csv(paths[0])["pass_rate"].tolist() == data["pass_rate"].tolist()
    assert paths[2].read_text() == table.latex + "\n"
