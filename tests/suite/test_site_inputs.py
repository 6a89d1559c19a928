"""A report that is what it would be again is left as it is; it is made anew if anything that it shows has changed."""

import importlib.metadata
import json
import os
import shutil

import nbformat
import pytest

from qrpo_lib.paper import claims
from qrpo_lib.runs import folders, paths
from qrpo_lib.suite import cli, notebooks, own_folder
from qrpo_lib.suite import site as report
from qrpo_lib.suite.site import inputs


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project with an executed notebook, and the numbers of reports that were made of it."""
    root = tmp_path / "project"
    for folder in ("notebooks/theory", "docs", "code", "figures/tiny/chat"):
        (root / folder).mkdir(parents=True)
    (root / "docs" / "index.md").write_text(
        "# Start\n\n[code](../code/loss.py) [all](../code) [none](../code/new.py)\n"
    )
    (root / "code" / "loss.py").write_text("x = 1\n")
    (root / "README.md").write_text("# It\n")
    (root / "figures" / "tiny" / "chat" / "table-2.md").write_text("| x |\n|---|\n| 1 |\n")
    cells = [nbformat.v4.new_markdown_cell("# A title")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / "theory" / "first.ipynb")
    claims.Ledger(root / "figures" / "tiny" / "chat", "tiny, chat").judge("kl-linear", 1.0, "of order 2")
    monkeypatch.setenv("QRPO_ROOT", str(root))
    monkeypatch.delenv("QRPO_RUNS", raising=False)
    job = notebooks.Job("theory/first", "theory/first")
    monkeypatch.setattr(notebooks, "jobs", lambda profile: [job] if "tiny" in profile else [])
    package = tmp_path / "package"  # a copy, to change it
    shutil.copytree(paths.PACKAGE / "suite" / "site", package / "site", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(paths, "PACKAGE", package)
    folders.complete(job.step, lambda folder: shutil.copy(job.source, folder / notebooks.EXECUTED))
    monkeypatch.setattr(report, "_render", _render)
    monkeypatch.setattr(_render, "made", 0, raising=False)
    return root


def _render(pages, notebook_groups, new):
    """In place of MkDocs."""
    _render.made += 1
    shutil.copytree(pages.folder, new, dirs_exist_ok=True)
    (new / "index.html").write_text(f"report {_render.made}")


def reports(root, profile="tiny"):
    """How many reports were made once the command has been given."""
    assert report.build(profile, root / "report") == root / "report" / "index.html"
    return _render.made


def test_nothing_is_made_twice(project, capsys):
    assert reports(project) == 1
    before = {path: path.stat().st_mtime_ns for path in (project / "report").rglob("*")}
    assert reports(project) == 1
    assert cli.main(["report", "--output", str(project / "report")]) == 0
    assert capsys.readouterr().out == f"Open {(project / 'report' / 'index.html').as_uri()}\n"
    assert _render.made == 1
    assert {path: path.stat().st_mtime_ns for path in (project / "report").rglob("*")} == before
    (project / "report" / "CNAME").write_text("example.org")  # what is the user's
    (project / "code" / "__pycache__").mkdir()
    (project / "runs" / "training-0123456789ab").mkdir()
    assert reports(project) == 1


CHANGES = {
    "a page": lambda root: (root / "docs" / "index.md").write_text("# Begin\n"),
    "another page": lambda root: (root / "docs" / "more.md").write_text("# More\n"),
    "a page goes": lambda root: (root / "README.md").unlink(),
    "a table": lambda root: (root / "figures" / "tiny" / "chat" / "table-2.md").write_text("| y |\n|---|\n| 2 |\n"),
    "the manifest": lambda root: (root / "figures" / "manifest.json").write_text("{}"),
    "a time": lambda root: os.utime(root / "figures" / "tiny" / "chat" / "table-2.md", ns=(1, 1)),
    "source that is linked to": lambda root: (root / "code" / "loss.py").write_text("x = 2\n"),
    "a folder that is linked to": lambda root: (root / "code" / "other.py").write_text(""),
    "what a link missed": lambda root: (root / "code" / "new.py").write_text(""),
    "how to contribute": lambda root: (root / "CONTRIBUTING.md").write_text("# Please\n"),
    "a notebook": lambda root: (root / "notebooks" / "theory" / "second.ipynb").write_text("{}"),
    "an execution": lambda root: os.utime(next((root / "runs").glob(f"*/{notebooks.EXECUTED}")), ns=(1, 1)),
    "an execution goes": lambda root: shutil.rmtree(next((root / "runs").glob("notebook-*"))),
    "an execution of another profile": lambda root: shutil.copytree(
        next((root / "runs").glob("notebook-*")), root / "runs" / "notebook-theory-other-0123456789ab"
    ),
    "how it looks": lambda root: (paths.PACKAGE / "site" / "assets" / "site.css").write_text(""),
    "how it is made": lambda root: (paths.PACKAGE / "site" / "ledger.py").write_text(""),
    # Of the report itself:
    "a file is missing": lambda root: (root / "report" / "figures.md").unlink(),
    "a file was edited": lambda root: (root / "report" / "figures.md").write_text("mine"),
    "half a file": lambda root: os.truncate(root / "report" / "index.html", 3),
    "no marker of it": lambda root: _unnoted(root / "report" / own_folder.MARKER),
    "a nonsense in the marker": lambda root: _unnoted(root / "report" / own_folder.MARKER, {"linked": 1}),
    "a build was killed": lambda root: (root / "report" / ".qrpo-report.partial").mkdir(),
}


def _unnoted(marker, noted=None):
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"made_from": noted}))


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_made_again(project, change):
    assert reports(project) == 1
    CHANGES[change](project)
    assert reports(project) == 2
    assert reports(project) == 2


def test_another_profile_version_or_variable_makes_another(project, monkeypatch):
    assert reports(project) == 1
    assert reports(project, "tiny-full") == 2
    assert reports(project, "tiny-full") == 2
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0" if name == "mkdocs-material" else version(name))
    assert reports(project, "tiny-full") == 3
    monkeypatch.setenv("QRPO_DATA", str(project / "data"))
    assert reports(project, "tiny-full") == 4


def test_what_changes_while_it_is_made_is_seen_the_next_time(project, monkeypatch):
    def render(*arguments):
        (project / "docs" / "late.md").write_text("# Late\n")
        (project / "code" / "loss.py").write_text("x = 3\n")
        _render(*arguments)

    monkeypatch.setattr(report, "_render", render)
    assert reports(project) == 1
    monkeypatch.setattr(report, "_render", _render)
    assert reports(project) == 2
    assert reports(project) == 2


def test_a_report_that_was_killed_half_way_is_made_again(project, monkeypatch):
    """While its files were put in place; and its inputs are again what they were for the report before."""
    page = project / "docs" / "index.md"
    text, times = page.read_text(), page.stat()
    assert reports(project) == 1
    page.write_text(text.replace("Start", "Begin"))  # the same files are written, and none goes
    write, written = own_folder._write_marker, []

    def once(*arguments):
        if written:
            raise KeyboardInterrupt
        written.append(write(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(own_folder, "_write_marker", once)
        with pytest.raises(KeyboardInterrupt):
            reports(project)
    page.write_text(text)
    os.utime(page, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert reports(project) == 3
    assert reports(project) == 3


def test_a_folder_counts_by_what_it_holds_itself(tmp_path):
    assert inputs.state(tmp_path / "none") is None
    (tmp_path / "inner").mkdir()
    before = inputs.state(tmp_path)
    (tmp_path / "inner" / "deeper").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    assert inputs.state(tmp_path) == before
    (tmp_path / "file").write_text("x")
    assert inputs.state(tmp_path) != before
