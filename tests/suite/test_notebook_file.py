"""Reading a notebook's file without the notebook libraries."""

import pytest

from qrpo_lib.suite import notebooks


def test_a_file_that_is_no_notebook_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    for content in ("", "{}", "[]", '{"cells": [{}]}'):
        (tmp_path / "notebooks" / "some.ipynb").write_text(content)
        with pytest.raises(ValueError, match=r"some.ipynb is not a notebook of format 4"):
            notebooks.Job("some", "some").step  # noqa: B018
