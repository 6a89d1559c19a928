"""A folder of generated files: what was written by this is replaced and removed, and nothing else is touched."""

import json

import pytest

from qrpo_lib.suite import own_folder

MAKER = "qrpo report"


def fill(folder, **texts):
    with own_folder.filling(folder, MAKER) as new:
        for name, text in texts.items():
            (new / "pages").mkdir(exist_ok=True)
            (new / "pages" / name).write_text(text)


def found(folder):
    """The files below a folder, with what they hold; without the marker."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in files.items() if name != own_folder.MARKER}


def test_what_was_written_before_is_replaced_or_goes(tmp_path):
    folder = tmp_path / "a" / "report"
    fill(folder, index="1", old="1")
    fill(folder, index="2", new="2")
    assert found(folder) == {"pages/index": "2", "pages/new": "2"}
    assert set(json.loads((folder / own_folder.MARKER).read_text())["files"]) == {"pages/index", "pages/new"}
    fill(folder)
    assert found(folder) == {}
    assert not (folder / "pages").exists()


def test_what_others_put_there_or_changed_stays(tmp_path):
    fill(tmp_path, index="1", old="1")
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "pages" / "old").write_text("mine")
    fill(tmp_path, index="2")
    assert found(tmp_path) == {"notes": "mine", "pages/index": "2", "pages/old": "mine"}
    with pytest.raises(own_folder.ForeignFolder, match="old was not written by `qrpo report`"):
        fill(tmp_path, index="3", old="3")
    assert found(tmp_path) == {"notes": "mine", "pages/index": "2", "pages/old": "mine"}


@pytest.mark.parametrize(
    "marker",
    [None, "", "[]", '{"made_by": "another", "files": {}}', '{"made_by": "qrpo report", "files": {"../x": ""}}'],
)
def test_a_folder_of_somebody_elses_is_refused_and_left_as_it_was(tmp_path, marker):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "thesis").write_text("years of work")
    if marker is not None:
        (folder / own_folder.MARKER).write_text(marker)
    before = found(folder)
    for use in (fill, lambda folder: own_folder.check(folder, MAKER)):
        with pytest.raises(own_folder.ForeignFolder):
            use(folder)
    assert found(folder) == before
    with pytest.raises(own_folder.ForeignFolder, match="is not a folder"):
        fill(folder / "thesis")


def test_links_are_not_written_through(tmp_path):
    folder, elsewhere = tmp_path / "report", tmp_path / "elsewhere"
    fill(folder, index="1")
    (folder / "pages" / "index").unlink()
    (folder / "pages").rmdir()
    elsewhere.mkdir()
    (elsewhere / "index").write_text("theirs")
    (folder / "pages").symlink_to(elsewhere)
    with pytest.raises(own_folder.ForeignFolder, match="is a link"):
        fill(folder, index="2")
    fill(folder)  # nor is what it leads to removed
    assert (elsewhere / "index").read_text() == "theirs"


@pytest.mark.parametrize("there", [False, True])
def test_after_an_error_the_folder_holds_what_it_held(tmp_path, there):
    folder = tmp_path / "report"
    if there:
        fill(folder, index="1")
    with pytest.raises(UnicodeEncodeError):
        fill(folder, index="2", second="\ud800")
    assert folder.exists() == there
    assert not there or found(folder) == {"pages/index": "1"}
    fill(folder, index="3")
    assert found(folder) == {"pages/index": "3"}


def fill_two(folder):
    with own_folder.filling(folder, "a test") as new:
        (new / "figures").mkdir()
        for name in ("page.html", "figures/one.png"):
            (new / name).write_text("written")


@pytest.mark.parametrize(("name", "as_folder"), [("page.html", True), ("figures", False)])
def test_a_folder_for_a_file_and_a_file_for_a_folder(name, as_folder, tmp_path):
    """Of a name that is on the list."""
    folder = tmp_path / "site"
    fill_two(folder)
    fill_two(folder)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_relative_to(folder / name):
            path.rmdir() if path.is_dir() else path.unlink()
    if as_folder:
        (folder / name).mkdir()
        (folder / name / "mine.txt").write_text("mine")
    else:
        (folder / name).write_text("mine")
    before = {path: path.is_file() and path.read_text() for path in folder.rglob("*")}
    with pytest.raises(own_folder.ForeignFolder, match=name):
        fill_two(folder)
    assert {path: path.is_file() and path.read_text() for path in folder.rglob("*")} == before


def test_what_was_noted_holds_as_long_as_every_file_is_what_was_written(tmp_path):
    folder = tmp_path / "report"
    assert own_folder.noted(folder, MAKER) is None
    fill(folder, index="1", other="1")
    assert own_folder.noted(folder, MAKER) is None
    own_folder.note(folder, MAKER, {"from": [1]})
    (folder / "notes").write_text("mine")
    assert own_folder.noted(folder, MAKER) == {"from": [1]}
    page = folder / "pages" / "other"
    for change in (page.unlink, lambda: page.write_text("2"), lambda: _link(page)):
        change()
        assert own_folder.noted(folder, MAKER) is None
        page.unlink(missing_ok=True)
        page.write_text("1")
        assert own_folder.noted(folder, MAKER) == {"from": [1]}
    with pytest.raises(UnicodeEncodeError):
        fill(folder, index="\ud800")
    assert own_folder.noted(folder, MAKER) == {"from": [1]}  # the folder holds what it held
    fill(folder, index="1", other="1")
    assert own_folder.noted(folder, MAKER) is None
    with pytest.raises(own_folder.ForeignFolder):
        own_folder.noted(folder, "another")


def _link(page):
    """In its place a link to the same text, which is not in the folder."""
    elsewhere = page.parents[2] / "elsewhere"
    elsewhere.write_text("1")
    page.unlink()
    page.symlink_to(elsewhere)
