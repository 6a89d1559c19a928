"""What each process of a group does in `test_groups`: trains, is killed or goes on, and writes what it saw.

    torchrun group_worker.py FOLDER PRECISION SCENARIO ...

A file of its own, since torchrun starts processes by path.
"""

import argparse
import contextlib
import importlib
import json
from pathlib import Path
from unittest import mock

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from small_llama import fine_tune, fit, llama, made_up_rows, made_up_tokenizer, own_trainer, weights

from qrpo_lib.runs import folders
from qrpo_lib.sampling import sampler
from qrpo_lib.training import guard, parallel

ROWS, VALIDATION = 61, 9  # neither divides among micro-batches and processes
SETTINGS = {"batch_size": 16, "micro_batch_size": 4, "checkpoints": 2, "epochs": 2, "gradient_checkpointing": True}
LLAMA = {"hidden_size": 32, "intermediate_size": 48}


class Killed(Exception):
    pass


def train(folder: Path, precision: str, kill: int | None = None, rounding: set | None = None, **changes):
    """The fitted policy, and what was sampled at each checkpoint.

    rounding: gets the weights' type and whether autocast is on, of every forward pass up to the first checkpoint, the
        reference's among them.
    """
    drawn, seen, policy = {}, set() if rounding is None else rounding, llama(**LLAMA)
    guarding, check = [], guard.check

    def unseen(*arguments):
        """The guard's own forward passes are none of training."""
        guarding.append(True)
        check(*arguments)
        guarding.clear()

    def look(module, _):
        if not drawn and not guarding:
            seen.add((str(module.weight.dtype), torch.is_autocast_enabled("cpu")))

    policy.model.layers[0].self_attn.q_proj.register_forward_pre_hook(look)

    def on_checkpoint(step, model):
        drawn[step] = []  # sampling is not looked at
        if step == kill:
            raise Killed
        prompts = [row["prompt_ids"] for row in made_up_rows(3)]
        with torch.no_grad():
            some = sampler.sample(model, made_up_tokenizer(), prompts, completions=2, max_new_tokens=6, seed=0)
        drawn[step] = [one.token_ids for one in some]

    rows = made_up_rows(ROWS)
    settings = SETTINGS | {"precision": precision, "folder": folder / "trainer", "on_checkpoint": on_checkpoint}
    with mock.patch.object(guard, "check", unseen):
        fitted = fit(policy, made_up_tokenizer(), rows, rows[:VALIDATION], **(settings | changes))
    return fitted, drawn


def tune(rows: int, **changes):
    """A model fine-tuned on this many sequences."""
    sequences = [row["prompt_ids"] + row["chosen_ids"] for row in made_up_rows(rows)]
    settings = {"learning_rate": 1e-3, "batch_size": 16, "micro_batch_size": 4, "checkpoints": 1} | changes
    return fine_tune(llama(**LLAMA), made_up_tokenizer(), sequences, **settings)


def own(folder: Path, precision: str) -> dict:
    """What `QRPOTrainer` logs, evaluates and ends with, on rows that do not divide among processes."""
    changes = {
        "per_device_train_batch_size": 16 // parallel.state().num_processes,
        "per_device_eval_batch_size": 2,
        "bf16": precision == "bfloat16",
        "gradient_checkpointing": True,
    }
    changes |= {"learning_rate": 3e-3, "num_train_epochs": 2, "logging_steps": 1, "seed": 0}
    rows = made_up_rows(ROWS)
    made = own_trainer(folder / "own", rows, model=llama(**LLAMA), changes=changes, eval_dataset=rows[:VALIDATION])
    made.train()
    history = [entry for entry in made.state.log_history if "loss" in entry]
    return {"history": history, "evaluated": made.evaluate(), "weights": weights(parallel.whole(made.model)).tolist()}


def accumulated_norms(precision: str) -> list[float]:
    """Gradient norms of a batch of one row, and of 64 times as many micro-batches of that row: the same mean."""
    row = made_up_rows(1)[0]
    processes = parallel.state().num_processes
    norms = []
    for count in (processes, 64 * processes):
        settings = {"batch_size": count, "micro_batch_size": 1, "checkpoints": 1, "precision": precision}
        history = fit(llama(**LLAMA), made_up_tokenizer(), [row] * count, **settings).history
        norms.append(history[0]["grad_norm"])
    return norms


def scenarios(folder: Path, precision: str, names: list[str]) -> dict:
    """What was seen in each."""
    seen = {}
    for name in names:
        if name == "own":
            seen[name] = own(folder, precision)
        elif name == "accumulate":
            seen[name] = accumulated_norms(precision)
        elif name.startswith("tune-"):
            fitted = tune(int(name.removeprefix("tune-")), precision=precision)
            seen[name] = {"history": fitted.history, "weights": weights(fitted.model).tolist()}
        elif name.startswith("kill-"):
            with contextlib.suppress(Killed):
                train(folder, precision, kill=int(name.removeprefix("kill-")))
            seen[name] = sorted(path.name for path in (folder / "trainer").glob("checkpoint-*"))
        else:
            rounding = set()
            fitted, drawn = train(folder, precision, rounding=rounding)
            everyone = [None] * parallel.state().num_processes
            torch.distributed.all_gather_object(everyone, drawn)
            seen[name] = {"history": fitted.history, "drawn": everyone, "weights": weights(fitted.model).tolist()}
            seen[name]["rounding"] = sorted(rounding)
            if folders.is_main_process():
                fitted.save(folder / "policy", made_up_tokenizer(), precision)
    return seen


def without_compiling() -> None:
    """DeepSpeed on CPUs: gloo, not a faster exchange through shared memory that it would compile first."""
    if parallel.uses_deepspeed():
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None


def sharding_on_cpus() -> None:
    """FSDP on CPUs as on GPUs: Accelerate would take no notice of it and let DDP train."""
    plain = AcceleratorState.__init__

    def initialise(state, *arguments, fsdp_plugin=None, **others):
        plain(state, *arguments, fsdp_plugin=fsdp_plugin, **others)
        if fsdp_plugin is not None and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            if state.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(state.mixed_precision)

    AcceleratorState.__init__ = initialise


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("precision")
    parser.add_argument("scenarios", nargs="+")
    given = parser.parse_args()
    without_compiling()
    sharding_on_cpus()
    parallel.state()
    seen = scenarios(given.folder, given.precision, given.scenarios)
    if folders.is_main_process():
        (given.folder / "seen.json").write_text(json.dumps(seen))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
