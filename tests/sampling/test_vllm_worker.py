"""What the process of vLLM does without vLLM: seeds of requests, and its end."""

import os
import subprocess
import sys
import time
from pathlib import Path

from qrpo_lib.runs.code_version import package_file
from qrpo_lib.sampling import vllm_worker


def test_on_a_gpu_every_request_has_a_seed_of_its_own():
    """vLLM's model runner there ignores the process's seed, and adds a sample's number to its request's."""
    seeds = vllm_worker._request_seeds(0, 2000, is_cpu=False)
    assert seeds == vllm_worker._request_seeds(0, 3000, is_cpu=False)[:2000]
    drawn_with = {seed + sample for seed in seeds for sample in range(50)}
    assert len(drawn_with) == 2000 * 50
    assert drawn_with.isdisjoint(vllm_worker._request_seeds(1, 2000, is_cpu=False))
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert vllm_worker._request_seeds(0, 3, is_cpu=True) == [None] * 3  # vLLM refuses them there


def test_an_engine_does_not_outlive_the_process_that_started_it(tmp_path):
    (tmp_path / "vllm").mkdir()
    stub = "import time\n\nclass LLM:\n    def __init__(self, **settings):\n        time.sleep(600)\n"
    (tmp_path / "vllm" / "__init__.py").write_text(stub)
    (tmp_path / "vllm" / "platforms.py").write_text(
        "class current_platform:\n    is_cpu = staticmethod(lambda: True)\n"
    )
    (tmp_path / "engine.json").write_text('{"policy": "", "dtype": "float32", "max_model_len": 8}')
    worker = [sys.executable, "-P", str(package_file("vllm_worker.py")), str(tmp_path)]
    starts = f"import os, subprocess; p = subprocess.Popen([*{worker!r}, str(os.getpid())], stdin=subprocess.PIPE)"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"{starts}; print(p.pid, flush=True); p.wait()"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    engine = Path("/proc") / parent.stdout.readline().strip()
    assert engine.exists()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 600
    while engine.exists() and "zombie" not in (engine / "status").read_text():
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.1)
