"""A GPU that is not there: the suite's own code on tensors with shapes, types and a device, but no content.

    python fake_gpu.py '{"model": "llama-8b", "layers": 32, ...}'    # prints what each part took, as JSON

PyTorch's `FakeTensorMode` refuses operations between devices and tells the size of every tensor. The CPU build of
PyTorch cannot record gradients for a device "cuda"; the device here is the one that PyTorch keeps for other makers'
chips, registered from Python under the name "gpu". A process of its own, since that cannot be taken back.
"""

import contextlib
import json
import sys
import weakref

import numpy as np
import torch
import torch.utils.checkpoint
from accelerate import PartialState
from accelerate.state import AcceleratorState
from small_llama import made_up_tokenizer
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Trainer
from trl import DPOConfig, SFTConfig
from trl.trainer import dpo_trainer

from qrpo_lib.training import fine_tuning, log_probs, parallel, policy_trainer, reference_logps, samples, suite_trainer
from qrpo_lib.training.configuration import Objective, Optimization, Output


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("gpu", backend_module=_Backend())
torch._C._set_only_lift_cpu_tensors(True)  # new tensors are made in main memory and then sent
GPU = torch.device("gpu:0")
_SIZES = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
_TOKENS = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
CONFIGS = {
    "llama-8b": LlamaConfig(vocab_size=128_256, max_position_embeddings=131_072, **_SIZES, **_TOKENS),
    "mistral-7b": MistralConfig(
        vocab_size=32_000, max_position_embeddings=32_768, sliding_window=None, **_SIZES, **_TOKENS
    ),
}


class Memory(TorchDispatchMode):
    """Bytes on the fake GPU now and at most, and which operations made tensors of more than one number elsewhere."""

    def __init__(self, mode: FakeTensorMode):
        super().__init__()
        self.mode = mode
        self.now = self.peak = 0
        self.elsewhere: set[str] = set()
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function is torch.ops.aten._local_scalar_dense.default and arguments[0].dtype == torch.bool:
            return True  # whether numbers are finite: there are none that are not
        if function is torch.ops.aten._to_copy.default and not isinstance(arguments[0], FakeTensor):
            arguments = (self.mode.from_tensor(arguments[0]), *arguments[1:])  # numbers of main memory are sent
        if function is torch.ops.aten.embedding_dense_backward.default:  # the kernel's: nothing beside its result
            gradient, _, rows, *_ = arguments
            result = gradient.new_empty((rows, gradient.shape[-1]))
        else:
            result = function(*arguments, **(keywords or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor, function)
        return result

    def take_for_granted(self, tensors) -> None:
        """Do not count these: a view of a weight, such as its transpose, is no memory of its own."""
        for tensor in tensors:
            self._known[tensor.untyped_storage()._cdata] = 0

    def _count(self, tensor, function):
        if tensor.device.type != GPU.type:
            if tensor.numel() > 1 and function is not torch.ops.aten.lift_fresh.default:  # made here to be sent
                self.elsewhere.add(str(function))
            return
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, identity):
        self.now -= self._known.pop(identity)


def fake_model(config, mode, *, dtype=torch.bfloat16, device=GPU):
    """A model of that configuration whose weights have no content."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with mode:
        for module in model.modules():
            for name, weights in module._parameters.items():
                if weights is not None:
                    empty = torch.empty(weights.shape, dtype=dtype, device=device)
                    module._parameters[name] = torch.nn.Parameter(empty)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    return model


@contextlib.contextmanager
def on_the_gpu(mode, memory):
    """What runs inside computes on the fake GPU, in this thread, with the attention that a GPU has."""
    plain = log_probs._layout, samples.Collator.__call__, torch.nn.functional.scaled_dot_product_attention

    def in_main_memory(function):  # where numbers are
        def called(*arguments):
            with unset_fake_temporarily(), _disable_current_modes():
                return function(*arguments)

        return called

    def flash(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        if attn_mask is not None:
            raise AssertionError("a mask keeps attention from its fast kernel")
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[
            0
        ]

    log_probs._layout, samples.Collator.__call__ = map(in_main_memory, plain[:2])
    torch.nn.functional.scaled_dot_product_attention = flash
    try:
        with (
            torch.autograd.set_multithreading_enabled(False),
            # it would stop by an error, which this device cannot pass on
            torch.utils.checkpoint.set_checkpoint_early_stop(False),
            mode,
            memory,
        ):
            yield
    finally:
        log_probs._layout, samples.Collator.__call__, torch.nn.functional.scaled_dot_product_attention = plain


def rows_of(count: int, tokens: int) -> list[dict]:
    """Pairs whose sequences have this many tokens each and share nothing but the first: the most that can come."""
    completion = [2 + i % 20 for i in range(tokens - 1)]
    sides = {f"{side}_ids": completion for side in ("chosen", "rejected")}
    rewards = {"chosen_reward": 1.0, "rejected_reward": 0.0, "ref_rewards": [0.5], "weight": 1.0}
    logps = {"ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0}
    return [{"prompt_ids": [2 + i], **sides, **rewards, **logps} for i in range(count)]


def _arguments(kind, folder, case, **others):
    settings = Optimization(1e-6, case["micro"], gradient_checkpointing=case["gradient_checkpointing"])
    return suite_trainer.arguments(kind, settings, Output(), folder, **others)


def _computes_on(device):
    """What Accelerate takes for this process's device."""
    for state in (PartialState, AcceleratorState):
        if state._shared_state:
            state._shared_state["device"] = device


def _step(made, batch, mode) -> dict:
    """One forward and backward pass of a trainer: the most bytes beside the weights.

    A weight's gradient goes as soon as it is there, as under DeepSpeed, which adds it to the float32 sum.
    """
    made.args.__dict__["_setup_devices"] = GPU
    _computes_on(GPU)
    if made.args.gradient_checkpointing:  # as `Trainer.train` does before the first step
        made.model.gradient_checkpointing_enable(made.args.gradient_checkpointing_kwargs)
    memory = Memory(mode)
    seen = []

    def add(weights):
        seen.append(weights.grad.device)
        weights.grad = None

    for weights in made.model.parameters():
        weights.register_post_accumulate_grad_hook(add)
    memory.take_for_granted([*made.model.parameters(), *made.model.buffers()])
    with on_the_gpu(mode, memory):
        made.training_step(made.model, batch, torch.empty((), device=GPU))
    assert seen == [GPU] * len(list(made.model.parameters()))
    return {"peak": memory.peak, "elsewhere": sorted(memory.elsewhere)}


def training_step(case, mode, folder) -> dict:
    model = fake_model(case["config"], mode)
    rows = rows_of(case["micro"], case["tokens"])
    made = policy_trainer.PolicyTrainer(
        model,
        _arguments(DPOConfig, folder, case, max_grad_norm=0.0, precompute_ref_log_probs=True),
        suite_trainer.laid_out(rows, np.arange(len(rows)), case["micro"]),
        made_up_tokenizer(),
        Objective("qrpo", {"beta": 0.1}),
    )
    return _step(made, made._collate(rows), mode)


def fine_tuning_step(case, mode, folder) -> dict:
    model = fake_model(case["config"], mode)
    rows = [
        {"prompt_ids": row["prompt_ids"], "completion_ids": row["chosen_ids"], "weight": 1.0}
        for row in rows_of(case["micro"], case["tokens"])
    ]
    skip = {"max_grad_norm": 10.0, "dataset_kwargs": {"skip_prepare_dataset": True}}
    made = fine_tuning.FineTuningTrainer(
        model,
        args=_arguments(SFTConfig, folder, case, **skip),
        train_dataset=suite_trainer.laid_out(rows, np.arange(len(rows)), case["micro"]),
        processing_class=made_up_tokenizer(),
        data_collator=samples.Collator(1),
    )
    return _step(made, made.data_collator(rows), mode)


def reference_pass(case, mode, folder) -> dict:
    """From a model in main memory, as it is loaded."""
    parallel.state()
    _computes_on(GPU)
    model = fake_model(case["config"], mode, device="cpu")
    memory, forward = Memory(mode), parallel.Forward(torch.bfloat16, autocast=False)
    with on_the_gpu(mode, memory):
        reference = forward.of(model)
        weights = memory.now
        memory.elsewhere.clear()
        logps = reference_logps.compute(reference, 1, rows_of(case["micro"], case["tokens"]), case["micro"], forward)
    assert logps.device == GPU
    return {"peak": memory.peak - weights, "elsewhere": sorted(memory.elsewhere)}


PARTS = {"training": training_step, "sft": fine_tuning_step, "reference": reference_pass}


def main(case: dict, folder: str) -> None:
    dpo_trainer.hash_module = lambda model: ""  # of numbers that are not there
    Trainer._move_model_to_device = lambda self, model, device: None  # it is there already
    case["config"] = CONFIGS[case["model"]]
    case["config"].num_hidden_layers = case["layers"]
    found = {}
    for name in case["parts"]:
        _computes_on(torch.device("cpu"))
        found[name] = PARTS[name](case, FakeTensorMode(allow_non_fake_inputs=True), folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
