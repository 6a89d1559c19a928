"""What one GPU must hold in training, by arithmetic: weights, gradients, the optimizer's share, activations.

`tests/training/test_fake_gpu.py` compares it with the bytes that the suite's own code takes for the paper's two models.
Nothing of a cluster is asked; a model that is not at hand is the paper's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from qrpo_lib.models import hub
from qrpo_lib.profiles.settings import HubPolicy, Profile, Resources
from qrpo_lib.runs.errors import InputError
from qrpo_lib.steps import initial_policy, shifts
from qrpo_lib.suite import plan_sizes

GIB = 2**30
# Of logits in float32 (`qrpo_lib.training.log_probs`): of a tile, and of all that are kept for the backward pass.
_TILE_BYTES = 4 * 2**25
_KEPT_BYTES = 2**31


@dataclass(frozen=True)
class Shape:
    """Of a Llama or Mistral: widths of the residual stream, of the MLP and of all keys together; layers; vocabulary."""

    width: int
    inner: int
    keys: int
    layers: int
    vocabulary: int

    @property
    def layer(self) -> int:
        """Parameters of one layer's products."""
        return self.width * (2 * self.width + 2 * self.keys + 3 * self.inner)


LLAMA_8B = Shape(4096, 14_336, 1024, 32, 128_264)
MISTRAL_7B = Shape(4096, 14_336, 1024, 32, 32_000)
_SHAPES = {"allenai/Llama-3.1-Tulu-3-8B-SFT": LLAMA_8B, "mistralai/Mistral-7B-Instruct-v0.2": MISTRAL_7B}


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU in one kind of job, by what they are for."""

    kind: str
    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations

    def told(self) -> str:
        """As a line of the plan."""
        parts = {name: getattr(self, name) for name in ("weights", "gradients", "optimizer", "activations")}
        told = ", ".join(f"{name} {value / GIB:.1f}" for name, value in parts.items() if value)
        return f"{self.kind} {self.total / GIB:.0f} GiB a GPU ({told})"


def of_arm(profile: Profile) -> list[Memory]:
    """Of the jobs of an arm that train; none where they have no GPUs, or the policy's shape is not known."""
    shape = _shape(profile)
    if shape is None or not profile.dispatch.of_kind("training").gpus_per_node:
        return []
    parameters, settings = plan_sizes.policy(profile).number, profile.training
    longest = settings.max_tokens or profile.reference_sampling.max_new_tokens
    memories = []
    kinds = {"training": (settings.micro_batch_size, 2)}
    if profile.sft and any(map(shifts.is_tuned_first, profile.experiment.settings or [settings.setting])):
        kinds["sft"] = (profile.sft.micro_batch_size, 1)
    for kind, (rows, sides) in kinds.items():
        states = _states(profile, profile.dispatch.of_kind(kind), parameters, shape)
        tokens = rows * sides * longest
        taken = activations(shape, tokens, checkpointing=settings.gradient_checkpointing, size=_residual(profile))
        memories.append(Memory(kind, *states, taken))
    return memories


def check(profile: Profile, needs: list[Memory]) -> None:
    """Raises InputError for a job that needs more than the profile's `dispatch.gpu_memory_gb`."""
    limit = profile.dispatch.gpu_memory_gb
    for need in needs:
        if limit is not None and need.total > limit * GIB:
            remedy = "" if profile.training.gradient_checkpointing else "set training.gradient_checkpointing = true, "
            raise InputError(
                f"The arm {profile.arm} does not fit its GPUs of {limit:g} GiB: {need.told()}. To make it fit, {remedy}"
                "take a smaller micro_batch_size or max_tokens, or more GPUs a job."
            )


def activations(shape: Shape, tokens: int, *, checkpointing: bool, size: int = 2) -> float:
    """The most bytes beside weights, sums of gradients and optimizer in one forward and backward pass.

    Parameters
    ----------
    shape: of the model: layers, width, vocabulary.
    tokens: of all sequences of a micro-batch, without padding and with no prompt in common.
    checkpointing: whether of each layer only its input is kept, and the rest of one layer at a time.
    size: bytes of a number in the residual stream: 2, or 4 under autocast.
    """
    # Of one layer, in bfloat16: the inputs of its products, the states before and after positions are added, those that
    # attention takes and gives, and of the MLP gate, its activation, the other half and their product. Both norms also
    # keep their input in float32, and what is divided by its size.
    states = 14 * shape.width + 6 * shape.keys + 4 * shape.inner
    norms = 2 * 2 * 4 * shape.width
    layer = tokens * (2 * states + norms)
    # Its backward pass adds gradients of the MLP's four and, in float32, of the stream; and what kernels work with.
    backward = tokens * (2 * 4 * shape.inner + 4 * 4 * shape.width) + 2 * _TILE_BYTES
    # Where the loss is: the head's input and its gradient, that of its weights, four tiles, and those that are kept.
    kept = min(4 * tokens * shape.vocabulary, _KEPT_BYTES)
    head = tokens * shape.width * (size + 4) + shape.vocabulary * shape.width * 2 + 4 * _TILE_BYTES + kept
    if checkpointing:
        return shape.layers * tokens * shape.width * size + max(layer + backward, head)
    return shape.layers * layer + max(backward, head)


def _states(profile: Profile, resources: Resources, parameters: float, shape: Shape) -> tuple[float, float, float]:
    """Bytes of weights, summed gradients and optimizer of one process."""
    processes = resources.nodes * resources.tasks_per_node
    is_bfloat16 = profile.training.precision == "bfloat16"
    environment = resources.environment
    if environment.get("ACCELERATE_USE_FSDP") == "true":  # what is gathered: the embeddings and the head, two layers
        gathered = (2 * shape.vocabulary * shape.width + 2 * shape.layer) * (2 if is_bfloat16 else 4)
        return 4 * parameters / processes + gathered, 4 * parameters / processes, 8 * parameters / processes
    if environment.get("ACCELERATE_USE_DEEPSPEED") == "true":  # ZeRO stage 1: float32 weights are the optimizer's
        return (2 if is_bfloat16 else 4) * parameters, 4 * parameters, 12 * parameters / processes
    copies = 2 * parameters if is_bfloat16 else 0  # autocast's, which live through the forward pass
    buckets = 4 * parameters if processes > 1 else 0
    return 4 * parameters + copies, 4 * parameters + buckets, 8 * parameters


def _residual(profile: Profile) -> int:
    """Bytes of a number between layers: autocast alone leaves them in float32."""
    environment = profile.dispatch.of_kind("training").environment
    shards = "true" in (environment.get("ACCELERATE_USE_FSDP"), environment.get("ACCELERATE_USE_DEEPSPEED"))
    return 2 if profile.training.precision == "bfloat16" and shards else 4


def _shape(profile: Profile) -> Shape | None:
    """By the configuration where there is one, else of a model that is known."""
    if not isinstance(profile.policy, HubPolicy):
        return None
    converted = initial_policy.step(profile).folder
    folder = converted if converted.is_dir() else hub.local_copy(profile.policy.model)
    known = _SHAPES.get(profile.policy.model)
    return (_of_configuration(folder) if folder else None) or known


def _of_configuration(folder: Path) -> Shape | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        width = config["hidden_size"]
        keys = config.get("num_key_value_heads", heads) * config.get("head_dim", width // heads)
        return Shape(width, config["intermediate_size"], keys, config["num_hidden_layers"], config["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
