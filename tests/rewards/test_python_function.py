"""Rewards of one's own: found by name, called as TRL calls them, known by their source."""

import asyncio
import sys
import types

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
        "def unordered(prompts, completions):\n    return {0.1, 0.2}\n\n"
        "def raw(prompts, completions):\n    return b'ab'\n\n"
        "def huge(prompts, completions):\n    return [10**400, 1]\n\n"
        "def large(prompts, completions):\n    return [1e39, 1]\n\n"
        "def by_place_alone(prompts, completions, /):\n    return [1, 2]\n\n"
        "def of_anything(*arguments):\n    return [1, 2]\n"
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
        ("raw", "returned a bytes"),
        ("huge", "not a number: int too large"),
        ("large", r"returned 1e\+39, too large for float32"),
        ("by_place_alone", "must take what it reads by name"),
        ("of_anything", "must take what it reads by name"),
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


def of_two(function):
    return python_function.scores(function, ["p", "q"], ["a", "b"], {})


@pytest.mark.parametrize("shape", [(2, 1), (2, 2), (1, 2), ()])
def test_arrays_of_another_shape_are_refused(shape):
    """Also where each row holds one number: what a classifier returns for (n,) may as well be (n, 1) of two outputs."""
    import torch

    for make in (torch.ones, np.ones):
        with pytest.raises(InputError, match="not a number"):
            of_two(lambda prompts, completions, make=make: make(shape))
    assert of_two(lambda prompts, completions: torch.ones(2)).tolist() == [1, 1]
    assert of_two(lambda prompts, completions: (bool(i) for i in range(2))).tolist() == [0, 1]


def test_a_coroutine_is_awaited():
    """As TRL's online trainers do, also where an event loop is running, as in a notebook."""

    async def reward(prompts, completions):
        await asyncio.sleep(0)
        return [1.0, 2.0]

    async def in_a_notebook():
        return of_two(reward)

    assert of_two(reward).tolist() == asyncio.run(in_a_notebook()).tolist() == [1, 2]


def test_a_function_cannot_change_the_data():
    """Appending the answer to the prompt is how many get the whole conversation."""
    prompts, completions = [[{"role": "user"}]] * 2, [[{"role": "assistant"}]] * 2

    def reward(prompts, completions):
        for prompt, completion in zip(prompts, completions, strict=True):
            prompt.extend(completion)
            completion[0]["role"] = "none"
        return [len(prompt) for prompt in prompts]

    python_function.scores(reward, prompts, completions, {})
    assert (prompts, completions) == ([[{"role": "user"}]] * 2, [[{"role": "assistant"}]] * 2)


def written(path, text, encoding="utf-8"):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


REWARD = "def reward(prompts, completions):\n    return [{}] * len(prompts)\n"


def test_source_in_any_encoding_that_python_reads(tmp_path):
    for encoding, first in (("utf-8-sig", ""), ("latin-1", "# -*- coding: latin-1 -*-\n")):
        path = written(
            tmp_path / f"in_{encoding[:3]}.py", f"{first}NAME = 'é'\n" + REWARD.format("ord(NAME)"), encoding
        )
        assert of_two(python_function.load(f"{path}:reward")).tolist() == [233, 233]
        assert "é" in python_function.source(f"{path}:reward")[path.name]


def test_files_that_are_no_python_are_said_before_work(tmp_path):
    """Where nothing is imported, too."""
    for text, said in (("def reward(:", "is not Python"), ("\0", "is not Python"), ("x = 1", "no function 'reward'")):
        path = written(tmp_path / "mine.py", text)
        with pytest.raises(InputError, match=said):
            python_function.check(f"{path}:reward")
    helper = written(tmp_path / "helper.py", "def f(:")
    with pytest.raises(InputError, match=r"helper\.py, which a reward needs, is not Python"):
        python_function.check(f"{written(path, 'import helper' + chr(10) + REWARD)}:reward")
    helper.write_text("")
    python_function.check(f"{path}:reward")
    for name in (".a:f", "json.nothing:f", "nowhere_at_all:f"):
        with pytest.raises(InputError, match="there is no module"):
            python_function.check(name)
    for text in ("from helper import *", "if True:\n    reward = print", "from helper import x as reward"):
        python_function.check(f"{written(path, text)}:reward")


def test_a_script_that_ends_python_ends_in_a_sentence(tmp_path):
    path = written(tmp_path / "script.py", REWARD + "raise SystemExit(0)\n")
    with pytest.raises(InputError, match="could not be imported: SystemExit: 0"):
        python_function.load(f"{path}:reward")


def test_the_source_is_all_of_the_packages_that_are_imported(tmp_path, monkeypatch):
    """With their __init__, from within them too; of an installed package, that package alone."""
    files = {"__init__.py": "", "a.py": "from .b import X\nfrom . import c\n", "b.py": "X = 1\n"}
    files |= {
        "c.py": "from mine_pkg.deep.d import Y\n",
        "deep/__init__.py": "from ..e import Z\n",
        "deep/d.py": "Y = 2\n",
    }
    files |= {"e.py": "import json\nZ = 3\n", "unused.py": ""}
    (tmp_path / "mine_pkg").mkdir()
    for name, text in files.items():
        written(tmp_path / "mine_pkg" / name, text)
    wanted = {f"mine_pkg/{name}" for name in files if name != "unused.py"}
    path = written(tmp_path / "mine.py", "from mine_pkg import a\n" + REWARD.format("a.X + a.c.Y"))
    assert set(python_function.source(f"{path}:reward")) == {"mine.py", *wanted}
    assert of_two(python_function.load(f"{path}:reward")).tolist() == [3, 3]
    written(tmp_path / "mine_pkg" / "b.py", "X = 10\n")
    assert of_two(python_function.load(f"{path}:reward")).tolist() == [12, 12]
    monkeypatch.syspath_prepend(tmp_path)
    assert set(python_function.source("mine_pkg.a:c")) == wanted
    installed = python_function.source("json.decoder:JSONDecoder")
    assert {name.partition("/")[0] for name in installed} == {"json"}


def test_what_lies_beside_a_file_counts_before_what_has_the_same_name(tmp_path, monkeypatch):
    """Also where it is imported in the function alone; and whoever has the other one keeps it."""
    other = types.ModuleType("helper_of_rewards")
    other.FACTOR = 99
    monkeypatch.setitem(sys.modules, "helper_of_rewards", other)
    functions = []
    for number in (1, 2):
        written(tmp_path / str(number) / "helper_of_rewards.py", f"FACTOR = {number}\n")
        text = "def {}(prompts, completions):\n    from helper_of_rewards import FACTOR\n    return [FACTOR] * 2\n"
        text = text.format("late") + "from helper_of_rewards import FACTOR\n\n" + REWARD.format("FACTOR")
        path = written(tmp_path / str(number) / "mine.py", text)
        functions += [python_function.load(f"{path}:{name}") for name in ("late", "reward")]
    assert [of_two(function)[0] for function in functions] == [1, 1, 2, 2]
    assert sys.modules["helper_of_rewards"] is other
    assert not any(str(tmp_path) in entry for entry in sys.path)


def test_the_source_is_the_file_and_what_it_imports_from_beside(module):
    before = python_function.source(f"{module}:length")
    assert set(before) == {"my_reward.py", "counting.py"}
    (module.parent / "counting.py").write_text("def count(text):\n    return 0\n")
    assert python_function.source(f"{module}:length") != before
    assert set(python_function.source("json.decoder:JSONDecoder")) >= {"json/__init__.py", "json/decoder.py"}


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
