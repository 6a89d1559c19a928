from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient import NotebookClient
from papermill.exceptions import PapermillExecutionError

from qrpo_lib.profiles import settings as profiles
from qrpo_lib.runs import paths
from qrpo_lib.suite import parameters as notebook

NOTEBOOKS = sorted(
    path for path in (paths.PACKAGE.parent / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
)
DECLARED = {"profile": "str", "beta": "float | None", "betas": "list[float]"}


@pytest.mark.parametrize(
    "values", [{"profile": "tiny"}, {"beta": None}, {"beta": 1}, {"beta": 0.5}, {"betas": [1.0, 2]}, {}]
)
def test_good_values_pass(values):
    notebook.check_values(values, DECLARED)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"profil": "tiny"}, "did you mean 'profile'"),
        ({"speed": 1}, "no parameter 'speed'; there are profile, beta, betas"),
        ({"beta": "0.1"}, "'beta' must be float | None"),
        ({"profile": 3}, "'profile' must be str"),
        ({"betas": ["x"]}, "'betas' must be"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(notebook.ParameterError, match=message.replace("|", r"\|")):
        notebook.check_values(values, DECLARED)


@pytest.fixture
def source(tmp_path):
    made = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    parameters = nbformat.v4.new_code_cell("beta: float = 0.1\nname: str = 'x'", metadata={"tags": ["parameters"]})
    check = "from qrpo_lib.suite import parameters as notebook\nnotebook.check_parameters(globals())\nother = 1"
    made.cells = [parameters, nbformat.v4.new_code_cell(check), nbformat.v4.new_code_cell("print('work', beta)")]
    path = tmp_path / "source.ipynb"
    nbformat.write(made, path)
    return path


def run(source, **parameters):
    return papermill.execute_notebook(
        source, source.with_name("out.ipynb"), parameters, progress_bar=False, start_timeout=600
    )


def test_declared_parameters_are_read_without_running(source):
    assert notebook.declared_parameters(source) == {"beta": "float", "name": "str"}


def test_papermill_runs_with_good_parameters(source):
    assert "work 0.5" in run(source, beta=0.5).cells[-1].outputs[0].text


@pytest.mark.parametrize(("parameters", "message"), [({"betta": 1.0}, "betta"), ({"beta": "high"}, "must be float")])
def test_papermill_stops_before_work_with_bad_ones(source, parameters, message):
    with pytest.raises(PapermillExecutionError, match=message):
        run(source, **parameters)
    executed = nbformat.read(source.with_name("out.ipynb"), as_version=4)
    assert not executed.cells[-1].outputs


def test_a_notebook_shows_the_sentence_alone(tmp_path):
    made = nbformat.v4.new_notebook()
    made.cells = [
        nbformat.v4.new_code_cell("from qrpo_lib.profiles import settings as profiles\nprofiles.load('tinny')")
    ]
    client = NotebookClient(made, kernel_name="python3", allow_errors=True)
    client.execute(cwd=str(tmp_path))
    (output,) = [output for output in made.cells[0].outputs if output.output_type == "error"]
    assert output.traceback == ["ProfileError: There is no profile 'tinny'; did you mean 'tiny'?"]


# --- the suite's own notebooks ----------------------------------------------------------------------------------------


def checked(name, **injected):
    """What the variables of one of the suite's notebooks are after its check, with these parameters injected."""
    (path,) = [path for path in NOTEBOOKS if path.stem == name]
    cells = nbformat.read(path, as_version=4).cells
    (declaration,) = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    lines = "\n".join(f"{name} = {value!r}" for name, value in injected.items()).replace("= nan", '= float("nan")')
    namespace = {"In": ["", declaration, f"# Parameters\n{lines}\n"]}
    for source in namespace["In"]:
        exec(source.replace("= inf", '= float("inf")'), namespace)
    notebook.check_parameters(namespace)
    return namespace


FREE = ("figures", "annotator", "profile", "arm", "model", "rows", "reward")  # texts with no list of choices


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_has_limits_that_its_default_keeps(path):
    declared = notebook.declared_parameters(path)
    assert declared
    assert declared.keys() <= notebook._LIMITS.keys()
    values = checked(path.stem)
    for name in declared:
        if isinstance(values[name], str) and name not in FREE:
            assert values[name] in notebook._LIMITS[name].words


@pytest.mark.parametrize("spelled", ["dpo", "DPO", "Dpo", "SimPO", "REBEL", "QRPO"])
def test_an_algorithm_is_taken_in_the_papers_spelling(spelled):
    assert checked("training", algorithm=spelled)["algorithm"] == spelled.lower()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("training", {"algorithm": "PPO"}, "'algorithm' must be one of qrpo, dpo, rebel, simpo, not 'PPO'"),
        ("training", {"algorithm": ""}, "'algorithm' must be one of qrpo"),
        ("training", {"algorithm": None}, "'algorithm' must be str"),
        ("training", {"setting": "online"}, "'setting' must be one of offline, off-policy-best, .*not 'online'"),
        ("training", {"profile": "tinny"}, "no profile 'tinny'; did you mean 'tiny'"),
        ("training", {"profile": "gone.toml"}, "no profile 'gone.toml'; there is no file"),
        ("training", {"profile": ""}, "'profile' must be some text"),
        ("sweep", {"arm": "cod"}, "no arm 'cod'; it has chat, chat-long, code"),
        ("tables", {"arm": ""}, "'arm' must be some text"),
        ("claims", {"profile": "nothing"}, "There is no profile 'nothing'"),
        ("training", {"figures": ""}, "'figures' must be some text"),
        ("training", {"beta": 0.0}, "'beta' must be above 0 and finite, not 0.0"),
        ("training", {"beta": 0}, "'beta' must be above 0"),
        ("training", {"beta": -0.1}, "'beta' must be above 0"),
        ("training", {"beta": float("nan")}, "'beta' must be above 0 and finite, not nan"),
        ("training", {"beta": float("inf")}, "'beta' must be above 0 and finite, not inf"),
        ("training", {"learning_rate": float("nan")}, "'learning_rate' must be above 0"),
        ("training", {"figure_6_betas": []}, "'figure_6_betas' must have at least one value"),
        ("training", {"figure_6_betas": [0.1, -1.0]}, "'figure_6_betas' must have values above 0 and finite, not -1.0"),
        ("training", {"seed": -1}, r"'seed' must be from 0 to 2\^32 - 1, not -1"),
        ("training", {"seed": 2**32}, "'seed' must be from 0"),
        ("iterative", {"rounds": 1}, "'rounds' must be at least 2, not 1"),
        ("iterative", {"seeds": []}, "'seeds' must have at least one value"),
        ("iterative", {"seeds": [0, -1]}, "'seeds' must have values from 0"),
        ("exactness", {"vocabulary": 1}, "'vocabulary' must be at least 2"),
        ("exactness", {"qrpo_steps": 0}, "'qrpo_steps' must be at least 1"),
        ("noise", {"betas": [0.1, 0.0]}, "'betas' must have values above 0"),
        ("noise", {"quantiles": [0.5, 1.5]}, "'quantiles' must have values between 0 and 1, not 1.5"),
        ("noise", {"repeats": 0}, "'repeats' must be at least 2"),
        ("optimal_policy", {"best_of": [1]}, "'best_of' must have values at least 2"),
        ("optimal_policy", {"rounds": [0]}, "'rounds' must have values at least 1"),
        ("partition_function", {"sigma": 0.0}, "'sigma' must be above 0"),
        ("partition_function", {"mu": float("nan")}, "'mu' must be finite"),
        ("partition_function", {"samples": -5}, "'samples' must be at least 1"),
        ("asymptotics", {"largest_beta": 1e-5}, "'largest_beta' must be above smallest_beta, 0.0001, not 1e-05"),
        ("asymptotics", {"fit_below": 1e-5}, "'fit_below' must be above smallest_beta"),
    ],
)
def test_a_value_that_a_notebook_cannot_use_is_said_before_work(name, values, message):
    with pytest.raises((notebook.ParameterError, profiles.ProfileError), match=message) as caught:
        checked(name, **values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"transform": "cube"}, "'transform' must be one of identity, log"), ({"partition": "x"}, "one of exact, asym")],
)
def test_parameters_of_other_notebooks_have_the_same_choices(values, message):
    with pytest.raises(notebook.ParameterError, match=message):
        notebook.check_values(values, {"transform": "str", "partition": "str"})


def test_the_training_notebook_takes_dpo_from_papermill(tmp_path):
    (path,) = [path for path in NOTEBOOKS if path.stem == "training"]
    source = nbformat.read(path, as_version=4)
    source.cells = source.cells[:3]  # up to the check, before any work
    nbformat.write(source, tmp_path / "source.ipynb")
    executed = run(Path(tmp_path / "source.ipynb"), algorithm="DPO", beta=0.7)
    assert executed.cells[-1].outputs[0].data["text/plain"] == "DPO(beta=0.7, learning_rate=0.0002)"
