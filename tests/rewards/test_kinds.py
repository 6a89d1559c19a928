"""What of a reward's settings decides its scores: equal where scores are equal, different where they may differ."""

import pytest

from qrpo_lib.models import hub
from qrpo_lib.profiles import settings as profiles
from qrpo_lib.rewards import kinds
from qrpo_lib.runs.errors import InputError


def model(**changes):
    plain = {"kind": "classifier", "model": "some/model", "revision": "1" * 40, "max_tokens": 512, "batch_size": 8}
    return profiles.RewardModel(**(plain | {"dtype": "bfloat16"} | changes))


@pytest.fixture(autouse=True)
def content(monkeypatch):
    """Models are the same where their content is, here told by the first letter of the commit."""
    monkeypatch.setattr(hub, "identity", lambda name, revision, **_: f"{name}: content {revision[0]}")


def test_a_models_scores_depend_on_its_content_and_on_what_it_reads():
    plain = kinds.parameters(model())
    assert kinds.parameters(model(batch_size=9)) == plain
    assert kinds.parameters(model(revision="1" + "2" * 39)) == plain  # another commit of the same content
    changes = [{"revision": "2" * 40}, {"model": "another/model"}, {"max_tokens": 7}, {"dtype": "float32"}]
    for one in (*changes, {"kind": "armorm"}):
        assert kinds.parameters(model(**one)) != plain


def test_a_functions_scores_depend_on_its_source(tmp_path):
    path = tmp_path / "my.py"
    found = []
    for body in ("return [len(c) for c in completions]", "return [1.0 for c in completions]"):
        path.write_text(f"def reward(prompts, completions):\n    {body}\n")
        settings = profiles.PythonReward(kind="python", function=f"{path}:reward")
        found.append(kinds.parameters(settings))
        kinds.check_available(settings)
    assert found[0] != found[1]
    assert {one["function"] for one in found} == {"reward"}  # wherever the file lies
    path.unlink()
    with pytest.raises(InputError, match=r"my\.py"):
        kinds.check_available(profiles.PythonReward(kind="python", function=f"{path}:reward"))


def test_the_code_of_each_kind_is_there():
    """Entry points name a class of the package, and the one that computes this kind of reward."""
    from qrpo_lib.runs.code_version import own_package

    kinds_of = {
        "RelevanceReward": profiles.Relevance(kind="relevance"),
        "ChatReward": model(),
        "FunctionReward": profiles.PythonReward(kind="python", function="my.py:reward"),
    }
    for name, settings in kinds_of.items():
        (entry,) = kinds.code(settings)
        module, _, called = entry.partition(":")
        assert called == name
        source = own_package().root / f"{module.replace('.', '/')}.py"
        assert f"class {name}" in source.read_text(encoding="utf-8")
