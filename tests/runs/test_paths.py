"""Where things lie: by environment variables, the checkout or the working directory."""

import pytest

from qrpo_lib.runs import code_version, paths


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    for name in ("QRPO_ROOT", "QRPO_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_in_a_checkout_all_lies_below_it(elsewhere):
    root = paths.PACKAGE.parent
    assert (root / "notebooks").is_dir()
    assert paths.project_root() == root
    assert paths.runs_folder() == root / "runs"
    assert paths.figures_folder("figures/tiny") == root / "figures" / "tiny"


def test_an_installed_package_works_in_the_working_directory(elsewhere, monkeypatch):
    monkeypatch.setattr(paths, "PACKAGE", elsewhere / "site-packages" / "qrpo_lib")
    paths._checkout.cache_clear()
    try:
        assert paths.project_root() == elsewhere
        assert paths.runs_folder() == elsewhere / "runs"
    finally:
        paths._checkout.cache_clear()


def test_variables_decide_and_are_relative_to_where_one_is(elsewhere, monkeypatch):
    (elsewhere / "deep").mkdir()
    monkeypatch.setenv("QRPO_ROOT", "deep/../project")
    assert paths.project_root() == elsewhere / "project"
    assert paths.runs_folder() == elsewhere / "project" / "runs"
    monkeypatch.setenv("QRPO_RUNS", "mine")
    assert paths.runs_folder() == elsewhere / "mine"
    monkeypatch.chdir(elsewhere / "deep")
    assert paths.runs_folder() == elsewhere / "deep" / "mine"
    monkeypatch.setenv("QRPO_RUNS", "/absolute")
    assert str(paths.runs_folder()) == "/absolute"
    for name in ("QRPO_ROOT", "QRPO_RUNS"):
        monkeypatch.setenv(name, "")
    assert paths.runs_folder() == paths.PACKAGE.parent / "runs"


def test_caches_lie_beside_the_run_folders_where_clean_finds_them(runs_folder):
    assert paths.cache_folder("reference_log_probs") == runs_folder / ".cache" / "reference_log_probs"
    assert paths.checksums_folder() == runs_folder / ".checksums"
    assert code_version.remember_in() is None  # nothing is made where there are no runs yet
    runs_folder.mkdir()
    assert code_version.remember_in() == runs_folder / ".cache" / "code-versions"
    assert list(runs_folder.iterdir()) == []
