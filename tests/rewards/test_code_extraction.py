"""Which part of a completion is its code, by the authors' rule and by the lenient one."""

import ast
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrpo_lib.rewards import code_extraction
from qrpo_lib.rewards.tests import TestsReward

RIGHT = "def f(n):\n    return n + 2\n"
OTHER = "print(f(1))\n"


def lenient(completion, names=("f",)):
    return code_extraction.extract(completion, names, "lenient")


FORMS = {
    "the form asked for": f"Here:\n```python\n{RIGHT}```\nDone.",
    "python3": f"```python3\n{RIGHT}```",
    "a version": f"```python3.11\n{RIGHT}```",
    "a capital": f"```Python\n{RIGHT}```",
    "py": f"```py\n{RIGHT}```",
    "as HTML names it": f"```language-python\n{RIGHT}```",
    "IPython": f"```ipython3\n{RIGHT}```",
    "in braces": f"```{{.python}}\n{RIGHT}```",
    "no language": f"```\n{RIGHT}```",
    "tildes": f"~~~python\n{RIGHT}~~~",
    "four backticks": f"````python\n{RIGHT}````",
    "blank before the language": f"``` python\n{RIGHT}```",
    "closed on the code's last line": f"```python\n{RIGHT.rstrip()}```",
    "text after the closing": f"```python\n{RIGHT}``` and so on",
    "not closed": f"Here:\n```python\n{RIGHT}",
    "no fence": RIGHT,
    "no fence, with a comment": f"# the function\nimport math\n\n{RIGHT}",
    "byte order mark": f"\ufeff```python\n\ufeff{RIGHT}```",
    "Windows' line ends": f"```python\n{RIGHT}```".replace("\n", "\r\n"),
    "within a list": "1. Write\n   ```python\n   def f(n):\n       return n + 2\n   ```\n",
    "as a list's item": "- ```python\n  def f(n):\n      return n + 2\n  ```\n",
    "as a numbered list's item": "2) ```py\n   def f(n):\n       return n + 2\n   ```\n",
    "quoted": "> ```python\n> def f(n):\n>     return n + 2\n> ```\nDone.",
    "no fence, with a byte order mark and Windows' line ends": "\ufeff" + RIGHT.replace("\n", "\r\n"),
    "an old Macintosh's line ends": f"```python\n{RIGHT}```".replace("\n", "\r"),
    "another language first": f"```bash\npip install it\n```\n```python\n{RIGHT}```",
    "an example after it": f"```python\n{RIGHT}```\nUse it:\n```python\n{OTHER}```",
    "an example before it": f"```python\n{OTHER}```\nSo:\n```python\n{RIGHT}```",
    "output after it": f"```python\n{RIGHT}```\nprints\n```\n[1, 2]\n```",
    "a first attempt": f"```python\ndef f(n):\n    return 0\n```\nBetter:\n```python\n{RIGHT}```",
    "a fence in a comment": f"```python\n# not ``` yet\n{RIGHT}```",
    "a fence in a string": f'```python\nTEXT = """\n```\nx\n```\n"""\n{RIGHT}```',
    "a fence in a docstring": '```python\ndef f(n):\n    """Add.\n    ```\n    1\n    ```\n    """\n    return n+2\n',
}


@pytest.mark.parametrize("form", FORMS)
def test_a_right_answer_counts_in_every_form(form):
    reward = TestsReward(lambda prompt: [f"assert f({n}) == {n + 2}" for n in range(3)], extraction="lenient")
    assert reward.score(["p"], [FORMS[form]]).tolist() == [1.0], lenient(FORMS[form])


@pytest.mark.parametrize(
    "text", ["", "I cannot do that.", "```bash\nls\n```", "```pythonic\nx = 1\n```", "```", "f(2)"]
)
def test_what_is_no_answer_has_no_code(text):
    assert lenient(text) is None


def test_the_authors_rule_is_the_first_block_of_python_that_is_closed():
    """On every form it is what their regular expression finds."""
    for text in FORMS.values():
        assert code_extraction.extract(text) == by_the_authors_expression(text)


@given(st.lists(st.sampled_from(["```python", "```", "\n", " x ", "python", "`", "3", "def f(): pass\n"])))
def test_the_authors_rule_is_their_expression_on_any_text(parts):
    assert code_extraction.extract("".join(parts)) == by_the_authors_expression("".join(parts))


def by_the_authors_expression(text):
    found = re.search(r"```python\b[^\n]*\n(.*?)```", text, re.DOTALL)
    return found.group(1) if found else None


def test_a_completion_in_the_form_asked_for_is_the_same_to_both_rules():
    asked = [FORMS["the form asked for"], FORMS["closed on the code's last line"], "no code"]
    reward = TestsReward(lambda prompt: ["assert f(1) == 3"])
    assert reward.forms_differ(["p"] * 3, asked).tolist() == [False] * 3
    assert reward.forms_differ(["p"] * 3, [FORMS["py"], FORMS["not closed"], asked[0]]).tolist() == [True, True, False]


def test_the_last_block_counts_where_none_defines_what_is_called():
    assert lenient("```python\nx = 1\n```\n```python\ny = 2\n```") == "y = 2\n"
    assert lenient("```python\nf = lambda n: n\n```\n```python\ny = 2\n```") == "f = lambda n: n\n"


def test_rewards_say_where_the_rules_differ():
    reward = TestsReward(lambda prompt: ["assert f(1) == 3"])
    texts = [FORMS["the form asked for"], FORMS["py"], FORMS["an example before it"], "nothing"]
    assert reward.forms_differ(["p"] * 4, texts).tolist() == [False, True, True, False]
    assert reward.score(["p"] * 4, texts).tolist() == [1.0, 0.0, 0.0, 0.0]  # the authors' rule is the default


def test_the_class_that_the_tests_call_is_looked_for():
    tests = ["assert Solution().f(n = 1) == 3"]
    code = "class Solution:\n    def f(self, n): return n + 2\n"
    text = f"```python\nprint(Solution().f(1))\n```\n```python\n{code}```\n```python\nSolution().f(2)\n```"
    assert TestsReward(lambda prompt: tests, extraction="lenient").score(["p"], [text]) == [1.0]
    assert TestsReward(lambda prompt: tests).score(["p"], [text]) == [0.0]


@given(
    st.lists(st.sampled_from(["```python\n", "```\n", "```", "~~~", "def f(): pass\n", "'''", "\n", "    ", "x", "#"]))
)
def test_no_text_raises(parts):
    text = "".join(parts)
    for rule in ("paper", "lenient"):
        found = code_extraction.extract(text, ["f"], rule)
        assert found is None or isinstance(found, str)


@pytest.mark.parametrize(
    "text",
    ["(" * 10_000, "-" * 50_000 + "1", "x" + ".a" * 40_000, "```python\n" * 2000, "\0", 'f"' + "{x}" * 33_000 + '"'],
)
def test_no_text_is_too_much(text):
    lenient(f"```python\n{text}\n```")
    lenient(text)


# Pieces that are repeated, and what may come first: fences that close nothing, quotations, lists, one long line.
REPEATED = [
    *(
        ("", "```\n"),
        ("", "```x\n"),
        ("", "```python\n"),
        ("", "```python"),
        ("", "> ```\n"),
        ("", "> ```python\n> x\n"),
    ),
    *(("", "1. ```python\n"), ("", "```python\nx = '''\n```x\n"), ("```python\n", "x ```\n"), ("", "~~~ `\n~~~\n")),
    *(("```python\nx = (\n", "```x\nf(\n"), ("", "~"), ("`", "~"), ("", "`"), ("x", "`x"), ("", "1"), ("", "class\n")),
    *(("```python\n", "def f():\n"), ("```python\nx = '''\n", "```\n"), ("", "- ~~~\n  f = 1\n"), ("", "*")),
]


@pytest.mark.parametrize(("first", "piece"), REPEATED)
def test_the_work_grows_with_the_length(first, piece, monkeypatch):
    """Counted are the characters that Python's parser is given and those of the lines that are looked at."""
    looked = []
    parse, line = ast.parse, code_extraction._Body.line
    monkeypatch.setattr(code_extraction.ast, "parse", lambda text: looked.append(len(text)) or parse(text))
    monkeypatch.setattr(
        code_extraction._Body, "line", lambda *a: looked.append(len(found := line(*a) or "") + 1) or (found or line(*a))
    )
    for closing in ("", "`", "```", "\n```python\nf = 1\n```"):
        works = []
        for characters in (40_000, 160_000):
            looked.clear()
            lenient(first + piece * (characters // len(piece)) + closing)
            works.append(sum(looked))
        assert works[1] < 5 * works[0] + 1_000_000, (closing, works)


@pytest.mark.parametrize(("first", "piece"), REPEATED)
def test_code_after_many_fences_that_close_nothing_is_found(first, piece):
    before = first + piece * 300
    assert "n + 2" in lenient(f"{before}\n\n```python\n{RIGHT}```")
