"""A vLLM engine in a process of its own, which `qrpo_lib.sampling.sampler` starts by this file's path and gives jobs.

    python -P vllm_worker.py FOLDER PARENT   # reads FOLDER/engine.json, then a job's number a line from standard input

It imports the standard library and vllm only, so that vLLM can live in an environment without the rest of the suite.
Job `FOLDER/job-N.json` is answered in `FOLDER/result-N.json`: for each prompt and sample its token ids, finish reason
and log-probability. The process ends with its standard input, or with the process PARENT that started it.
"""

import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path

# On a CPU the share is of the machine's memory, which belongs to others too.
_CPU_MEMORY_SHARE = 0.3


def main(folder: Path, parent: int) -> None:
    """Serve jobs until standard input ends."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    engine = _engine(json.loads((folder / "engine.json").read_text()))
    for line in sys.stdin:
        number = int(line)
        result = folder / f"result-{number}.json"
        writing = result.with_suffix(".writing")
        writing.write_text(json.dumps(_sample(engine, json.loads((folder / f"job-{number}.json").read_text()))))
        writing.replace(result)


def _end_with(parent: int) -> None:
    # In the middle of a job the end of standard input is seen too late: the next attempt wants the memory.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _engine(settings):
    from vllm import LLM
    from vllm.platforms import current_platform

    memory = {"gpu_memory_utilization": _CPU_MEMORY_SHARE} if current_platform.is_cpu() else {}
    return LLM(
        **memory,
        model=settings["policy"],
        dtype=settings["dtype"],  # "auto" would round float32 weights
        generation_config="vllm",  # not the model's own
        max_model_len=settings["max_model_len"],
        skip_tokenizer_init=True,  # token ids in and out: text is decoded by the same code for every backend
        enforce_eager=current_platform.is_cpu(),  # graphs are for a GPU
        disable_log_stats=True,
    )


def _sample(engine, job):
    import torch
    from vllm import SamplingParams
    from vllm.platforms import current_platform

    # A job's completions depend on the job alone, not on what the engine did before. On a GPU each request has a seed
    # of its own, since vLLM's model runner there ignores the process's; on a CPU that is refused, and the engine draws
    # from torch's own generator.
    engine.reset_prefix_cache()
    torch.manual_seed(job["seed"])
    settings = dict(
        n=job["completions"],
        temperature=job["temperature"],
        top_p=job["top_p"],
        max_tokens=job["max_new_tokens"],
        stop_token_ids=[job["eos_token_id"]],
        logprobs=0,  # of the sampled token, under the model itself whatever the temperature
        detokenize=False,
        # Defaults of vLLM, said here so that none of them can creep in:
        top_k=0,
        min_p=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
    )
    seeds = _request_seeds(job["seed"], len(job["prompts"]), is_cpu=current_platform.is_cpu())
    parameters = [SamplingParams(seed=seed, **settings) for seed in seeds]
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in job["prompts"]], parameters, use_tqdm=False)
    return [[_completion(one) for one in output.outputs] for output in outputs]


def _request_seeds(seed, prompts, *, is_cpu):
    """A seed for each request, or None; far apart, since vLLM adds a sample's number to its request's."""
    if is_cpu:
        return [None] * prompts
    digests = (hashlib.sha256(f"{seed} {number}".encode()).digest() for number in range(prompts))
    return [int.from_bytes(digest[:7], "big") for digest in digests]


def _completion(one):
    ids = list(one.token_ids)
    logp = sum(step[token].logprob for step, token in zip(one.logprobs, ids, strict=True))
    return {"token_ids": ids, "finish_reason": one.finish_reason, "logp": float(logp)}


if __name__ == "__main__":  # vLLM may start processes that import the main module again
    main(Path(sys.argv[1]), int(sys.argv[2]))
