"""Notebooks that teach: how each begins and ends, and the pictures of their sliders against closed forms."""

import ast
import re
import shlex

import matplotlib.pyplot as plt
import numpy as np
import pytest

from qrpo_lib.runs import paths
from qrpo_lib.suite import cli, notebook_file, parameters, play

ROOT = paths.PACKAGE.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
NAMES = [path.relative_to(ROOT / "notebooks").with_suffix("").as_posix() for path in NOTEBOOKS]
of_each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)


@of_each_notebook
def test_a_notebook_opens_with_claim_equation_and_prediction_and_ends_in_words(path):
    cells = notebook_file.cells(path)
    kind, opening = cells[0]
    assert kind == "markdown"
    places = [re.search(rf"\*\*(?:{words})\b", opening) for words in ("Claims?|Question", "Equation", "Prediction")]
    assert all(places)
    assert [place.start() for place in places] == sorted(place.start() for place in places)
    assert "$" in opening.split("**Equation")[1] or path.stem in ("alpaca_eval", "claims", "protocol")  # in words there
    headings = re.findall(r"^## (.*)$", "\n".join(text for kind, text in cells if kind == "markdown"), re.MULTILINE)
    assert headings[-2] == "Play with it"
    assert headings[-1].startswith("What")
    assert cells[-1][0] == "markdown"
    judges = any("ledger.judge(" in text for kind, text in cells if kind == "code")
    concludes = any(".learnt()" in text or "Learnt(" in text for kind, text in cells[-3:] if kind == "code")
    assert judges == concludes


@of_each_notebook
def test_what_a_notebook_suggests_to_play_with_can_be_done(path):
    cells = notebook_file.cells(path)
    sliders = [text for kind, text in cells if kind == "code" and "play.slider(" in text]
    text = next(text for kind, text in cells if kind == "markdown" and "## Play with it" in text)
    commands = [shlex.split(line) for line in re.findall("^    (papermill .*)$", text, re.MULTILINE)]
    assert len(sliders) + len(commands) == 1
    for _, source, _, *options in commands:
        assert ROOT / source == path
        assert options[::3] == ["-p"] * (len(options) // 3)
        given = dict(zip(options[1::3], options[2::3], strict=True))
        declared = parameters.declared_parameters(path)
        parameters.check_values(
            {name: _value(text, declared.get(name, "str")) for name, text in given.items()}, declared
        )
    for command in re.findall("`(qrpo [^`]+)`", text):
        cli._parser(shlex.split(command)[1:]).parse_args(shlex.split(command)[1:])
    for slider in sliders:
        call = next(node for node in ast.walk(ast.parse(slider)) if isinstance(node, ast.Call))
        assert hasattr(play, call.args[0].attr)
        assert ast.literal_eval(call.keywords[0].value) in ast.literal_eval(call.args[2])


def _value(text, annotation):
    """As papermill reads it."""
    return text if annotation.startswith("str") else ast.literal_eval(text)


@pytest.fixture
def axes_of():
    """Draws a picture; returns its panels."""
    yield lambda draw, value: draw(value).axes
    plt.close("all")


def lines(axes):
    return {line.get_label(): line.get_xydata().T for line in axes.lines}


@pytest.mark.parametrize("beta", [1.0, 0.01])
def test_the_optimum_of_the_identity_is_an_exponential_law_cut_at_1(axes_of, beta):
    (axes,) = axes_of(play.transformed_optima, beta)
    distance, density = lines(axes)["identity"]
    assert density == pytest.approx(np.exp(-distance) / -np.expm1(-1 / beta), rel=1e-9)
    drawn = lines(axes)["log"]
    # Under f = log t the quantile's density is (1 + 1/beta) t^(1/beta).
    assert drawn[1] == pytest.approx((1 + beta) * (1 - beta * drawn[0]) ** (1 / beta), rel=1e-6, abs=1e-12)


def test_the_share_above_the_threshold_is_the_papers(axes_of):
    axes = axes_of(play.optimum, 0.1)
    assert axes[0].figure.get_suptitle().startswith(r"$\beta$ = 0.1: 23.03% of reference completions")
    rewards, density = lines(axes[1])[r"$\pi^*,\ \beta=0.1$"]
    assert np.trapezoid(density, rewards) == pytest.approx(1, abs=1e-3)


def test_the_gap_grows_as_beta_falls_and_shrinks_with_n(axes_of):
    few, many = (lines(axes_of(play.partition_gap, n)[0])[f"n = {n}"] for n in (1, 1000))
    beta, gap = few
    assert gap[beta.argmin()] == pytest.approx(-np.log(beta.min() * 2), abs=0.01)  # of order -log(beta (n + 1))
    assert (many[1] <= few[1] + 1e-12).all()


def test_of_one_reward_the_estimate_varies_as_the_reward_does(axes_of):
    (axes,) = axes_of(play.estimated_log_z, 1)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    found = [re.search("bias (.*), std (.*)", label) for label in labels]
    for beta, match in zip((0.1, 0.3, 1.0), found, strict=True):  # beta log Z-hat is the reward itself
        assert float(match[1]) == pytest.approx(-1 / (2 * beta), abs=0.06)
        assert float(match[2]) == pytest.approx(1, abs=0.05)


def test_a_shared_set_of_all_candidates_says_nothing_of_best_pairs(axes_of):
    axes = axes_of(play.reference_sets, 3)
    n, quantile = next(xy for xy in (line.get_xydata().T for line in axes[1].lines) if len(xy[0]) > 1)
    assert n.min() == 3
    assert ((quantile > 0) & (quantile < 1)).all()


def test_a_slider_starts_at_one_of_its_values():
    with pytest.raises(ValueError, match="'n' starts at 2, which is none of its values"):
        play.slider(None, "n", [1, 3], start=2)
