"""No folder imports upwards, none in a circle: the contracts of pyproject.toml, checked with the tests too."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def lint(root):
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env={"PYTHONPATH": str(root)})


def test_no_folder_imports_upwards():
    ended = lint(ROOT)
    assert ended.returncode == 0, ended.stdout


def test_an_import_upwards_is_found(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "qrpo_lib", tmp_path / "qrpo_lib", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "qrpo_lib" / "objective" / "losses.py", "a") as stream:
        stream.write("\nfrom qrpo_lib.training import trainer\n")
    ended = lint(tmp_path)
    assert ended.returncode != 0
    assert "qrpo_lib.objective is not allowed to import qrpo_lib.training" in ended.stdout
