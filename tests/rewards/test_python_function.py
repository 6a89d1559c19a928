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
        "def words(prompts, completions):\n    return ['high'] * len(completions)\n\n"
        "def texts(prompts, completions):\n    return ['0.5'] * len(completions)\n\n"
        "def by_place(prompts, completions):\n    return {i: 0.5 for i, _ in enumerate(completions)}\n\n"
        "def unordered(prompts, completions):\n    return {0.1, 0.2}\n"
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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("short", "1 numbers for 2"),
        ("words", "not a number"),
        ("texts", "not a number: the text '0.5'"),
        ("by_place", "returned a dict"),
        ("unordered", "returned a set"),
    ],
)
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


def value_of(name):
    return python_function.load(name)(["p"], ["c"])[0]


def test_a_function_is_what_its_file_says_now(tmp_path, monkeypatch):
    """In one process, as in a notebook: edits count, also of what lies beside it, and so does the folder it is in."""
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "helper.py").write_text(f"FACTOR = {number}\n")
        (folder / "mine.py").write_text("from helper import FACTOR\n\ndef f(p, c):\n    return [10 * FACTOR]\n")
        monkeypatch.chdir(folder)
        assert value_of("mine.py:f") == 10 * number
    assert value_of("mine.py:f") == 20
    (folder / "helper.py").write_text("FACTOR = 3\n")
    assert value_of("mine.py:f") == 30
    (folder / "mine.py").write_text("from helper import FACTOR\n\ndef f(p, c):\n    return [50 * FACTOR]\n")
    assert value_of("mine.py:f") == 150
    assert not (folder / "__pycache__").exists()


def test_a_file_is_run_once_while_nothing_of_it_changes(tmp_path):
    path = tmp_path / "counted.py"
    path.write_text("import time\nSTARTED = time.perf_counter_ns()\n\ndef f(p, c):\n    return [STARTED]\n")
    assert value_of(f"{path}:f") == value_of(f"{path}:f")


def test_a_module_that_was_edited_after_its_import(tmp_path, monkeypatch):
    """Python keeps the old one, and a key would say the new source."""
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "edited_reward_module.py"
    path.write_text("def f(p, c):\n    return [1]\n")
    assert value_of("edited_reward_module:f") == 1
    path.write_text("def f(p, c):\n    return [2]\n")
    with pytest.raises(InputError, match="edited after it was imported"):
        python_function.load("edited_reward_module:f")
