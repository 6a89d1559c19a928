"""What `py.typed` promises: a type checker accepts a program that uses every public name (`make types`)."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pip install pyright")
def test_pyright_accepts_the_public_names_and_refuses_their_misuse(tmp_path):
    right = (ROOT / "tests" / "data" / "public_names.py").read_text(encoding="utf-8")
    wrong = "from qrpo_lib import QRPOTrainer, losses\n\nlosses.dpo(1, 2, 3, 4, beta='much')\nQRPOTrainer()\n"
    (tmp_path / "right.py").write_text(right)
    (tmp_path / "wrong.py").write_text(wrong)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "right.py", "wrong.py"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=900)
    try:
        found = json.loads(run.stdout)["generalDiagnostics"]
    except json.JSONDecodeError:
        pytest.skip(f"pyright does not start: {(run.stdout + run.stderr)[-200:]}")
    errors = [(Path(one["file"]).name, one["range"]["start"]["line"], one["message"]) for one in found]
    assert [one for one in errors if one[0] == "right.py"] == []
    assert {line for name, line, _ in errors if name == "wrong.py"} == {2, 3}
