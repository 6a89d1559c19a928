"""A folder of generated files: what somebody puts where they were stops the next filling before it changes anything."""

import pytest

from qrpo_lib.suite import own_folder


def fill(folder):
    with own_folder.filling(folder, "a test") as new:
        (new / "figures").mkdir()
        for name in ("page.html", "figures/one.png"):
            (new / name).write_text("written")


@pytest.mark.parametrize(("name", "as_folder"), [("page.html", True), ("figures", False)])
def test_a_folder_for_a_file_and_a_file_for_a_folder(name, as_folder, tmp_path):
    """Of a name that is on the list."""
    folder = tmp_path / "site"
    fill(folder)
    fill(folder)
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
        fill(folder)
    assert {path: path.is_file() and path.read_text() for path in folder.rglob("*")} == before
