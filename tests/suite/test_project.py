"""The package outside a checkout: its notebooks in one's own folder, its extras, its public names."""

import subprocess
import sys

import pytest

from qrpo_lib.runs import extras, paths
from qrpo_lib.runs.errors import InputError
from qrpo_lib.suite import project


def test_init_copies_every_notebook_and_nothing_twice(tmp_path):
    written = project.create(tmp_path / "mine")
    root = paths.PACKAGE.parent / "notebooks"
    expected = {path.relative_to(root) for path in root.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    found = {path.relative_to(tmp_path / "mine" / "notebooks") for path in (tmp_path / "mine").rglob("*.ipynb")}
    assert found == expected
    assert len(written) >= len(expected)
    assert project.create(tmp_path / "mine") == []


def test_init_overwrites_nothing(tmp_path):
    project.create(tmp_path)
    changed = next(tmp_path.rglob("*.ipynb"))
    changed.write_text("mine")
    with pytest.raises(InputError, match="differs from the package's"):
        project.create(tmp_path)
    assert changed.read_text() == "mine"
    with pytest.raises(InputError, match="is a file"):
        project.create(changed)


def test_a_package_without_notebooks_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "qrpo_lib")
    with pytest.raises(InputError, match="install it again"):
        project.create(tmp_path / "mine")
    (tmp_path / "qrpo_lib" / "shipped" / "notebooks").mkdir(parents=True)
    (tmp_path / "qrpo_lib" / "shipped" / "notebooks" / "one.ipynb").write_text("{}")
    assert [path.name for path in project.create(tmp_path / "mine")] == ["one.ipynb"]


def test_extras_are_those_of_the_project():
    import tomllib

    text = (paths.PACKAGE.parent / "pyproject.toml").read_text()
    declared = tomllib.loads(text)["project"]["optional-dependencies"]
    assert set(extras.MODULES) == set(declared)
    assert extras.sentence("no_such_module") is None


def test_importing_the_package_costs_nothing():
    """Modules are counted, not seconds: nothing of torch, and little beside the standard library."""
    code = "import sys; before = set(sys.modules); import qrpo_lib; print(*sorted(set(sys.modules) - before))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=900)
    names = ended.stdout.split()
    assert "qrpo_lib" in names
    assert [name for name in names if name.partition(".")[0] not in sys.stdlib_module_names] == ["qrpo_lib"]
    assert len(names) < 60


def test_public_names_lead_somewhere():
    import qrpo_lib

    for name in qrpo_lib.__all__:
        assert getattr(qrpo_lib, name) is not None
    assert set(qrpo_lib.__all__) <= set(dir(qrpo_lib))
    assert isinstance(qrpo_lib.__version__, str)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        qrpo_lib.Nothing  # noqa: B018
