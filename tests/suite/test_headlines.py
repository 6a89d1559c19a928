"""What the command line says in a few lines."""

import shlex
import shutil
import sys

import pytest

from qrpo_lib.paper import claims
from qrpo_lib.runs import folders, paths
from qrpo_lib.suite import cli, headlines, notebooks


@pytest.mark.parametrize(("on_path", "typed"), [("/usr/bin/qrpo", "qrpo"), (None, "'a b/.venv/bin/qrpo'")])
def test_without_a_command_it_says_what_to_do_next(runs_folder, monkeypatch, capsys, on_path, typed):
    """Commands as they are typed here, each of which there is."""
    monkeypatch.setattr(shutil, "which", lambda name: on_path)
    monkeypatch.setattr(sys, "argv", ["a b/.venv/bin/qrpo"])
    jobs = [notebooks.Job(f"theory/{name}", f"theory/{name}") for name in ("noise", "asymptotics")]
    monkeypatch.setattr(notebooks, "jobs", lambda profile: jobs)
    for executed, first in ((0, "make first"), (1, f"{typed} reproduce"), (2, f"{typed} report")):
        assert cli.main([]) == 0
        _, *lines, _ = (line.strip() for line in capsys.readouterr().out.splitlines())
        assert lines[0].startswith(first)
        for line in lines:
            command, *words = shlex.split(line.partition("  ")[0])
            assert command in ("make", "a b/.venv/bin/qrpo", "qrpo")
            if command == "make":
                assert f"\n{words[0]}:" in (paths.PACKAGE.parent / "Makefile").read_text()
            else:
                cli._parser(words).parse_args(words)
        if executed < 2:
            folders.complete(jobs[executed].step, lambda folder: (folder / notebooks.EXECUTED).write_text("{}"))


def test_a_folder_of_ones_own_is_told_of_no_makefile(tmp_path, runs_folder, monkeypatch):
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    (tmp_path / "notebooks").symlink_to(paths.PACKAGE.parent / "notebooks")
    job = notebooks.Job("theory/noise", "theory/noise")
    monkeypatch.setattr(notebooks, "jobs", lambda profile: [job])
    told = [headlines.next_steps("tiny")]
    folders.complete(job.step, lambda folder: (folder / notebooks.EXECUTED).write_text("{}"))
    told.append(headlines.next_steps("tiny"))
    assert told[0] != told[1]
    assert not [command for steps in told for command, _ in steps if command.startswith("make")]


def test_the_headline_is_what_figure_1_and_the_ledger_say(tmp_path, monkeypatch):
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    assert headlines.results("tiny") == []
    chat = tmp_path / "figures" / "tiny" / "chat"
    chat.mkdir(parents=True)
    (chat / "figure-1.csv").write_text(
        "method,value,error,bold\ninitial,2.2204,0.0578,False\nqrpo,2.8710,0.0777,True\n"
    )
    claims.Ledger(chat, "tiny, chat").judge("z-is-the-mgf", 0.0, "x")
    best, verdicts = headlines.results("tiny")
    assert best == "chat: initial policy 2.22 ± 0.058, QRPO 2.871 ± 0.078"
    assert verdicts.startswith("Verdicts on the paper's claims: 1 supported")
    assert headlines.results("smol") == [verdicts]


def test_a_reproduction_ends_with_the_address_of_the_site(tmp_path):
    page = tmp_path / "a b é" / "index.html"
    said = headlines.site(page.parent)
    assert said == f"`qrpo report` makes a site of them, with every notebook, to open at {page.as_uri()}"
    page.parent.mkdir()
    page.touch()
    assert headlines.site(page.parent).endswith(f"up to date: {page.as_uri()}")
