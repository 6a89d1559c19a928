"""docs/protocol.md against the profiles it is made from."""

import re
from pathlib import Path

import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.suite import cli, protocol

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == protocol.page(), "run `qrpo protocol`"


def test_a_changed_profile_makes_it_stale(monkeypatch):
    before = protocol.page()
    load = profiles.load

    def changed(name, arm=None):
        profile = load(name, arm)
        return profile.with_training(batch_size=64) if name == "gh200" else profile

    monkeypatch.setattr(protocol.profiles, "load", changed)
    differing = set(before.splitlines()) ^ set(protocol.page().splitlines())
    assert {line.partition("batches of")[2][:3] for line in differing} == {" 12", " 64"}


def test_every_section_of_the_appendix_is_there():
    sections = {item["section"] for item in protocol.content()["items"]}
    assert {f"L.{number}" for number in range(2, 13)} <= sections


def test_every_item_says_what_each_profile_does_and_where_the_code_is():
    items = protocol.content()["items"]
    assert len({item["title"] for item in items}) == len(items)
    for item in items:
        assert all(item[part] for part in ("paper", "code", "file", "here", "why"))
        for name in ("tiny", "smol", "gh200"):
            for arm in profiles.arms(name):
                text = protocol.shown(profiles.load(name, arm), item)
                assert "{" not in text
                assert "None" not in text


@pytest.mark.parametrize(
    ("title", "arm", "expected"),
    [
        ("Whose rewards are the references", "llama-magpieair", '"shared": 6 candidates and 44 further completions'),
        ("Checkpoints", "mistral-ultrafeedback", "every 100 steps and the last"),
        ("Datasets", "llama-leetcode", "newfacade/LeetCodeDataset at `a9eca795817a0a21132070e2dc2e87445da4f089`"),
        ("Filter by length", "mistral-magpieair", "2048 tokens by RLHFlow/ArmoRM-Llama3-8B-v0.1"),
        ("β of REBEL", "llama-leetcode", "0.0001, 0.01, 1"),
        ("Figure 3", "llama-ultrafeedback", "–"),
    ],
)
def test_what_the_papers_scale_does(title, arm, expected):
    (item,) = (item for item in protocol.content()["items"] if item["title"] == title)
    assert protocol.shown(profiles.load("gh200", arm), item) == expected


def test_a_setting_that_is_gone_is_noticed():
    item = {"title": "Made up", "here": "{training.nothing_of_this_name}"}
    with pytest.raises(ValueError, match="Made up: no alternative fits tiny, chat"):
        protocol.shown(profiles.load("tiny", "chat"), item)


def test_the_command_writes_it(tmp_path, monkeypatch, capsys):
    from qrpo_lib.runs import paths

    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    assert cli.main(["protocol"]) == 0
    assert (tmp_path / "docs" / "protocol.md").read_text(encoding="utf-8") == protocol.page()
    assert cli.main(["protocol"]) == 0
    assert re.search("updated.*was up to date", " ".join(capsys.readouterr().out.split()))
