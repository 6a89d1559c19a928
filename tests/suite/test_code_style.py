"""The house's limits, of which no linter knows: lengths, what docstrings must say, where a module is tested."""

import ast
import re
from pathlib import Path

import pytest

from qrpo_lib.runs.code_version import own_package

ROOT = Path(__file__).parents[2]
FUNCTION_LINES, FILE_LINES, PARAMETERS = 60, 600, 3
# Documented where they are from: methods of transformers and TRL that subclasses override.
OF_A_LIBRARY = {
    "batch_select_indices",
    "compute_loss",
    "on_init_end",
    "on_log",
    "on_save",
    "on_step_end",
    "on_train_begin",
    "prediction_step",
    "update",
}
# Modules that act only through another one: the test file that tests them.
TESTED_IN = {
    "results/beyond_figures.py": "results/test_beyond.py",
    "rewards/sandbox/process.py": "rewards/sandbox/test_faults.py",
    "sampling/completion.py": "sampling/test_sampler.py",
    "suite/kernel_server.py": "suite/test_kernels.py",
    "suite/site/gallery.py": "suite/test_site.py",
    "suite/site/inputs.py": "suite/test_site_inputs.py",
    "suite/site/ledger.py": "suite/test_site.py",
    "suite/site/notebook_pages.py": "suite/test_site.py",
    "suite/site/pages.py": "suite/test_site.py",
    "training/fine_tuning.py": "training/test_trainer.py",
    "training/suite_trainer.py": "training/test_trainer.py",
    "training/token_trainer.py": "training/test_policy_trainer.py",
}


def modules(root):
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}


def is_public(path):
    return not any(part.startswith("_") and part != "__init__.py" for part in Path(path).parts)


def public_functions(node, prefix=""):
    """(name, function, its parameters) of the functions of a module, and of the methods of its classes."""
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            given = child.args
            names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            names += [one.arg for one in (given.vararg, given.kwarg) if one]
            is_static = any(getattr(one, "id", None) == "staticmethod" for one in child.decorator_list)
            yield prefix + child.name, child, names[1:] if prefix and not is_static else names


def undocumented(source):
    """Public functions with more than `PARAMETERS` parameters whose docstring does not describe each of them."""
    found = []
    for name, function, parameters in public_functions(ast.parse(source)):
        if len(parameters) <= PARAMETERS or name.rpartition(".")[2] in OF_A_LIBRARY:
            continue
        _, _, after = (ast.get_docstring(function) or "").partition("Parameters\n----------\n")
        section = re.split(r"\n\n\w+\n-+\n", after)[0]
        missing = [one for one in parameters if not re.search(rf"\b{one}\b", section)]
        if missing:
            found.append(f"{name} says nothing of {', '.join(missing)}")
    return found


def long_functions(source, limit):
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    return [one.name for one in functions if one.end_lineno - one.lineno + 1 > limit]


def test_public_functions_with_many_parameters_describe_each_of_them():
    sources = {path: source for path, source in modules(own_package().root).items() if is_public(path)}
    assert [f"{path}: {one}" for path, source in sources.items() for one in undocumented(source)] == []


def test_no_function_is_longer_than_its_limit():
    sources = modules(own_package().root).items()
    found = {f"{path}: {name}" for path, source in sources for name in long_functions(source, FUNCTION_LINES)}
    assert not found


@pytest.mark.parametrize("folder", ["qrpo_lib", "tests", "benchmarks"])
def test_no_file_is_longer_than_its_limit(folder):
    lines = {path: len(source.splitlines()) for path, source in modules(ROOT / folder).items()}
    assert lines
    assert {path: count for path, count in lines.items() if count > FILE_LINES} == {}


def test_every_module_has_a_test_file_beside_it():
    """In the folder that mirrors its own, unless another file is said to test it; a package's `__init__` needs none."""
    paths = [Path(path) for path in modules(own_package().root) if not path.endswith("__init__.py")]
    mirrored = {path.as_posix(): path.with_name(f"test_{path.name}") for path in paths}
    without = {path for path, test in mirrored.items() if not (ROOT / "tests" / test).is_file()}
    assert without == set(TESTED_IN)
    assert [test for test in TESTED_IN.values() if not (ROOT / "tests" / test).is_file()] == []


def test_one_name_stands_for_one_class():
    """So that a reader who meets `Task` need not ask which one."""
    places = {}
    for path, source in modules(own_package().root).items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(path)
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


DESCRIBED = '''
class Public:
    def method(self, a, b, *, c, **d):
        """Do it.

        Parameters
        ----------
        a, b: numbers.
        c: another.
        d: others.

        Returns
        -------
        A number.
        """
'''


def test_what_is_not_described_is_found():
    assert undocumented(DESCRIBED) == []
    assert undocumented(DESCRIBED.replace("c: another", "another")) == ["Public.method says nothing of c"]
    # what stands in another section, or without any, does not count
    moved = DESCRIBED.replace("        c: another.\n", "").replace("A number", "c: a number")
    assert undocumented(moved) == ["Public.method says nothing of c"]
    assert undocumented(DESCRIBED.replace("----------", "")) == ["Public.method says nothing of a, b, c, d"]
    assert undocumented(DESCRIBED.replace(", **d", "")) == []  # three are few
    assert undocumented(DESCRIBED.replace("def method", "def _method")) == []
    assert undocumented("def function(a, b, c, d):\n    pass") == ["function says nothing of a, b, c, d"]
    assert long_functions("def f():\n" + "    x = 1\n" * 3, 3) == ["f"]
    assert long_functions("def f():\n" + "    x = 1\n" * 3, 4) == []
