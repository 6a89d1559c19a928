"""What tests of sampling share."""

import importlib.util

import pytest


@pytest.fixture
def no_vllm(monkeypatch, tmp_path):
    """Neither here nor in the project is there a vLLM."""
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed in this environment")
    monkeypatch.delenv("QRPO_VLLM_PYTHON", raising=False)
    monkeypatch.setenv("QRPO_ROOT", str(tmp_path))
    return tmp_path
