"""The tables of App. L against the paper's own, and Table 3 put together of arms."""

import pandas as pd
import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.results import protocol_tables, tables
from qrpo_lib.tasks import registry as tasks

CHAT = ["llama-magpieair", "llama-ultrafeedback", "mistral-magpieair", "mistral-ultrafeedback"]


@pytest.fixture(scope="module")
def arms():
    return protocol_tables.arms("gh200")


def test_the_papers_betas(arms):
    found = protocol_tables.betas(arms).set_index("algorithm")
    paper = {  # App. L.9
        ("DPO", "0.01, 0.03, 0.1"): [*CHAT, "llama-leetcode"],
        ("SimPO", "2, 2.5, 10"): [*CHAT, "llama-leetcode"],
        ("REBEL", "1e-06, 0.0001, 0.01"): CHAT,
        ("REBEL", "0.0001, 0.01, 1"): ["llama-leetcode"],
    }
    others = found.drop("QRPO")
    assert {(name, row.betas): row.arms.split(", ") for name, row in others.iterrows()} == paper
    assert {(row.betas, row.reference_rewards): row.arms.split(", ") for _, row in found.loc["QRPO"].iterrows()} == {
        ("0.0003, 0.001, 0.003", "1"): ["llama-magpieair", "mistral-magpieair"],
        ("0.0003, 0.001, 0.003", "3"): ["llama-ultrafeedback", "mistral-ultrafeedback"],
        ("0.003, 0.01, 0.03", "20"): ["llama-leetcode"],
    }


def test_the_papers_phases(arms):
    found = protocol_tables.phases(arms)
    assert found[["phase", "epochs", "learning_rates", "batch_size"]].to_numpy().tolist() == [
        ["SFT", 1, "5e-07", 128],
        ["SFT", 3, "5e-07", 128],
        ["RL", 1, "1e-07, 3e-07, 1e-06", 128],
    ]
    assert found["arms"].tolist()[1] == "llama-leetcode"
    assert set(found["last_batch"]) == {"drop"}


def test_the_papers_settings_and_sampling(arms):
    found = protocol_tables.settings(arms)
    chat = found[found["arms"] == ", ".join(CHAT)]
    assert chat["fine_tuned_first"].tolist() == ["no"] * 3 + ["yes"] * 3
    assert "best and worst of 6" in chat["pairs"].tolist()
    (code,) = found.loc[found["arms"] == "llama-leetcode", "pairs"]
    assert code == "random, ranked, 10 of 20"
    sampling = protocol_tables.sampling(arms).set_index("purpose")
    assert sampling.loc["evaluation (mistralai/Mistral-7B-Instruct-v0.2)", ["temperature", "top_p"]].tolist() == [
        0.7,
        0.9,
    ]
    assert sampling.loc["reference completions", "completions"] == 50


def test_every_profile_has_every_table():
    for name in ("tiny", "smol", "gh200-released"):
        found = protocol_tables.all_tables(protocol_tables.arms(name))
        assert all(len(frame) and not frame.isna().any(axis=None) for frame in found.values())
    assert protocol_tables.datasets(protocol_tables.arms("smol"))["reward"].tolist() == [
        "the task's own",
        "share of tests passed",
    ]


def test_the_prompt_of_a_code_arm_is_what_the_policy_gets(tmp_path):
    found = protocol_tables.prompts(protocol_tables.arms("tiny"))
    task = profiles.load("tiny", "code").task
    assert found == {"code": tasks.of(task).prompts(0)[0].text}
    (path,) = protocol_tables.save_prompts(found, tmp_path)
    assert path == tmp_path / "code" / "figure-9.md"
    assert path.read_text().strip() == found["code"].strip()


def published(figures, arm, model, dataset, alpaca=None):
    folder = figures / "gh200" / arm
    folder.mkdir(parents=True)
    rows = [
        {"model": model, "dataset": dataset, "method": method, "lc_reward": value, "reward": value}
        for method, value in (("initial", 0.1), ("qrpo", 0.2))
    ]
    pd.DataFrame(rows).to_csv(folder / "table-3.csv", index=False)
    if alpaca:
        board = {"method": ["qrpo"], "win_rate": [1.0], "alpaca_lc": [alpaca], "alpaca_wr": [40.0]}
        pd.DataFrame(board).to_csv(folder / "alpaca-eval.csv", index=False)


def test_table_3_is_put_together_of_the_chat_arms(arms, tmp_path):
    published(tmp_path, "llama-magpieair", "Llama", "magpieair", alpaca=50.6)
    published(tmp_path, "mistral-ultrafeedback", "Mistral", "ultrafeedback")
    rows, missing = protocol_tables.table_3_rows(arms, tmp_path)
    assert missing == ["llama-ultrafeedback", "mistral-magpieair"]
    assert len(rows) == 4
    text = tables.table_3(rows, "Reward").markdown
    lines = [line for line in text.splitlines() if "QRPO" in line]
    assert [line.split("|")[1].strip() for line in lines] == ["Llama", "Mistral"]
    assert "50.6" in lines[0]
    assert "50.6" not in lines[1]
    assert protocol_tables.table_3_rows(arms, tmp_path / "none")[1] == CHAT
