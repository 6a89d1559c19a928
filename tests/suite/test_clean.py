"""`qrpo clean` removes run folders and nothing else, wherever $QRPO_RUNS points."""

import io
import json
import sys

import pytest

from qrpo_lib.runs import cleaning, folders, keys, records
from qrpo_lib.suite import cli, execution, notebooks, project_profiles

NAME = "training-0123456789ab"


def complete(name="old", **parameters):
    step = keys.Step(name, parameters)
    folders.complete(step, lambda folder: (folder / "x").write_text("x" * 1000))
    return step


def tree(folder):
    """Every path below a folder, with the content of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if ".locks" not in path.parts
    }


@pytest.fixture
def project(tmp_path, runs_folder, monkeypatch):
    """A folder with a project, a thesis beside its run folders, and no profile of its own."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.setenv("QRPO_ROOT", str(root))
    monkeypatch.setenv("QRPO_RUNS", str(root / "runs"))
    monkeypatch.chdir(root)
    (root / "runs" / "my-thesis").mkdir(parents=True)
    (root / "runs" / "my-thesis" / "chapter-1.tex").write_text("years of work")
    return root


@pytest.fixture
def uses_nothing(monkeypatch):
    """As if no profile needed anything: looking at real ones takes seconds."""
    monkeypatch.setattr(project_profiles, "needed_folders", lambda further=(): set())


def run(*arguments):
    return cli.main(["clean", *arguments])


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../project", "/", "runs/..", "my-thesis", "my-thesis/", ".partial", "*", "a\0b", f"./{NAME}"],
)
@pytest.mark.parametrize("further", [[], ["--yes"]])
def test_names_that_are_none_of_a_run_folder_are_refused(project, capsys, name, further):
    complete()
    before = tree(project)
    assert run("--run", name, *further) == 2
    assert "is not the name of a run folder" in capsys.readouterr().out
    assert tree(project) == before


@pytest.mark.parametrize("arguments", [[], ["--all"]])
def test_what_is_not_the_suites_stays_wherever_the_runs_folder_is(project, uses_nothing, arguments):
    runs_folder = project / "runs"
    step = complete()
    foreign = runs_folder / NAME
    foreign.mkdir()  # called like a run folder, made by somebody else
    (foreign / "data.csv").write_text("1")
    copied = runs_folder / "training-ba9876543210"
    copied.mkdir()
    (copied / records.RECORD).write_bytes((step.folder / records.RECORD).read_bytes())
    cache = runs_folder / ".cache" / "pip"
    cache.mkdir(parents=True)
    (cache / "wheel").write_text("1")
    (runs_folder / ".partial" / "notes-of-mine").mkdir(parents=True)
    (runs_folder / "README.md").write_text("what this folder is for")
    kept = {name: content for name, content in tree(project).items() if not name.startswith(f"runs/{step.folder_name}")}
    assert run(*arguments, "--yes") == 0
    assert tree(project) == kept


def test_a_fresh_clones_runs_folder_holds_nothing_to_list_or_remove(project, uses_nothing, capsys):
    (project / "runs" / "README.md").write_text("what this folder is for")
    before = tree(project)
    for arguments in (["runs"], ["clean", "--yes"], ["clean", "--all", "--yes"]):
        assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "0 of 0 run folders" in said
    assert said.count("Nothing to remove") == 2
    assert run("--run", "README.md") == 2
    assert tree(project) == before


def test_a_home_folder_as_runs_folder_keeps_its_cache(project, uses_nothing, monkeypatch):
    monkeypatch.setenv("QRPO_RUNS", str(project))
    own = project / ".cache" / "reference_log_probs"
    own.mkdir(parents=True)
    (own / f"{'ab' * 16}.npy").write_text("cached")
    (own / "mine.txt").write_text("mine")
    (project / ".cache" / "mozilla").mkdir()
    assert run("--all", "--yes") == 0
    assert sorted(path.name for path in (project / ".cache").rglob("*")) == ["mine.txt", "mozilla", own.name]


def test_without_a_terminal_nothing_is_removed_unless_yes(project, uses_nothing, capsys):
    step = complete()
    before = tree(project)
    assert run() == 2
    output = " ".join(capsys.readouterr().out.split())
    assert step.folder_name in output
    assert "kB" in output
    assert "give --yes" in output
    assert tree(project) == before
    assert run("--dry-run") == 0
    assert run("--dry-run", "--yes") == 0
    assert tree(project) == before
    assert run("--yes") == 0
    assert not step.folder.exists()


@pytest.mark.parametrize(
    ("answer", "removed"), [("y\n", True), ("yes\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_on_a_terminal_it_asks(project, uses_nothing, monkeypatch, answer, removed):
    step = complete()
    stdin = io.StringIO(answer)
    stdin.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run() == 0
    assert step.folder.exists() != removed


def test_links_are_not_followed_and_stay(project, uses_nothing, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    step = complete()
    step.folder.rename(elsewhere)
    step.folder.symlink_to(elsewhere)
    other = complete(b=1)
    (other.folder / "link").symlink_to(elsewhere)
    before = tree(elsewhere)
    assert run("--yes") == 0
    assert tree(elsewhere) == before
    assert step.folder.is_symlink()
    assert not other.folder.exists()
    assert run("--run", step.folder_name, "--yes") == 2
    assert "is a link" in capsys.readouterr().out
    assert tree(elsewhere) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"name": 3}', b"\xff\xfe"])
def test_a_damaged_run_folder_goes_when_it_is_named_and_only_then(project, uses_nothing, capsys, content):
    folder = project / "runs" / NAME
    folder.mkdir()
    (folder / records.RECORD).write_bytes(content)
    assert run("--all", "--yes") == 0
    assert f"qrpo clean --run {NAME}" in capsys.readouterr().out
    assert folder.exists()
    assert run("--run", NAME, "--yes") == 0
    assert not folder.exists()


def test_the_advice_of_a_corrupted_folder_works_where_its_record_is_gone(project):
    step = complete("sft")
    (step.folder / records.RECORD).unlink()
    with pytest.raises(records.CorruptedRunError, match=f"qrpo clean --run {step.folder_name}"):
        step.is_complete()
    assert run("--run", step.folder_name, "--yes") == 0
    assert not step.folder.exists()


def test_a_folder_that_only_looks_like_a_run_folder_is_not_removed_by_name(project, capsys):
    folder = project / "runs" / NAME
    folder.mkdir()
    (folder / "x").write_text("x")
    assert run("--run", NAME, "--yes") == 2
    assert "cannot be told whether the suite made it" in " ".join(capsys.readouterr().out.split())
    (folder / records.RECORD).write_text(json.dumps({"name": "training", "key": "ba9876543210"}))
    assert run("--run", NAME, "--yes") == 2
    assert "training-ba9876543210" in capsys.readouterr().out
    assert (folder / "x").exists()
    assert run("--run", "training-aaaaaaaaaaaa", "--yes") == 2
    assert "There is no run folder" in capsys.readouterr().out


def test_what_a_running_command_works_on_stays(project, uses_nothing, capsys):
    busy, shard = complete(a=1), complete(a=2)
    with folders.lock(busy.folder_name), folders.lock(f"{shard.folder_name}.shard-1"):
        assert run("--yes") == 0
        assert busy.folder.exists()
        assert shard.folder.exists()
    assert "a running command is at work on it" in capsys.readouterr().out
    assert run("--yes") == 0
    assert not busy.folder.exists()


def test_a_kill_while_removing_leaves_no_half_of_a_run_folder(project, uses_nothing, monkeypatch):
    step = complete()

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cleaning.shutil, "rmtree", killed)
        assert run("--yes") == 130
    assert not step.folder.exists()
    assert [found.kind for found in cleaning.unneeded(set())] == ["rest of a removed folder"]
    assert run("--yes") == 0
    assert not list((project / "runs").glob(".removed/*"))


def test_run_and_all_together_are_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        run("--run", NAME, "--all")
    assert ended.value.code == 2


def test_force_does_not_follow_a_link_in_the_place_of_a_run_folder(project, tmp_path, monkeypatch):
    (project / "notebooks").mkdir()
    (project / "notebooks" / "some.ipynb").write_text(
        '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    )
    job = notebooks.Job("some", "some")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    job.step.folder.symlink_to(elsewhere)
    with pytest.raises(OSError, match="is a link, not a run folder"):
        execution.execute(job, force=True)
    assert (elsewhere / "mine").exists()
    job.step.folder.unlink()
    folders.complete(job.step, lambda folder: (folder / "old").touch())
    monkeypatch.setattr(execution, "_run_notebook", lambda job, step, folder: (folder / "new").touch())
    assert (execution.execute(job, force=True) / "new").exists()
    assert not (job.step.folder / "old").exists()
