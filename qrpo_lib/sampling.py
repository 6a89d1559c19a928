"""Sampling: completions from a policy, with vLLM where it is installed and with transformers otherwise.

Both backends sample from the model's own distribution at the given temperature and top-p: nothing that a model's
generation configuration says (top-k, penalties) acts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib import runs

if TYPE_CHECKING:
    import torch

    from qrpo_lib.progress import Report

BACKENDS = ("vllm", "transformers")
# Sequences that have ended are dropped from a batch once they are this share of it: dropping copies the cache.
_COMPACT_AT = 0.1


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    prompt_index, sample_index: of which prompt, and the how-manieth of its completions.
    token_ids: as sampled, the end-of-sequence token included if it was sampled.
    text: decoded, without special tokens.
    finish_reason: "stop" if the model ended the sequence, "length" if max_new_tokens did.
    logp: sum of the tokens' log-probabilities under the model, in nats, whatever the temperature and top-p.
    """

    prompt_index: int
    sample_index: int
    token_ids: list[int]
    text: str
    finish_reason: str
    logp: float


def vllm_python() -> str | None:
    """The interpreter that vLLM runs in: this one, `$QRPO_VLLM_PYTHON`, the project's `.venv-vllm`, or None.

    An environment of its own needs nothing but vLLM. Raises ValueError if the variable names no file.
    """
    if importlib.util.find_spec("vllm"):
        return sys.executable
    named = os.environ.get("QRPO_VLLM_PYTHON")
    if named and not Path(named).is_file():
        raise ValueError(f"QRPO_VLLM_PYTHON is {named}, but there is no such file: name a Python that has vLLM.")
    local = runs.project_root() / ".venv-vllm" / "bin" / "python"
    return named or (str(local) if local.is_file() else None)


def resolve_backend(backend: str) -> str:
    """ "auto" as what it stands for on this machine, other names as they are. Imports nothing."""
    if backend == "auto":
        return "vllm" if vllm_python() else "transformers"
    if backend not in BACKENDS:
        raise ValueError(f"There is no sampling backend {backend!r}: use auto, {' or '.join(BACKENDS)}.")
    if backend == "vllm" and not vllm_python():
        raise ValueError(
            "The sampling backend is vllm, which is not installed: pip install 'qrpo-lib[vllm]', or set "
            "QRPO_VLLM_PYTHON to a Python that has vLLM (on a CPU: make .venv-vllm/.installed)."
        )
    return backend


def sample(policy: str | Path | Any, tokenizer: Any, prompts: Sequence[Sequence[int]], **settings) -> list[Completion]:
    """Completions of each prompt: a `Sampler` for one call. `settings` are those of the sampler and of its `sample`."""
    of_sampler = {name: settings.pop(name) for name in ("backend", "max_model_len") if name in settings}
    with Sampler(policy, tokenizer, **of_sampler) as sampler:
        return sampler.sample(prompts, **settings)


class Sampler:
    """A policy that completions are sampled from, loaded once for any number of calls; a context manager.

    Parameters
    ----------
    policy: folder of a saved model; for the transformers backend also a model in memory.
    tokenizer: decodes, and tells the end-of-sequence token.
    backend: "transformers", "vllm", or "auto".
    max_model_len: for vLLM, the longest prompt with its completion, in tokens (default: what the first call needs).
    """

    def __init__(
        self,
        policy: str | Path | Any,
        tokenizer: Any,
        *,
        backend: str = "transformers",
        max_model_len: int | None = None,
    ):
        self._tokenizer, self.backend = tokenizer, resolve_backend(backend)
        if self.backend == "vllm" and not isinstance(policy, str | Path):
            raise ValueError("The vllm backend samples from a saved policy: pass its folder, not a model in memory.")
        kind = _Vllm if self.backend == "vllm" else _Transformers
        self._engine = kind(policy, tokenizer.eos_token_id, max_model_len)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        completions: int,
        max_new_tokens: int,
        seed: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch_size: int = 256,
        report: Report | None = None,
    ) -> list[Completion]:
        """`completions` completions of each prompt, ordered by prompt, then by sample.

        Parameters
        ----------
        prompts: token ids, chat template applied.
        batch_size: sequences at a time (transformers backend). A batch has its own seed, from `seed` and its number.
        seed: with the same backend, settings and prompts, the same seed gives the same completions, whatever this
            sampler did before. (On a GPU, up to the rounding of kernels that are not deterministic.)

        Raises
        ------
        ValueError
            An empty prompt, or a setting out of range.
        """
        if any(not len(prompt) for prompt in prompts):
            raise ValueError("A prompt to sample from is empty: it needs at least one token.")
        if completions < 1 or max_new_tokens < 1 or batch_size < 1:
            raise ValueError("completions, max_new_tokens and batch_size must be at least 1.")
        if not temperature > 0 or not 0 < top_p <= 1:
            raise ValueError(f"temperature must be positive and top_p in (0, 1], not {temperature} and {top_p}.")
        prompts = [[int(token) for token in prompt] for prompt in prompts]
        settings = {"completions": completions, "max_new_tokens": max_new_tokens, "temperature": temperature}
        settings |= {"top_p": top_p, "seed": seed, "batch_size": batch_size}
        sampled = self._engine.sample(prompts, report=report, **settings) if prompts else []
        return [
            Completion(prompt_index, sample_index, ids, self._tokenizer.decode(ids, skip_special_tokens=True), *rest)
            for prompt_index, of_prompt in enumerate(sampled)
            for sample_index, (ids, *rest) in enumerate(of_prompt)
        ]

    def close(self) -> None:
        """Give back the memory that the policy takes."""
        self._engine.close()

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_) -> None:
        self.close()


# Both engines give, for each prompt and each of its completions, (token ids, finish reason, log-probability).
_Sampled = tuple[list[int], str, float]


class _Transformers:
    """transformers in this process, on a GPU if there is one."""

    def __init__(self, policy, eos_token_id: int, max_model_len):
        self._policy, self._eos = policy, eos_token_id

    def sample(self, prompts, *, completions, batch_size, report, seed, **settings) -> list[list[_Sampled]]:
        import torch

        model = self._model()
        was_training = model.training
        model.eval()
        # Prompts of similar length share a batch, whole prompts only: their cache is computed once and repeated.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        prompts_at_once = max(1, batch_size // completions)
        sampled: list[list[_Sampled]] = [[] for _ in prompts]
        with torch.inference_mode():
            for number, start in enumerate(range(0, len(order), prompts_at_once)):
                indices = order[start : start + prompts_at_once]
                generator = torch.Generator(device=model.device).manual_seed(seed * 1_000_003 + number)
                some = [prompts[i] for i in indices]
                rows = _sample_batch(model, self._eos, some, completions, generator=generator, **settings)
                for row, one in enumerate(rows):
                    sampled[indices[row // completions]].append(one)
                if report:
                    done = min(start + prompts_at_once, len(prompts))
                    report(done * completions, len(prompts) * completions, "completions")
        model.train(was_training)
        return sampled

    def _model(self):
        import torch
        from transformers import AutoModelForCausalLM

        if isinstance(self._policy, str | Path):
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._policy = AutoModelForCausalLM.from_pretrained(self._policy, dtype="auto").to(device)
        return self._policy

    def close(self) -> None:
        self._policy = None


def _sample_batch(model, eos, prompts, completions, *, max_new_tokens, temperature, top_p, generator) -> list[_Sampled]:
    """Token ids, finish reason and log-probability of each completion, the completions of a prompt side by side."""
    import torch

    from qrpo_lib import growing_cache

    width = max(map(len, prompts))
    input_ids = torch.tensor([[eos] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    mask = (torch.arange(width, device=model.device) >= width - lengths[:, None]).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    cache = output.past_key_values
    cache.batch_repeat_interleave(completions)
    growing_cache.make_growing(cache)
    logits = output.logits[:, -1].repeat_interleave(completions, 0)
    mask = mask.repeat_interleave(completions, 0)
    position = lengths.repeat_interleave(completions, 0)

    rows = len(prompts) * completions
    tokens = torch.full((rows, max_new_tokens), eos, device=model.device)
    logps = torch.zeros(rows, dtype=torch.float64, device=model.device)
    counts = torch.zeros(rows, dtype=torch.long, device=model.device)
    ended = torch.zeros(rows, dtype=torch.bool, device=model.device)
    alive = torch.arange(rows, device=model.device)  # which row each line of the cache belongs to
    # All of a row's randomness beforehand: what it draws does not depend on when other rows end.
    uniform = torch.rand(rows, max_new_tokens, dtype=torch.float64, device=model.device, generator=generator)
    for step in range(max_new_tokens):
        logits = logits.float()
        drawn = _draw(logits, temperature, top_p, uniform[alive, step])
        running = ~ended[alive]
        index = alive[running]
        tokens[index, step] = drawn[running]
        logps[index] += logits.log_softmax(-1).gather(1, drawn[:, None])[running, 0].double()
        counts[index] += 1
        ended[index] = drawn[running] == eos
        still = ~ended[alive]
        if step + 1 == max_new_tokens or not still.any():
            break
        if (~still).float().mean() >= _COMPACT_AT:
            keep = still.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            alive, mask, position, drawn = alive[keep], mask[keep], position[keep], drawn[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        output = model(
            input_ids=drawn[:, None],
            attention_mask=mask,
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        position = position + 1
        logits = output.logits[:, -1]
    counts = counts.tolist()
    return [
        (tokens[row, : counts[row]].tolist(), "stop" if ended[row] else "length", float(logps[row]))
        for row in range(rows)
    ]


def _draw(logits: torch.Tensor, temperature: float, top_p: float, uniform: torch.Tensor) -> torch.Tensor:
    """One token for each row of float32 logits (rows, vocabulary), by inversion of its distribution function.

    `uniform` (rows,) in float64: independent, uniform on [0, 1). The result is (rows,). Raises RuntimeError for logits
    that are not numbers.
    """
    import torch

    probabilities, tokens = (logits / temperature).softmax(-1), None
    if top_p < 1:
        probabilities, tokens = probabilities.sort(-1, descending=True)
        # A token stays if those before it do not already hold top_p together; the first one always does.
        probabilities = probabilities.masked_fill(probabilities.cumsum(-1) - probabilities >= top_p, 0)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    if not total.isfinite().all():
        raise RuntimeError("The policy's logits are not finite: it has diverged, or its weights are damaged.")
    # The first token whose cumulative probability is larger, so none of probability 0; rounding must not reach the sum.
    at = torch.minimum(uniform[:, None] * total, total.nextafter(torch.zeros_like(total)))
    drawn = torch.searchsorted(cumulative, at, right=True)
    return (drawn if tokens is None else tokens.gather(-1, drawn))[:, 0]


# --- vLLM ------------------------------------------------------------------------------------------------------------


class _Vllm:
    """vLLM in a process of its own (`qrpo_lib.vllm_worker`), started with the first job.

    In this process it would write to file descriptors that a notebook replaces, start processes that import the main
    module again, and keep its memory; and its environment may be another one.
    """

    def __init__(self, policy: str | Path, eos_token_id: int, max_model_len: int | None):
        self._policy, self._eos, self._max_model_len = Path(policy), eos_token_id, max_model_len
        self._process, self._jobs = None, 0

    def sample(self, prompts, *, batch_size, report, **settings) -> list[list[_Sampled]]:
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
        worker = Path(__file__).with_name("vllm_worker.py")
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
