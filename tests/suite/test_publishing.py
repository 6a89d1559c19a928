"""What complete notebooks made is published, with a manifest; nobody else's file is touched."""

import json

import nbformat
import pytest

from qrpo_lib.runs import folders, paths
from qrpo_lib.runs.files import file_sha256
from qrpo_lib.suite import cli, notebooks, publishing


def test_a_published_file_that_was_replaced_by_hand_is_not_removed(tmp_path, runs_folder, monkeypatch):
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "notebooks" / "some.ipynb")
    for number, name in ((1, "old.csv"), (2, "new.csv")):
        job = notebooks.Job("some", "some", {"n": number})

        def make(folder, name=name):
            (folder / "figures" / "tiny").mkdir(parents=True)
            (folder / "figures" / "tiny" / name).write_text(name)

        folders.complete(job.step, make)
        publishing.publish(job.id, job.step.folder)
        (tmp_path / "figures" / "tiny" / "old.csv").write_text("mine")
    assert (tmp_path / "figures" / "tiny" / "old.csv").read_text() == "mine"
    assert sorted(json.loads((tmp_path / "figures" / publishing.MANIFEST).read_text())) == ["tiny/new.csv"]


def test_a_figure_that_a_job_no_longer_makes_leaves_the_manifest(tmp_path, runs_folder, monkeypatch):
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "notebooks" / "some.ipynb")

    def published(folder, name, parameters):
        job = notebooks.Job("some", "some", parameters)

        def make(path):
            (path / "figures" / folder).mkdir(parents=True)
            (path / "figures" / folder / name).write_text(name)

        folders.complete(job.step, make)
        publishing.publish(job.id, job.step.folder)
        return sorted(json.loads((tmp_path / "figures" / publishing.MANIFEST).read_text()))

    assert published("tiny", "old.csv", {"n": 1}) == ["tiny/old.csv"]
    assert published("smol", "old.csv", {"n": 2}) == ["smol/old.csv", "tiny/old.csv"]
    assert published("tiny", "new.csv", {"n": 3}) == ["smol/old.csv", "tiny/new.csv"]
    assert not (tmp_path / "figures" / "tiny" / "old.csv").exists()


def test_manifest_lists_every_committed_figure():
    figures = paths.PACKAGE.parent / "figures"
    manifest = json.loads((figures / publishing.MANIFEST).read_text())
    files = {p.relative_to(figures).as_posix(): p for p in figures.rglob("*") if p.is_file()}
    # Benchmarks are no notebooks of the suite, and records have their checksums with them.
    others = [name for name in files if name.startswith("benchmarks/") or name.split("/")[1:2] == ["record"]]
    files = {name: path for name, path in files.items() if name not in (publishing.MANIFEST, *others)}
    assert set(manifest) == set(files)
    for name, path in files.items():
        assert manifest[name]["sha256"] == file_sha256(path), name


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"tiny/x.png": {', "no whole JSON"),
        ("[]", "a list where a table"),
        ("null", "null"),
        ('{"tiny/x.png": "me"}', "its entry for 'tiny/x.png'"),
        ('{"../../x": {"made_by": "a", "inputs": "b", "sha256": "c"}}', "outside its folder"),
    ],
)
def test_a_damaged_manifest_is_refused_and_status_sees_it(runs_folder, tmp_path, monkeypatch, capsys, content, why):
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    (tmp_path / "notebooks").symlink_to(paths.PACKAGE.parent / "notebooks")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / publishing.MANIFEST).write_text(content)
    monkeypatch.setattr(notebooks, "jobs", lambda profile: [notebooks.Job("theory/noise", "theory/noise")])
    assert cli.main(["reproduce", "--only", "noise"]) == 2
    refused = " ".join(capsys.readouterr().out.split())
    assert cli.main(["status"]) == 1
    seen = " ".join(capsys.readouterr().out.split())
    for text in (refused, seen):
        assert str(tmp_path / "figures" / publishing.MANIFEST) in text
        assert why in text
        assert "remove it" in text
    assert not runs_folder.exists() or not list(runs_folder.glob("*-*"))
