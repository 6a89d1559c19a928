"""What changes the version of code and what does not, on small packages written for it."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from qrpo_lib.runs import code_version
from qrpo_lib.runs.code_version import Package, UnresolvedCodeError
from qrpo_lib.runs.errors import InputError

LIBRARY = {
    "work.py": """
        '''Work.'''
        import numpy as np
        from lib import tools
        from lib.tools import half

        LIMIT = 3

        def make(n: int) -> int:
            '''Doc.'''
            if n > LIMIT:
                raise ValueError(f"{n} is more than {LIMIT}.")
            return tools.double(n) + half(n)  # why

        def unrelated():
            return tools.other()
    """,
    "tools.py": """
        def double(n):
            return 2 * n

        def half(n):
            return n / 2

        def other():
            return 0
    """,
}


def package(folder: Path, files: dict[str, str]) -> Package:
    root = folder / "lib"
    shutil.rmtree(root, ignore_errors=True)
    for name, source in ({"__init__.py": ""} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(source).lstrip("\n"))
    return Package(root)


def version(folder: Path, files: dict[str, str], entry: str = "lib.work:make") -> str:
    return package(folder, files).version([entry])


def edited(name: str, old: str, new: str) -> dict[str, str]:
    assert old in LIBRARY[name]
    return LIBRARY | {name: LIBRARY[name].replace(old, new)}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("work.py", "# why", "# another comment"),
        ("work.py", "'''Doc.'''", "'''Other words.'''"),
        ("work.py", "'''Work.'''", "'''Other words.'''"),
        ("work.py", "(n: int) -> int", "(n)"),
        ("work.py", 'f"{n} is more than {LIMIT}."', '"too many"'),
        ("work.py", "return tools.other()", "return 5"),
        ("work.py", "import numpy as np", "import json, numpy as np"),
        ("work.py", "tools.double(n) + half(n)", "(tools.double(n)\n                    + half(n))"),
        ("tools.py", "return 0", "return 1"),
        ("tools.py", "def other():", "def later():\n            return 7\n\n        def other():"),
    ],
)
def test_what_no_result_depends_on_changes_nothing(tmp_path, name, old, new):
    assert version(tmp_path, edited(name, old, new)) == version(tmp_path, LIBRARY)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("work.py", "LIMIT = 3", "LIMIT = 4"),
        ("work.py", "n > LIMIT", "n >= LIMIT"),
        ("work.py", "raise ValueError(", "raise KeyError("),
        ("work.py", "tools.double(n) + half(n)", "half(n) + tools.double(n)"),
        ("work.py", "tools.double(n) + half(n)", "half(n) + tools.half(n)"),
        ("tools.py", "2 * n", "3 * n"),
        ("tools.py", "n / 2", "n // 2"),
    ],
)
def test_what_a_result_depends_on_changes_the_version(tmp_path, name, old, new):
    assert version(tmp_path, edited(name, old, new)) != version(tmp_path, LIBRARY)


def test_two_names_that_change_places_are_noticed(tmp_path):
    swapped = edited("work.py", "tools.double(n) + half(n)", "tools.half(n) + tools.double(n)")
    named = edited("work.py", "tools.double(n) + half(n)", "tools.double(n) + tools.half(n)")
    assert version(tmp_path, swapped) != version(tmp_path, named)
    assert version(tmp_path, named) == version(tmp_path, LIBRARY)  # the same function by another way


@pytest.mark.parametrize(
    "files",
    [
        {
            "deep/er/tools.py": LIBRARY["tools.py"],
            "work.py": LIBRARY["work.py"]
            .replace("from lib import tools", "from lib.deep.er import tools")
            .replace("from lib.tools", "from lib.deep.er.tools"),
        },
        {
            "helpers.py": LIBRARY["tools.py"],
            "work.py": LIBRARY["work.py"]
            .replace("from lib import tools", "import lib.helpers as tools")
            .replace("lib.tools", "lib.helpers"),
        },
        {
            "tools.py": LIBRARY["tools.py"],
            "work.py": LIBRARY["work.py"]
            .replace("from lib import tools", "from . import tools")
            .replace("from lib.tools", "from .tools"),
        },
        {
            "tools.py": "from lib.first import double\nfrom lib.second import half",
            "first.py": "def double(n):\n    return 2 * n",
            "second.py": "def half(n):\n    return n / 2",
            "work.py": LIBRARY["work.py"],
        },
        {
            "tools.py": LIBRARY["tools.py"],
            "work.py": LIBRARY["work.py"]
            .replace("from lib import tools\n", "import lib.tools\n")
            .replace("tools.double", "lib.tools.double"),
        },
    ],
    ids=["moved", "renamed", "relative", "split", "by its full name"],
)
def test_where_modules_live_changes_nothing(tmp_path, files):
    assert version(tmp_path, files) == version(tmp_path, LIBRARY)


def test_the_entry_itself_may_move(tmp_path):
    moved = {"tools.py": LIBRARY["tools.py"], "folder/work.py": LIBRARY["work.py"]}
    assert version(tmp_path, moved, "lib.folder.work:make") == version(tmp_path, LIBRARY)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("from lib import nothing\ndef make():\n    return nothing.f()", "lib.nothing"),
        ("def make():\n    from lib.nothing import f\n    return f()", "lib.nothing"),
        ("from lib import tools\ndef make():\n    return tools.nothing()", "lib.tools.nothing"),
        ("def make():\n    from .nothing import f\n    return f()", "lib.nothing"),
        ("", "lib.work.make"),
        ("x = 1\ndef make() return 1", "lib.work, line 2,"),
    ],
)
def test_what_cannot_be_resolved_is_one_sentence(tmp_path, source, named):
    with pytest.raises(UnresolvedCodeError, match=named.replace(".", r"\.")) as refused:
        version(tmp_path, LIBRARY | {"work.py": source})
    assert isinstance(refused.value, InputError)  # what the command line and notebooks show without a traceback
    assert "\n" not in str(refused.value)


LATE = {
    "work.py": "def make(n):\n    from lib import tools\n    return tools.double(n)\n",
    "tools.py": "def double(n):\n    from .deep.parts import twice as f\n    return f(n)\n\nUNUSED = 1\n",
    "deep/parts.py": "def twice(n):\n    import lib.deep.last\n    return lib.deep.last.FACTOR * n\n\nUNUSED = 1\n",
    "deep/last.py": "FACTOR = 2\nUNUSED = 1\n",
}


@pytest.mark.parametrize("name", ["tools.py", "deep/parts.py", "deep/last.py"])
def test_imports_inside_functions_are_followed(tmp_path, name):
    """From one function to the next, however each is imported, and only to what is used there."""
    before = version(tmp_path, LATE)
    work = LATE[name].replace("return f(n)", "return f(n + 1)").replace("FACTOR * n", "FACTOR - n")
    assert version(tmp_path, LATE | {name: work.replace("FACTOR = 2", "FACTOR = 3")}) != before
    assert version(tmp_path, LATE | {name: LATE[name].replace("UNUSED = 1", "UNUSED = 2")}) == before


def test_a_local_name_hides_the_modules_own(tmp_path):
    files = {"work.py": "def step():\n    return {0}\n\ndef make(step):\n    return [step for step in range(step)]\n"}
    first, second = ({"work.py": files["work.py"].replace("{0}", number)} for number in "12")
    assert version(tmp_path, first) == version(tmp_path, second)


def test_an_import_of_another_package_counts_by_what_it_imports(tmp_path):
    files = {"work.py": "from math import sqrt\n\ndef make(x):\n    return sqrt(x)\n"}
    other = {"work.py": "from cmath import sqrt\n\ndef make(x):\n    return sqrt(x)\n"}
    renamed = {"work.py": "from math import sqrt as root\n\ndef make(x):\n    return root(x)\n"}
    assert version(tmp_path, files) != version(tmp_path, other)
    assert version(tmp_path, files) == version(tmp_path, renamed)


METHODS = """
    class Base:
        def shared(self):
            return 1

    class Task(Base):
        size = 2

        def __init__(self):
            self.limit = 3

        def prompts(self):
            return self._helper() + self.shared()

        def _helper(self):
            return 4

        def reward(self):
            return 5
"""


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("return 1", "return 9", True),
        ("size = 2", "size = 9", True),
        ("self.limit = 3", "self.limit = 9", True),
        ("return 4", "return 9", True),
        ("return 5", "return 9", False),
    ],
)
def test_a_method_counts_with_what_it_calls_on_itself(tmp_path, old, new, changes):
    before = version(tmp_path, {"work.py": METHODS}, "lib.work:Task.prompts")
    after = version(tmp_path, {"work.py": METHODS.replace(old, new)}, "lib.work:Task.prompts")
    assert (before != after) == changes


def test_infrastructure_is_not_followed_and_a_module_as_a_value_counts_whole(tmp_path):
    mark = "IS_INFRASTRUCTURE = True\n\ndef double(n):\n    return {0}"
    files = {"work.py": "from lib import tools\n\ndef make(n):\n    return tools.double(n)\n"}
    assert version(tmp_path, files | {"tools.py": mark.replace("{0}", "1")}) == version(
        tmp_path, files | {"tools.py": mark.replace("{0}", "2")}
    )
    dynamic = {"work.py": "from lib import tools\n\ndef make(name):\n    return getattr(tools, name)()\n"}
    assert version(tmp_path, dynamic | {"tools.py": LIBRARY["tools.py"]}) != version(
        tmp_path, dynamic | {"tools.py": LIBRARY["tools.py"].replace("return 0", "return 1")}
    )


def test_a_folder_says_infrastructure_of_all_modules_below_it_and_not_of_itself(tmp_path):
    def of(half, whole, mark="IS_INFRASTRUCTURE = True\n"):
        work = "from lib.moving import whole\nfrom lib.moving.parts import tools\n\n"
        work += "def make(n):\n    return whole(tools.half(n))\n"
        folder = {"moving/__init__.py": f"{mark}\ndef whole(n):\n    return {whole}", "moving/parts/__init__.py": ""}
        return version(
            tmp_path, {"work.py": work, **folder, "moving/parts/tools.py": f"def half(n):\n    return {half}"}
        )

    assert of("n / 2", "n") == of("n // 2", "n") != of("n / 2", "n + 0")
    assert of("n / 2", "n", mark="") != of("n // 2", "n", mark="")


def test_files_and_code_of_other_processes_count_by_content_wherever_they_lie(tmp_path):
    work = "from lib.paths import package_file\n\n"
    work += "def make():\n    return package_file('data.txt'), package_file('run.py')\n"
    paths = "IS_INFRASTRUCTURE = True\n\ndef package_file(name):\n    return name\n"
    files = {
        "work.py": work,
        "paths.py": paths,
        "data.txt": "a",
        "run.py": "from lib import tools\nprint(tools.half(1))",
    }
    files |= {"tools.py": LIBRARY["tools.py"]}
    before = version(tmp_path, files)
    moved = {"x/data.txt": "a", "y/run.py": files["run.py"], **files}
    del moved["data.txt"], moved["run.py"]
    assert version(tmp_path, moved) == before
    assert version(tmp_path, files | {"data.txt": "b"}) != before
    assert version(tmp_path, files | {"run.py": files["run.py"] + "\nprint(2)"}) != before
    assert version(tmp_path, files | {"run.py": files["run.py"] + "  # a comment"}) == before
    assert version(tmp_path, files | {"tools.py": LIBRARY["tools.py"].replace("n / 2", "n // 2")}) != before
    assert version(tmp_path, files | {"tools.py": LIBRARY["tools.py"].replace("return 0", "return 1")}) == before
    with pytest.raises(UnresolvedCodeError, match="has 2"):
        version(tmp_path, files | {"x/data.txt": "a"})


def test_statements_that_act_on_import_count_and_scripts_ends_do_not(tmp_path):
    acting = edited("tools.py", "def other():", "print('set')\n\n        def other():")
    assert version(tmp_path, acting) != version(tmp_path, LIBRARY)
    ended = LIBRARY | {"tools.py": LIBRARY["tools.py"] + "\n        if __name__ == '__main__':\n            print(1)\n"}
    assert version(tmp_path, ended) == version(tmp_path, LIBRARY)


def test_further_source_counts_with_what_it_reaches(tmp_path):
    source = "from lib import tools\ntools.half(3)"
    before = package(tmp_path, LIBRARY).version([], source)
    assert package(tmp_path, edited("tools.py", "n / 2", "n // 2")).version([], source) != before
    assert package(tmp_path, edited("tools.py", "2 * n", "3 * n")).version([], source) == before
    assert package(tmp_path, LIBRARY).version([], source.replace("3", "4")) != before


def test_lines_that_import_from_the_package_are_dropped_and_nothing_else():
    source = "import json\nfrom qrpo_lib import (\n    losses,\n    runs,\n)\nfrom math import pi\n\nx = pi  # y"
    assert code_version.without_own_imports(source) == "import json\nfrom math import pi\nx = pi  # y"
    cell = f"%matplotlib inline\n{source}\n!ls"
    assert (
        code_version.without_own_imports(cell)
        == "%matplotlib inline\nimport json\nfrom math import pi\nx = pi  # y\n!ls"
    )


@pytest.mark.parametrize("other", ["python3.12", "python3.13", "python3.14"])
def test_the_version_is_the_same_under_every_python(other):
    script = (
        "import importlib.util, sys; from pathlib import Path\n"
        "spec = importlib.util.spec_from_file_location('c', sys.argv[1]); c = importlib.util.module_from_spec(spec)\n"
        "sys.modules['c'] = c; spec.loader.exec_module(c); package = c.Package(Path(sys.argv[2]))\n"
        "for path in sorted(package.root.rglob('*.py')):\n"
        "    if path.name != '__init__.py': print(path.name, package.version([package._dotted(path) + ':']))\n"
    )
    command = ["-c", script, code_version.__file__, str(code_version.own_package().root)]
    if subprocess.run(["sh", "-c", f"{other} -c 0"], capture_output=True).returncode:
        pytest.skip(f"{other} is not installed")
    found = subprocess.run([other, *command], capture_output=True, text=True)
    ours = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    assert found.stdout == ours.stdout, found.stderr
    assert found.stdout.count("\n") > 50


def test_versions_are_remembered_until_a_file_changes_and_damage_is_not_believed(tmp_path, monkeypatch):
    one = package(tmp_path, LIBRARY)
    monkeypatch.setattr(code_version, "own_package", lambda: one)
    monkeypatch.setattr(code_version, "remember_in", lambda: tmp_path / "memory")
    asked = code_version.code_version.__wrapped__
    first = asked(("lib.work:make",))
    [memory] = [path for path in (tmp_path / "memory").rglob("*") if path.is_file()]
    monkeypatch.setattr(Package, "version", lambda *_: pytest.fail("read again"))
    assert asked(("lib.work:make",)) == first
    monkeypatch.undo()
    monkeypatch.setattr(code_version, "own_package", lambda: one)
    monkeypatch.setattr(code_version, "remember_in", lambda: tmp_path / "memory")
    memory.write_text(memory.read_text().replace(first[:4], "0000", 1))
    assert asked(("lib.work:make",)) == first


def test_what_is_remembered_is_of_this_package_as_it_is_and_of_this_source(tmp_path, monkeypatch):
    """A folder for each state of the package, the last one alone; a file for each question."""
    asked = code_version.code_version.__wrapped__
    monkeypatch.setattr(code_version, "remember_in", lambda: tmp_path / "memory")
    states = []
    for files in (LIBRARY, edited("tools.py", "2 * n", "3 * n")):
        current = package(tmp_path, files)
        (current.root / "__pycache__").mkdir()
        (current.root / "__pycache__" / "tools.pyc").write_text("another each time" * len(states))
        monkeypatch.setattr(code_version, "own_package", lambda current=current: current)
        for source in (None, "from lib import tools\ntools.half(3)", "from lib import tools\ntools.half(4)"):
            expected = package_of(current.root).version(["lib.work:make"], source)
            assert asked(("lib.work:make",), source) == asked(("lib.work:make",), source) == expected
        states.append({path.parent.name for path in (tmp_path / "memory").rglob("*") if path.is_file()})
    assert [len(state) for state in states] == [1, 1]
    assert states[0] != states[1]
    assert len([path for path in (tmp_path / "memory").rglob("*") if path.is_file()]) == 3


def package_of(root):
    return Package(root)


@pytest.mark.parametrize("content", ["", "one", "one two three", "\udcff"])
def test_a_damaged_memory_is_read_again(tmp_path, monkeypatch, content):
    one = package(tmp_path, LIBRARY)
    monkeypatch.setattr(code_version, "own_package", lambda: one)
    monkeypatch.setattr(code_version, "remember_in", lambda: tmp_path / "memory")
    asked = code_version.code_version.__wrapped__
    first = asked(("lib.work:make",))
    [memory] = [path for path in (tmp_path / "memory").rglob("*") if path.is_file()]
    memory.write_bytes(content.encode(errors="surrogateescape"))
    assert asked(("lib.work:make",)) == first


def test_where_nothing_can_be_remembered_the_version_is_computed(tmp_path, monkeypatch):
    one = package(tmp_path, LIBRARY)
    monkeypatch.setattr(code_version, "own_package", lambda: one)
    (tmp_path / "file").write_text("")
    for memory in (tmp_path / "file", None):
        monkeypatch.setattr(code_version, "remember_in", lambda memory=memory: memory)
        assert code_version.code_version.__wrapped__(("lib.work:make",)) == one.version(["lib.work:make"])


@pytest.mark.parametrize(
    ("source", "old", "new", "changes"),
    [
        # Functions that make a step say what determines it in its own key.
        ("def make():\n    return Step('a', 1)\n", "1", "2", False),
        ("def make():\n    return keys.Step('a', 1)\n", "1", "2", False),
        ("def make():\n    return keys.Stop('a', 1)\n", "1", "2", True),
        # What is for type checkers alone never runs.
        ("if TYPE_CHECKING:\n    N = 1\n\ndef make():\n    return 0\n", "N = 1", "print(2)", False),
        ("if typing.TYPE_CHECKING:\n    N = 1\n\ndef make():\n    return 0\n", "N = 1", "print(2)", False),
        ("if CHECKING:\n    print(1)\n\ndef make():\n    return 0\n", "print(1)", "print(2)", True),
        # Names that a function declares global are the module's.
        ("N = 1\n\ndef make():\n    global N\n    N = N + 1\n    return N\n", "N = 1\n", "N = 2\n", True),
        ("N = 1\n\ndef make():\n    N = 3\n    return N\n", "N = 1\n", "N = 2\n", False),
        # Names that are caught or matched hide the module's.
        (
            "e = 1\n\ndef make():\n    try:\n        f()\n    except E as e:\n        return e\n",
            "e = 1",
            "e = 2",
            False,
        ),
        ("x = 1\n\ndef make(v):\n    match v:\n        case [*x]:\n            return x\n", "x = 1", "x = 2", False),
        (
            "x = 1\n\ndef make(v):\n    match v:\n        case int() as x:\n            return x\n",
            "x = 1",
            "x = 2",
            False,
        ),
        # Annotations count where they say that a name is no field of its dataclass.
        ("class make:\n    n: int = 1\n", "int", "float", False),
        ("class make:\n    n: int = 1\n", "n: int", "n: ClassVar[int]", True),
        # Of errors the class counts, and which error is raised again; of an assertion what it asks.
        ("def make(a):\n    raise ValueError('b')\n", "'b'", "'c'", False),
        ("def make(a):\n    raise errors.First('b')\n", "First", "Second", True),
        ("def make(a):\n    raise\n", "raise", "raise a", True),
        ("def make(a):\n    raise a\n", "raise a", "return a", True),
        ("def make(a):\n    assert a > 1, 'b'\n", "'b'", "'c'", False),
        ("def make(a):\n    assert a > 1, 'b'\n", "> 1", "> 2", True),
        # Warnings are words for people.
        ("def make(a):\n    warnings.warn('b')\n", "'b'", "'c'", False),
        ("def make(a):\n    warnings.worn('b')\n", "'b'", "'c'", True),
        # What is written into a text, and how.
        ("def make(a):\n    return f'x {a} y'\n", "x {a}", "z {a}", True),
        ("def make(a):\n    return f'x {a} y'\n", "{a}", "{a:.2f}", True),
        ("def make(a):\n    return f'x {a} y'\n", "{a}", "{a!r}", True),
        ("def make(a):\n    return f'x {a} y'\n", "f'x {a} y'", "'x ' f'{a}' ' y'", False),
        ("def make(a):\n    return 'b'\n", "'b'", "b'b'", True),
        ("def make(a):\n    return 1\n", "1", "1.0", True),
        ("def make(a):\n    return 1\n", "1", "True", True),
        # Decorators of functions and classes.
        ("@cache\ndef make(a):\n    return a\n", "@cache", "@other", True),
        ("@dataclass(frozen=True)\nclass make:\n    n: int = 1\n", "True", "False", True),
        # What a default, a name of an argument or a keyword is.
        ("def make(a, b=1):\n    return a\n", "b=1", "b=2", True),
        ("def make(a):\n    return f(a, k=1)\n", "k=1", "j=1", True),
        # Every import of a file counts by what it binds, whichever comes last.
        ("from math import sqrt\nimport json\n\ndef make(a):\n    return sqrt(a)\n", "math", "cmath", True),
        ("def make(a):\n    from math import sqrt\n    import json\n    return sqrt(a)\n", "math", "cmath", True),
        ("import os.path\n\ndef make(a):\n    return os.path.join(a)\n", "os.path\n", "os\n", False),
    ],
)
def test_which_changes_of_a_source_count(tmp_path, source, old, new, changes):
    assert old in source
    before, after = (version(tmp_path, {"work.py": text}) for text in (source, source.replace(old, new)))
    assert (before != after) == changes


@pytest.mark.parametrize(
    "imports",
    [
        "try:\n    from lib.tools import half\nexcept ImportError:\n    half = None\n",
        "from lib.tools import half\nfrom lib.tools import other\n",
        "from lib.tools import other, half\n",
        "if True:\n    from lib import tools\n    half = tools.half\n",
    ],
)
def test_imports_are_followed_wherever_they_stand(tmp_path, imports):
    files = LIBRARY | {"work.py": f"{imports}\ndef make(n):\n    return half(n)\n"}
    changed = files | {"tools.py": LIBRARY["tools.py"].replace("n / 2", "n // 2")}
    assert version(tmp_path, files) != version(tmp_path, changed)


def test_relative_imports_start_at_the_folder_of_their_file(tmp_path):
    """Of a package's `__init__` that is its own folder; two dots are one further up."""
    files = {
        "work.py": "from lib import deep\n\ndef make(n):\n    return deep.twice(n) + deep.half(n)\n",
        "deep/__init__.py": "from .parts import twice\nfrom ..tools import half\n",
        "deep/parts.py": "from . import last\n\ndef twice(n):\n    return last.FACTOR * n\n",
        "deep/last.py": "FACTOR = 2\n",
        "tools.py": LIBRARY["tools.py"],
    }
    before = version(tmp_path, files)
    assert version(tmp_path, files | {"deep/last.py": "FACTOR = 3\n"}) != before
    assert version(tmp_path, files | {"tools.py": LIBRARY["tools.py"].replace("n / 2", "n // 2")}) != before
    assert version(tmp_path, files | {"tools.py": LIBRARY["tools.py"].replace("2 * n", "3 * n")}) == before


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [("self.size = 2", "self.size = 3", True), ("return 4", "return 5", True), ("return 6", "return 7", False)],
)
def test_a_method_counts_with_what_prepares_its_object_and_both_sides_of_a_property(tmp_path, old, new, changes):
    source = """
        class Task:
            def __post_init__(self):
                self.size = 2

            @property
            def limit(self):
                return 3

            @limit.setter
            def limit(self, value):
                return 4

            def prompts(self):
                return self.limit

            def reward(self):
                return 6
    """
    before = version(tmp_path, {"work.py": source}, "lib.work:Task.prompts")
    assert (version(tmp_path, {"work.py": source.replace(old, new)}, "lib.work:Task.prompts") != before) == changes


class Base:
    def inherited(self):
        return 1

    @classmethod
    def made(cls):
        return cls()


class Derived(Base):
    def own(self):
        return 2


def test_entry_points_are_named_by_where_they_are_and_bound_methods_by_their_objects_class():
    here = __name__
    assert code_version.entry_names([Derived().own, Base]) == sorted([f"{here}:Base", f"{here}:Derived.own"])
    assert code_version.entry_names([Derived().inherited]) == [f"{here}:Derived.inherited"]
    assert code_version.entry_names([Derived.made]) == [f"{here}:Base.made"]
    assert code_version.entry_names([package, package]) == [f"{here}:package"]
    assert code_version.entry_names(["losses:qrpo"]) == ["qrpo_lib.objective.losses:qrpo"]
    assert code_version.entry_names(["objective.losses"]) == ["qrpo_lib.objective.losses:"]


def test_compiled_copies_are_no_second_file(tmp_path):
    found = package(tmp_path, LIBRARY | {"data.txt": "a", "__pycache__/data.txt": "b"}).file("data.txt")
    assert found.parent.name == "lib"


def test_a_cells_magics_are_empty_lines():
    assert code_version.without_magics("%magic\nx = 1\n!ls\ny = 2") == "\nx = 1\n\ny = 2"


def test_an_import_over_several_lines_leaves_nothing_of_itself_and_all_of_the_rest():
    source = "a = 1\nfrom qrpo_lib import (\n    losses,\n)\nb = 2\nimport qrpo_lib.runs\nc = 3\nd = 4"
    assert code_version.without_own_imports(source) == "a = 1\nb = 2\nc = 3\nd = 4"


EVERYTHING = LIBRARY | {
    "all.py": """
        import json
        from lib import tools, work

        @json.cache
        class Thing(work.Base, key=1):
            first: int = 1
            second: ClassVar[int] = 2.5

            def method(self, a, *b, c=None, **d):
                assert a > 0, "words"
                with open(b"x") as stream:
                    return [self.method(i) for i in stream if i is not None]

            async def other(self):
                raise work.Error("words")

        def make(n):
            text = f"{n:.3f} of {tools.half(n)!r}"
            try:
                return lambda x: {**x, "a": tools.double, 1: ...}, text[1:2]
            except ValueError:
                raise

        def stepped():
            return Step("name")

        print("set")
    """
}


def test_how_versions_are_computed_does_not_change_unnoticed(tmp_path):
    """Another hash for the same code makes every result anew: on purpose only, and then this number changes too."""
    files = EVERYTHING | {"work.py": LIBRARY["work.py"] + "\n        class Base:\n            Error = 1\n"}
    files["work.py"] += "\n        class Error(Exception):\n            pass\n"
    entries = ["lib.all:make", "lib.all:Thing", "lib.all:stepped", "lib.work:make"]
    assert package(tmp_path, files).version(entries, "from lib import work\nwork.make(2)") == "22e397539247f5c3"
