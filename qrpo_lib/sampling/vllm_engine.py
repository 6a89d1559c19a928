"""Sampling with vLLM, in a process and if need be an environment of its own (`qrpo_lib.sampling.vllm_worker`)."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qrpo_lib.runs import paths
from qrpo_lib.runs.code_version import package_file
from qrpo_lib.sampling.transformers_engine import Sampled


def vllm_python() -> str | None:
    """The interpreter that vLLM runs in: this one, `$QRPO_VLLM_PYTHON`, the project's `.venv-vllm`, or None.

    An environment of its own needs nothing but vLLM. Raises ValueError if the variable names no file.
    """
    if importlib.util.find_spec("vllm"):
        return sys.executable
    named = os.environ.get("QRPO_VLLM_PYTHON")
    if named and not Path(named).is_file():
        raise ValueError(f"QRPO_VLLM_PYTHON is {named}, but there is no such file: name a Python that has vLLM.")
    local = paths.project_root() / ".venv-vllm" / "bin" / "python"
    return named or (str(local) if local.is_file() else None)


class VllmEngine:
    """vLLM in a process of its own, started with the first job.

    In this process it would write to file descriptors that a notebook replaces, start processes that import the main
    module again, and keep its memory; and its environment may be another one.
    """

    def __init__(self, policy: str | Path, eos_token_id: int, max_model_len: int | None):
        self._policy, self._eos, self._max_model_len = Path(policy), eos_token_id, max_model_len
        self._process, self._jobs = None, 0

    def sample(self, prompts, *, batch_size, report, **settings) -> list[list[Sampled]]:
        """For each prompt, token ids, finish reason and log-probability (nats) of each of its completions.

        Parameters
        ----------
        prompts: token ids, none empty.
        batch_size, report: not used: vLLM makes its own batches, and tells nothing before it has finished.
        settings: `completions`, `max_new_tokens`, `temperature`, `top_p`, `seed`, as of `Sampler.sample`.

        Raises
        ------
        ValueError
            A prompt with its completion may be longer than the engine was started for.
        RuntimeError
            The process of vLLM ended; with the end of its log.
        """
        longest = max(map(len, prompts)) + settings["max_new_tokens"]
        if not self._process:
            self._start(self._max_model_len or longest)
        if longest > self._max_model_len:
            raise ValueError(f"A prompt with its completion may need {longest} tokens: raise max_model_len.")
        self._jobs += 1
        job, result = (self._folder / f"{kind}-{self._jobs}.json" for kind in ("job", "result"))
        job.write_text(json.dumps({"prompts": prompts, "eos_token_id": self._eos, **settings}))
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{self._jobs}\n")
            self._process.stdin.flush()
        while not result.exists():
            if self._process.poll() is not None and not result.exists():
                end = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
                raise RuntimeError(f"vLLM ended with exit code {self._process.returncode}. The end of its log:\n{end}")
            time.sleep(0.05)
        answers = json.loads(result.read_text())
        job.unlink()
        result.unlink()
        return [[(one["token_ids"], one["finish_reason"], one["logp"]) for one in some] for some in answers]

    def _start(self, max_model_len: int) -> None:
        self._max_model_len = max_model_len
        self._temporary = tempfile.TemporaryDirectory()
        self._folder = Path(self._temporary.name)
        self._log = self._folder / "log"
        config = json.loads((self._policy / "config.json").read_text())
        engine = {"policy": str(self._policy), "max_model_len": max_model_len}
        engine["dtype"] = config.get("dtype") or config.get("torch_dtype") or "float32"
        (self._folder / "engine.json").write_text(json.dumps(engine))
        python = vllm_python()
        environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
        environment["HF_HUB_OFFLINE"] = "1"
        if python != sys.executable:
            environment.pop("PYTHONPATH", None)  # packages of this environment are not for that one
        worker = package_file("vllm_worker.py")
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                # -P: the folder of this package would hide modules of the standard library, such as statistics.
                [python, "-P", str(worker), str(self._folder), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                text=True,
            )

    def close(self) -> None:
        if self._process:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()  # the worker ends with it
            try:
                self._process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
            self._temporary.cleanup()
