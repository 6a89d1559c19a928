"""The profiles of a project, whose run folders  keeps."""

import pytest

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import folders, keys, paths
from qrpo_lib.suite import cli, notebooks, project_profiles


def complete(name="old", **parameters):
    step = keys.Step(name, parameters)
    folders.complete(step, lambda folder: (folder / "x").write_text("x" * 1000))
    return step


@pytest.fixture
def project(tmp_path, runs_folder, monkeypatch):
    """A folder with a project that has no profile of its own."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.setenv("QRPO_ROOT", str(root))
    monkeypatch.setenv("QRPO_RUNS", str(root / "runs"))
    monkeypatch.chdir(root)
    return root


def run(*arguments):
    return cli.main(["clean", *arguments])


OWN = 'extends = "first"\nname = "own"\n[training.dpo]\nbeta = 0.123\n'


def last_step(profile):
    return notebooks.jobs(profile)[-1].step


def test_what_profiles_of_the_project_need_is_kept(project, monkeypatch):
    monkeypatch.delenv("QRPO_ROOT")
    monkeypatch.setattr(paths, "project_root", lambda: project)
    (project / "notebooks").symlink_to(paths.PACKAGE.parent / "notebooks")
    steps = {"the suite's own": last_step("first")}
    for number, place in enumerate(["own.toml", "profiles/own.toml", "deeper/still/own.toml"]):
        path = project / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(OWN.replace("0.123", f"0.{number + 1}"))
        steps[place] = last_step(str(path))
    assert len({step.key for step in steps.values()}) == 4
    for step in steps.values():
        folders.complete(step, lambda folder: None)
    old = complete()
    assert run("--yes") == 0
    assert [place for place, step in steps.items() if not step.folder.exists()] == []
    assert not old.folder.exists()
    (project / "profiles" / "own.toml").unlink()
    assert run("--yes") == 0
    assert [place for place, step in steps.items() if not step.folder.exists()] == ["profiles/own.toml"]


@pytest.mark.parametrize("text", ['extends = "tiny"\nunknown = 1\n', 'extends = "tiny\n', "[arms.chat]\n"])
def test_a_profile_that_cannot_be_loaded_stops_it(project, monkeypatch, capsys, text):
    monkeypatch.setattr(project_profiles, "_needed_by", lambda name: profiles.load(name) and set())
    step = complete()
    (project / "mine.toml").write_text(text)
    assert run("--yes") == 2
    assert "mine.toml cannot be loaded" in " ".join(capsys.readouterr().out.split())
    assert step.folder.exists()


def test_other_toml_files_are_no_profiles(project):
    (project / "pyproject.toml").write_text('[project]\nname = "x"\n')
    (project / "broken.toml").write_text("[tool\n")
    environment = project / "environment"
    environment.mkdir()
    (environment / "pyvenv.cfg").touch()
    (environment / "own.toml").write_text(OWN)
    (project / ".hidden").mkdir()
    (project / ".hidden" / "own.toml").write_text(OWN)
    assert project_profiles.files() == []


def test_profiles_of_executed_notebooks_and_of_the_working_directory_are_found(project, tmp_path, monkeypatch):
    elsewhere, here = tmp_path / "elsewhere" / "own.toml", tmp_path / "here" / "own.toml"
    for path in (elsewhere, here):
        path.parent.mkdir()
        path.write_text(OWN)
    complete("notebook-results-claims", notebook="results/claims", parameters={"profile": str(elsewhere)})
    monkeypatch.chdir(here.parent)
    assert sorted(project_profiles.files()) == sorted([elsewhere, here])


def test_a_file_that_others_only_extend_need_not_be_whole(project, monkeypatch):
    def needed_by(name):
        if name.endswith("base.toml"):
            raise profiles.ProfileError("something is missing")
        return set()

    monkeypatch.setattr(project_profiles, "_needed_by", needed_by)
    (project / "base.toml").write_text('[arms.chat]\nname = "x"\n')
    with pytest.raises(project_profiles.UnreadableProfile):
        project_profiles.needed_folders()
    (project / "own.toml").write_text('extends = "base.toml"\n')
    assert project_profiles.needed_folders() == set()
