"""The process of vLLM as its engine sees it; what it samples is tested with the sampler (`test_sampler`)."""

import sys

import pytest

from qrpo_lib.sampling.vllm_engine import VllmEngine


def test_an_engine_that_fails_says_why(no_vllm, monkeypatch, tmp_path):
    monkeypatch.setenv("QRPO_VLLM_PYTHON", sys.executable)  # a Python without vLLM
    (tmp_path / "config.json").write_text('{"dtype": "bfloat16"}')
    engine = VllmEngine(tmp_path, eos_token_id=0, max_model_len=None)
    settings = {"completions": 1, "temperature": 1.0, "top_p": 1.0, "seed": 0}
    with pytest.raises(RuntimeError, match=r"exit code 1(.|\n)*No module named 'vllm'"):
        engine.sample([[1, 2]], batch_size=1, report=None, max_new_tokens=3, **settings)
    assert (engine._folder / "engine.json").read_text().count("bfloat16") == 1  # not rounded to another type
    with pytest.raises(ValueError, match="may need 6 tokens: raise max_model_len"):
        engine.sample([[1, 2]], batch_size=1, report=None, max_new_tokens=4, **settings)
    engine.close()
    assert not engine._folder.exists()
