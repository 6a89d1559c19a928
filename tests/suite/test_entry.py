"""The command names the extra of the package that is missing."""

import subprocess
import sys

import pytest

WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from qrpo_lib.suite import entry
sys.exit(entry.main({arguments!r}))
"""


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [(["rich", "pydantic"], ["status"], "notebooks"), (["pydantic"], ["status"], "notebooks")],
)
def test_a_missing_extra_is_named(missing, arguments, extra, runs_folder):
    command = [sys.executable, "-c", WITHOUT.format(missing=missing, arguments=arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("qrpo: This needs the package ")
    assert f"pip install 'qrpo-lib[{extra}]'" in ended.stderr
    assert "Traceback" not in ended.stderr
