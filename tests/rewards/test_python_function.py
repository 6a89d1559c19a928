"""Rewards of one's own: found by name, called as TRL calls them, known by their source."""

import numpy as np
import pytest

from qrpo_lib.rewards import python_function
from qrpo_lib.runs.errors import InputError


@pytest.fixture
def module(tmp_path):
    """A file with a reward, and one beside it that it imports."""
    (tmp_path / "counting.py").write_text("def count(text):\n    return len(text)\n")
    path = tmp_path / "my_reward.py"
    path.write_text(
        "import json\nfrom counting import count\n\n"
        "def length(prompts, completions, level=None, **columns):\n"
        "    return [count(c) + (level[i] if level else 0) for i, c in enumerate(completions)]\n\n"
        "def strict(prompts, completions):\n    return [None, float('nan')][: len(completions)]\n\n"
        "def short(prompts, completions):\n    return [1.0]\n\n"
        "def words(prompts, completions):\n    return ['high'] * len(completions)\n"
    )
    return path


def scores(path, name, **columns):
    return python_function.scores(python_function.load(f"{path}:{name}"), ["p", "q"], ["a", "bcd"], columns)


def test_columns_that_the_function_names(module):
    assert scores(module, "length").tolist() == [1, 3]
    assert scores(module, "length", level=[10, 20], other=[0, 0]).tolist() == [11, 23]
    assert scores(module, "length").dtype == np.float32


def test_no_reward_is_nan_and_columns_are_not_forced_on_a_function(module):
    assert np.isnan(scores(module, "strict", level=[1, 2])).all()


@pytest.mark.parametrize(("name", "said"), [("short", "1 numbers for 2"), ("words", "not a number")])
def test_what_is_not_a_number_for_each(module, name, said):
    with pytest.raises(InputError, match=said):
        scores(module, name)


def test_names_that_lead_nowhere(module, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module_anywhere\n")
    for name, said in (
        ("length", "MODULE:FUNCTION"),
        (f"{module}:missing", "no function 'missing'"),
        (f"{tmp_path}/none.py:f", "there is no"),
        (f"{broken}:f", "no_such_module_anywhere"),
        ("no_such_module_anywhere:f", "could not be imported"),
    ):
        with pytest.raises(InputError, match=said):
            python_function.load(name)


def test_the_source_is_the_file_and_what_it_imports_from_beside(module):
    before = python_function.source(f"{module}:length")
    assert set(before) == {"my_reward.py", "counting.py"}
    (module.parent / "counting.py").write_text("def count(text):\n    return 0\n")
    assert python_function.source(f"{module}:length") != before
    assert set(python_function.source("json.decoder:JSONDecoder")) >= {"decoder.py"}
