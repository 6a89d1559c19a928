"""What tests of the suite share."""

import nbformat
import pytest

from qrpo_lib.suite import notebooks


@pytest.fixture
def one_notebook(tmp_path, runs_folder, monkeypatch, forked_kernels):
    """A function that makes a project's only notebook of these cells and returns its job; figures go to `figures`."""
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()

    def make(*cells, **settings):
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        made = nbformat.v4.new_notebook(metadata=metadata)
        parameters = nbformat.v4.new_code_cell('figures: str = ""', metadata={"tags": ["parameters"]})
        made.cells = [parameters, *map(nbformat.v4.new_code_cell, cells)]
        nbformat.write(made, tmp_path / "notebooks" / "made.ipynb")
        return notebooks.Job("made", "made", **settings)

    return make
