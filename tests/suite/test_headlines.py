"""What the command line says in a few lines."""

from qrpo_lib.paper import claims
from qrpo_lib.runs import folders
from qrpo_lib.suite import cli, headlines, notebooks


def test_without_a_command_it_says_what_to_do_next(runs_folder, monkeypatch, capsys):
    jobs = [notebooks.Job(f"theory/{name}", f"theory/{name}") for name in ("noise", "asymptotics")]
    monkeypatch.setattr(notebooks, "jobs", lambda profile: jobs)
    for executed, first in ((0, "make first"), (1, "qrpo reproduce"), (2, "qrpo report")):
        assert cli.main([]) == 0
        _, line, *_ = capsys.readouterr().out.splitlines()
        assert line.strip().startswith(first)
        if executed < 2:
            folders.complete(jobs[executed].step, lambda folder: (folder / notebooks.EXECUTED).write_text("{}"))


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
    assert verdicts.startswith("The paper's claims: 1 supported")
    assert headlines.results("smol") == [verdicts]


def test_a_reproduction_ends_with_the_address_of_the_site(tmp_path):
    page = tmp_path / "a b é" / "index.html"
    said = headlines.site(page.parent)
    assert said == f"`qrpo report` makes a site of them, with every notebook, to open at {page.as_uri()}"
    page.parent.mkdir()
    page.touch()
    assert headlines.site(page.parent).endswith(f"up to date: {page.as_uri()}")
