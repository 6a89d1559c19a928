import nbformat
import papermill
import pytest
from nbclient import NotebookClient
from papermill.exceptions import PapermillExecutionError

from qrpo_lib import notebook

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
    check = "from qrpo_lib import notebook\nnotebook.check_parameters(globals())\nother = 1"
    made.cells = [parameters, nbformat.v4.new_code_cell(check), nbformat.v4.new_code_cell("print('work', beta)")]
    path = tmp_path / "source.ipynb"
    nbformat.write(made, path)
    return path


def run(source, **parameters):
    return papermill.execute_notebook(source, source.with_name("out.ipynb"), parameters, progress_bar=False)


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
    made.cells = [nbformat.v4.new_code_cell("from qrpo_lib import profiles\nprofiles.load('tinny')")]
    client = NotebookClient(made, kernel_name="python3", allow_errors=True)
    client.execute(cwd=str(tmp_path))
    (output,) = [output for output in made.cells[0].outputs if output.output_type == "error"]
    assert output.traceback == ["ProfileError: There is no profile 'tinny'; did you mean 'tiny'?"]
