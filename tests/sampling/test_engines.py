"""Which engine a backend's name means on this machine."""

import sys

import pytest

from qrpo_lib.sampling import engines, vllm_engine


def test_vllm_is_found_where_it_is_installed(no_vllm, monkeypatch):
    assert engines.resolve("auto") == "transformers"
    with pytest.raises(ValueError, match=r"vllm, which is not installed.*QRPO_VLLM_PYTHON"):
        engines.resolve("vllm")
    local = no_vllm / ".venv-vllm" / "bin" / "python"
    local.parent.mkdir(parents=True)
    local.touch()
    assert vllm_engine.vllm_python() == str(local)
    assert engines.resolve("auto") == "vllm"
    monkeypatch.setenv("QRPO_VLLM_PYTHON", sys.executable)
    assert vllm_engine.vllm_python() == sys.executable
    monkeypatch.setenv("QRPO_VLLM_PYTHON", "/nowhere/python")
    with pytest.raises(ValueError, match=r"QRPO_VLLM_PYTHON is /nowhere/python"):
        engines.resolve("auto")
