"""A missing package is told with the extra that brings it."""

import re
from importlib import metadata

import pytest

from qrpo_lib.runs import extras
from qrpo_lib.runs.errors import InputError


@pytest.mark.parametrize(
    ("module", "extra"), [("papermill", "notebooks"), ("submitit.core.core", "dispatch"), ("vllm", "vllm")]
)
def test_the_sentence_names_the_package_and_its_extra(module, extra):
    top = module.split(".")[0]
    expected = f"This needs the package {top}, which is not installed: pip install 'qrpo-lib[{extra}]'."
    assert extras.sentence(module) == expected
    with pytest.raises(extras.MissingExtraError, match=re.escape(expected)) as refused, extras.needed():
        raise ModuleNotFoundError(name=module)
    assert isinstance(refused.value, InputError)
    assert refused.value.__suppress_context__


@pytest.mark.parametrize("name", ["no_such_module", None])
def test_what_no_extra_brings_is_pythons_own_error(name):
    assert extras.sentence(name or "") is None
    with pytest.raises(ModuleNotFoundError), extras.needed():
        raise ModuleNotFoundError("none", name=name)
    with extras.needed():
        pass


def test_every_extra_brings_modules_that_its_requirements_have():
    """Of those that are installed here: an import name of each is a top-level module of a distribution."""
    installed = metadata.packages_distributions()
    for extra, modules in extras.MODULES.items():
        assert modules, extra
        for module in modules:
            if module in installed:
                assert extras.sentence(module).endswith(f"[{extra}]'.") or module == "pandas"
