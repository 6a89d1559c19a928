import nbformat
import pytest

from qrpo_lib.runs import folders, keys, paths
from qrpo_lib.runs.errors import InputError
from qrpo_lib.suite import cli, notebooks
from qrpo_lib.suite import parameters as notebook


def test_every_notebook_of_the_suite_exists_and_takes_its_parameters():
    for job in notebooks.jobs("tiny"):
        declared = notebook.declared_parameters(job.source)
        notebook.check_values(job.parameters, declared)
        assert "figures" in declared


def test_jobs_come_after_what_they_need():
    seen = set()
    for job in notebooks.jobs("tiny"):
        assert set(job.after) <= seen
        seen.add(job.id)


@pytest.mark.parametrize("profile", ["tiny", "smol", "tiny-full", "tiny-beyond"])
def test_a_notebook_that_makes_several_steps_works_on_all_cores(profile):
    made = set()
    for job in notebooks.jobs(profile):
        own = {step.key for step in job.inputs} - made
        assert job.all_cores or len(own) < 2, job.id
        made |= {step.key for step in keys.with_inputs(job.step, *job.possible)}


def test_only_selects_by_name_path_and_id():
    jobs = notebooks.jobs("tiny")
    assert [job.path for job in notebooks.select(jobs, ["tables"])] == ["results/tables"] * 2  # chat and code
    assert [job.path for job in notebooks.select(jobs, ["experiments/sweep"])][:1] == ["experiments/sweep"]
    one = "results/tables[chat]"
    assert [job.id for job in notebooks.select(jobs, [one])] == [one]
    with pytest.raises(ValueError, match=r"There is no notebook 'tabels'; did you mean 'tables'.*theory/noise"):
        notebooks.select(jobs, ["tabels"])


def test_only_takes_what_tab_completion_gives(tmp_path, monkeypatch):
    jobs = [
        notebooks.Job(f"theory/{name}[{arm}]", f"theory/{name}") for name in ("noise", "asymptotics") for arm in "ab"
    ]
    wanted = [jobs[0].id, jobs[1].id]
    root = paths.project_root()
    file = "notebooks/theory/noise.ipynb"
    for folder, names in {
        root: [file, f"./{file}", str(root / file), "theory/noise.ipynb", "noise.ipynb", "notebooks/theory/noise"],
        root / "notebooks" / "theory": ["noise.ipynb", "./noise.ipynb", "../theory/noise.ipynb", file],
        tmp_path: [file, str(root / file), "theory/noise"],
    }.items():
        monkeypatch.chdir(folder)
        for name in names:
            assert [job.id for job in notebooks.select(jobs, [name])] == wanted, (folder, name)
    assert [job.id for job in notebooks.select(jobs, [file, "noise", file])] == wanted  # once each
    for unknown in (str(tmp_path / file), "notebooks/theory", "", "theory/nose.ipynb", "."):
        with pytest.raises(ValueError, match=r"There is no notebook .* are theory/noise, theory/asymptotics"):
            notebooks.select(jobs, [unknown])
    with pytest.raises(ValueError, match="'noise' names several notebooks: say which of theory/noise, results/noise"):
        notebooks.select([*jobs, notebooks.Job("results/noise", "results/noise")], ["noise"])


def test_a_training_parameter_changes_the_keys_of_training_and_what_follows_only(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text('extends = "tiny"\n[experiment.betas]\ndpo = [0.123]\n')
    steps = {job.id: job.inputs for job in notebooks.jobs("tiny")}
    changed = {job.id for job in notebooks.jobs(str(path)) if job.inputs != steps[job.id]}
    # A DPO run is in the grid, and in what reads the grid, if only for what DPO gains.
    of_grid = {"experiments/sweep", "results/tables", "results/length_bias", "results/alpaca_eval"}
    of_grid |= {"results/scaling", "results/transformations", "experiments/iterative"}
    of_code = {f"{name}[code]" for name in ("experiments/sweep", "results/tables")}
    of_long = {f"{name}[chat-long]" for name in ("experiments/sweep", "results/length_bias")}
    together = {f"results/{name}" for name in ("protocol", "power", "claims")}
    assert changed == {f"{name}[chat]" for name in of_grid} | of_code | of_long | together


def test_source_notebooks_are_clean():
    for path in (paths.PACKAGE.parent / "notebooks").rglob("*.ipynb"):
        if ".ipynb_checkpoints" in path.parts:
            continue
        source = nbformat.read(path, as_version=4)
        assert "papermill" not in source.metadata
        for cell in source.cells:
            if cell.cell_type == "code":
                assert not cell.outputs
                assert cell.execution_count is None
                assert len(cell.source.splitlines()) <= 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "--profile", "tinny"], "did you mean 'tiny'"),
        (["reproduce", "--only", "tabels"], "no notebook 'tabels'"),
        (["clean", "--run", "../outside"], "not the name of a run folder"),
        (["status", "--profile", "nowhere.toml"], "no profile"),
    ],
)
def test_unusable_input_is_one_sentence_and_exit_code_2(arguments, message, capsys, runs_folder):
    assert cli.main(arguments) == 2
    output = " ".join(capsys.readouterr().out.split())
    assert message in output
    assert "Traceback" not in output


def test_a_missing_wheel_is_said_before_work(monkeypatch, capsys, runs_folder):
    from qrpo_lib.models import wheels

    monkeypatch.setattr(wheels, "SMOLLM2_WHEEL", "no-such-wheel")
    assert cli.main(["reproduce", "--profile", "smol"]) == 2
    assert "requirements-smol.txt" in capsys.readouterr().out
    assert not runs_folder.exists() or not list(runs_folder.glob("*-*"))


def test_clean_removes_what_no_setting_uses(runs_folder):
    used = notebooks.jobs("tiny")[0].step
    of_another_profile, interrupted = notebooks.jobs("smol")[-1].step, notebooks.jobs("smol")[-2].step
    for step in (used, of_another_profile, keys.Step("old", {})):
        folders.complete(step, lambda folder: (folder / "x").write_text("x"))
    for name in (interrupted.folder_name, "training-0123456789ab"):
        (runs_folder / ".partial" / name).mkdir(parents=True)
        (runs_folder / ".shards" / name).mkdir(parents=True)
    assert cli.main(["clean", "--yes"]) == 0
    assert {path.name for path in runs_folder.glob("*-*")} == {used.folder_name, of_another_profile.folder_name}
    for parent in (".partial", ".shards"):
        assert [path.name for path in (runs_folder / parent).iterdir()] == [interrupted.folder_name]
    assert cli.main(["clean", "--run", used.folder_name, "--yes"]) == 0
    assert [path.name for path in runs_folder.glob("*-*")] == [of_another_profile.folder_name]
    assert cli.main(["clean", "--all", "--yes"]) == 0
    assert not [*runs_folder.glob("*-*"), *(runs_folder / ".partial").iterdir()]


@pytest.fixture(scope="module")
def two_worlds(tmp_path_factory):
    """The path of tiny-full's profile with two worlds, and its jobs."""
    path = tmp_path_factory.mktemp("profile") / "mine.toml"
    path.write_text('extends = "tiny-full"\nworlds = [0, 2]\n')
    return str(path), notebooks.jobs(str(path))


def test_a_world_has_the_notebooks_of_its_arms_alone(two_worlds):
    path, every = two_worlds
    second = notebooks.in_world(every, path, 2)
    assert {job.parameters["arm"].rpartition("-")[2] for job in second} == {"2"}
    assert 2 * len(second) == 2 * len(notebooks.in_world(every, path, 0)) == sum("arm" in j.parameters for j in every)
    known = {job.id for job in every if "arm" not in job.parameters} | {job.id for job in second}
    assert all(set(job.after) <= known for job in second)  # a world waits for no other one
    assert [job.path for job in every[-3:]] == ["results/worlds", "results/power", "results/claims"]
    with pytest.raises(InputError, match=r"no world 7; it has 0, 2"):
        notebooks.in_world(every, path, 7)
    with pytest.raises(InputError, match="no world 0; it has none"):
        notebooks.in_world([], "tiny", 0)


def test_arms_for_one_study_have_its_notebooks_alone(two_worlds):
    def of(arm):
        return {job.path for job in two_worlds[1] if job.parameters.get("arm") == f"{arm}-world-2"}

    first = {"experiments/initial_policy", "experiments/reference_sampling", "experiments/sweep"}
    assert of("chat-shared") == first | {"results/scaling"}
    assert of("chat-annotated-length") == of("chat-bonus") == first | {"results/length_bias"}
    assert of("chat") >= first | {"experiments/task_properties", "results/tables", "results/length_bias"}


def test_studies_of_relatives_have_a_notebook_each(tmp_path):
    """And no grid, tables or protocol; a later study of an arm waits for the earlier ones: it may share models."""
    jobs = notebooks.jobs("tiny-beyond")
    studies = [job for job in jobs if "arm" in job.parameters]
    names = {job.id.removeprefix("results/beyond_") for job in studies}
    assert names == {"estimated_z[chat]", "relatives[chat]", "online[chat]", "best_of_n[chat]", "partitions[code]"}
    assert {job.path for job in jobs} & {"results/tables", "results/protocol", "experiments/sweep"} == set()
    for job in studies:
        notebook.check_values(job.parameters, notebook.declared_parameters(job.source))
        assert {step.name for step in job.inputs} == {"relative_evaluation", "reference_evaluation"}
    assert studies[1].after == (studies[0].id,)
    trained = {step.key for job in studies for step in keys.with_inputs(*job.inputs) if step.name == "training"}
    of_tiny = {step.key for job in notebooks.jobs("tiny") for step in keys.with_inputs(*job.inputs)}
    assert len(trained & of_tiny) >= 20  # nothing is trained twice
